"""Objectives: from a batch of data to one loss per sample, with the times that they draw.

Denoising score matching (Song, eq. 7) learns the score from pairs of data x_0 and noise z, with
x_t = α x_0 + σ z:

    E_t λ(t) E ‖s(x_t, t) + z/σ‖²  =  E_t w(t) E ‖σ s(x_t, t) + z‖²,    w = λ/σ²

    weighting     λ     w
    paper         σ²    1          every noise level counts alike
    likelihood    g²    g²/σ²      bounds −log p(x_0) from above (Song 2021 b, theorem 1)

The right-hand form is the one computed here: its residual stays of order one at every level.

Symbols as in `sde`: x_0 (B, ...) data, t (B,) times, z noise with the shape of x_0.

Sources: Song et al. 2021, "Score-Based Generative Modeling through SDEs" (Song); Song, Durkan,
Murray & Ermon 2021, "Maximum Likelihood Training of Score-Based Diffusion Models" (Song 2021 b).
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.objectives.times import TimeSampler, UniformTimes
from score_sde.score import Network, NetworkScore
from score_sde.sde import SDE
from score_sde.tensor_ops import expand_to, look_up, mean_per_sample, sum_per_sample

_ROUNDING = 1e-5  # of float32 tables


class Objective(ABC):
    """What training minimises: draws its times, and gives one loss per sample.

    Attributes:
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.
        nats_per_unit: what the half sum is to be multiplied with to be a bound in nats on −log p,
            up to a constant; None where it is a squared error of no such meaning.
    """

    reduce_mean: bool
    nats_per_unit: float | None = None

    def per_dimension(self, dimensions: int) -> float:
        """The factor from a loss to nats per dimension, or to the mean squared error of one.

        Args:
            dimensions: D, numbers per sample.
        """
        squared_error = 1.0 if self.reduce_mean else 2 / dimensions
        return (
            squared_error if self.nats_per_unit is None else squared_error * self.nats_per_unit / 2
        )

    @abstractmethod
    def times(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws times, or steps of the chain, (n,)."""

    @abstractmethod
    def time(self, t: Tensor) -> Tensor:
        """Where on [0, T] the drawn times stand, 0 without noise: (B,) → float (B,)."""

    @abstractmethod
    def __call__(
        self, net: Network, x_0: Tensor, t: Tensor, z: Tensor, label: Tensor | None = None
    ) -> Tensor:
        """One loss per sample, (B,), of a network on data x_0 with noise z at times t."""


