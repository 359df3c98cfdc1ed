"""How much memory can still be had, and how much to use at a time."""

from __future__ import annotations

import os

import torch


def swept_at_once(device: torch.device) -> int:
    """Numbers of a large tensor to work on at a time: about the second-level cache of a CPU core, 64 MB elsewhere."""
    return 2**18 if device.type == "cpu" else 2**24


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where that is unknown."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    try:  # free pages alone would not count what the system merely caches
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, macOS not these names
        return None
