"""Inverse problems with an unconditional score: inpainting and colourisation.

What is known of an image is known of x_t too, up to its noise: the noise of p(x_t | x_0) is
independent and of one size, so that in any orthonormal basis each coordinate of x_t is that of
x_0, scaled and noised by itself. After each step of a sampler the known coordinates are replaced
by a fresh draw at the sample's own noise level, and the score draws the others to fit (Song et al.
2021, section 5 and appendix I). The basis is that of the pixels for inpainting; for colourisation
it is one of colours, whose first axis is grey.

What is replaced does not know what the score drew to fit it, so that the two are out of step.
Resampling (Lugmayr et al. 2022, algorithm 1) brings them together: the state is noised back to
where the step began, by the SDE's own transition, and the step is taken again,
`GridSampler.resample` times in all. Of the Gaussian example of `posteriors.scores`, seen pixels
without noise, 50 steps of ancestral sampling draw hidden pixels that are off by

    taken           1       2       5      10 times
    mean         0.45    0.23   0.098   0.050 of the data's std
    variances      83      30      10       5 %

(root mean squares, `tests/test_replacement.py`), and more steps help little: 200 leave 0.41 of the
mean. Going back over 5 or 10 steps at a time, as the paper also does, came less close with as many
evaluations, there and on a mixture.

`Replacement` is the constraint that does so in `GridSampler`, and `complete` draws with it.

Symbols: x (B, ...), of rank 4 (B, 3, H, W) for colours; t (B,).
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from score_sde.noise import Noise, uniform
from score_sde.samplers.grid import GridSampler, OnStep, Samples
from score_sde.score import ScoreFor
from score_sde.sde import SDE
from score_sde.tensor_ops import expand_to

COLOUR_BASIS = torch.tensor(
    [
        [1 / math.sqrt(3), -2 / math.sqrt(6), 0.0],
        [1 / math.sqrt(3), 1 / math.sqrt(6), 1 / math.sqrt(2)],
        [1 / math.sqrt(3), 1 / math.sqrt(6), -1 / math.sqrt(2)],
    ],
    dtype=torch.float64,
)
"""Orthonormal: red, green and blue in its rows, grey and two axes of colour in its columns (the
matrix of Song et al. 2021, appendix I.3, in closed form)."""


class Given(Protocol):
    """What is given of images: `Known`, or a measurement's coordinates (`posteriors`)."""

    @property
    def value(self) -> Tensor:
        """(B, ...) what is given, as of x_0."""
        ...

    def put(self, x: Tensor, value: Tensor) -> Tensor:
        """The images x with `value` for what is given."""
        ...


@dataclass(frozen=True)
class Known:
    """What is known of images.

    Attributes:
        value: (B, ...) the images' coordinates; 0 where they are not known.
        mask: bool (B, ...), True where they are.
        basis: (C, C) orthonormal, whose columns are the axes of the channels' coordinates; None
            where pixels are their own coordinates.
    """

    value: Tensor
    mask: Tensor
    basis: Tensor | None = None

    def put(self, x: Tensor, value: Tensor) -> Tensor:
        """The images x with `value` for the known coordinates."""
        if self.basis is None:
            return torch.where(self.mask, value, x)
        known = torch.where(self.mask, value, rotate(x, self.basis))
        return rotate(known, self.basis.T)

    def of(self, row: Tensor) -> "Known":
        """What is known of some of the images, int64 (b,)."""
        return Known(self.value[row], self.mask[row], self.basis)

    def to(self, device: torch.device | str) -> "Known":
        """The same on a device."""
        basis = None if self.basis is None else self.basis.to(device)
        return Known(self.value.to(device), self.mask.to(device), basis)


def known_pixels(data: Tensor, mask: Tensor) -> Known:
    """Images of which some pixels are known.

    Args:
        data: (B, ...), as the network sees them; what is hidden may hold anything.
        mask: 1 or True where known; of a shape that broadcasts to that of `data`.

    Raises:
        ValueError: images of integers, a mask with other values or of another shape.
    """
    _check_images(data)
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"a mask with values from {mask.min().item():.3g} to {mask.max().item():.3g}: "
            "give 1 for known pixels and 0 for hidden ones"
        )
    if data.ndim > 2 and mask.ndim == data.ndim - 1 and len(mask) > 1:
        # Broadcasting would take its first axis for the channels.
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} for images of shape {tuple(data.shape)}: say "
            "what its first axis counts, by (B, 1, H, W) or (1, C, H, W)"
        )
    try:
        mask = (mask == 1).to(data.device).expand(data.shape)
    except RuntimeError as error:
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} for images of shape {tuple(data.shape)}: give "
            "one that broadcasts to it, such as (B, 1, H, W)"
        ) from error
    return Known(torch.where(mask, data, 0.0), mask)


