"""Attention over many keys in bf16 on a CPU: long_attention.cpp, compiled at run time, as a torch operator."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch

from constrained_dg.model.native import compiled

#: Below these torch's own attention is faster, or the time to compile is not worth it.
FEWEST_QUERIES, FEWEST_KEYS = 64, 1024


@lru_cache
def library() -> ctypes.CDLL | None:
    """The kernel, compiled in some seconds; None without a compiler or a processor with AVX-512 BF16."""
    return compiled("long_attention.cpp")


def serves(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether `attend_long` takes these tensors and is faster; without biases and without gradients."""
    return (
        q.device.type == "cpu"
        and q.dtype == k.dtype == v.dtype == torch.bfloat16
        and q.shape[3] % 64 == 0
        and k.stride(3) == v.stride(3) == 1
        and q.shape[2] >= FEWEST_QUERIES
        and k.shape[2] >= FEWEST_KEYS
        and not (torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v)))
        and not torch.compiler.is_compiling()
        and library() is not None
    )


@torch.library.custom_op("constrained_dg::attend_long", mutates_args=())
def attend_long(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q k^T) v, and the logarithm of each query's sum of exponentials.

    Args:
        q: (B, G, N, K) bf16, K a multiple of 64.
        k, v: (B, G, M, K) bf16, whose last dimension has no gaps; M above 0.

    Returns:
        (B, G, N, K) bf16, and (B, G, N) fp32.
    """
    q = q.contiguous()
    out, total = torch.empty_like(q), torch.empty(q.shape[:3])
    steps = (each.stride(dimension) for each in (k, v) for dimension in (0, 2, 1))
    sizes = (*q.shape[:3], k.shape[2], q.shape[3], *steps, torch.get_num_threads())
    kernel = library()
    assert kernel is not None  # the caller has asked
    kernel.attend_long((ctypes.c_int64 * len(sizes))(*sizes), *(_pointer(each) for each in (q, k, v, out, total)))
    return out, total


def _pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@attend_long.register_fake
def _(q, k, v):
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)
