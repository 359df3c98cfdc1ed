"""Two formats of quantised weights, as compressed-tensors 0.20 (2026) defines them.

FP8: a row of a matrix (out, in) is float8_e4m3fn times one fp32 scale.

NVFP4 (NVIDIA, 2025): groups of GROUP numbers of a row are E2M1 (4 bits: sign, two of exponent, one of mantissa) times
one float8_e4m3fn scale, divided by one fp32 number of the whole matrix. A byte holds two columns, the even one in its
low half.
"""

from __future__ import annotations

import torch

from constrained_dg.shapes import FloatTensor

FP8, NVFP4 = "fp8", "nvfp4"
FORMATS = (FP8, NVFP4)
#: Numbers of a row that share a scale in NVFP4.
GROUP = 16
#: The largest numbers of both types.
LARGEST_E4M3, LARGEST_E2M1 = 448.0, 6.0
#: The magnitudes of E2M1, in the order of their three bits.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
#: The scale of a group of zeros, which may not be zero.
SCALE_OF_ZEROS = 0.125


def buffers(kind: str, shape: tuple[int, ...], matrices: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of the tensors that hold a weight (..., out, in).

    Args:
        matrices: of the checkpoint that were stacked along `out`; each has its global scale.
    """
    *more, rows, columns = shape
    if kind == FP8:
        return {"values": (torch.float8_e4m3fn, shape), "scale": (torch.float32, (*more, rows, 1))}
    assert columns % GROUP == 0, shape  # whoever builds a weight has checked
    return {
        "values": (torch.uint8, (*more, rows, columns // 2)),
        "scale": (torch.float8_e4m3fn, (*more, rows, columns // GROUP)),
        "global_scale": (torch.float32, (*more, matrices)),
    }


def dequantise(
    values: torch.Tensor, scale: torch.Tensor, global_scale: torch.Tensor | None, dtype: torch.dtype
) -> FloatTensor:
    """A matrix (out, in): value times scale in fp32, rounded once to `dtype`.

    Args:
        values: (out, in) float8_e4m3fn, or (out, in / 2) uint8.
        scale: (out, 1) fp32, or (out, in / GROUP) float8_e4m3fn.
        global_scale: (P) fp32: row r is of matrix r // (out / P). None for FP8.
    """
    if global_scale is None:
        return (values.float() * scale).to(dtype)
    nibbles = torch.stack([values & 15, values >> 4], dim=-1).flatten(-2).int()
    table = torch.tensor([*E2M1, *(-each for each in E2M1)], device=values.device)
    return (table[nibbles].unflatten(-1, (-1, GROUP)) * _by_row(scale, global_scale)).flatten(-2).to(dtype)


def quantise(weight: FloatTensor, kind: str, largest: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """The tensors of `buffers` for one matrix (out, in) of finite numbers, rounded to the nearest value, ties to even.

    Args:
        largest: magnitude that the global scale of NVFP4 is made for; default that of the matrix. Matrices that a
            program multiplies as one must share it.
    """
    weight = weight.float()
    if kind == FP8:
        scale = weight.abs().amax(-1, keepdim=True) / LARGEST_E4M3
        scale = torch.where(scale == 0, SCALE_OF_ZEROS, scale)
        values = (weight / scale).clamp_(-LARGEST_E4M3, LARGEST_E4M3)
        return {"values": values.to(torch.float8_e4m3fn), "scale": scale}
    largest = weight.abs().amax() if largest is None else largest.float()
    global_scale = LARGEST_E4M3 * LARGEST_E2M1 / largest
    # No magnitude to speak of: one that fp32 cannot invert.
    global_scale = torch.where(global_scale.isfinite(), global_scale, 1.0).reshape(1)
    groups = weight.unflatten(-1, (-1, GROUP))
    scale = (groups.abs().amax(-1) / LARGEST_E2M1 * global_scale).clamp(max=LARGEST_E4M3).to(torch.float8_e4m3fn)
    scale = torch.where(scale.float() == 0, SCALE_OF_ZEROS, scale.float()).to(torch.float8_e4m3fn)
    scaled = (groups / _by_row(scale, global_scale)).flatten(-2)
    # Steps of a half below 2, of 1 below 4, of 2 below 6; in each, an even place has a last bit of 0, so that the ties
    # of `round` go where those of the format go.
    size = scaled.abs()
    coarse = torch.where(size < 4, size.round() + 2, (size / 2).round().clamp(max=3) + 4)
    nibbles = torch.where(size < 2, (2 * size).round(), coarse).to(torch.uint8) | scaled.signbit().to(torch.uint8) << 3
    return {"values": nibbles[..., 0::2] | nibbles[..., 1::2] << 4, "scale": scale, "global_scale": global_scale}


def _by_row(scale: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """(out, in / GROUP) scales and (P) global ones -> (out, in / GROUP, 1) fp32."""
    matrices = global_scale.repeat_interleave(scale.shape[0] // global_scale.shape[0], output_size=scale.shape[0])
    return (scale.float() / matrices[:, None])[..., None]
