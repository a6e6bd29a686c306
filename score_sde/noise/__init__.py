"""Noise: as a function of (seed, sample index, draw number), and as a Brownian path."""

from score_sde.noise.counted import (
    MAX_DRAWS,
    Noise,
    SampleNoise,
    Stream,
    derived_seed,
    normal,
    permutation,
    philox,
    rademacher,
    torch_noise,
    uniform,
)
from score_sde.noise.path import BrownianPath, Clock, increment, increment_and_area

__all__ = [
    "MAX_DRAWS",
    "BrownianPath",
    "Clock",
    "Noise",
    "SampleNoise",
    "Stream",
    "derived_seed",
    "increment",
    "increment_and_area",
    "normal",
    "permutation",
    "philox",
    "rademacher",
    "torch_noise",
    "uniform",
]
