"""Data whose score is known exactly, for every SDE: the measure of solvers and losses."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import sde_lib
from score_sde.sde import (
    SDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    KarrasVESDE,
    PowerVESDE,
    StraightSDE,
    subVPSDE,
)
from score_sde.tensor_ops import expand_to, sum_per_sample

SDES = {"ve": VESDE, "vp": VPSDE, "subvp": subVPSDE}
"""The paper's, whose ranges of time and forms of the network some tests are written for."""
ALL_SDES = SDES | {
    "power_ve": PowerVESDE,
    "karras": KarrasVESDE,
    "cosine": CosineVPSDE,
    "straight": StraightSDE,
}


def make_sde(row: dict) -> SDE:
    """An SDE of the front from a row of the reference numbers (kind, its two parameters, N)."""
    if row["kind"] == "VE":
        return sde_lib.VESDE(row["sigma_min"], row["sigma_max"], row["N"])
    kind = {"VP": sde_lib.VPSDE, "subVP": sde_lib.subVPSDE}[row["kind"]]
    return kind(row["beta_min"], row["beta_max"], row["N"])


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, variance I); `mean` (1, ...) or a float."""

    sde: SDE
    mean: Tensor | float = 0.0
    variance: float = 0.25

    def moments(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of p_t, both broadcasting over x."""
        alpha, sigma = expand_to(self.sde.mean_scale(t), x), expand_to(self.sde.std(t), x)
        return alpha * self.mean, alpha**2 * self.variance + sigma**2

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        mean, variance = self.moments(t, x)
        return -(x - mean) / variance

    def logp(self, x: Tensor, t: Tensor) -> Tensor:
        mean, variance = self.moments(t, x)
        return -0.5 * sum_per_sample(
            (x - mean) ** 2 / variance + torch.log(2 * math.pi * variance)
        )

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Where the probability-flow ODE takes x from t to s: (x − mean)/std is kept."""
        mean_t, variance_t = self.moments(t, x)
        mean_s, variance_s = self.moments(s, x)
        return mean_s + (x - mean_t) * (variance_s / variance_t).sqrt()


@dataclass(frozen=True)
class Mixture:
    """Data from a mixture of Gaussians in D dimensions: means (K, D), weights (K,)."""

    sde: SDE
    means: Tensor
    weights: Tensor
    variance: float = 0.05

    def _log_terms(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha, sigma = self.sde.mean_scale(t)[:, None], self.sde.std(t)[:, None]
        variance = alpha**2 * self.variance + sigma**2
        offset = x[:, None, :] - alpha[:, :, None] * self.means
        log_terms = self.weights.log() - 0.5 * (
            (offset**2).sum(-1) / variance + x.shape[1] * torch.log(2 * math.pi * variance)
        )
        return log_terms, offset, variance

    def logp(self, x: Tensor, t: Tensor) -> Tensor:
        return self._log_terms(x, t)[0].logsumexp(1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        log_terms, offset, variance = self._log_terms(x, t)
        return -(log_terms.softmax(1)[:, :, None] * offset).sum(1) / variance

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[which] + z * math.sqrt(self.variance)
