"""Linear inverse problems: from a score of images to one of images that fit a measurement.

`measurements`: y = A x + noise, with adjoint, pseudo-inverse and noise level; `scores/`: posterior
scores by DPS, ΠGDM, DiffPIR and moment matching, which every sampler runs on; `replacement`:
measurements as what `samplers.completion` keeps; `twisted`: particles by twisted sequential Monte
Carlo, exact in the limit; `ddrm`: a step for measurements whose singular value decomposition is
known; `conjugate_gradients`: linear equations, each sample by itself; `tasks`: what is
measured, by the name of the task.
"""

from score_sde.posteriors.ddrm import DDRM, draw_ddrm
from score_sde.posteriors.measurements import MEASUREMENTS, Measurement, SpectralMeasurement
from score_sde.posteriors.replacement import Replaced
from score_sde.posteriors.scores import (
    DPS,
    POSTERIORS,
    DiffPIR,
    MomentMatching,
    PiGDM,
    PosteriorScore,
)
from score_sde.posteriors.tasks import TASKS, Task
from score_sde.posteriors.twisted import Particles, TwistedSMC

__all__ = [
    "DDRM",
    "DPS",
    "MEASUREMENTS",
    "POSTERIORS",
    "TASKS",
    "DiffPIR",
    "Measurement",
    "MomentMatching",
    "Particles",
    "PiGDM",
    "PosteriorScore",
    "Replaced",
    "SpectralMeasurement",
    "Task",
    "TwistedSMC",
    "draw_ddrm",
]
