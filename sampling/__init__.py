"""From noise to data: the sampling loop, our samplers, and the entry points of the 2021 release.

`loop` owns grid, progress, call count and final denoising for every solver step; `adaptive` draws
with the adaptive ODE; `original` holds `get_pc_sampler`, `get_ode_sampler` and `get_sampling_fn`,
and names predictors and correctors as notebooks import them.
"""

from sampling.adaptive import ODESampler
from sampling.loop import Constraint, GridSampler, OnStep, Sampler, Samples
from sampling.original import get_ode_sampler, get_pc_sampler, get_sampling_fn
from score import ScoreFor
from solvers.correctors import (
    CORRECTORS,
    AnnealedLangevinDynamics,
    LangevinCorrector,
    NoneCorrector,
)
from solvers.predictors import (
    PREDICTORS,
    AncestralSamplingPredictor,
    EulerMaruyamaPredictor,
    NonePredictor,
    ReverseDiffusionPredictor,
)

__all__ = [
    "CORRECTORS",
    "PREDICTORS",
    "AncestralSamplingPredictor",
    "AnnealedLangevinDynamics",
    "Constraint",
    "EulerMaruyamaPredictor",
    "GridSampler",
    "LangevinCorrector",
    "NoneCorrector",
    "NonePredictor",
    "ODESampler",
    "OnStep",
    "ReverseDiffusionPredictor",
    "Sampler",
    "Samples",
    "ScoreFor",
    "get_ode_sampler",
    "get_pc_sampler",
    "get_sampling_fn",
]
