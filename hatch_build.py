"""What a wheel holds beside the package: hatchling calls this when it builds one.

An editable installation uses the checkout itself, so nothing is copied for it.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: The folder in the package; constrained_dg/places.py looks for it.
BUNDLE = "constrained_dg/bundled"


class Bundle(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add tasks/, conf/, both scripts and the shipped runs to the package."""
        if version == "editable":
            return
        root = Path(self.root)
        runs = sorted(path.parent for path in (root / "experiments").glob("*/*/run.json"))
        files = [root / "train.py", root / "evaluate.py"]
        files += [path for folder in ("tasks", "conf") for path in sorted((root / folder).rglob("*")) if path.is_file()]
        files += [run / name for run in runs for name in ("run.json", "model.safetensors")]
        files = [path for path in files if "__pycache__" not in path.parts]
        inside = {str(path): f"{BUNDLE}/{path.relative_to(root).as_posix()}" for path in files}
        build_data["force_include"].update(inside)
