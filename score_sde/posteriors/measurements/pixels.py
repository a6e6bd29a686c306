"""Measurements of pixels one by one: some of them, some of them badly, all of them without colour.

Symbols as in `measurement`.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.posteriors.measurements.measurement import SpectralMeasurement, image_shape


class SoftMask(SpectralMeasurement):
    """Pixels that are seen more or less well.

    A mask m says how well: a pixel is seen with the variance std² + (1 − m)/m of its noise, in
    units of the network's data. At 1 that is the noise of all, at 0 the pixel is hidden. y has the
    shape of x, and what it holds where a pixel is hidden never counts.

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise where m = 1.
        mask: m from 0 to 1, broadcasting over (B, C, H, W).

    Raises:
        ValueError: as `Measurement`, or a mask with other values or of another shape.
    """

    name = "soft_mask"
    arguments: ClassVar = ("mask",)

    def __init__(self, shape: Sequence[int], std: float, mask: Tensor) -> None:
        mask = mask.double()
        if mask.ndim < 2 or not _broadcasts(mask.shape, image_shape(shape)):
            raise ValueError(
                f"a mask of shape {tuple(mask.shape)} for images of shape {tuple(shape)}: give "
                "one that broadcasts to (B, C, H, W), such as (H, W) or (B, 1, H, W)"
            )
        if not bool(((mask >= 0) & (mask <= 1)).all()):
            raise ValueError(
                f"a mask with values from {mask.min().item():.3g} to {mask.max().item():.3g}: "
                "give 0 for hidden pixels, 1 for known ones, and what lies between for others"
            )
        self.check(mask)
        blur = torch.where(mask > 0, (1 - mask) / mask, 0.0)
        super().__init__(shape, std, (mask > 0).double(), std**2 + blur)

    def check(self, mask: Tensor) -> None:
        """Refuses a mask that this measurement has no use for."""

    def to_spectrum(self, x: Tensor) -> Tensor:
        """Pixels are their own coordinates."""
        return x

    def from_spectrum(self, c: Tensor) -> Tensor:
        """Pixels are their own coordinates."""
        return c

    def measured_to_spectrum(self, y: Tensor) -> Tensor:
        """Pixels are their own coordinates."""
        return y

    def spectrum_to_measured(self, c: Tensor) -> Tensor:
        """Pixels are their own coordinates."""
        return c


class Mask(SoftMask):
    """Some of the pixels (inpainting): m is 1 for those and 0 for the others; see `SoftMask`."""

    name = "mask"

    def check(self, mask: Tensor) -> None:
        """Refuses a mask that has values between 0 and 1."""
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(
                "a mask with values between 0 and 1: give 1 for known pixels and 0 for hidden "
                "ones, or take the measurement soft_mask"
            )


class Grey(SpectralMeasurement):
    """The mean of the channels (colourisation): y is (B, 1, H, W).

    The channels' basis is that of the reflection that carries the first axis to (1, …, 1)/√C.

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise.
    """

    name = "grey"

    def __init__(self, shape: Sequence[int], std: float) -> None:
        C, _, _ = image_shape(shape)
        gains = torch.zeros(C, 1, 1, dtype=torch.float64)
        gains[0] = 1 / math.sqrt(C)
        super().__init__(shape, std, gains)

    def to_spectrum(self, x: Tensor) -> Tensor:
        """The channels reflected, which is its own inverse: x − v (v·x), v ∝ (1 − √C, 1, …, 1)."""
        C = self.shape[0]
        if C == 1:
            return x
        v = x.new_ones(C)
        v[:1] = 1 - math.sqrt(C)  # a fill: for v[0] a GPU would be sent the number and waited for
        v = v.reshape(1, C, 1, 1)
        return x - v * (v * x).sum(1, keepdim=True) / (C - math.sqrt(C))

    def from_spectrum(self, c: Tensor) -> Tensor:
        """See `to_spectrum`."""
        return self.to_spectrum(c)

    def measured_to_spectrum(self, y: Tensor) -> Tensor:
        """The grey image is the first coordinate."""
        return torch.cat([y, y.new_zeros(len(y), self.shape[0] - 1, *y.shape[2:])], dim=1)

    def spectrum_to_measured(self, c: Tensor) -> Tensor:
        """The first coordinate is the grey image."""
        return c[:, :1]


def _broadcasts(mask: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a mask's last axes broadcast over (C, H, W); a fourth one counts samples."""
    axes = list(zip(reversed(mask), reversed(shape), strict=False))
    return len(mask) <= 4 and all(have in (1, want) for have, want in axes)
