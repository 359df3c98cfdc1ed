"""Where tasks, configurations, scripts and shipped runs are: in the checkout, or inside the package of a wheel."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parent
#: A wheel holds tasks/, conf/, the two scripts and the shipped runs in this folder; see hatch_build.py.
_BUNDLE = _PACKAGE / "bundled"
_IS_WHEEL = _BUNDLE.is_dir()
#: The folder with conf/, tasks/, train.py and evaluate.py.
ROOT = _BUNDLE if _IS_WHEEL else _PACKAGE.parent
CONF = ROOT / "conf"
#: The packages that are ours under every name: what a run folder may import by default.
OUR_PACKAGES = ("constrained_dg", "tasks")


def module_name(name: str) -> str:
    """The module to import for a name as configurations and runs write it, such as `tasks.sudoku`.

    A wheel installs no package `tasks`: there the same folder is `constrained_dg.bundled.tasks`.
    """
    ours = name.partition(".")[0] in ("tasks", "train", "evaluate")
    return f"{__package__}.{_BUNDLE.name}.{name}" if _IS_WHEEL and ours else name


def script(name: str) -> ModuleType:
    """The module of `train.py` or `evaluate.py`, wherever Python was started."""
    known = sys.modules.get(module_name(name))
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(module_name(name), ROOT / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def choices(group: str, folders: Sequence[Path] = (CONF,)) -> list[str]:
    """The names of <folder>/<group>/*.yaml, those in folders of it with their folder: graph/coloring."""
    files = [(path, folder / group) for folder in folders for path in yaml_files(folder / group)]
    return sorted({path.relative_to(folder).with_suffix("").as_posix() for path, folder in files})


def yaml_files(folder: Path) -> list[Path]:
    """The yaml files of a folder and of the folders in it."""
    return sorted(path for path in folder.rglob("*.yaml") if path.is_file())


def shipped_runs() -> dict[str, Path]:
    """The folder of each trained model that comes with the project, by the name of its task: sudoku, graph/coloring."""
    folder = ROOT / "experiments"
    runs = sorted(path.parent for path in folder.glob("*/*/run.json"))
    return {run.relative_to(folder).as_posix().removesuffix("/small"): run for run in runs}
