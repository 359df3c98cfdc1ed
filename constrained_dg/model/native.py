"""Attention with learned biases, for training on a CPU: attention.cpp, compiled at run time, as operators of torch."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from constrained_dg.shapes import FloatTensor

_FLAGS = "-std=c++17 -O3 -march=native -mprefer-vector-width=512 -fno-math-errno -fno-trapping-math -fopenmp"


@lru_cache
def library(head: int) -> ctypes.CDLL | None:
    """The kernels for heads of this size, compiled in about a second; None where that fails or the size is unfit."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or head % 8:
        return None
    source = Path(__file__).with_name("attention.cpp")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"attention_{head}.so"
        command = [compiler, *_FLAGS.split(), "-shared", "-fPIC", f"-DHEAD={head}", str(source), "-o", str(target)]
        try:
            subprocess.run(command, check=True, capture_output=True)
            return ctypes.CDLL(str(target))
        except (OSError, subprocess.CalledProcessError):  # another processor or compiler: the plain path serves
            return None


def fits(q: FloatTensor, bias: FloatTensor) -> bool:
    """Whether the kernels take queries (B, N, H, K) with a bias (B or 1, H, N, M)."""
    kinds = (torch.float32, torch.bfloat16)
    return q.device.type == "cpu" and q.dtype in kinds and bias.shape[1:3] == (q.shape[2], q.shape[1])


@torch.library.custom_op("constrained_dg::attend", mutates_args=())
def attend_natively(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q k^T + bias) v like `attend`, and what the backward pass needs of the softmax: (B, H, N, 2).

    q (B, N, H, K) fp32 or bf16; k and v (B, M, G, K), of the type of q; bias (B or 1, H, N, M).
    """
    q, k, v, bias = q.contiguous(), k.contiguous(), v.contiguous(), bias.float().contiguous()
    out, norm = torch.empty_like(q), q.new_empty(len(q), q.shape[2], q.shape[1], 2, dtype=torch.float32)
    _run("attend_forward", q, k, v, bias, out, norm)
    return out, norm


@torch.library.custom_op("constrained_dg::attend_backward", mutates_args=())
def _gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    norm: torch.Tensor,
    grad: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    kind = bias.dtype
    q, k, v, bias = q.contiguous(), k.contiguous(), v.contiguous(), bias.float().contiguous()
    to = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), torch.zeros_like(bias)
    _run("attend_backward", q, k, v, bias, out, norm, grad.contiguous(), *to)
    return *to[:3], to[3].to(kind)


def _run(name: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, *others: torch.Tensor):
    (batch, queries, heads, size), (_, keys, groups, _) = q.shape, k.shape
    shape = (ctypes.c_int64 * 6)(batch, queries, keys, heads, groups, len(bias))
    tensors = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (q, k, v, bias, *others)]
    getattr(library(size), name)(shape, int(q.dtype == torch.bfloat16), torch.get_num_threads(), *tensors)


@attend_natively.register_fake
def _(q, k, v, bias):
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(
        q.shape[0], q.shape[2], q.shape[1], 2, dtype=torch.float32
    )


@_gradients.register_fake
def _(q, k, v, bias, out, norm, grad):
    return tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (q, k, v, bias))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx, grad, _):
    return _gradients(*ctx.saved_tensors, grad)


attend_natively.register_autograd(_backward, setup_context=_save)
