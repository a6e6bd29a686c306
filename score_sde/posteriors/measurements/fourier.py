"""Measurements by Hartley's transform: motion blur, frequencies, random projections.

The transform h(x) = Re F x − Im F x, with F the unitary Fourier transform, says the same as F does
in real numbers: it is orthonormal and its own inverse, and coordinates k and −k together span the
two waves of frequency k.

Symbols as in `measurement`.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from score_sde import noise
from score_sde.posteriors.measurements.measurement import SpectralMeasurement, image_shape
from score_sde.posteriors.measurements.separable import without_smallest
from score_sde.tensor_ops import kept_on


def hartley(x: Tensor, axes: Sequence[int] = (-2, -1)) -> Tensor:
    """Re F x − Im F x over the given axes, orthonormal and its own inverse; the shape of x."""
    transformed = torch.fft.fftn(x, dim=tuple(axes), norm="ortho")
    return transformed.real - transformed.imag


class Convolution(SpectralMeasurement):
    """Each channel convolved with one kernel, on a torus: what leaves at one side enters opposite.

    With k the kernel's Fourier transform, A = P h |k| h, where P turns phases by that of k.

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise.
        kernel: (H, W), its centre at [0, 0] and what is left or above of it at negative indices.
    """

    def __init__(self, shape: Sequence[int], std: float, kernel: Tensor) -> None:
        transform = torch.fft.fft2(kernel.double())
        gains = without_smallest(transform.abs())
        self.phase = torch.where(gains > 0, transform / transform.abs(), 1.0)
        super().__init__(shape, std, gains)

    def to_spectrum(self, x: Tensor) -> Tensor:
        """Hartley's transform."""
        return hartley(x)

    def from_spectrum(self, c: Tensor) -> Tensor:
        """Hartley's transform."""
        return hartley(c)

    def measured_to_spectrum(self, y: Tensor) -> Tensor:
        """Hartley's transform of y with its phases turned back."""
        return hartley(self._turned(y, back=True))

    def spectrum_to_measured(self, c: Tensor) -> Tensor:
        """Hartley's transform, with phases turned."""
        return self._turned(hartley(c))

    def _turned(self, x: Tensor, back: bool = False) -> Tensor:
        turned = torch.fft.fft2(x)
        phase = kept_on(x.device, self.phase, turned.dtype)
        return torch.fft.ifft2(turned * (phase.conj() if back else phase)).real


class MotionBlur(Convolution):
    """A blur along a line, as of a camera that moves evenly; images continue at the other side.

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise.
        length: of the line in pixels, above 1 and at most the shorter side.
        angle: of the line in degrees: 0 along rows, 90 along columns.

    Raises:
        ValueError: another length, or an angle that is not finite.
    """

    name = "motion_blur"
    arguments: ClassVar = ("length", "angle")

    def __init__(
        self, shape: Sequence[int], std: float, length: float, angle: float = 0.0
    ) -> None:
        _, H, W = image_shape(shape)
        if not 1 < length <= min(H, W) or not math.isfinite(angle):
            raise ValueError(
                f"length={length:g}, angle={angle:g}: a motion blur needs a length above 1 and at "
                f"most {min(H, W)} pixels for {H}×{W} images, and a finite angle in degrees"
            )
        super().__init__(shape, std, _line(H, W, length, math.radians(angle)))


