"""Objectives on the discrete chains of SMLD and DDPM.

Symbols as in `losses`: x_0 (B, ...) data, t (B,) labels of a chain's steps, z noise.

Sources: Song et al. 2021, "Score-Based Generative Modeling through SDEs" (Song); Ho et al. 2020,
"Denoising Diffusion Probabilistic Models".
"""

from typing import ClassVar

import torch
from torch import Tensor

from score_sde.objectives.losses import Objective, reduced
from score_sde.score import ChainScales, Network, Parameterisation, call
from score_sde.score import parameterisation as make_parameterisation
from score_sde.sde import SDE
from score_sde.tensor_ops import expand_to, kept_on

_ROUNDING = 1e-5  # of float32 tables


class _ChainObjective(Objective):
    """The error of the noise on a chain of N noise levels: what SMLD and DDPM share.

    Times are the integer labels of the levels.

    Args:
        sde: gives the chain.
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.
        parameterisation: how the network's output is read; by default that of the chain's paper.

    Raises:
        ValueError: the SDE has another chain, or none.
    """

    network_output: ClassVar[str]  # of the SDEs that the chain belongs to
    refusal: ClassVar[str]  # of others

    def __init__(
        self,
        sde: SDE,
        reduce_mean: bool = False,
        parameterisation: Parameterisation | None = None,
    ) -> None:
        if not sde.has_chain or sde.network_output != self.network_output:
            raise ValueError(f"{sde.name}: {self.refusal}")
        self.sde, self.N, self.reduce_mean = sde, sde.N, reduce_mean
        self.prediction = (parameterisation or make_parameterisation(sde, False)).prediction
        sde.chain_scales()  # of an SDE that computes them: here, and not in a graph
        self._times = sde.chain_times().float().clamp_max(sde.T)

    def step(self, t: Tensor) -> Tensor:
        """The chain's steps of labels, int64 (B,): 0 has the least noise."""
        return t

    def times(
        self, n: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws labels (n,), int64, uniform on 0 … N − 1."""
        return torch.randint(0, self.N, (n,), device=device, generator=generator)

    def time(self, t: Tensor) -> Tensor:
        """Where the SDE has the noise of the labels, at most T: (B,) → float32 (B,)."""
        return kept_on(t.device, self._times)[self.step(t)]

    def __call__(
        self,
        net: Network,
        x_0: Tensor,
        t: Tensor,
        z: Tensor,
        label: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """‖ε(x_i, i) − z‖² of each sample, reduced over its dimensions: (B,).

        ε is the noise that the network stands for, x_i = α_i x_0 + σ_i z with the chain's own
        scales.
        """
        at = ChainScales(self.sde, self.step(t), x_0)
        x = expand_to(at.alpha, x_0) * x_0 + expand_to(at.sigma, z) * z
        error = call(net, x, t, label, **inputs) - self.prediction.target(at, x_0, z)
        return reduced((expand_to(self.prediction.noise(at).b, x) * error) ** 2, self.reduce_mean)


class SMLD(_ChainObjective):
    """Score matching on the noise levels of SMLD's chain (Song & Ermon 2019; Song, eq. 1).

    The loss is ‖σ_i s(x_i, i) + z‖², the error of the noise −σ_i s. Its times are int64 labels,
    which count from the largest noise level down.

    Args:
        sde: gives the noise levels.
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.
        parameterisation: how the network's output is read; the score by default.

    Raises:
        ValueError: the SDE has no chain whose networks put out the score.
    """

    network_output = "score"
    refusal = (
        "SMLD's chain belongs to SDEs with a chain whose networks put out the score, as vesde's "
        "do; take that, or NoisePrediction for vpsde"
    )

    def step(self, t: Tensor) -> Tensor:
        """N − 1 − t."""
        return self.N - 1 - t


class NoisePrediction(_ChainObjective):
    """Noise prediction on the steps of DDPM's chain (Ho et al. 2020, eq. 14; Song, eq. 3).

    Its times are the int64 steps, which are also the network's labels.

    Args:
        sde: gives the chain.
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.
        parameterisation: how the network's output is read; the noise by default.

    Raises:
        ValueError: the SDE has no chain whose networks put out the noise.
    """

    network_output = "noise"
    refusal = (
        "DDPM's chain belongs to SDEs with a chain whose networks put out the noise, as vpsde's "
        "do; take that, or SMLD for vesde"
    )

    def __init__(
        self,
        sde: SDE,
        reduce_mean: bool = True,
        parameterisation: Parameterisation | None = None,
    ) -> None:
        super().__init__(sde, reduce_mean, parameterisation)


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
        parameterisation: how the network's output is read; the noise by default.

    Raises:
        ValueError: the SDE has no chain that preserves the variance, or one of too few scales.
    """

    nats_per_unit = 1.0

    def __init__(
        self,
        sde: SDE,
        reduce_mean: bool = False,
        parameterisation: Parameterisation | None = None,
    ) -> None:
        super().__init__(sde, reduce_mean, parameterisation)
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
        self,
        net: Network,
        x_0: Tensor,
        t: Tensor,
        z: Tensor,
        label: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """2 Σ w_i times the loss of `NoisePrediction`: (B,)."""
        return self.total * super().__call__(net, x_0, t, z, label, **inputs)


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
