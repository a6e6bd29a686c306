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

import torch
from torch import Tensor

from score_sde.objectives.times import TimeSampler, UniformTimes
from score_sde.score import Network, NetworkScore, Parameterisation
from score_sde.score import parameterisation as make_parameterisation
from score_sde.sde import SDE
from score_sde.tensor_ops import expand_to, mean_per_sample, sum_per_sample


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

        It goes by `reduce_mean`: the figures per dimension of training and evaluation are right
        where the loss is reduced as that says.

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
        self,
        net: Network,
        x_0: Tensor,
        t: Tensor,
        z: Tensor,
        label: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """One loss per sample, (B,), of a network on data x_0 with noise z at times t.

        `inputs` are what else the network takes, by the names that it declares.
        """


class PredictionLoss(Objective):
    """The squared error of what the network puts out, E_t w(t) E ‖F − F*‖² (`score.predictions`).

    With the prediction v it is the v-loss (Salimans & Ho 2022, appendix D), with the velocity that
    of conditional flow matching (Lipman et al. 2023, eq. 9), with the denoised image that of a
    denoiser; F*, the target of EDM's F, makes its weight 1 (Karras et al. 2022, eq. 8).

    An objective of one's own is this one with other `times`, another `weight`, another `residual`
    or another `penalty`.

    Args:
        sde: the forward process.
        parameterisation: how the network is told the time, and how its output is read; by default
            the papers' convention for the SDE.
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.
        time_sampler: draws the times; uniform on [1e-5, T] by default.

    Raises:
        ValueError: the times are made for likelihood weighting, and it is off, or the reverse.
    """

    likelihood_weighting: bool = False

    def __init__(
        self,
        sde: SDE,
        parameterisation: Parameterisation | None = None,
        reduce_mean: bool = False,
        time_sampler: TimeSampler | None = None,
    ) -> None:
        self.sde = sde
        self.parameterisation = parameterisation or make_parameterisation(sde)
        self.reduce_mean = reduce_mean
        self.time_sampler = UniformTimes(sde) if time_sampler is None else time_sampler
        if self.time_sampler.needs_likelihood_weighting and not self.likelihood_weighting:
            raise ValueError(
                f"{self.time_sampler.name} times are made for likelihood weighting, which is off: "
                "set training.likelihood_weighting=True, or take uniform or stratified times"
            )
        if self.time_sampler.excludes_likelihood_weighting and self.likelihood_weighting:
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
        """w(t), the factor of the squares, corrected for the density of the times: (B,) → (B,)."""
        return self.time_sampler.weight(t)

    def residual(self, error: Tensor, t: Tensor) -> Tensor:
        """What is squared, of the error F − F* of the network's output: as `error`."""
        return error

    def penalty(self, residual: Tensor) -> Tensor:
        """What each number of the residual costs, its square: as `residual`."""
        return residual**2

    def network(self, net: Network, label: Tensor | None = None, **inputs: Tensor) -> NetworkScore:
        """The score that a network in training stands for, with its own output."""
        return NetworkScore(
            net, self.sde, True, label, parameterisation=self.parameterisation, **inputs
        )

    def __call__(
        self,
        net: Network,
        x_0: Tensor,
        t: Tensor,
        z: Tensor,
        label: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """w(t) times the penalty of each sample's residual, reduced over its dimensions: (B,)."""
        mean, std = self.sde.marginal_prob(x_0, t)
        output = self.network(net, label, **inputs).output(mean + expand_to(std, x_0) * z, t)
        error = output - self.parameterisation.target(x_0, z, t)
        return self.weight(t) * reduced(self.penalty(self.residual(error, t)), self.reduce_mean)


class ScoreMatching(PredictionLoss):
    """Denoising score matching in continuous time (Song, eq. 7), for any prediction.

    σ s + z is the error of the noise that the network stands for, up to its sign. It is computed
    from the error F − F* of the network's output, times the factor of F in the noise, and so
    without a difference of large numbers at any level and for any output.

    Args:
        sde: the forward process.
        continuous: whether the network is labelled with continuous times (`score`).
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.
        likelihood_weighting: λ = g² instead of σ².
        time_sampler: draws the times; uniform on [1e-5, T] by default.
        parameterisation: how the network is told the time, and how its output is read; by default
            the papers' convention for `sde` and `continuous`.

    Raises:
        ValueError: the times are made for likelihood weighting, and it is off.
    """

    def __init__(
        self,
        sde: SDE,
        continuous: bool = True,
        reduce_mean: bool = False,
        likelihood_weighting: bool = False,
        time_sampler: TimeSampler | None = None,
        parameterisation: Parameterisation | None = None,
    ) -> None:
        time_sampler = UniformTimes(sde) if time_sampler is None else time_sampler
        self.continuous = continuous
        self.likelihood_weighting = likelihood_weighting
        if likelihood_weighting:  # an integral over [eps, T], of which the loss is the mean
            self.nats_per_unit = sde.T - time_sampler.eps
        parameterisation = parameterisation or make_parameterisation(sde, continuous)
        super().__init__(sde, parameterisation, reduce_mean, time_sampler)

    def weight(self, t: Tensor) -> Tensor:
        """w(t), the factor of ‖σ s + z‖², corrected for the density of the times: (B,) → (B,)."""
        weight = super().weight(t)
        if self.likelihood_weighting:
            weight = weight * self.sde.diffusion_squared(t) / self.sde.std(t) ** 2
        return weight

    def residual(self, error: Tensor, t: Tensor) -> Tensor:
        """The error of the noise, −(σ s + z)."""
        return expand_to(self.parameterisation.noise(t).b, error) * error


def reduced(costs: Tensor, reduce_mean: bool) -> Tensor:
    """The mean over the dimensions of a sample, or half their sum: (B, ...) → (B,)."""
    return mean_per_sample(costs) if reduce_mean else 0.5 * sum_per_sample(costs)
