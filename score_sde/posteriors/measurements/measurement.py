"""What a measurement is: y = A x + n of an image x, with A linear and n Gaussian noise.

Most have a singular value decomposition that costs no more than they do,

    A = U S Vᵀ,

with V an orthonormal change of basis of images, S one singular value ≥ 0 for each coordinate, and
U from coordinates to measurements. Then the adjoint is V S Uᵀ, the pseudo-inverse V S⁺ Uᵀ, and the
inverse of r² A Aᵀ + Σ, with Σ the covariance of n, one division for each coordinate
(`SpectralMeasurement`). Of any other linear function only the two products are known, and
equations are solved by conjugate gradients (`function.LinearFunction`).

Symbols: x (B, C, H, W) images as the network sees them; y (B, ...) measurements; c coordinates,
with as many numbers as x; r2 a variance, (B,) or a number. Everything keeps the dtype and device
of what it is given.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.noise import Noise
from score_sde.tensor_ops import expand_to, kept_on


class Measurement(ABC):
    """y = A x + n for images of one shape.

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise, in units of the network's data; 0 for none.

    Attributes:
        name: what recipes and messages call it.
        arguments: what its constructor takes besides, by name.

    Raises:
        ValueError: a shape that is no image's, or a std that is negative or not finite.
    """

    name: ClassVar[str]
    arguments: ClassVar[Sequence[str]] = ()

    def __init__(self, shape: Sequence[int], std: float) -> None:
        self.shape = image_shape(shape)
        if not 0 <= std < math.inf:
            raise ValueError(f"std={std:g}: a measurement's noise has a finite std of 0 or more")
        self.std = float(std)

    @property
    def has_noise(self) -> bool:
        """Whether everything that is measured has noise, so that Σ is invertible there."""
        return self.std > 0

    @property
    def spectral(self) -> "SpectralMeasurement | None":
        """The same with its singular value decomposition; None where that is not known."""
        return None

    @property
    def in_pixels(self) -> bool:
        """Whether y is a picture with the grey levels of x: of a constant image that constant."""
        ones = torch.ones(1, *self.shape)
        y = self.forward(ones)
        return y.ndim == 4 and torch.allclose(y, self.measured(torch.ones_like(y)), atol=1e-4)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x: (B, C, H, W) → (B, ...)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y: (B, ...) → (B, C, H, W)."""

    @abstractmethod
    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y, the smallest of the images that fit y best: (B, ...) → (B, C, H, W)."""

    @abstractmethod
    def solve(self, y: Tensor, r2: Tensor | float) -> Tensor:
        """(r² A Aᵀ + Σ)⁻¹ y on what is measured, with the shape of y: 0 on what is not."""

    def covariance(self, y: Tensor) -> Tensor:
        """Σ y, with the shape of y."""
        return self.std**2 * y

    def noisy(self, y: Tensor, noise: Noise) -> Tensor:
        """y and a draw of its noise."""
        return y + self.std * noise(y.shape).to(y)

    def measured(self, y: Tensor) -> Tensor:
        """y without what it holds where nothing is measured, which may be anything, NaN too."""
        return y

    def measure(self, x: Tensor, noise: Noise) -> Tensor:
        """A x + n: (B, C, H, W) → (B, ...)."""
        return self.noisy(self.forward(x), noise)


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """(C, H, W) of one image.

    Raises:
        ValueError: another number of axes, or an empty one.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"images of shape {tuple(shape)}: a measurement needs (C, H, W)")
    C, H, W = shape
    return C, H, W