class ScoreMatching(Objective):
    """Denoising score matching in continuous time (Song, eq. 7).

    Args:
        sde: the forward process.
        continuous: whether the network is labelled with continuous times (`score.py`).
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.
        likelihood_weighting: λ = g² instead of σ².
        time_sampler: draws the times; uniform on [1e-5, T] by default.

    Raises:
        ValueError: the times are made for likelihood weighting, and it is off, or the reverse.
    """

    def __init__(
        self,
        sde: SDE,
        continuous: bool = True,
        reduce_mean: bool = False,
        likelihood_weighting: bool = False,
        time_sampler: TimeSampler | None = None,
    ) -> None:
        self.sde = sde
        self.continuous = continuous
        self.reduce_mean = reduce_mean
        self.likelihood_weighting = likelihood_weighting
        self.time_sampler = UniformTimes(sde) if time_sampler is None else time_sampler
        if likelihood_weighting:  # an integral over [eps, T], of which the loss is the mean
            self.nats_per_unit = sde.T - self.time_sampler.eps
        if self.time_sampler.needs_likelihood_weighting and not likelihood_weighting:
            raise ValueError(
                f"{self.time_sampler.name} times are made for likelihood weighting, which is off: "
                "set training.likelihood_weighting=True, or take uniform or stratified times"
            )
        if self.time_sampler.excludes_likelihood_weighting and likelihood_weighting:
            raise ValueError(
                f"{self.time_sampler.name} times are a weighting of their own, which likelihood "
                "weighting would replace: set training.likelihood_weighting=False, or take "
                "importance times"
            )

    def times(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws times (n,)."""
        return self.time_sampler.draw(n, device, generator)

    def time(self, t: Tensor) -> Tensor:
        """The times themselves."""
        return t

    def weight(self, t: Tensor) -> Tensor:
        """w(t), the factor of ‖σ s + z‖², corrected for the density of the times: (B,) → (B,)."""
        weight = self.time_sampler.weight(t)
        if self.likelihood_weighting:
            weight = weight * self.sde.diffusion_squared(t) / self.sde.std(t) ** 2
        return weight

    def __call__(
        self, net: Network, x_0: Tensor, t: Tensor, z: Tensor, label: Tensor | None = None
    ) -> Tensor:
        """w(t) ‖σ s(x_t, t) + z‖² of each sample, reduced over its dimensions: (B,)."""
        mean, std = self.sde.marginal_prob(x_0, t)
        std = expand_to(std, x_0)
        score = NetworkScore(net, self.sde, self.continuous, label)(mean + std * z, t)
        return self.weight(t) * _reduce((std * score + z) ** 2, self.reduce_mean)


class _ChainObjective(Objective):
    """What SMLD and DDPM share: times are the integer labels of a chain of N noise levels."""

    network_output: ClassVar[str]  # of the SDEs that the chain belongs to
    refusal: ClassVar[str]  # of others

    def __init__(self, sde: SDE, reduce_mean: bool) -> None:
        if not sde.has_chain or sde.network_output != self.network_output:
            raise ValueError(f"{sde.name}: {self.refusal}")
        self.N, self.reduce_mean = sde.N, reduce_mean
        self.mean_scales, self.stds = sde.chain_scales()
        self._times = sde.chain_times().float().clamp_max(sde.T)

    def times(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws labels (n,), int64, uniform on 0 … N − 1."""
        return torch.randint(0, self.N, (n,), device=device, generator=generator)

    def time(self, t: Tensor) -> Tensor:
        """Where the SDE has the noise of the labels, at most T: (B,) → float32 (B,)."""
        return self._times.to(t.device)[t]

    def _at(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean scale and std of the labels, broadcast over a batch."""
        mean_scale, std = look_up(self.mean_scales, t, x), look_up(self.stds, t, x)
        return expand_to(mean_scale, x), expand_to(std, x)


class SMLD(_ChainObjective):
    """Score matching on the noise levels of SMLD's chain (Song & Ermon 2019; Song, eq. 1).

    Its times are int64 labels that count from the largest noise level down.

    Args:
        sde: gives the noise levels.
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.

    Raises:
        ValueError: the SDE has no chain whose networks put out the score.
    """

    network_output = "score"
    refusal = (
        "SMLD's chain belongs to SDEs with a chain whose networks put out the score, as vesde's "
        "do; take that, or NoisePrediction for vpsde"
    )

    def __init__(self, sde: SDE, reduce_mean: bool = False) -> None:
        super().__init__(sde, reduce_mean)
        self.mean_scales, self.stds = self.mean_scales.flip(0), self.stds.flip(0)
        self._times = self._times.flip(0)

    def __call__(
        self, net: Network, x_0: Tensor, t: Tensor, z: Tensor, label: Tensor | None = None
    ) -> Tensor:
        """‖σ_i s(x_i, i) + z‖² of each sample, reduced over its dimensions: (B,).

        x_i = x_0 + σ_i z for the paper's chain, whose mean scale is 1.
        """
        mean_scale, sigma = self._at(t, x_0)
        score = _output(net, mean_scale * x_0 + sigma * z, t, label)
        return _reduce((sigma * score + z) ** 2, self.reduce_mean)


class NoisePrediction(_ChainObjective):
    """Noise prediction on the steps of DDPM's chain (Ho et al. 2020, eq. 14; Song, eq. 3).

    Its times are the int64 steps, which are also the network's labels.

    Args:
        sde: gives the chain.
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.

    Raises:
        ValueError: the SDE has no chain whose networks put out the noise.
    """

    network_output = "noise"
    refusal = (
        "DDPM's chain belongs to SDEs with a chain whose networks put out the noise, as vpsde's "
        "do; take that, or SMLD for vesde"
    )

    def __init__(self, sde: SDE, reduce_mean: bool = True) -> None:
        super().__init__(sde, reduce_mean)

    def __call__(
        self, net: Network, x_0: Tensor, t: Tensor, z: Tensor, label: Tensor | None = None
    ) -> Tensor:
        """‖ε(x_i, i) − z‖² of each sample, reduced over its dimensions: (B,)."""
        mean_scale, std = self._at(t, x_0)
        noise = _output(net, mean_scale * x_0 + std * z, t, label)
        return _reduce((noise - z) ** 2, self.reduce_mean)


class ELBO(NoisePrediction):
    """The variational bound of DDPM's chain (Sohl-Dickstein et al. 2015; Ho et al. 2020, eq. 12).

    Every term of the bound on −log p(x_0) that has anything to learn is an error of the noise
    prediction, w_i E ‖ε(x_i, i) − z‖² (`elbo_weights`). Steps are drawn with p_i ∝ w_i
    (importance sampling), so that the error counts Σ w_i whatever the step, and the expectation of
    the loss is the whole sum. It is in nats where the dimensions are summed.

    What is left out does not depend on the network: the prior's term, and the constants of the
    decoder.

    Args:
        sde: gives the chain.
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.

    Raises:
        ValueError: the SDE has no chain that preserves the variance, or one of too few scales.
    """

    nats_per_unit = 1.0

    def __init__(self, sde: SDE, reduce_mean: bool = False) -> None:
        super().__init__(sde, reduce_mean)
        weights = elbo_weights(sde)
        self.total = 2 * float(weights.sum())  # of half sums
        self.probabilities = (weights / weights.sum()).float()  # MPS has no float64

    def times(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws steps (n,), int64, with p_i ∝ w_i."""
        self.probabilities = self.probabilities.to(device)  # copied once, not in every step
        return self.probabilities.multinomial(n, replacement=True, generator=generator)

    def __call__(
        self, net: Network, x_0: Tensor, t: Tensor, z: Tensor, label: Tensor | None = None
    ) -> Tensor:
        """2 Σ w_i times the loss of `NoisePrediction`: (B,)."""
        return self.total * super().__call__(net, x_0, t, z, label)


def elbo_weights(sde: SDE) -> Tensor:
    """w_i of the noise prediction's errors in the variational bound: float64 (N,).

    With the posterior's variance β̃_i in the reverse steps (Ho et al. 2020, eq. 7 and 12), the
    divergences of the steps 1 … N − 1 are w_i ‖ε − z‖² without any constant,

        w_i = β_i² / (2 β̃_i α_i (1 − ᾱ_i)) = β_i / (2 α_i (1 − ᾱ_{i−1})).

    β̃_0 is 0. Step 0 is the decoder instead, N(μ(x_1), β_0) with the chain's own variance, whose
    density has −log p = w_0 ‖ε − z‖² + a constant, with w_0 = 1/(2 α_0). For quantised data it
    stands for the integral over a level's cell (Ho et al. 2020, eq. 13), which it approaches
    where √β_0 is wide against the cell; `likelihoods.discrete_bound` integrates.

    Raises:
        ValueError: the chain is not variance preserving, or a scale has β_i = 1.
    """
    mean_scale, std = sde.chain_scales()
    preserving = bool(((mean_scale**2 + std**2 - 1).abs() < _ROUNDING).all())
    if not (sde.has_chain and sde.network_output == "noise" and preserving):
        raise ValueError(
            f"{sde.name}: the variational bound belongs to DDPM's chain; use vpsde, or the "
            "continuous bound and likelihood weighting"
        )
    betas = sde.chain_betas()
    if betas.max() >= 1:
        raise ValueError(
            f"{sde.name}, N={sde.N}: a scale of the chain has β_i = 1 and leaves nothing of the "
            "data, but the variational bound needs variances below 1; for vpsde give more scales "
            "than beta_max"
        )
    before = 1 - (1 - betas).cumprod(0)[:-1]
    first = betas.new_full((1,), 0.5)
    return torch.cat([first, betas[1:] / (2 * before)]) / (1 - betas)


def _reduce(squares: Tensor, reduce_mean: bool) -> Tensor:
    return mean_per_sample(squares) if reduce_mean else 0.5 * sum_per_sample(squares)


def _output(net: Network, x: Tensor, cond: Tensor, label: Tensor | None) -> Tensor:
    return net(x, cond) if label is None else net(x, cond, label)
