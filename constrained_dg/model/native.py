"""Attention with learned biases, for training on a CPU: attention.cpp, compiled at run time, as a torch operator."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch

_FLAGS = "-std=c++17 -O3 -march=native -mprefer-vector-width=512 -fno-math-errno -fno-trapping-math -fopenmp"


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("batch", "queries", "past", "heads", "groups", "bias_rows", "tied", "half", "threads")
    ]


class _Tensors(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("projected", "past_keys", "past_values", "bias")),
        *((name, ctypes.c_void_p) for name in ("query_weight", "key_weight", "cosine", "sine")),
        ("eps", ctypes.c_float),
    ]


class _Gradients(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("out", "keys", "values", "projected", "past_keys", "past_values")),
        *((name, ctypes.c_void_p) for name in ("bias", "weights")),
    ]


@lru_cache
def library(head: int) -> ctypes.CDLL | None:
    """The kernels for heads of this size, compiled in about a second; None where that fails or the size is unfit."""
    return None if head % 8 else compiled("attention.cpp", f"-DHEAD={head}")


def compiled(source: str, *flags: str) -> ctypes.CDLL | None:
    """A C++ file of this folder, compiled for this processor; None where that fails."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    path = Path(__file__).with_name(source)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "compiled.so"
        command = [compiler, *_FLAGS.split(), "-shared", "-fPIC", *flags, str(path), "-o", str(target)]
        try:
            subprocess.run(command, check=True, capture_output=True)
            return ctypes.CDLL(str(target))
        except (OSError, subprocess.CalledProcessError):  # another processor or compiler: the plain path serves
            return None


def keep_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is GNU's.

    A training step allocates some hundred megabytes; to give them back and have the system clear new pages in each step
    takes up to a tenth of its time.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: from here on a block is a mapping of its own
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: free memory that is given back


@torch.library.custom_op("constrained_dg::attend", mutates_args=())
def attend(
    projected: torch.Tensor,
    past_keys: torch.Tensor,
    past_values: torch.Tensor,
    bias: torch.Tensor,
    query_weight: torch.Tensor,
    key_weight: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `Attention` computes between its projections, with the gradients of everything but cosine and sine.

    Args:
        projected: (B, N, P) fp32 or bf16: H query heads, G key heads and, unless values are made of the keys, G value
            heads of K numbers, before norm and rotation.
        past_keys, past_values: (B, S, G, K), as a cache holds them, in the type of `projected`.
        bias: (B or 1, H, N, S + N).
        query_weight, key_weight: (K) of the norms.
        cosine, sine: (N, K).

    Returns:
        answers (B, N, H K); new keys and values (B, N, G, K); and of each softmax what the gradients need (B, H, N, 2).
    """
    shape, tensors, alive = _arguments(
        projected, past_keys, past_values, bias, query_weight, key_weight, cosine, sine, eps
    )
    outs = _empty(projected, past_keys, bias)
    pointers = (ctypes.c_void_p(outs[i].data_ptr()) for i in (0, 3, 1, 2))
    _library(past_keys).attend_forward(ctypes.byref(shape), ctypes.byref(tensors), *pointers)
    del alive
    return outs


@torch.library.custom_op("constrained_dg::attend_gradients", mutates_args=())
def _gradients(
    projected: torch.Tensor,
    past_keys: torch.Tensor,
    past_values: torch.Tensor,
    bias: torch.Tensor,
    query_weight: torch.Tensor,
    key_weight: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    softmax: torch.Tensor,
    grad: torch.Tensor,
    grad_keys: torch.Tensor | None,
    grad_values: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of projected, past keys and values, bias, and (G, 2, K) of the weights of the norms.

    torch reads the schema of an operator from its parameters, so they stand here again one by one.
    """
    shape, tensors, alive = _arguments(
        projected, past_keys, past_values, bias, query_weight, key_weight, cosine, sine, eps
    )
    given = [None if each is None else each.to(projected.dtype).contiguous() for each in (grad, grad_keys, grad_values)]
    to = [torch.empty_like(each, memory_format=torch.contiguous_format) for each in (projected, past_keys, past_values)]
    to.append(torch.zeros(bias.shape, dtype=torch.float32))
    to.append(torch.zeros(past_keys.shape[2], 2, past_keys.shape[3], dtype=torch.float32))
    pointers = _Gradients(*(None if each is None else each.data_ptr() for each in (*given, *to)))
    answers, sums = (ctypes.c_void_p(each.data_ptr()) for each in (out, softmax))
    _library(past_keys).attend_backward(
        ctypes.byref(shape), ctypes.byref(tensors), answers, sums, ctypes.byref(pointers)
    )
    del alive
    return to[0], to[1], to[2], to[3], to[4]


def _library(past_keys: torch.Tensor) -> ctypes.CDLL:
    found = library(past_keys.shape[3])
    assert found is not None  # the caller has asked
    return found


def _arguments(projected, past_keys, past_values, bias, *others) -> tuple[_Shape, _Tensors, list[torch.Tensor]]:
    """Both structures, and the tensors that they point to, which must live as long."""
    *small, eps = others
    (batch, queries, channels), (_, past, groups, size), heads = projected.shape, past_keys.shape, bias.shape[1]
    tied, half = channels == (heads + groups) * size, projected.dtype == torch.bfloat16
    shape = _Shape(batch, queries, past, heads, groups, len(bias), tied, half, torch.get_num_threads())
    alive = [each.to(projected.dtype).contiguous() for each in (projected, past_keys, past_values)]
    alive += [each.float().contiguous() for each in (bias, *small)]
    return shape, _Tensors(*(each.data_ptr() for each in alive), eps), alive


def _empty(projected, past_keys, bias):
    (batch, queries, _), (_, _, groups, size), heads = projected.shape, past_keys.shape, bias.shape[1]
    out = projected.new_empty(batch, queries, heads * size)
    keys, values = (projected.new_empty(batch, queries, groups, size) for _ in range(2))
    return out, keys, values, projected.new_empty(batch, heads, queries, 2, dtype=torch.float32)


@attend.register_fake
def _(projected, past_keys, past_values, bias, query_weight, key_weight, cosine, sine, eps):
    return _empty(projected, past_keys, bias)


@_gradients.register_fake
def _(projected, past_keys, past_values, bias, *others):
    to = [torch.empty_like(each, memory_format=torch.contiguous_format) for each in (projected, past_keys, past_values)]
    groups, size = past_keys.shape[2:]
    return *to, *(projected.new_empty(shape, dtype=torch.float32) for shape in (bias.shape, (groups, 2, size)))


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors, output[0], output[3])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, grad_keys, grad_values, _):
    *tensors, out, softmax = ctx.saved_tensors
    grad = torch.zeros_like(out) if grad is None else grad
    *to, weights = _gradients(*tensors, ctx.eps, out, softmax, grad, grad_keys, grad_values)
    return *to, *weights.sum(0), None, None, None


attend.register_autograd(_backward, setup_context=_save)
