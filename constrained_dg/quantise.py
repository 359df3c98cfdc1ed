"""The command `constrained-dg quantise checkpoint=FOLDER out=FOLDER format=nvfp4`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from constrained_dg.cli import entry
from constrained_dg.errors import check, is_count
from constrained_dg.model.released.quantise import quantise_checkpoint


def quantise(cfg: dict[str, Any]) -> None:
    """Write a quantised checkpoint.

    Args:
        cfg: plain values, see conf/quantise.yaml.

    Raises:
        InputError: see `quantise_checkpoint`.
    """
    check(is_count(cfg["threads"], 1), f"threads is {cfg['threads']!r}", "give 1 or more")
    torch.set_num_threads(cfg["threads"])
    quantise_checkpoint(str(cfg["checkpoint"]), str(cfg["out"]), cfg["format"])
    size = sum(path.stat().st_size for path in Path(str(cfg["out"])).glob("*.safetensors"))
    print(f"written to {cfg['out']}: {size / 1e9:.2f} GB of weights")


main = entry("quantise", text=("checkpoint", "out"))(quantise)
