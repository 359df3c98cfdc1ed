"""A quantised weight as a module of buffers, and its products."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from constrained_dg.model.quantised.formats import LARGEST_E4M3, buffers, dequantise
from constrained_dg.shapes import FloatTensor, IntTensor


class QuantisedWeight(nn.Module):
    """A matrix (out, in), or one for each expert (E, out, in), that stays quantised in memory. It does not learn.

    Args:
        kind: one of `formats.FORMATS`.
        shape: of the weight.
        matrices: of the checkpoint that were stacked along `out`.
    """

    values: torch.Tensor
    scale: torch.Tensor
    global_scale: torch.Tensor | None

    def __init__(self, kind: str, shape: tuple[int, ...], matrices: int = 1) -> None:
        super().__init__()
        self.kind, self.shape, self.matrices = kind, torch.Size(shape), matrices
        self.global_scale = None
        for name, (dtype, size) in buffers(kind, tuple(shape), matrices).items():
            if name == "global_scale":
                del self.global_scale
            self.register_buffer(name, torch.empty(size, dtype=dtype))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> QuantisedWeight:
        """As in every module, but a cast of the model (`model.float()`) leaves these numbers as they are."""
        for name, buffer in self._buffers.items():
            assert buffer is not None
            moved = fn(buffer)
            self._buffers[name] = moved if moved.dtype == buffer.dtype else buffer.to(moved.device)
        return self

    @property
    def device(self) -> torch.device:
        return self.values.device

    def dequantised(self, dtype: torch.dtype) -> FloatTensor:
        """The weight in a type of floating-point numbers."""
        if len(self.shape) == 2:
            return dequantise(self.values, self.scale, self.global_scale, dtype)
        weight = torch.empty(self.shape, dtype=dtype, device=self.device)
        for expert in range(self.shape[0]):  # one at a time: fp32 of all of them would be many times the weight
            values, scale, global_scale = _matrix(expert, self.values, self.scale, self.global_scale)
            weight[expert] = dequantise(values, scale, global_scale, dtype)
        return weight

    def linear(self, x: FloatTensor, ends: IntTensor | None = None) -> FloatTensor:
        """(..., in) -> (..., out); of several experts x is (M, in), and `ends` (E) int32 are the ends of their rows."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if ends is not None:
            return _linear(x, self.values, self.scale, self.global_scale, ends)
        out = _linear(x.flatten(0, -2), self.values, self.scale, self.global_scale, None)
        return out.view(*x.shape[:-1], self.shape[0])

    def extra_repr(self) -> str:
        return f"{self.kind}, {tuple(self.shape)}"


class QuantisedLinear(nn.Linear):
    """A linear layer without bias whose weight is a `QuantisedWeight`."""

    weight: Any
    bias: Any

    def __init__(self, kind: str, in_features: int, out_features: int) -> None:
        nn.Module.__init__(self)  # Linear.__init__ would allocate a plain weight
        self.in_features, self.out_features, self.bias = in_features, out_features, None
        self.weight = QuantisedWeight(kind, (out_features, in_features))

    def forward(self, x: FloatTensor) -> FloatTensor:
        return linear(x, self.weight)


def linear(x: FloatTensor, weight: Any) -> FloatTensor:
    """x times the transpose of a weight (out, in), plain or quantised."""
    return weight.linear(x) if isinstance(weight, QuantisedWeight) else F.linear(x, weight)


def plain(weight: Any, dtype: torch.dtype) -> FloatTensor:
    """A weight as a tensor: itself, or dequantised to `dtype`."""
    return weight.dequantised(dtype) if isinstance(weight, QuantisedWeight) else weight


def is_quantised(model: nn.Module) -> bool:
    """Whether any weight is."""
    return any(isinstance(module, QuantisedWeight) for module in model.modules())


