"""Augmentation that does not leak into samples: the network is told what was done to an image.

Each training image is moved by an affine map of the plane (Karras et al. 2022, appendix F.2, after
the geometric part of Karras et al. 2020, "Training Generative Adversarial Networks with Limited
Data"). Each of these happens by itself with the same probability, mirrors left to right with one
of their own where that is larger, as such images are as good as the others:

    mirrored left to right, and top to bottom         each in one of two cases
    scaled by 2^(a/5)                                 a ~ N(0, 1)
    rotated by an angle                               uniform on (−π, π)
    stretched by 2^(b/5) along an axis at angle φ/2,
        shrunk as much across it                      b ~ N(0, 1), φ uniform on (−π, π)
    moved by whole pixels                             uniform up to an eighth of each side
    moved by fractions of a pixel                     N(0, 1/8²) of each side

The nine parameters that the network is given say it all, and are 0 for an image that is as it was:

    0, 1  whether it was mirrored          5, 6  b cos φ and b sin φ
    2     a                                7, 8  the move to the right and down, in eighths of
    3, 4  cos − 1 and sin of the angle           a side

So a network that is given zeros, as samplers do, stands for images as they are.

Symbols: x (B, C, H, W) images; A (B, 2, 2) and v (B, 2), in pixels, the map p → A p + v of places
p = (right, down) from the middle of the image.
"""

import math

import torch
from torch import Tensor

from score_sde.parallel import Part

PARAMETERS = 9
"""How many numbers say what was done to an image."""

_OCTAVES = 0.2  # of scale and stretch, one standard deviation
_MOVES = 1 / 8  # of a side
_ROUNDING = 1e-4  # of a pixel


