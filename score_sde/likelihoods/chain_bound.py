"""The variational bound of DDPM's chain on −log P of quantised data.

    −log P(x_0) ≤ L_T + Σ L_{t−1} + L_0                    (Ho et al. 2020, eq. 5)

L_T is the divergence of q(x_T | x_0) from the prior, L_{t−1} that of q(x_{t−1} | x_t, x_0) from
the reverse step, L_0 = −log P(x_0 | x_1) the decoder's. Steps are counted 0 … N − 1 as in
`sde`: step i noises the data up to σ_i, step 0 belongs to the decoder.

Sources: Sohl-Dickstein et al. 2015, "Deep Unsupervised Learning using Nonequilibrium
Thermodynamics"; Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models".
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.likelihoods.bits import bin_width
from score_sde.likelihoods.bounds import (
    Bound,
    average_over_draws,
    check_data,
    draw_noise,
    draw_uniform,
    exactly_where,
    precise,
)
from score_sde.noise import MAX_DRAWS
from score_sde.objectives import elbo_weights
from score_sde.score import ScoreFor
from score_sde.sde import SDE, Score
from score_sde.tensor_ops import expand_to, kept_on, sum_per_sample

_UNIFORMS = MAX_DRAWS // 2  # draw numbers of steps begin here, far above those of noise


def discrete_bound(
    sde: SDE,
    score_for: ScoreFor,
    x: Tensor,
    *,
    inverse_scaler: Callable[[Tensor], Tensor],
    levels: int,
    index: Tensor,
    seed: int,
    n_draws: int = 1,
    all_steps: bool = True,
    continuous: bool = False,
    batch_size: int | None = None,
) -> Bound:
    """Bound on −log P of quantised data under DDPM's chain of N steps (Ho et al. 2020, eq. 5).

    The reverse steps N − 1 … 1 have the posterior's variance β̃_i (Ho et al. also used β_i), so
    that their divergences are w_i ‖ε − z‖² (`objectives.elbo_weights`). The last is Ho et al.'s
    discretised decoder (eq. 13): the integral of N(μ(x_1), β_0) over a level's cell, open at the
    lowest and the highest level. Bits per dimension are nats/(D log 2).

    Args:
        sde: gives the chain.
        score_for: int64 (b,) rows of x → their score, as for `log_likelihood`.
        x: (N, ...) float32 or float64 data as the network sees them, not dequantised: level k is
            where the inverse transform gives k/(L − 1).
        inverse_scaler: from the network's range to [0, 1], affine and the same for all pixels.
        levels: L.
        index: int64 (N,) sample indices.
        seed: of steps and noise.
        n_draws: how often the terms are estimated.
        all_steps: each draw takes all N steps, an evaluation of the score each; otherwise the
            decoder and one step drawn with p_i ∝ w_i, two evaluations.
        continuous: whether the score was trained on continuous times, which end at T; the
            chain's last step has slightly more noise.
        batch_size: how many samples the score sees at a time; all N by default.

    Raises:
        ValueError: where an argument is outside of what is described here.
    """
    check_data(x, index, n_draws, batch_size)
    chain = _Chain(sde, continuous)
    quantised = _Cells(inverse_scaler, levels)
    quantised.check(x)
    middle = chain.all_steps if all_steps else chain.one_step

    def estimate(score: Score, x: Tensor, index: Tensor, draw: int) -> Tensor:
        first = draw_noise(seed, index, draw * chain.N, x)
        mean = chain.last_mean(score, x, first)
        cells = quantised.log_probability(x, mean, chain.decoder_std)
        return torch.stack([middle(score, x, seed, index, draw), -sum_per_sample(cells)], dim=1)

    (steps, decoder), error = average_over_draws(
        estimate, score_for, x, index, n_draws, batch_size
    )
    prior = chain.prior_divergence(precise(x))
    terms = {"prior": prior, "steps": steps, "decoder": decoder}
    return Bound(prior + steps + decoder, error, terms)


class _Chain:
    """DDPM's chain in float64, with the times at which the score is asked."""

    def __init__(self, sde: SDE, continuous: bool) -> None:
        self.N, self.weights = sde.N, elbo_weights(sde)
        betas = sde.chain_betas()
        kept = (1 - betas).cumprod(0)
        self.mean_scale, self.sigma = kept.sqrt(), (1 - kept).sqrt()
        self.mass = self.weights[1:].cumsum(0)
        self.decoder_std = math.sqrt(betas[0])
        self.times = sde.chain_times()
        if continuous:
            self.times = self.times.clamp_max(sde.T)

    def prior_divergence(self, x: Tensor) -> Tensor:
        """L_T = KL(q(x_T | x_0) ‖ N(0, I)): (B,)."""
        kept = float(self.mean_scale[-1]) ** 2
        each = kept + math.log1p(-kept)
        return 0.5 * (kept * sum_per_sample(x**2) - math.prod(x.shape[1:]) * each)

    def all_steps(self, score: Score, x: Tensor, seed: int, index: Tensor, draw: int) -> Tensor:
        """Σ L_i over the steps N − 1 … 1, each with noise of its own: (B,)."""
        total = precise(x.new_zeros(len(x)))
        for i in range(1, self.N):
            z = draw_noise(seed, index, draw * self.N + i, x)
            step = torch.full((len(x),), i, device=exactly_where(x))
            total += float(self.weights[i]) * self._error(score, x, step, z)
        return total

    def one_step(self, score: Score, x: Tensor, seed: int, index: Tensor, draw: int) -> Tensor:
        """The same from one of them, drawn in proportion to its weight: (B,)."""
        if self.N == 1:
            return precise(x.new_zeros(len(x)))
        # No sample takes all steps here, so the second noise of a draw may serve whichever it is.
        z = draw_noise(seed, index, draw * self.N + 1, x)
        u = draw_uniform(seed, index, _UNIFORMS + draw)
        mass = kept_on(u.device, self.mass)
        step = 1 + torch.searchsorted(mass, u * mass[-1], right=True).clamp_max(self.N - 2)
        return float(self.mass[-1]) * self._error(score, x, step, z)

    def last_mean(self, score: Score, x: Tensor, z: Tensor) -> Tensor:
        """μ(x_1), the decoder's mean."""
        x_1, noise = self._predict(
            score, x, torch.zeros(len(x), dtype=torch.int64, device=exactly_where(x)), z
        )
        return (precise(x_1) - self.decoder_std * precise(noise)) / float(self.mean_scale[0])

    def _error(self, score: Score, x: Tensor, step: Tensor, z: Tensor) -> Tensor:
        return precise(sum_per_sample((self._predict(score, x, step, z)[1] - z) ** 2))

    def _predict(self, score: Score, x: Tensor, step: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The data noised up to the steps (B,), and the noise that the score sees in them."""
        tables = (self.mean_scale, self.sigma, self.times)
        alpha, sigma, t = (kept_on(step.device, table)[step].to(x) for table in tables)
        noised = expand_to(alpha, x) * x + expand_to(sigma, x) * z
        return noised, -expand_to(sigma, x) * score(noised, t)


class _Cells:
    """Where the levels of quantised data lie in the network's range."""

    def __init__(self, inverse_scaler: Callable[[Tensor], Tensor], levels: int) -> None:
        self.inverse_scaler, self.levels = inverse_scaler, levels
        # Plain levels k/(L − 1) lie further apart than the L cells of dequantised ones.
        self.width = bin_width(inverse_scaler, levels) * levels / (levels - 1)

    def position(self, x: Tensor) -> Tensor:
        """k, for data that lie on the levels."""
        return self.inverse_scaler(precise(x)) * (self.levels - 1)

    def check(self, x: Tensor) -> None:
        """Refuses with a ValueError data that do not lie on the levels."""
        position = self.position(x)
        level = position.round().clamp(0, self.levels - 1)
        if not ((position - level).abs() <= 0.01).all():
            raise ValueError(
                f"the data do not lie on {self.levels} levels between 0 and 1: the discrete bound "
                "needs plain data, so set data.uniform_dequantization=False, or take the "
                "continuous bound"
            )

    def log_probability(self, x: Tensor, mean: Tensor, std: float) -> Tensor:
        """Log of N(mean, std²)'s probability of the cells of x, with the shape of x."""
        position, x = self.position(x), precise(x)
        low, high = (x - mean - self.width / 2) / std, (x - mean + self.width / 2) / std
        low = low.masked_fill(position < 0.5, -math.inf)
        high = high.masked_fill(position > self.levels - 1.5, math.inf)
        # In the lower tail both logarithms are exact; the upper one is its mirror image.
        upper = low + high > 0
        low, high = torch.where(upper, -high, low), torch.where(upper, -low, high)
        below, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
        return log_high + torch.log(-torch.expm1(below - log_high))
