"""Safetensors files: their headers are checked before any tensor is read. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from constrained_dg.errors import InputError, check

#: Types that weights may have, and their names in the file format.
TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
#: The same with the types of quantised weights and their scales.
ALL_TYPES = TYPES | {torch.float8_e4m3fn: "F8_E4M3", torch.uint8: "U8"}


@dataclass(frozen=True)
class Stored:
    """A tensor as the header of its file describes it."""

    file: Path
    type: str
    shape: tuple[int, ...]


@contextmanager
def opened(path: Path, device: torch.device | str = "cpu") -> Iterator[Any]:
    """A safetensors file; InputError where it cannot be read."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error})", "it may be cut short: copy it again") from None


def headers(path: Path) -> dict[str, Stored]:
    """Every tensor of a file, without reading one."""
    with opened(path) as file:
        entries = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: Stored(path, e.get_dtype(), tuple(e.get_shape())) for name, e in entries.items()}


def check_tensors(
    stored: Mapping[str, Stored], expected: Mapping[str, torch.Tensor], where: Path, promise: str
) -> None:
    """Compare what files hold with what a model takes.

    Args:
        stored: the tensors of the files, by name.
        expected: tensors of the right shapes (of any type, on any device), by the same names.
        where: the file or folder, and
        promise: the file that describes the model; both named in errors.

    Raises:
        InputError: tensors that are missing, unknown, misshapen or not of floating-point numbers.
    """
    for problem, names in (("lacks", set(expected) - set(stored)), ("has unknown", set(stored) - set(expected))):
        verb = "promises" if problem == "lacks" else "does not describe"
        check(not names, f"{where} {problem} tensors {_some(sorted(names))}", f"{promise} {verb} them")
    for name, tensor in expected.items():
        entry, shape = stored[name], tuple(tensor.shape)
        check(entry.shape == shape, f"{entry.file}: {name} has shape {entry.shape}", f"{promise} promises {shape}")
        hint = f"weights have one of {sorted(TYPES.values())}; quantised ones need a quantization_config in config.json"
        check(entry.type in TYPES.values(), f"{entry.file}: {name} has type {entry.type}", hint)


def load_weights(model: nn.Module, path: Path, device: torch.device | str, promise: str) -> None:
    """Fill a model (which may be on the meta device) from one safetensors file.

    Args:
        promise: the file that describes the model, named in errors.

    Raises:
        InputError: see `check_tensors`; tensors of more than one type, or a file that is cut short.
    """
    stored = headers(path)
    check_tensors(stored, model.state_dict(), path, promise)
    kinds = sorted({entry.type for entry in stored.values()})
    check(len(kinds) == 1, f"{path} mixes the types {kinds}", "give all of its tensors one type")
    with opened(path, device) as file:
        model.load_state_dict({name: file.get_tensor(name) for name in stored}, assign=True)


def _some(names: list[str]) -> str:
    return f"{names[:4]} and {len(names) - 4} more" if len(names) > 4 else str(names)