class SpectralMeasurement(Measurement):
    """A measurement whose singular value decomposition is known.

    A child gives the two changes of basis, U and V with their transposes, and sets
    `singular_values`. Noise is independent between the coordinates Uᵀ y, white if nothing else is
    said.

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise.
        singular_values: s ≥ 0 of the coordinates, broadcasting over them, batch axis included;
            where it is 0 nothing is measured.
        variance: of the noise of each coordinate, of the same kind; std² by default.

    Raises:
        ValueError: as `Measurement`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        std: float,
        singular_values: Tensor,
        variance: Tensor | None = None,
    ) -> None:
        super().__init__(shape, std)
        self.singular_values = singular_values
        white = torch.tensor(self.std**2, dtype=torch.float64)
        self.variance = white if variance is None else variance

    @property
    def noise_free(self) -> bool:
        """Whether nothing that is measured has noise."""
        return bool(((self.variance == 0) | (self.singular_values == 0)).all())

    @abstractmethod
    def to_spectrum(self, x: Tensor) -> Tensor:
        """Vᵀ x: images (B, C, H, W) → coordinates."""

    @abstractmethod
    def from_spectrum(self, c: Tensor) -> Tensor:
        """V c: coordinates → images (B, C, H, W)."""

    @abstractmethod
    def measured_to_spectrum(self, y: Tensor) -> Tensor:
        """Uᵀ y: measurements → coordinates; what is not measured may hold anything."""

    @abstractmethod
    def spectrum_to_measured(self, c: Tensor) -> Tensor:
        """U c: coordinates, of which those that are measured count → measurements."""

    @property
    def spectral(self) -> "SpectralMeasurement":
        """Itself."""
        return self

    @property
    def has_noise(self) -> bool:
        """See `Measurement.has_noise`."""
        return bool(((self.variance > 0) | (self.singular_values == 0)).all())

    def forward(self, x: Tensor) -> Tensor:
        """See `Measurement.forward`."""
        c = self.to_spectrum(x)
        return self.spectrum_to_measured(self._scaled(c, self.gains(c)))

    def adjoint(self, y: Tensor) -> Tensor:
        """See `Measurement.adjoint`."""
        c = self.measured_to_spectrum(y)
        return self.from_spectrum(self._scaled(c, self.gains(c)))

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """See `Measurement.pseudo_inverse`."""
        c = self.measured_to_spectrum(y)
        return self.from_spectrum(self._scaled(c, 1 / self.gains(c)))

    def solve(self, y: Tensor, r2: Tensor | float) -> Tensor:
        """See `Measurement.solve`."""
        c = self.measured_to_spectrum(y)
        r2 = expand_to(torch.as_tensor(r2, dtype=c.dtype, device=c.device), c)
        inverse = 1 / (r2 * self.gains(c) ** 2 + self.noise_variance(c))
        return self.spectrum_to_measured(self._scaled(c, inverse))

    def covariance(self, y: Tensor) -> Tensor:
        """See `Measurement.covariance`."""
        c = self.measured_to_spectrum(y)
        return self.spectrum_to_measured(self._scaled(c, self.noise_variance(c)))

    def noisy(self, y: Tensor, noise: Noise) -> Tensor:
        """See `Measurement.noisy`; there is none where nothing is measured."""
        c = self.measured_to_spectrum(noise(y.shape).to(y))
        return y + self.spectrum_to_measured(self._scaled(c, self.noise_variance(c).sqrt()))

    def measured(self, y: Tensor) -> Tensor:
        """See `Measurement.measured`."""
        c = self.measured_to_spectrum(y)
        return self.spectrum_to_measured(self._scaled(c, torch.ones_like(c)))

    def gains(self, c: Tensor) -> Tensor:
        """The singular values beside coordinates, of their dtype and on their device."""
        return kept_on(c.device, self.singular_values, c.dtype)

    def noise_variance(self, c: Tensor) -> Tensor:
        """The variances of the noise beside coordinates, of their dtype and on their device."""
        return kept_on(c.device, self.variance, c.dtype)

    def _scaled(self, c: Tensor, by: Tensor) -> Tensor:
        """c · by where something is measured, and 0 elsewhere, whatever stands there."""
        return torch.where(self.gains(c) > 0, c * by, 0.0)
