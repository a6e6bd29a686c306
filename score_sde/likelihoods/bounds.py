"""Upper bounds on −log p of data under the models that sampling draws from.

`flow` gives the density of the probability-flow ODE. The reverse-time SDE and DDPM's chain are
other models; their densities have no such formula, but a bound on −log p. With the exact score and
the exact prior all are one model. With a learnt score they are not: the bound is then one for the
SDE, and says nothing of the ODE, whose value may lie on either side of it.

For a point x at eps, with x_t = r x + G z drawn from p(x_t | x_eps = x), prior π and score s
(Song 2021 b, theorem 3),

    −log p_eps(x) ≤  −E log π(x_T)  −  D ∫ α'/α dt  +  ½ ∫ g² E[‖s(x_t, t)‖² + 2 s(x_t, t)·z/G] dt

                      prior            drift            score

with integrals from eps to T. The first two are closed forms, since the SDE is linear; the third is
the paper's ‖s + z/G‖² − ‖z/G‖², multiplied out.

Its ends. x stands at eps, as it does in `flow`, so that nothing is left out below eps; the paper
puts x at 0 and adds a step of denoising. At T the prior stands in for p_T: with the exact score
the bound is −log p_eps(x) + E[log p_T(x_T) − log π(x_T)], which has no other gap. It is
non-negative on average over the data, though not for each of them.

Times and noise are functions of (seed, sample index, draw): no result depends on batches.

Source: Song, Durkan, Murray & Ermon 2021, "Maximum Likelihood Training of Score-Based Diffusion
Models" (Song 2021 b).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde.noise import Stream, normal, uniform
from score_sde.score import ScoreFor
from score_sde.sde import SDE, Score
from score_sde.tensor_ops import expand_to, sum_per_sample

_SMALLEST = 1e-6  # of the time variable: below it the step from eps is lost in rounding


@dataclass(frozen=True)
class Bound:
    """What is known of N samples after `continuous_bound` or `discrete_bound`.

    All are float64 (float32 on a device that has no float64), in nats.

    Attributes:
        nats: (N,) unbiased estimates of an upper bound on −log p, the sum of the terms.
        error: (N,) their standard error, from the spread over draws; NaN for a single draw.
        terms: (N,) each, "prior", "drift" and "score", or "prior", "steps" and "decoder".
    """

    nats: Tensor
    error: Tensor
    terms: dict[str, Tensor]


def continuous_bound(
    sde: SDE,
    score_for: ScoreFor,
    x: Tensor,
    *,
    index: Tensor,
    seed: int,
    n_draws: int = 2,
    n_times: int = 16,
    eps: float = 1e-5,
    batch_size: int | None = None,
) -> Bound:
    """Bound on −log p_eps(x) under the reverse-time SDE (Song 2021 b, theorem 3).

    Each draw estimates the integral over times by itself, at importance-sampled times, one in each
    of `n_times` equal strata, with an evaluation of the score each. Bits per dimension are
    `bits_per_dim(-bound.nats, …)`.

    Args:
        sde: the forward SDE.
        score_for: int64 (b,) rows of x → their score, as for `log_likelihood`.
        x: (N, ...) float32 or float64 data as the network sees them, dequantised.
        index: int64 (N,) sample indices.
        seed: of times and noise.
        n_draws: independent estimates for each sample; at least 2 for an error.
        n_times: times in each.
        eps: where x stands; that of `log_likelihood`, where the two are compared.
        batch_size: how many samples the score sees at a time; all N by default.

    Raises:
        ValueError: where an argument is outside of what is described here.
    """
    check_data(x, index, n_draws, batch_size)
    if not 0 < eps < sde.T:
        raise ValueError(f"eps={eps}: data stand between 0 and T={sde.T}, both excluded")
    if n_times < 1:
        raise ValueError(f"n_times={n_times}: an integral needs at least one time")
    dimensions, times = math.prod(x.shape[1:]), _Times(sde, eps)

    def estimate(score: Score, x: Tensor, index: Tensor, draw: int) -> Tensor:
        total = coefficient = precise(x.new_zeros(len(x)))
        for k in range(draw * n_times, (draw + 1) * n_times):
            t, width = times((k % n_times + draw_uniform(seed, index, 2 * k)) / n_times)
            r, G = sde.transition(t, torch.full_like(t, eps))
            z = draw_noise(seed, index, 2 * k + 1, x)
            s = score(expand_to(r.to(x), x) * x + expand_to(G.to(x), x) * z, t.to(x))
            weight = (sde.diffusion_squared(t) * width / (2 * n_times)).to(total)
            variance, noise = (sde.std(t) ** 2).to(total), _product(z, z)
            value = _product(s, s) + 2 * _product(s, z) / G.to(total)
            # ‖z‖² − D has the mean 0 and is a control variate. Its coefficient is estimated at the
            # time before, whose z is independent of this one, so that the estimate has no bias.
            control = (noise - dimensions) / variance
            total = total + weight * (value + coefficient * control)
            coefficient = (-value * variance / noise).clamp(0, 1)
        return total[:, None]

    (score,), error = average_over_draws(estimate, score_for, x, index, n_draws, batch_size)
    ends = torch.tensor([sde.T, eps], dtype=torch.float64)
    r, G = (float(number) for number in sde.transition(ends[:1], ends[1:]))
    prior = dimensions * G**2 / (2 * sde.prior_std**2) - sde.prior_logp(precise(x) * r)
    drift = torch.full_like(prior, -dimensions * math.log(r))
    terms = {"prior": prior, "drift": drift, "score": score}
    return Bound(prior + drift + score, error, terms)


class _Times:
    """Importance-sampled times on [eps, T] with the density g²/(σ G), up to a constant.

    Far from eps G is σ, and this is the density of `objectives.ImportanceTimes`. Towards eps the
    integrand has a term in 1/G, whose variance only a density in 1/G bounds.

    With l = σ/α and l' = l(eps), g² dt = α² d(l²) and G² = α² (l² − l'²) for every linear SDE. So
    l = l' cosh(w) gives g²/(σ G) dt = 2 dw, and the times are even in w.
    """

    def __init__(self, sde: SDE, eps: float) -> None:
        self.sde, self.eps = sde, eps
        ends = torch.tensor([eps, sde.T], dtype=torch.float64)
        self.lowest, highest = sde.noise_level(ends)
        self.width = torch.acosh(highest / self.lowest)

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Uniform u (B,) → times t and dt/du, both (B,) in float64."""
        w = (u * self.width).clamp_min(_SMALLEST)
        t = self.sde.time_of_noise_level(self.lowest * torch.cosh(w)).clamp(self.eps, self.sde.T)
        _, G = self.sde.transition(t, torch.full_like(t, self.eps))
        return t, 2 * self.width * self.sde.std(t) * G / self.sde.diffusion_squared(t)


