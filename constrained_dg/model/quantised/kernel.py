"""NVFP4 weights on a GPU that has no product of FP4 numbers: a Triton kernel that dequantises tile by tile."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from constrained_dg.model.quantised.formats import GROUP
from constrained_dg.shapes import FloatTensor, IntTensor

#: Rows of the weight, and bytes of a row (two columns each), that a program holds at a time.
_ROWS, _BYTES = 64, 64


@triton.jit
def _halves_as_floats(bits):
    """The numbers whose fp16 representation is `bits`, in fp32."""
    return bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _product(
    even, odd, values, scales, global_scales, ends, out,
    ROWS_IN_ALL: tl.constexpr, BYTES: tl.constexpr, PER_MATRIX: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out[m, n] = sum_k x[m, k] w[e, n, k] for the tokens m of expert e.

    Programs: (tiles of tokens of an expert, tiles of its rows, experts). A tile of tokens is taken by every
    num_programs(0)-th turn, so that the number of programs need not depend on how tokens are spread over experts, which
    only the device knows.
    """
    expert = tl.program_id(2).to(tl.int64)
    start = tl.load(ends + expert - 1, mask=expert > 0, other=0)
    stop = tl.load(ends + expert)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    row_exists = row < ROWS_IN_ALL
    place = expert * ROWS_IN_ALL + row
    divisor = tl.load(global_scales + place // PER_MATRIX, mask=row_exists, other=1.0)
    GROUPS: tl.constexpr = BYTES * 2 // GROUP
    token = start + tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    for _ in range(tl.cdiv(stop - start - tl.program_id(0) * TOKENS, tl.num_programs(0) * TOKENS)):
        token_exists = token < stop
        sums = tl.full((TOKENS, ROWS), 0.0, tl.float32)
        for at in range(0, BYTES, TILE):
            byte = at + tl.arange(0, TILE)
            byte_exists = byte < BYTES
            exists = row_exists[:, None] & byte_exists[None, :]
            packed = tl.load(values + place[:, None] * BYTES + byte[None, :], mask=exists, other=0).to(tl.int32)
            group = at * 2 // GROUP + tl.arange(0, TILE * 2 // GROUP)
            exists = row_exists[:, None] & (group < GROUPS)[None, :]
            scale = tl.load(scales + place[:, None] * GROUPS + group[None, :], mask=exists, other=0).to(tl.int32)
            # Both types are fp16 with fewer bits of exponent: shifted into its fields, they are 2^-8 (E4M3) and 2^-14
            # (E2M1) times the number, subnormal numbers too. Those factors are exact, so that each number is rounded as
            # in `dequantise`.
            factor = _halves_as_floats((scale & 0x80) << 8 | (scale & 0x7F) << 7) * 256.0
            factor = tl.div_rn(factor, tl.broadcast_to(divisor[:, None], (ROWS, TILE * 2 // GROUP))) * 16384.0
            factor = tl.broadcast_to(factor[:, :, None], (ROWS, TILE * 2 // GROUP, GROUP // 2))
            factor = tl.reshape(factor, (ROWS, TILE))
            low = _halves_as_floats((packed & 8) << 12 | (packed & 7) << 9) * factor
            high = _halves_as_floats((packed & 0x80) << 8 | (packed & 0x70) << 5) * factor
            where = token[:, None].to(tl.int64) * BYTES + byte[None, :]
            taken = token_exists[:, None] & byte_exists[None, :]
            x = tl.load(even + where, mask=taken, other=0.0)
            sums = tl.dot(x, tl.trans(low.to(x.dtype)), sums, input_precision="ieee")
            x = tl.load(odd + where, mask=taken, other=0.0)
            sums = tl.dot(x, tl.trans(high.to(x.dtype)), sums, input_precision="ieee")
        where = token[:, None].to(tl.int64) * ROWS_IN_ALL + row[None, :]
        tl.store(out + where, sums.to(out.dtype.element_ty), mask=token_exists[:, None] & row_exists[None, :])
        token += tl.num_programs(0) * TOKENS


def nvfp4_product(
    x: FloatTensor, values: torch.Tensor, scale: torch.Tensor, global_scale: torch.Tensor, ends: IntTensor | None
) -> FloatTensor:
    """(M, in) times the transposes of the matrices of `formats.dequantise`: (M, out), sums in fp32.

    The matrix is rounded to the type of x tile by tile, so that this is `weight.dequantising_product` up to the order
    of sums.

    Args:
        values: (out, in / 2), or (E, out, in / 2) with `ends` (E) int32, the ends of the rows of each expert.
    """
    experts = 1 if ends is None else len(values)
    (tokens, columns), rows = x.shape, values.shape[-2]
    if ends is None:
        ends = torch.full((1,), tokens, dtype=torch.int32, device=x.device)
    # Even and odd columns, which lie in the two halves of each byte.
    even, odd = x.reshape(tokens, columns // 2, 2).permute(2, 0, 1).contiguous()
    out = x.new_empty(tokens, rows)
    each = -(-tokens // experts)
    tile = 16 if each <= 16 else 32 if each <= 32 else 64
    grid = (-(-each // tile), -(-rows // _ROWS), experts)
    _product[grid](
        even, odd, values, scale.view(torch.uint8), global_scale, ends, out,
        ROWS_IN_ALL=rows, BYTES=columns // 2, PER_MATRIX=rows // global_scale.shape[-1],
        TOKENS=tile, ROWS=_ROWS, TILE=_BYTES, GROUP=GROUP, num_warps=4 if tile < 64 else 8,
    )  # fmt: skip
    return out
