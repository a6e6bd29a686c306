"""From what a network puts out to the score, and between the four things that say the same.

With x_t = α x_0 + σ z, one of them gives the others:

    score     ∇ log p_t(x)
    noise     E[z | x_t]    = −σ · score
    denoised  E[x_0 | x_t]  = (x_t + σ² · score) / α        (Tweedie's formula)
    output    what the network returns: the score (VE) or the noise (VP, sub-VP)

A network is given time as a *label*, in the convention of the papers:

    SDE      trained on        label       output
    VE       continuous time   σ(t)        score (the network divides by σ)
    VE       SMLD's chain      N − 1 − k   score; label 0 is the largest noise
    VP       continuous time   999 t/T     noise
    VP       DDPM's chain      k           noise, σ from the chain's table
    sub-VP   always            999 t/T     noise

A network that was trained on a chain knows its N noise levels and no others. k is the step whose
time (`SDE.chain_times`) is nearest to t.

Symbols as in `sde`: x (B, ...), t (B,), or one number for the whole batch.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from score_sde.sde import SDE, Score
from score_sde.tensor_ops import expand_to, look_up, times_for

ScoreFor = Callable[[Tensor], Score]
"""int64 (b,) sample indices → the score for these samples, so that labels follow their samples."""

Network = Callable[..., Tensor]
"""net(x, cond, label=None): x (B, ...), cond (B,), label int64 (B,) → the shape of x."""


def noise_from_score(sde: SDE, score: Tensor, t: Tensor | float) -> Tensor:
    """E[z | x_t] = −σ(t) · score, with the shape of `score`."""
    return -expand_to(sde.std(times_for(score, t)), score) * score


def score_from_noise(sde: SDE, noise: Tensor, t: Tensor | float) -> Tensor:
    """The inverse of `noise_from_score`."""
    return -noise / expand_to(sde.std(times_for(noise, t)), noise)


def denoised_from_score(sde: SDE, x: Tensor, score: Tensor, t: Tensor | float) -> Tensor:
    """E[x_0 | x_t = x] by Tweedie's formula, with the shape of `x`."""
    t = times_for(x, t)
    return (x + expand_to(sde.std(t) ** 2, x) * score) / expand_to(sde.mean_scale(t), x)


def score_from_denoised(sde: SDE, x: Tensor, denoised: Tensor, t: Tensor | float) -> Tensor:
    """The inverse of `denoised_from_score`."""
    t = times_for(x, t)
    return (expand_to(sde.mean_scale(t), x) * denoised - x) / expand_to(sde.std(t) ** 2, x)


class Parameterisation(Protocol):
    """How a network is told the time, and how its output is read."""

    def label(self, t: Tensor) -> Tensor:
        """The time label of a network: (B,) → (B,)."""
        ...

    def score_scale(self, t: Tensor) -> Tensor:
        """The factor that turns the network's output into the score: (B,) → (B,)."""
        ...


class ContinuousScore:
    """VE in continuous time: the label is σ(t), the output the score."""

    def __init__(self, sde: SDE) -> None:
        self.sde = sde

    def label(self, t: Tensor) -> Tensor:
        """σ(t)."""
        return self.sde.std(t)

    def score_scale(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)


class DiscreteScore:
    """SMLD: the label counts noise levels from the largest down, the output is the score."""

    def __init__(self, sde: SDE) -> None:
        self.sde = sde

    def label(self, t: Tensor) -> Tensor:
        """N − 1 − k with the chain's step k at time t, int64."""
        return (self.sde.N - 1 - self.sde.chain_position(t)).round().long()

    def score_scale(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)


class ContinuousNoise:
    """VP and sub-VP in continuous time: the label is 999 t/T, the output −σ(t) times the score."""

    def __init__(self, sde: SDE) -> None:
        self.sde = sde

    def label(self, t: Tensor) -> Tensor:
        """999 t/T."""
        # DDPM's networks count 1,000 steps; in continuous time its label goes on between them.
        return t * 999 / self.sde.T

    def score_scale(self, t: Tensor) -> Tensor:
        """−1/σ(t)."""
        return -1 / self.sde.std(t)


class DiscreteNoise:
    """DDPM: the label is the step, the output −σ_i times the score with σ_i from the chain."""

    def __init__(self, sde: SDE) -> None:
        self.sde = sde

    def label(self, t: Tensor) -> Tensor:
        """The chain's step at time t, in its dtype."""
        return self.sde.chain_position(t)

    def score_scale(self, t: Tensor) -> Tensor:
        """−1/σ_i, with i the chain's step at time t."""
        return -1 / look_up(self.sde.chain_scales()[1], self.sde.index(t), t)


def parameterisation(sde: SDE, continuous: bool = True) -> Parameterisation:
    """The papers' convention for networks of an SDE.

    Args:
        sde: says whether its networks put out the score or the noise, and whether it has a chain.
        continuous: trained on continuous times; False for SMLD and DDPM. Ignored where there is no
            chain (sub-VP).
    """
    discrete = sde.has_chain and not continuous
    if sde.network_output == "score":
        return DiscreteScore(sde) if discrete else ContinuousScore(sde)
    return DiscreteNoise(sde) if discrete else ContinuousNoise(sde)


class NetworkScore:
    """The score that a network stands for: (x, t) → ∇ log p_t(x), with the shape of x.

    Args:
        net: called as net(x, cond), or net(x, cond, label) where `label` is given.
        sde: the SDE that the network was trained for.
        continuous: trained on continuous times; False for SMLD and DDPM.
        label: int64 (B,) classes, for class-conditional networks.
    """

    def __init__(
        self, net: Network, sde: SDE, continuous: bool = True, label: Tensor | None = None
    ) -> None:
        self.net = net
        self.sde = sde
        self.label = label
        self.parameterisation = parameterisation(sde, continuous)

    def output(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The network's own output at time t, with the shape of x."""
        cond = self.parameterisation.label(times_for(x, t))
        return self.net(x, cond) if self.label is None else self.net(x, cond, self.label)

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """∇ log p_t(x), with the shape of x; t (B,), or one time for the whole batch."""
        t = times_for(x, t)
        return expand_to(self.parameterisation.score_scale(t), x) * self.output(x, t)


__all__ = [
    "ContinuousNoise",
    "ContinuousScore",
    "DiscreteNoise",
    "DiscreteScore",
    "Network",
    "NetworkScore",
    "Parameterisation",
    "Score",
    "ScoreFor",
    "denoised_from_score",
    "noise_from_score",
    "parameterisation",
    "score_from_denoised",
    "score_from_noise",
]