def average_over_draws(
    estimate: Callable[[Score, Tensor, Tensor, int], Tensor],
    score_for: ScoreFor,
    x: Tensor,
    index: Tensor,
    n_draws: int,
    batch_size: int | None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Means over draws of each column of `estimate`, (N,), and the standard error of their sum."""
    means, errors = [], []
    index = index.to(x.device)
    with torch.no_grad():
        for row in torch.arange(len(x), device=x.device).split(batch_size or max(len(x), 1)):
            score = score_for(row)
            draws = torch.stack([estimate(score, x[row], index[row], k) for k in range(n_draws)])
            means.append(draws.mean(0))
            totals = draws.sum(2)
            unknown = torch.full_like(totals[0], math.nan)
            errors.append(totals.std(0) / math.sqrt(n_draws) if n_draws > 1 else unknown)
    return torch.cat(means).unbind(1), torch.cat(errors)


def check_data(x: Tensor, index: Tensor, n_draws: int, batch_size: int | None) -> None:
    """Refuses with a ValueError what neither bound can take."""
    if x.ndim < 2 or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"data of shape {tuple(x.shape)} and {x.dtype}: a bound is for samples (N, ...) of "
            "rank 2 or more in float32 or float64"
        )
    if index.shape != x.shape[:1] or index.dtype != torch.int64:
        raise ValueError(
            f"index of shape {tuple(index.shape)} and {index.dtype} for {len(x)} samples: give an "
            "int64 index for each"
        )
    if n_draws < 1:
        raise ValueError(f"n_draws={n_draws}: an estimate needs at least one draw")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: it must be at least 1")


def draw_noise(seed: int, index: Tensor, draw: int, x: Tensor) -> Tensor:
    """Standard normal noise for the samples x (B, ...)."""
    return normal(seed, index, draw, x.shape[1:], stream=Stream.BOUND, dtype=x.dtype)


def draw_uniform(seed: int, index: Tensor, draw: int) -> Tensor:
    """A uniform number for each sample: float64 (B,), `exactly_where` its index lies."""
    return uniform(
        seed, index.to(exactly_where(index)), draw, (), stream=Stream.BOUND, dtype=torch.float64
    )


def _product(a: Tensor, b: Tensor) -> Tensor:
    return precise(sum_per_sample(a * b))


def exactly_where(x: Tensor) -> torch.device:
    """Where times and tables of a bound are computed in float64: on the device, if it has that."""
    return torch.device("cpu") if x.device.type == "mps" else x.device


def precise(x: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return x if x.device.type == "mps" else x.double()
