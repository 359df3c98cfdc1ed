"""Words for the sentences of rules: positions and lists of names."""

from __future__ import annotations

from collections.abc import Sequence


def listing(noun: str, names: Sequence[object]) -> str:
    """ "column 2", "columns 2 and 8", "columns 2, 5 and 8"."""
    *most, last = map(str, names)
    return f"{noun}s {', '.join(most)} and {last}" if most else f"{noun} {last}"


def position(at: int) -> str:
    """The name of one position, counted from one."""
    return f"position {at + 1}"


def places(positions: Sequence[int]) -> str:
    """The names of several positions: "position 2", "positions 2 and 8"."""
    return listing("position", [at + 1 for at in positions])


def members_at(group: int, members: list[int]) -> str:
    """How `AllDifferent` names members of a group, by default: by their place in the group."""
    return places(members)
