"""From noise to data: the sampling loop and the samplers that own it.

`grid` owns grid, progress, call count and final denoising for every solver step; `ode` draws with
the adaptive ODE; `completion` is what is known of an image as a constraint on the loop, and
`thresholding` keeps denoised images to the data's range; `optimised_grid` finds the times that
suit a score.
"""

from score_sde.samplers.grid import Constraint, GridSampler, OnStep, Sampler, Samples
from score_sde.samplers.ode import ODESampler

__all__ = ["Constraint", "GridSampler", "ODESampler", "OnStep", "Sampler", "Samples"]
