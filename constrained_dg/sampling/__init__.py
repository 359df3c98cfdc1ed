"""Samplers: one loop of small frozen parts, a left-to-right baseline, and search alone."""

from constrained_dg.sampling.accept import Acceptor, EntropyBound, Schedule
from constrained_dg.sampling.autoregressive import Autoregressive
from constrained_dg.sampling.base import Cache, Denoiser, Generation, PassInfo, Status, StepRecord
from constrained_dg.sampling.completer import Completer
from constrained_dg.sampling.diffusion import Diffusion
from constrained_dg.sampling.generate import generate
from constrained_dg.sampling.guide import Guide
from constrained_dg.sampling.named import named, sampler_names
from constrained_dg.sampling.options import Options
from constrained_dg.sampling.reads import Reading, read
from constrained_dg.sampling.renoise import Renoiser, Uniform, Violations
from constrained_dg.sampling.sampler import Sampler
from constrained_dg.sampling.search import Search, solve
from constrained_dg.sampling.sets import Sets
from constrained_dg.sampling.stop import Stable
from constrained_dg.sampling.temperature import LinearTemperature
from constrained_dg.sampling.views import Views
from constrained_dg.sampling.wrappers import Candidates, Restarts, Symmetry

__all__ = [
    "Acceptor",
    "Autoregressive",
    "Cache",
    "Candidates",
    "Completer",
    "Denoiser",
    "Diffusion",
    "EntropyBound",
    "Generation",
    "Guide",
    "LinearTemperature",
    "Options",
    "PassInfo",
    "Reading",
    "Renoiser",
    "Restarts",
    "Sampler",
    "Schedule",
    "Search",
    "Sets",
    "Stable",
    "Status",
    "StepRecord",
    "Symmetry",
    "Uniform",
    "Views",
    "Violations",
    "generate",
    "named",
    "read",
    "sampler_names",
    "solve",
]
