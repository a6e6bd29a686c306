"""Linear measurements of images, with adjoint, pseudo-inverse and noise.

`measurement`: what one is, and those whose singular value decomposition is known; `pixels`: masks
and grey; `separable`: downsampling and Gaussian blur; `fourier`: motion blur, frequencies, random
projections; `function`: any linear function.
"""

from score_sde.posteriors.measurements.fourier import (
    Convolution,
    FourierMask,
    MotionBlur,
    RandomProjection,
)
from score_sde.posteriors.measurements.function import LinearFunction
from score_sde.posteriors.measurements.measurement import Measurement, SpectralMeasurement
from score_sde.posteriors.measurements.pixels import Grey, Mask, SoftMask
from score_sde.posteriors.measurements.separable import (
    BicubicDownsampling,
    BoxDownsampling,
    GaussianBlur,
    Separable,
)

MEASUREMENTS: dict[str, type[Measurement]] = {
    Mask.name: Mask,
    SoftMask.name: SoftMask,
    Grey.name: Grey,
    BoxDownsampling.name: BoxDownsampling,
    BicubicDownsampling.name: BicubicDownsampling,
    GaussianBlur.name: GaussianBlur,
    MotionBlur.name: MotionBlur,
    RandomProjection.name: RandomProjection,
    FourierMask.name: FourierMask,
    LinearFunction.name: LinearFunction,
}
"""Name → measurement, called as row(shape, std, **arguments) with those that it declares."""

__all__ = [
    "MEASUREMENTS",
    "BicubicDownsampling",
    "BoxDownsampling",
    "Convolution",
    "FourierMask",
    "GaussianBlur",
    "Grey",
    "LinearFunction",
    "Mask",
    "Measurement",
    "MotionBlur",
    "RandomProjection",
    "Separable",
    "SoftMask",
    "SpectralMeasurement",
]
