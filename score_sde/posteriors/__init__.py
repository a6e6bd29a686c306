"""Linear inverse problems: from a score of images to one of images that fit a measurement.

`measurements`: y = A x + noise, with adjoint, pseudo-inverse and noise level; `scores`: posterior
scores by DPS, ΠGDM, DiffPIR and moment matching, which every sampler runs on;
`conjugate_gradients`: linear equations, each sample by itself.
"""

from score_sde.posteriors.measurements import MEASUREMENTS, Measurement, SpectralMeasurement
from score_sde.posteriors.scores import (
    DPS,
    POSTERIORS,
    DiffPIR,
    MomentMatching,
    PiGDM,
    PosteriorScore,
)

__all__ = [
    "DPS",
    "MEASUREMENTS",
    "POSTERIORS",
    "DiffPIR",
    "Measurement",
    "MomentMatching",
    "PiGDM",
    "PosteriorScore",
    "SpectralMeasurement",
]
