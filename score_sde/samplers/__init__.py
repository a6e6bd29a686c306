"""From noise to data: the sampling loop and the samplers that own it.

`grid` owns grid, progress, call count and final denoising for every solver step; `adaptive` is
what samplers share that choose times of their own for each sample, `ode` and `adaptive_sde`;
`completion` is what is known of an image as a constraint on the loop, `thresholding` keeps
denoised images to the data's range, and `optimised_grid` finds the times that suit a score.
"""

from score_sde.samplers.adaptive import AdaptiveSampler
from score_sde.samplers.adaptive_sde import AdaptiveSDESampler
from score_sde.samplers.grid import Constraint, GridSampler, OnStep, Sampler, Samples
from score_sde.samplers.ode import ODESampler

SAMPLERS: dict[str, type[AdaptiveSampler]] = {
    "ode": ODESampler,
    "adaptive_sde": AdaptiveSDESampler,
}
"""Name in configs (`sampling.method`) → sampler, called as row(sde, eps=, tweedie=, **arguments).

Those of a grid are made of steps: `pc` of a predictor and a corrector, and `FEW_STEP`."""

__all__ = [
    "SAMPLERS",
    "AdaptiveSDESampler",
    "AdaptiveSampler",
    "Constraint",
    "GridSampler",
    "ODESampler",
    "OnStep",
    "Sampler",
    "Samples",
]