# An operator of ours, so that torch.compile takes every path, and so that gradients dequantise again instead of keeping
# what the product dequantised, which for a whole model would be the model in bf16.
@torch.library.custom_op("constrained_dg::quantised_linear", mutates_args=())
def _linear(
    x: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    global_scale: torch.Tensor | None,
    ends: torch.Tensor | None,
) -> torch.Tensor:
    if x.is_cuda and len(x):
        if global_scale is None and x.dtype == torch.bfloat16 and _multiplies_fp8(x.device, *values.shape[-2:]):
            return scaled_product(x, values, scale, ends)
        if global_scale is not None and x.dtype in (torch.bfloat16, torch.float16, torch.float32):
            kernel = nvfp4_kernel()
            if kernel is not None:
                return kernel(x, values, scale, global_scale, ends)
    return dequantising_product(x, values, scale, global_scale, ends)


def dequantising_product(
    x: FloatTensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    global_scale: torch.Tensor | None,
    ends: IntTensor | None,
    transposed: bool = False,
) -> FloatTensor:
    """The obvious twin of all products, on any device: dequantise a matrix to the type of x, multiply, forget it.

    Args:
        x: (M, in); (M, out) when `transposed`, which multiplies with the matrix itself, as gradients do.
        ends: (E) ends of the rows of each expert, or None with a single matrix. Reading them waits for the device.
    """
    if ends is None:
        weight = dequantise(values, scale, global_scale, x.dtype)
        return x @ weight if transposed else F.linear(x, weight)
    out = x.new_empty(len(x), 2 * values.shape[-1] if global_scale is not None else values.shape[-1])
    out = out if transposed else x.new_empty(len(x), values.shape[-2])
    start = 0
    for expert, end in enumerate(ends.tolist()):
        if end > start:
            of_expert = _matrix(expert, values, scale, global_scale)
            out[start:end] = dequantising_product(x[start:end], *of_expert, ends=None, transposed=transposed)
        start = end
    return out


def scaled_product(x: FloatTensor, values: torch.Tensor, scale: torch.Tensor, ends: IntTensor | None) -> FloatTensor:
    """The product of FP8 numbers: each row of x is rounded to FP8 with a scale of its own, as the checkpoint's scheme
    (activations "dynamic", strategy "token") prescribes; sums in fp32."""
    rows = x.float()
    scales = rows.abs().amax(-1, keepdim=True).clamp(min=1e-12) / LARGEST_E4M3
    rounded = (rows / scales).clamp(-LARGEST_E4M3, LARGEST_E4M3).to(torch.float8_e4m3fn)
    if ends is None:
        return torch._scaled_mm(rounded, values.t(), scales, scale.t(), out_dtype=x.dtype)
    return torch._scaled_grouped_mm(
        rounded, values.transpose(1, 2), scales.squeeze(1), scale.squeeze(2), offs=ends, out_dtype=x.dtype
    )


def _multiplies_fp8(device: torch.device, rows: int, columns: int) -> bool:
    """Whether torch has both products for this device (compute capability 9.0 and up) and size of matrix."""
    return torch.cuda.get_device_capability(device) >= (9, 0) and rows % 16 == columns % 16 == 0


@lru_cache
def nvfp4_kernel() -> Callable[..., torch.Tensor] | None:
    """The Triton kernel; None without the package triton."""
    try:
        from constrained_dg.model.quantised.kernel import nvfp4_product
    except ImportError:
        return None
    return nvfp4_product


def _matrix(
    expert: int, values: torch.Tensor, scale: torch.Tensor, global_scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    return values[expert], scale[expert], None if global_scale is None else global_scale[expert]


@torch.library.custom_op("constrained_dg::quantised_linear_transposed", mutates_args=())
def _transposed(
    x: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    global_scale: torch.Tensor | None,
    ends: torch.Tensor | None,
) -> torch.Tensor:
    return dequantising_product(x, values, scale, global_scale, ends, transposed=True)


@_linear.register_fake
def _(x, values, scale, global_scale, ends):
    return x.new_empty(x.shape[0], values.shape[-2])


@_transposed.register_fake
def _(x, values, scale, global_scale, ends):
    return x.new_empty(x.shape[0], values.shape[-1] * (1 if global_scale is None else 2))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx, grad):
    return _transposed(grad, *ctx.saved_tensors), None, None, None, None


_linear.register_autograd(_backward, setup_context=_save)
