"""Measurements that act on rows and on columns alike: downsampling and Gaussian blur.

A is R x Kᵀ with a matrix R of the columns and K of the rows, so that its decomposition is that of
these two: V = V_R ⊗ V_K, and its singular values are products. They are computed once, in float64,
where a product of matrices is made with it too: TF32 would round it to three digits.

Symbols as in `measurement`.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.posteriors.measurements.measurement import SpectralMeasurement, image_shape
from score_sde.tensor_ops import kept_on

WIDEST = 16  # of a Gaussian blur, in sides

SMALLEST_GAIN = 1e-4
"""Singular values below this part of the largest count as 0: the measurement is that without them.

What a blur leaves of these is lost below any noise, and its inverse would amplify rounding alone.
"""


class Separable(SpectralMeasurement):
    """y = R x Kᵀ in each channel: (B, C, H, W) → (B, C, h, w).

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise.
        R: (h, H), h ≤ H.
        K: (w, W), w ≤ W.
    """

    def __init__(self, shape: Sequence[int], std: float, R: Tensor, K: Tensor) -> None:
        _, H, W = image_shape(shape)
        self.U_R, s_R, V_R = torch.linalg.svd(R.double())
        self.U_K, s_K, V_K = torch.linalg.svd(K.double())
        self.V_R, self.V_K = V_R.mT, V_K.mT
        gains = torch.zeros(1, H, W, dtype=torch.float64)
        gains[:, : len(s_R), : len(s_K)] = s_R[:, None] * s_K
        super().__init__(shape, std, without_smallest(gains))

    def to_spectrum(self, x: Tensor) -> Tensor:
        """V_Rᵀ x V_K."""
        V_R, V_K = _on(x, self.V_R, self.V_K)
        return _between(V_R.mT, x, V_K)

    def from_spectrum(self, c: Tensor) -> Tensor:
        """V_R c V_Kᵀ."""
        V_R, V_K = _on(c, self.V_R, self.V_K)
        return _between(V_R, c, V_K.mT)

    def measured_to_spectrum(self, y: Tensor) -> Tensor:
        """U_Rᵀ y U_K, and 0 for the coordinates that are not measured."""
        H, W = self.shape[1:]
        U_R, U_K = _on(y, self.U_R, self.U_K)
        c = _between(U_R.mT, y, U_K)
        return torch.nn.functional.pad(c, (0, W - c.shape[-1], 0, H - c.shape[-2]))

    def spectrum_to_measured(self, c: Tensor) -> Tensor:
        """U_R c U_Kᵀ of the first coordinates."""
        U_R, U_K = _on(c, self.U_R, self.U_K)
        return _between(U_R, c[..., : len(U_R), : len(U_K)], U_K.mT)


class Downsampling(Separable):
    """Sides that become smaller by a factor; a child says by which weights.

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise.
        factor: how many times smaller each side becomes.

    Raises:
        ValueError: a factor that does not divide both sides; lists those that do.
    """

    arguments: ClassVar = ("factor",)

    def __init__(self, shape: Sequence[int], std: float, factor: int) -> None:
        check_factor(shape, factor)
        super().__init__(shape, std, *(self.weights(side, factor) for side in shape[1:]))

    @staticmethod
    @abstractmethod
    def weights(side: int, factor: int) -> Tensor:
        """Of the pixels of a side in each of the fewer ones: (side/factor, side), float64."""


class BoxDownsampling(Downsampling):
    """Means of blocks of factor × factor pixels."""

    name = "box_downsampling"

    @staticmethod
    def weights(side: int, factor: int) -> Tensor:
        """1/factor each."""
        rows = torch.eye(side // factor, dtype=torch.float64)
        return rows.repeat_interleave(factor, dim=1) / factor


class BicubicDownsampling(Downsampling):
    """Downsampling with Keys' cubic kernel, as wide as the factor, which smooths as it shrinks.

    At the border weights that would fall outside are left out and the others scaled to sum 1, as
    Pillow does, and torch's `interpolate(antialias=True)`. Keys 1981, with a = −1/2.
    """

    name = "bicubic_downsampling"

    @staticmethod
    def weights(side: int, factor: int) -> Tensor:
        """The kernel's, scaled to sum 1."""
        centre = (torch.arange(side // factor, dtype=torch.float64)[:, None] + 0.5) * factor
        d = (torch.arange(side, dtype=torch.float64) + 0.5 - centre).abs() / factor
        inner, outer = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        weights = torch.where(d <= 1, inner, torch.where(d < 2, outer, 0.0))
        return weights / weights.sum(1, keepdim=True)


class GaussianBlur(Separable):
    """A blur by a Gaussian, cut at four of its standard deviations, with images mirrored outside.

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise.
        width: standard deviation of the Gaussian in pixels, above 0.

    Raises:
        ValueError: a width that is not above 0.
    """

    name = "gaussian_blur"
    arguments: ClassVar = ("width",)

    def __init__(self, shape: Sequence[int], std: float, width: float) -> None:
        sides = image_shape(shape)[1:]
        widest = WIDEST * max(sides)  # far beyond what leaves more than the mean
        if not 0 < width <= widest:
            raise ValueError(
                f"width={width:g}: a Gaussian blur needs a width above 0 and at most {widest} "
                f"pixels for {sides[0]}×{sides[1]} images"
            )
        super().__init__(shape, std, *(_gaussian(side, width) for side in sides))


def without_smallest(gains: Tensor) -> Tensor:
    """Singular values, with 0 for those below `SMALLEST_GAIN` of the largest."""
    return torch.where(gains < SMALLEST_GAIN * gains.max(), 0.0, gains)


def check_factor(shape: Sequence[int], factor: int) -> None:
    """Refuses a factor that does not divide both sides of an image."""
    _, H, W = image_shape(shape)
    fitting = [f for f in range(2, min(H, W) + 1) if H % f == 0 and W % f == 0]
    if factor in fitting:
        return
    remedy = f"take one of {', '.join(map(str, fitting))}" if fitting else "no factor does"
    raise ValueError(
        f"factor={factor}: it must be 2 or more and divide both sides of {H}×{W} images; {remedy}"
    )


def _gaussian(side: int, width: float) -> Tensor:
    reach = max(1, round(4 * width))
    offset = torch.arange(-reach, reach + 1)
    weights = (-0.5 * (offset.double() / width) ** 2).exp()
    at = _mirrored(torch.arange(side)[:, None] + offset, side)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, at, (weights / weights.sum()).expand(side, -1))


def _mirrored(at: Tensor, side: int) -> Tensor:
    """Indices of pixels, those outside mirrored at the first and the last one."""
    period = max(2 * (side - 1), 1)
    at = at.remainder(period)
    return torch.minimum(at, period - at) if side > 1 else torch.zeros_like(at)


def _on(x: Tensor, *matrices: Tensor) -> Iterator[Tensor]:
    """Matrices on the device of x, in float64 where it has that."""
    precise = torch.float32 if x.device.type == "mps" else torch.float64
    return (kept_on(x.device, matrix, precise) for matrix in matrices)


def _between(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """left · x · right over the last two axes, in the precision of the matrices."""
    return (left @ x.to(left.dtype) @ right).to(x.dtype)