class FourierMask(SpectralMeasurement):
    """Some of the frequencies of an image, as in magnetic resonance imaging.

    y has the shape of x and holds Hartley's transform: Re F x − Im F x at each frequency that is
    measured; what it holds elsewhere never counts. For real images F x at k says what it is at −k,
    so that a frequency is measured together with its negative.

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise of each number of y.
        mask: 1 for frequencies that are measured, 0 for others, in the layout of `torch.fft.fft2`
            with the frequency 0 at [0, 0]; broadcasts over (B, C, H, W), its last axes (H, W).

    Raises:
        ValueError: a mask with other values or of another shape.
    """

    name = "fourier_mask"
    arguments: ClassVar = ("mask",)

    def __init__(self, shape: Sequence[int], std: float, mask: Tensor) -> None:
        sides = image_shape(shape)[1:]
        if tuple(mask.shape[-2:]) != sides or not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(
                f"a mask of frequencies of shape {tuple(mask.shape)} for images of shape "
                f"{tuple(shape)}: its last axes are {sides}, and it holds 1 for frequencies that "
                "are measured and 0 for others"
            )
        known = mask.double()
        opposite = known.flip(-2, -1).roll((1, 1), (-2, -1))
        super().__init__(shape, std, torch.maximum(known, opposite))

    def to_spectrum(self, x: Tensor) -> Tensor:
        """Hartley's transform."""
        return hartley(x)

    def from_spectrum(self, c: Tensor) -> Tensor:
        """Hartley's transform."""
        return hartley(c)

    def measured_to_spectrum(self, y: Tensor) -> Tensor:
        """Measurements are their own coordinates."""
        return y

    def spectrum_to_measured(self, c: Tensor) -> Tensor:
        """Measurements are their own coordinates."""
        return c


class RandomProjection(SpectralMeasurement):
    """The projection of an image on random orthonormal directions: y is (B, count).

    Signs are flipped at random, Hartley's transform mixes all numbers, and a random part is kept:
    a fast Johnson–Lindenstrauss transform (Ailon & Chazelle 2009), which needs no matrix.

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise.
        count: how many directions, from 1 to the numbers of an image.
        seed: of the directions.

    Raises:
        ValueError: another count.
    """

    name = "random_projection"
    arguments: ClassVar = ("count", "seed")

    def __init__(self, shape: Sequence[int], std: float, count: int, seed: int = 0) -> None:
        size = math.prod(image_shape(shape))
        if not 1 <= count <= size:
            raise ValueError(
                f"count={count}: images of shape {tuple(shape)} are projected on 1 to {size} "
                "directions"
            )
        first = torch.zeros(1, dtype=torch.int64)
        stream = noise.Stream.DATA
        self.signs = noise.rademacher(seed, first, 0, (size,), stream=stream)[0]
        self.order = noise.permutation(size, seed, 0)
        self.place = self.order.argsort()
        self.count = count
        super().__init__(shape, std, (torch.arange(size) < count).double())

    def to_spectrum(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C·H·W), the measured coordinates first."""
        mixed = hartley(x.flatten(1) * kept_on(x.device, self.signs, x.dtype), (1,))
        return mixed[:, kept_on(x.device, self.order)]

    def from_spectrum(self, c: Tensor) -> Tensor:
        """(B, C·H·W) → (B, C, H, W)."""
        mixed = hartley(c[:, kept_on(c.device, self.place)], (1,))
        return (mixed * kept_on(c.device, self.signs, c.dtype)).unflatten(1, self.shape)

    def measured_to_spectrum(self, y: Tensor) -> Tensor:
        """(B, count) → (B, C·H·W), 0 for what is not measured."""
        return torch.nn.functional.pad(y, (0, len(self.order) - self.count))

    def spectrum_to_measured(self, c: Tensor) -> Tensor:
        """The first coordinates."""
        return c[:, : self.count]


def _line(H: int, W: int, length: float, angle: float) -> Tensor:
    """A line through [0, 0] as a kernel (H, W) of sum 1, each of its points shared out bilinearly.

    It covers as many pixels as its length: its ends lie (length − 1)/2 from the centre.
    """
    along = torch.linspace(-0.5, 0.5, 16 * math.ceil(length) + 1, dtype=torch.float64)
    along = along * (length - 1)
    down, right = -along * math.sin(angle), along * math.cos(angle)
    kernel = torch.zeros(H, W, dtype=torch.float64)
    for low, high in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = down.floor() + low, right.floor() + high
        share = (1 - (down - row).abs()) * (1 - (right - column).abs())
        at = row.long().remainder(H), column.long().remainder(W)
        kernel.index_put_(at, share, accumulate=True)
    return kernel / kernel.sum()
