"""Sampler descriptions of run.json and yaml files from before parts were renamed or deleted."""

from __future__ import annotations

from typing import Any

from constrained_dg.errors import InputError, check

_PACKAGE = "constrained_dg.sampling."
#: Deleted parts; the last commit with them is b677b14, and experiments/LOG.md has their results.
DELETED = ("AllowedToken", "Blocks", "Change", "Confidence", "FixedCount", "Margin")
#: Keys that are gone, by the part that had them: the value that means what the part does now.
_DROPPED: dict[str, dict[str, Any]] = {
    "Diffusion": {"noise": {"_target_": f"{_PACKAGE}AnyToken"}},
    "Guide": {"forget_violations": False},
    "Completer": {"time_limit": None},
    "Autoregressive": {"temperature": 0.0},
}


def current(description: Any) -> Any:
    """A sampler's plain description (nested dicts with `_target_`) in today's words; other values stay as they are.

    Raises:
        InputError: it uses a part, or the value of a key, that no longer exists.
    """
    if isinstance(description, list):
        return [current(value) for value in description]
    if not isinstance(description, dict):
        return description
    values, hint = dict(description), "choose one of today's samplers; commit b677b14 was the last to have it"
    target = values.get("_target_")
    part = target.removeprefix(_PACKAGE) if isinstance(target, str) and target.startswith(_PACKAGE) else ""
    check(part not in DELETED, f"{part} is no longer a part of samplers", hint)
    if part == "Guide" and {"mask_logits", "mask_self_conditioning"} & values.keys():
        masks = {values.pop(name, False) for name in ("mask_logits", "mask_self_conditioning")}
        check(len(masks) == 1, "Guide masks logits and self-conditioning together", hint)
        values["masks"] = masks.pop()
    if part == "Completer" and "node_budget" in values:  # branches of a search of our own: 1,000 took about a second
        values["budget"] = values.pop("node_budget") / 1000
    for key, kept in _DROPPED.get(part, {}).items():
        if key in values and values[key] != kept:
            current(values[key])  # names the part, where it is one that is gone
            raise InputError(f"{part} no longer has {key}={values[key]!r}", hint)
        values.pop(key, None)
    return {key: current(value) for key, value in values.items()}
