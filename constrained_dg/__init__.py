"""constrained_dg: text-diffusion language models that obey rules."""

from constrained_dg.model import load_pretrained, save_pretrained
from constrained_dg.places import choices, shipped_runs
from constrained_dg.runs import Run, load
from constrained_dg.sampling import generate, read, sampler_names, solve

__all__ = [
    "Run",
    "checkpoints",
    "generate",
    "load",
    "load_pretrained",
    "read",
    "samplers",
    "save_pretrained",
    "solve",
    "tasks",
]
__version__ = "0.2.0"


def tasks() -> list[str]:
    """The names of the tasks, as `constrained-dg train task=NAME` takes them."""
    return choices("task")


def samplers() -> list[str]:
    """The names of the samplers, as `generate(..., sampler=NAME)` and `evaluate.py samplers=[NAME]` take them."""
    return sampler_names()


def checkpoints() -> list[str]:
    """The names of the trained models that come with the package, as `load(NAME)` takes them."""
    return list(shipped_runs())