class Augmentation:
    """Moves images at random; says what was done.

    Args:
        probability: of each kind of movement, 0 … 1.
        mirror: of mirrors left to right, where above `probability`; at 1 half of the images are
            mirrored.

    Raises:
        ValueError: another probability.
    """

    def __init__(self, probability: float, mirror: float = 0.0) -> None:
        for name, given in (("probability", probability), ("mirror", mirror)):
            if not 0 <= given <= 1:
                raise ValueError(f"{name}={given}: give a number from 0 to 1")
        self.probability, self.mirror = probability, max(probability, mirror)

    def __call__(
        self, x: Tensor, generator: torch.Generator | None = None, part: Part | None = None
    ) -> tuple[Tensor, Tensor]:
        """The moved images, and the parameters (B, 9) in their dtype.

        Args:
            x: (B, C, H, W).
            generator: on the device of x; torch's global one by default.
            part: of the batch, that x is; x is all of it by default.
        """
        n = len(x) if part is None else part.whole
        parameters = self.draw(n, x.shape[-2:], x.device, generator)
        parameters = parameters if part is None else part.of(parameters)
        matrix, move = affine_map(parameters, x.shape[-2:])
        return warp(x, matrix, move), parameters.to(x.dtype)

    def draw(
        self,
        n: int,
        sides: tuple[int, int] | torch.Size,
        device: torch.device | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Parameters of n images of height and width `sides`: float32 (n, 9)."""
        chance = torch.rand(n, 7, device=device, generator=generator)
        happens = chance < self.probability
        mirrored = chance[:, :1] < self.mirror, happens[:, 1:2]
        u = torch.rand(n, 6, device=device, generator=generator)
        z = torch.randn(n, 4, device=device, generator=generator)
        angle, axis = (math.pi * (2 * u[:, 2:4] - 1)).unbind(1)
        moves = []
        for k, side in enumerate(reversed(sides)):  # to the right, and down
            most = math.floor(side * _MOVES)
            whole = ((2 * most + 1) * u[:, 4 + k]).floor().clamp_max(2 * most) - most
            moves.append(happens[:, 5] * whole / (side * _MOVES) + happens[:, 6] * z[:, 2 + k])
        angle = happens[:, 3] * angle
        stretch = happens[:, 4] * z[:, 1]
        return torch.column_stack(
            [
                torch.cat(mirrored, 1) * (u[:, :2] < 0.5),
                happens[:, 2] * z[:, 0],
                angle.cos() - 1,
                angle.sin(),
                stretch * axis.cos(),
                stretch * axis.sin(),
                *moves,
            ]
        )


def affine_map(parameters: Tensor, sides: tuple[int, int] | torch.Size) -> tuple[Tensor, Tensor]:
    """Where a place of the image goes: mirrored, scaled, stretched, rotated, then moved.

    Args:
        parameters: (B, 9).
        sides: height and width.

    Returns:
        A (B, 2, 2) and v (B, 2).
    """
    p = parameters
    mirrors = 1 - 2 * p[:, :2]
    b, phi = torch.hypot(p[:, 5], p[:, 6]), torch.atan2(p[:, 6], p[:, 5])
    # The symmetric matrix with eigenvalues e^±s whose larger one lies along the angle φ/2.
    s = math.log(2) * _OCTAVES * b
    stretch = _matrix(
        s.cosh() + s.sinh() * phi.cos(),
        s.sinh() * phi.sin(),
        s.sinh() * phi.sin(),
        s.cosh() - s.sinh() * phi.cos(),
    )
    cos, sin = p[:, 3] + 1, p[:, 4]
    scale = torch.exp2(_OCTAVES * p[:, 2])[:, None, None]
    turned = _product(_matrix(cos, -sin, sin, cos), stretch)
    matrix = turned * scale * mirrors[:, None, :]
    # Sides as numbers: a tensor of them would make the host wait for the device.
    move = torch.stack([p[:, 7] * (sides[1] * _MOVES), p[:, 8] * (sides[0] * _MOVES)], dim=1)
    whole = move.round()  # a move by whole pixels is one, whatever the division has rounded
    return matrix, torch.where((move - whole).abs() < _ROUNDING, whole, move)


def warp(x: Tensor, matrix: Tensor, move: Tensor) -> Tensor:
    """Images moved by p → A p + v, reflected at their borders.

    Values between pixels come from Keys' cubic convolution (1981, a = −1/2), which leaves an image
    as it is, bit for bit, where pixels fall upon pixels.

    Args:
        x: (B, C, H, W).
        matrix: A (B, 2, 2), invertible.
        move: v (B, 2), in pixels.
    """
    height, width = x.shape[-2:]
    matrix, move = matrix.to(x.dtype), move.to(x.dtype)
    right = torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2
    down = torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2
    back = _inverse(matrix)[:, :, :, None, None]
    to_right = right[None, None, :] - move[:, 0, None, None]
    to_down = down[None, :, None] - move[:, 1, None, None]
    column = back[:, 0, 0] * to_right + back[:, 0, 1] * to_down + (width - 1) / 2
    row = back[:, 1, 0] * to_right + back[:, 1, 1] * to_down + (height - 1) / 2
    pixels, result = x.flatten(2), torch.zeros_like(x)
    for place_down, weight_down in _taps(row, height):
        for place_right, weight_right in _taps(column, width):
            index = (place_down * width + place_right).flatten(1)[:, None]
            values = pixels.gather(2, index.expand(-1, x.shape[1], -1)).view_as(x)
            result = result + (weight_down * weight_right)[:, None] * values
    return torch.empty_like(x).copy_(result)  # in the memory format of x


def _taps(place: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The four pixels around each place along one axis, with their weights."""
    below = place.floor()
    f = place - below
    weights = (
        ((-0.5 * f + 1) * f - 0.5) * f,
        (1.5 * f - 2.5) * f * f + 1,
        ((-1.5 * f + 2) * f + 0.5) * f,
        (0.5 * f - 0.5) * f * f,
    )
    below = below.long()
    return [(_reflected(below + k - 1, size), weight) for k, weight in enumerate(weights)]


def _reflected(place: Tensor, size: int) -> Tensor:
    """Places beyond the first or last pixel, reflected at it, as often as needed."""
    period = max(2 * (size - 1), 1)
    inside = place % period
    return torch.minimum(inside, period - inside).clamp_max(size - 1)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """((a, b), (c, d)) of each image: (B, 2, 2)."""
    return torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -2)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The product of matrices, in full precision also where TF32 is allowed."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def _inverse(matrix: Tensor) -> Tensor:
    """The inverse in closed form, exact for mirrors."""
    (a, b), (c, d) = matrix[:, 0].unbind(1), matrix[:, 1].unbind(1)
    return _matrix(d, -b, -c, a) / (a * d - b * c)[:, None, None]
