"""SDEdit: images that are noised part of the way, and led back (Meng et al. 2022, algorithm 1).

An image x_0 is given the noise of a time t_0 below T, x = α(t_0) x_0 + σ(t_0) z, and the sampler
walks the rest of its grid from there. Much noise forgets much of the image, little noise keeps it;
what is too coarse for the data, such as a drawing, is made of the data's kind.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from score_sde.noise import Noise
from score_sde.samplers.beginning import StartFor
from score_sde.samplers.grid import OnStep, Sampler, Samples
from score_sde.score import ScoreFor
from score_sde.sde import SDE
from score_sde.tensor_ops import expand_to


def noised(sde: SDE, image_for: Callable[[Tensor], Tensor], t: float) -> StartFor:
    """Draws from p(x_t | x_0) as what samples begin with.

    Args:
        sde: the forward SDE.
        image_for: int64 (b,) sample indices → their images x_0 (b, ...), as the network sees them.
        t: the time.
    """

    def start_for(part: Tensor, noise: Noise) -> Tensor:
        image = image_for(part)
        mean, std = sde.marginal_prob(image, image.new_full((len(part),), t))
        return mean + expand_to(std, image) * noise(image.shape)

    return start_for


def edit(
    sampler: Sampler,
    score_for: ScoreFor,
    image_for: Callable[[Tensor], Tensor],
    strength: float,
    index: Tensor,
    shape: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    device: torch.device | str,
    on_step: OnStep | None = None,
) -> Iterator[Samples]:
    """Draws edited images by their index.

    Args:
        sampler: of the whole way from T.
        score_for: int64 (b,) indices → the score for these samples.
        image_for: int64 (b,) indices → the images that they begin with, on `device`.
        strength: the share of the sampler's walk, as `Sampler.last` counts it: 1 noises images to
            T and walks all of it.
        index: int64 (n,) sample indices.
        shape: of one sample.
        seed: of the noise.
        batch_size: how many are drawn at a time.
        device: where.
        on_step: called after every step of every batch.

    Raises:
        ValueError: as `Sampler.last`.
    """
    last = sampler.last(strength)
    return last.draw(
        score_for,
        index,
        shape,
        seed=seed,
        batch_size=batch_size,
        device=device,
        on_step=on_step,
        start_for=noised(sampler.sde, image_for, last.start),
    )
