"""Samplers: one loop of small frozen parts, a left-to-right baseline, and search alone."""

from constrained_dg.sampling.accept import EntropyBound
from constrained_dg.sampling.autoregressive import Autoregressive
from constrained_dg.sampling.base import Cache, Denoiser, Generation, PassInfo, Sampler, Status, StepRecord
from constrained_dg.sampling.diffusion import Diffusion
from constrained_dg.sampling.generate import generate
from constrained_dg.sampling.guide import Guide
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.renoise import Uniform, Violations
from constrained_dg.sampling.request import Completer
from constrained_dg.sampling.search import Search
from constrained_dg.sampling.stop import Stable
from constrained_dg.sampling.temperature import LinearTemperature

__all__ = [
    "Autoregressive",
    "Cache",
    "Completer",
    "Denoiser",
    "Diffusion",
    "EntropyBound",
    "Generation",
    "Guide",
    "LinearTemperature",
    "Options",
    "PassInfo",
    "Sampler",
    "Search",
    "Stable",
    "Status",
    "StepRecord",
    "Uniform",
    "Violations",
    "generate",
]
