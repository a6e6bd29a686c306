"""The latent space of methods without noise: arcs between latents, grids of them, their images.

What a method without noise draws is a function of its draw from the prior, the latent. That of the
probability-flow ODE is invertible: `likelihoods.flow.encode` gives the latent of an image (Song et
al. 2021, section 4.3 and appendix D.4). Between two latents lies an arc of the sphere around the
origin, where latents of the prior lie, rather than a straight line, whose middle is too short
(Shoemake 1985, "Animating rotation with quaternion curves"; Song, J. et al. 2021, eq. 67).

Symbols: z (B, ...) latents of any rank ≥ 2.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from score_sde.noise import Noise
from score_sde.samplers.beginning import StartFor
from score_sde.samplers.grid import OnStep, Sampler, Samples
from score_sde.score import ScoreFor
from score_sde.tensor_ops import expand_to, norm_per_sample

_OPPOSITE = 1e-4  # radians off a half turn, where the arc's direction is rounding


def slerp(z0: Tensor, z1: Tensor, share: Tensor | float) -> Tensor:
    """Spherical interpolation: sin((1 − u) θ)/sin θ z0 + sin(u θ)/sin θ z1.

    θ is the angle between the two, which knows no scale: latents may have the prior's std or any
    other. Where the lengths differ, the result's goes from one to the other.

    Args:
        z0: (B, ...).
        z1: (B, ...).
        share: u, (B,) or one for all; 0 gives z0 and 1 gives z1.

    Returns:
        (B, ...).

    Raises:
        ValueError: shapes that differ, or two that point in opposite directions, between which
            there is no shortest arc.
    """
    if z0.shape != z1.shape or z0.ndim < 2:
        raise ValueError(
            f"latents of shapes {tuple(z0.shape)} and {tuple(z1.shape)}: an arc leads between two "
            "of one shape, (B, ...)"
        )
    angle = _angle(z0, z1)
    if bool((angle > torch.pi - _OPPOSITE).any()):
        raise ValueError(
            "two latents point in opposite directions, and no arc between them is the shortest: "
            "take other ones"
        )
    u = torch.as_tensor(share, dtype=z0.dtype, device=z0.device)
    # sin(u θ)/sin θ as a quotient of sinc, which parallel latents leave at u.
    whole = torch.sinc(angle / torch.pi)
    first = (1 - u) * torch.sinc((1 - u) * angle / torch.pi) / whole
    second = u * torch.sinc(u * angle / torch.pi) / whole
    return expand_to(first, z0) * z0 + expand_to(second, z0) * z1


def _angle(z0: Tensor, z1: Tensor) -> Tensor:
    """Angles in [0, π], (B,): exact near the ends too, where the arc cosine is not (Kahan)."""
    unit0, unit1 = (
        z / expand_to(norm_per_sample(z).clamp_min(torch.finfo(z.dtype).tiny), z) for z in (z0, z1)
    )
    return 2 * torch.atan2(norm_per_sample(unit0 - unit1), norm_per_sample(unit0 + unit1))


def strip(z0: Tensor, z1: Tensor, frames: int) -> Tensor:
    """Latents along the arcs from z0 to z1, both included, in even steps: (B, frames, ...).

    Raises:
        ValueError: as `slerp`, or fewer than 2 frames.
    """
    return torch.stack([slerp(z0, z1, u) for u in _steps(frames, "frames")], dim=1)


def corners(z: Tensor, rows: int, columns: int) -> Tensor:
    """Latents between four corners: along the upper and the lower edge, and down between these.

    Args:
        z: (4, ...) upper left, upper right, lower left, lower right.
        rows: of the grid, at least 2.
        columns: of the grid, at least 2.

    Returns:
        (rows, columns, ...).

    Raises:
        ValueError: as `slerp`, or another number of corners, rows or columns.
    """
    if len(z) != 4:
        raise ValueError(f"{len(z)} latents: a grid lies between four corners")
    edges = strip(z[[0, 2]], z[[1, 3]], columns)
    return strip(edges[0], edges[1], rows).transpose(0, 1)


def _steps(count: int, what: str) -> list[float]:
    if count < 2:
        raise ValueError(f"{what}={count}: the two ends are two of them, so give at least 2")
    return [k / (count - 1) for k in range(count)]


def given(z: Tensor) -> StartFor:
    """Latents (N, ...) as what samples 0 … N − 1 begin with."""

    def start_for(part: Tensor, noise: Noise) -> Tensor:
        return z[part.to(z.device)].to(part.device)

    return start_for


def decode(
    sampler: Sampler,
    score_for: ScoreFor,
    z: Tensor,
    *,
    batch_size: int,
    device: torch.device | str,
    on_step: OnStep | None = None,
) -> Iterator[Samples]:
    """The images of latents, by any method without noise.

    Args:
        sampler: such as `ODESampler`, which undoes `likelihoods.flow.encode` where it ends at the
            same eps without Tweedie's formula. Its temperature does not act on latents that are
            given: scale them.
        score_for: int64 (b,) rows of z → the score of these samples.
        z: (N, ...) latents at T.
        batch_size: how many the score is given at a time.
        device: where they are decoded.
        on_step: called after every step of every batch.

    Yields:
        `Samples` of one batch or several, whose indices are rows of z.

    Raises:
        ValueError: the sampler draws noise, so that its images are no function of latents.
    """
    if not sampler.deterministic:
        raise ValueError(
            "this sampler draws noise on the way, so that its images are no function of latents: "
            "take one without noise, such as ODESampler"
        )
    index, shape = torch.arange(len(z)), z.shape[1:]
    yield from sampler.draw(
        score_for,
        index,
        shape,
        seed=0,
        batch_size=batch_size,
        device=device,
        dtype=z.dtype,
        on_step=on_step,
        start_for=given(z),
    )
