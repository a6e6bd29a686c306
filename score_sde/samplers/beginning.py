"""What samples begin with: draws from the prior, or latents and noised images that are given."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from score_sde.noise import Noise
from score_sde.sde import SDE

StartFor = Callable[[Tensor, Noise], Tensor]
"""int64 (b,) sample indices and their source of noise → (b, ...) the states they begin with.

It makes one draw of the noise at most. `latent` and `editing` give theirs so."""


class Beginning(Protocol):
    """What a sampler's beginning depends on."""

    sde: SDE
    whole: bool
    temperature: float

    @property
    def start(self) -> float:
        """The time where samples begin."""
        ...


def beginning(
    sampler: Beginning,
    part: Tensor,
    shape: Sequence[int],
    noise: Noise,
    start_for: StartFor | None,
) -> Tensor:
    """What samples begin with, (b, *shape).

    Args:
        sampler: that begins.
        part: int64 (b,) their indices.
        shape: of one sample.
        noise: theirs.
        start_for: what they are given; draws from the prior where it is None, times the
            sampler's temperature.

    Raises:
        ValueError: the sampler is the last part of another and no start is given.
    """
    if start_for is not None:
        return start_for(part, noise)
    if not sampler.whole:
        raise ValueError(
            f"a walk that begins at t={sampler.start:g}, below the prior at T={sampler.sde.T:g}, "
            "has nothing to begin with: give start_for, as score_sde.samplers.editing does"
        )
    x = sampler.sde.prior_sampling((len(part), *shape), noise=noise)
    return x if sampler.temperature == 1 else sampler.temperature * x


def check_share(share: float) -> float:
    """The share of a walk; refuses what is none.

    Raises:
        ValueError: it is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share:g}: the last part of a walk is above 0 and up to 1")
    return share
