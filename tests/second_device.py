"""A second kind of device without hardware: its tensors live on the CPU, under a wrapper that says otherwise.

Inside `SecondDevice()` tensors can be made on `DEVICE` and computed with. An operation that mixes them with tensors of
the CPU fails, as it would on an accelerator, and every operation for which the host would wait is noted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("second")
DEVICE = torch.device("second", 0)
#: Operations whose result or whose shape the host must read.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "is_nonzero", "_unique2", "unique_dim",
    "unique_consecutive", "_assert_async",
}  # fmt: skip


class Wrapped(torch.Tensor):
    """A tensor that says it is on `DEVICE`."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapped:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:  # torch refuses this of subclasses
        return self.cpu().tolist()

    def __repr__(self, **options: Any) -> str:
        return repr(self.cpu())

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return operate(function, args, kwargs or {}, Counter())


class Numbers(TorchFunctionMode):
    """Tensors made of numbers, which torch copies to a device where no other mode sees it."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function not in (torch.tensor, torch.as_tensor) or torch.device(kwargs.get("device") or "cpu") != DEVICE:
            return function(*args, **kwargs)
        self.waits[function.__name__] += 1
        return Wrapped(function(*args, **kwargs | {"device": "cpu"}))


class SecondDevice(TorchDispatchMode):
    """Attributes: waits: how often each operation made the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.numbers = Numbers(self.waits)

    def __enter__(self) -> SecondDevice:
        self.numbers.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.numbers.__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return operate(function, args, kwargs or {}, self.waits)


def operate(function: Any, args: Any, kwargs: dict[str, Any], waits: Counter[str]) -> Any:
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    wrapped = [each for each in tensors if isinstance(each, Wrapped)]
    foreign = [each for each in tensors if not isinstance(each, Wrapped) and each.dim() > 0]
    name = function.overloadpacket.__name__
    moves = name in ("_to_copy", "copy_", "_copy_from", "_copy_from_and_resize")
    # A tensor of the device may be indexed with numbers that the CPU holds; torch copies them.
    uploads = name in ("index", "index_put", "index_put_") and isinstance(args[0], Wrapped) and foreign
    assert moves or uploads or not (wrapped and foreign), f"{name} of tensors on {DEVICE} and on the CPU"
    to = kwargs.get("device")
    here = bool(wrapped) if to is None or name == "copy_" else torch.device(to).type == DEVICE.type
    # 1. What makes the host wait: reading, counting, copies from one kind of device to the other.
    masks = name in ("index", "index_put", "index_put_") and any(
        each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
    )
    counted = name == "repeat_interleave" and len(tensors) > 0 and kwargs.get("output_size") is None
    mixed = name == "copy_" and wrapped and foreign
    across = moves and tensors and (here != isinstance(tensors[-1], Wrapped) or mixed)
    if across or (wrapped and (name in WAITING or masks or counted or uploads)):
        waits[name] += 1
    # 2. The same on the CPU.
    if to is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    inside = tree_map_only(Wrapped, lambda each: each.inner, (args, kwargs))
    out = function(*inside[0], **inside[1])
    if not here:
        return out
    out = tree_map(lambda each: Wrapped(each) if isinstance(each, torch.Tensor) else each, out)
    return return_and_correct_aliasing(function, args, kwargs, out)


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """The module with all of its parameters and buffers on `DEVICE`, changed in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(Wrapped(parameter.detach()), requires_grad=False)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else Wrapped(buffer)
    return module
