"""Samplers: one loop of small frozen parts, a left-to-right baseline, and search alone."""

from constrained_dg.sampling.accept import Confidence, EntropyBound, FixedCount, Margin, Schedule
from constrained_dg.sampling.autoregressive import Autoregressive
from constrained_dg.sampling.base import Cache, Denoiser, Generation, PassInfo, Sampler, Status, StepRecord
from constrained_dg.sampling.diffusion import Diffusion
from constrained_dg.sampling.generate import generate
from constrained_dg.sampling.guide import Guide
from constrained_dg.sampling.noise import AllowedToken, AnyToken
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.renoise import Blocks, Uniform, Violations
from constrained_dg.sampling.request import Completer
from constrained_dg.sampling.search import Search
from constrained_dg.sampling.stop import Change, Stable
from constrained_dg.sampling.temperature import LinearTemperature
from constrained_dg.sampling.wrappers import Candidates, Restarts, Symmetry

__all__ = [
    "AllowedToken",
    "AnyToken",
    "Autoregressive",
    "Blocks",
    "Cache",
    "Candidates",
    "Change",
    "Completer",
    "Confidence",
    "Denoiser",
    "Diffusion",
    "EntropyBound",
    "FixedCount",
    "Generation",
    "Guide",
    "LinearTemperature",
    "Margin",
    "Options",
    "PassInfo",
    "Restarts",
    "Sampler",
    "Schedule",
    "Search",
    "Stable",
    "Status",
    "StepRecord",
    "Symmetry",
    "Uniform",
    "Violations",
    "generate",
]
