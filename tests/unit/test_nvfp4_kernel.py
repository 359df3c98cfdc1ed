"""The Triton kernel for NVFP4 against its twin: in Triton's interpreter on the CPU, and on a GPU where there is one.

Triton decides when it is imported whether it interprets, so that this file runs itself once more with
TRITON_INTERPRET=1. There inputs are fp32: the interpreter's product of bf16 tiles is wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constrained_dg.model.quantised.formats import NVFP4, dequantise, quantise
from constrained_dg.model.quantised.weight import dequantising_product

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

#: Compile for an H100, which needs none: Triton brings NVIDIA's assembler with it.
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from constrained_dg.model.quantised.kernel import _product
types = dict.fromkeys(("even", "odd", "out"), "*bf16") | {"values": "*u8", "scales": "*u8", "global_scales": "*fp32"}
sizes = {"ROWS_IN_ALL": 1408, "BYTES": 1408, "PER_MATRIX": 704, "TOKENS": 16, "ROWS": 64, "TILE": 64, "GROUP": 16}
signature = types | {"ends": "*i32"} | dict.fromkeys(sizes, "constexpr")
source = triton.compiler.ASTSource(fn=_product, signature=signature, constexprs=sizes)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
assert compiled.asm["cubin"] and "mma.sync" in compiled.asm["ptx"]
"""


def weights(experts: int, rows: int, columns: int, matrices: int, seed: int) -> dict[str, torch.Tensor]:
    """(E, rows, columns) quantised, each matrix with a global scale of its own."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-2, 2, experts * matrices)[:, None, None]
    dense = torch.randn(experts * matrices, rows // matrices, columns, generator=generator) * spread
    parts = [quantise(matrix, NVFP4) for matrix in dense]
    last = {"values": columns // 2, "scale": columns // 16}
    return {
        name: torch.stack([part[name] for part in parts]).view(experts, -1, *([last[name]] if name in last else []))
        for name in parts[0]
    }


@pytest.mark.skipif(INTERPRETED, reason="this is the run that it starts")
def test_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout[-3000:]


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled there")
def test_it_compiles_for_an_h100() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype, apart", [(torch.bfloat16, 0.01), (torch.float16, 2e-3), (torch.float32, 1e-4)])
def test_on_a_gpu(dtype: torch.dtype, apart: float) -> None:
    from constrained_dg.model.quantised.kernel import nvfp4_product

    device = torch.device("cuda")
    parts = [part.to(device) for part in weights(5, 96, 176, 2, 0).values()]
    for counts in ([0, 3, 70, 0, 1], [400, 0, 0, 0, 0]):
        ends = torch.tensor(counts, device=device).cumsum(0).int()
        x = torch.randn(sum(counts), 176, device=device).to(dtype)
        product, twin = nvfp4_product(x, *parts, ends), dequantising_product(x, *parts, ends)
        assert product.dtype == dtype and (product - twin).abs().max() <= apart * twin.abs().max()


@pytest.mark.skipif(not INTERPRETED, reason="needs the interpreter")
@settings(max_examples=12)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    rows=st.integers(1, 80),
    groups=st.integers(1, 11),
    matrices=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_products_equal_their_twin(counts: list[int], rows: int, groups: int, matrices: int, seed: int) -> None:
    from constrained_dg.model.quantised.kernel import nvfp4_product

    counts[-1] += 1
    columns = 16 * groups
    parts = list(weights(len(counts), rows * matrices, columns, matrices, seed).values())
    x = torch.randn(sum(counts), columns, generator=torch.Generator().manual_seed(seed))
    ends = torch.tensor(counts).cumsum(0).int()
    twin = dequantising_product(x, *parts, ends)
    assert (nvfp4_product(x, *parts, ends) - twin).abs().max() <= 1e-5 * twin.abs().max()
    single = [part[0] for part in parts]
    twin = dequantising_product(x, *single, None)
    assert (nvfp4_product(x, *single, None) - twin).abs().max() <= 1e-5 * twin.abs().max()


@pytest.mark.skipif(not INTERPRETED, reason="needs the interpreter")
@pytest.mark.parametrize("matrices", [1, 2])
def test_every_number_is_dequantised_bit_for_bit(matrices: int) -> None:
    """Unit vectors pick single numbers of the weight; all bytes and all scales occur."""
    from constrained_dg.model.quantised.kernel import nvfp4_product

    values = torch.arange(256, dtype=torch.uint8).view(2, 128)
    scale = torch.tensor([1, 7, 8, 77, 126, 64, 100, 3] * 4, dtype=torch.uint8).view(torch.float8_e4m3fn).view(2, 16)
    parts = (values, scale, torch.tensor([3.7, 1234.5])[:matrices])
    assert torch.equal(nvfp4_product(torch.eye(256), *parts, None).T, dequantise(*parts, torch.float32))