def known_gray(image: Tensor) -> Known:
    """Images (B, 3, H, W), as the network sees them, of which the mean of the channels is known.

    Raises:
        ValueError: images of integers, or without three channels.
    """
    _check_images(image)
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(
            f"images of shape {tuple(image.shape)}: colours are put into (B, 3, H, W), with the "
            "grey image repeated in each channel"
        )
    basis = COLOUR_BASIS.to(image)
    mask = torch.zeros_like(image, dtype=torch.bool)
    mask[:, 0] = True
    return Known(torch.where(mask, rotate(image, basis), 0.0), mask, basis)


def _check_images(images: Tensor) -> None:
    if not images.is_floating_point():
        raise ValueError(
            f"images of {images.dtype}: scale them to the network's range first "
            "(data.scale where they are centred)"
        )


def rotate(x: Tensor, basis: Tensor) -> Tensor:
    """Coordinates of the channels in an orthonormal basis: out_j = Σ_i x_i basis_ij.

    Args:
        x: (B, C, ...).
        basis: (C, C); its transpose leads back.
    """
    # Not a matrix product, which TF32 would round to three digits at every step.
    rows = (expand_to(row, x[0]) for row in basis)
    return torch.stack(
        [channel[:, None] * row for channel, row in zip(x.unbind(1), rows, strict=True)]
    ).sum(0)


class Replacement:
    """The constraint that keeps what is known, at the noise level of the sample.

    Args:
        sde: the forward SDE.
        known: what is known of each image.
        noise: gives a draw for every step.
        as_released: after a predictor, put the known part at the level that the step came from,
            as the 2021 release does.
    """

    def __init__(self, sde: SDE, known: Given, noise: Noise, *, as_released: bool = False) -> None:
        self.sde = sde
        self.known = known
        self.noise = noise
        self.as_released = as_released

    def __call__(
        self, x: Tensor, x_mean: Tensor, t: Tensor, t_next: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The state with its known coordinates replaced: noisy in x, without noise in x_mean."""
        level = t if self.as_released else t_next
        if level is None:  # the chain has ended at the image itself
            return self.known.put(x, self.known.value), self.known.put(x_mean, self.known.value)
        mean, std = self.sde.marginal_prob(self.known.value, level)
        noisy = mean + expand_to(std, x) * self.noise(x.shape)
        return self.known.put(x, noisy), self.known.put(x_mean, mean)


def complete(
    sampler: GridSampler,
    score_for: ScoreFor,
    known_for: Callable[[Tensor], Given],
    index: Tensor,
    shape: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    device: torch.device | str,
    on_step: OnStep | None = None,
) -> Iterator[Samples]:
    """Draws completions by their index; what is known is in them as it was given.

    The known part has the noise of T at the start, and that of the sample's own time on the way.

    Args:
        sampler: any but the adaptive ODE, which has no steps in common for a constraint to act on.
        score_for: int64 (b,) indices → the score for these samples.
        known_for: int64 (b,) indices → what is known of these, on `device`.
        index: int64 (n,) sample indices.
        shape: shape of one sample.
        seed: of the noise.
        batch_size: how many are drawn at a time.
        device: where.
        on_step: called after every step of every batch.

    Yields:
        `Samples` of up to `batch_size`.
    """

    def constraint_for(part: Tensor, noise: Noise) -> Replacement:
        return Replacement(sampler.sde, known_for(part), noise)

    for samples in sampler.draw(
        score_for,
        index,
        shape,
        seed=seed,
        batch_size=batch_size,
        device=device,
        on_step=on_step,
        constraint_for=constraint_for,
    ):
        known = known_for(samples.index)
        yield dataclasses.replace(samples, x=known.put(samples.x, known.value))


# ---- Masks by name: True where an image is known ----


def _middle(height: int, width: int, seed: int) -> Tensor:
    mask = torch.ones(height, width, dtype=torch.bool)
    mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = False
    return mask


def _half(hidden: str) -> Callable[[int, int, int], Tensor]:
    def mask(height: int, width: int, seed: int) -> Tensor:
        row, column = torch.arange(height)[:, None], torch.arange(width)
        at = row < height // 2 if hidden in ("top", "bottom") else column < width // 2
        known = ~at if hidden in ("top", "left") else at
        return known.expand(height, width)

    return mask


def _scattered(height: int, width: int, seed: int) -> Tensor:
    return uniform(seed, torch.zeros(1, dtype=torch.int64), 0, (height, width))[0] < 0.25


MASKS: Mapping[str, Callable[[int, int, int], Tensor]] = {
    "middle": _middle,
    "left": _half("left"),
    "right": _half("right"),
    "top": _half("top"),
    "bottom": _half("bottom"),
    "scattered": _scattered,
}
"""What each hides: the middle, of half the sides; one half; about three pixels of four, by seed.
Called with height, width and seed; gives bool (H, W)."""
