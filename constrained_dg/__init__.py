"""constrained_dg: text-diffusion language models that obey rules."""

from constrained_dg.runs import Run, load

__all__ = ["Run", "load"]
