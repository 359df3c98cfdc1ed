"""constrained_dg: text-diffusion language models that obey rules."""

from constrained_dg.model import load_pretrained, save_pretrained
from constrained_dg.runs import Run, load
from constrained_dg.sampling import generate

__all__ = ["Run", "generate", "load", "load_pretrained", "save_pretrained"]
