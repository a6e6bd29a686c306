"""The exercises of notebooks 6 to 10."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from checks.judging import judged

# 6. From chains to SDEs


def check_drift_and_diffusion(answer: Callable[[float], Any]) -> str:
    """−1/(1 − t) and 2t/(1 − t)."""
    return judged(
        answer,
        [(0.4,), (0.7,)],
        lambda t: (-1 / (1 - t), 2 * t / (1 - t)),
        "−1/(1 − t) and 2t/(1 − t). It is `StraightSDE`, whose probability-flow ODE is the flow "
        "of flow matching.",
        {
            "2t is dσ²/dt alone; the drift shrinks noise as well, which g has to make up for.": (
                lambda t: (-1 / (1 - t), 2 * t)
            ),
            "the factor is α'/α, not α'.": lambda t: (-1.0, 2 * t / (1 - t)),
            "that is g; g² is asked for.": lambda t: (-1 / (1 - t), (2 * t / (1 - t)) ** 0.5),
            "mind the sign of −2 (α'/α) σ²: α' is negative here.": (
                lambda t: (-1 / (1 - t), 2 * t - 2 * t**2 / (1 - t))
            ),
            "α' is −1: the data are taken away, so the factor is negative.": (
                lambda t: (1 / (1 - t), 2 * t / (1 - t))
            ),
        },
        "put α' = −1, α = 1 − t, σ² = t² into the two formulas.",
    )


def check_reverse_drifts(answer: Callable[..., Any]) -> str:
    """f − g² s and f − ½ g² s."""
    f, score = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.5])
    return judged(
        answer,
        [(f, 2.0, score), (2 * score, 0.5, f)],
        lambda f, g, s: (f - g**2 * s, f - g**2 * s / 2),
        "f − g² s and f − ½ g² s, both followed from t = 1 down to 0.",
        {
            "the sign of the score's part: backwards in time −g² s leads uphill.": (
                lambda f, g, s: (f + g**2 * s, f + g**2 * s / 2)
            ),
            "the ODE takes half of the score, as it has no noise to be made up for.": (
                lambda f, g, s: (f - g**2 * s, f - g**2 * s)
            ),
            "the two are exchanged.": lambda f, g, s: (f - g**2 * s / 2, f - g**2 * s),
            "g enters squared.": lambda f, g, s: (f - g * s, f - g * s / 2),
        },
        "f(x, t) − g(t)² ∇ log p_t(x), and the same with half of the last part.",
    )


# 7. Predictors and correctors


def check_reverse_diffusion(answer: Callable[..., Any]) -> str:
    """x + (σ² − σ_next²) s + √(σ² − σ_next²) z."""
    x, score, z = (torch.tensor([[a, b]]) for a, b in ((1.0, -2.0), (-0.3, 0.8), (0.5, 1.1)))

    def added(sigma: float, after: float) -> float:
        return sigma**2 - after**2

    return judged(
        answer,
        [(x, score, 2.0, 1.2, z), (z, x, 0.9, 0.3, score)],
        lambda x, s, a, b, z: x + added(a, b) * s + added(a, b) ** 0.5 * z,
        "x + G² ∇ log p + G z with G² = σ² − σ_next².",
        {
            "that leads away from the data: −f with f = −G² s is +G² s.": (
                lambda x, s, a, b, z: x - added(a, b) * s + added(a, b) ** 0.5 * z
            ),
            "that is half of the score: the step of the ODE, which has no noise.": (
                lambda x, s, a, b, z: x + added(a, b) / 2 * s + added(a, b) ** 0.5 * z
            ),
            "the noise is missing.": lambda x, s, a, b, z: x + added(a, b) * s,
            "the noise has the standard deviation G, not G².": (
                lambda x, s, a, b, z: x + added(a, b) * (s + z)
            ),
            "a difference of variances, not of standard deviations.": (
                lambda x, s, a, b, z: x + (a - b) ** 2 * s + (a - b) * z
            ),
        },
        "G² is the variance that the step forwards added; the score is multiplied by it.",
    )


def check_evaluations(
    answer: Callable[[int, int], Any], affordable: Callable[[int, int], Any]
) -> str:
    """steps (1 + corrections), and its inverse, rounded down."""
    said = judged(
        answer,
        [(100, 3), (40, 1), (25, 0)],
        lambda steps, corrections: steps * (1 + corrections),
        "",
        {
            "each prediction is an evaluation too.": lambda steps, corrections: (
                steps * corrections
            ),
            "the corrections are made at every time, not once.": (
                lambda steps, corrections: steps + corrections
            ),
        },
        "count one step: one evaluation for its prediction, one for each of its corrections.",
    )
    if not said.startswith("Right"):
        return said
    return judged(
        affordable,
        [(1000, 1), (1000, 2), (1001, 2)],  # 500, 333.33 and 333.67
        lambda budget, corrections: budget // (1 + corrections),
        "steps · (1 + corrections), and a budget divided by 1 + corrections, rounded down. "
        "Corrections at the same budget cost predictions.",
        {
            "your counts do not fit together: a step with one correction costs two.": (
                lambda budget, corrections: budget
            ),
            "a prediction is made whole or not at all: round down.": (
                lambda budget, corrections: budget / (1 + corrections)
            ),
            "rounded up you spend more than the budget; round down.": (
                lambda budget, corrections: math.ceil(budget / (1 + corrections))
            ),
            "rounded to the nearest you spend more than some budgets; round down.": (
                lambda budget, corrections: round(budget / (1 + corrections))
            ),
        },
        "your counts are right; how many steps of that cost does the budget pay for, whole ones?",
        tolerance=1e-6,
    )


# 8. Likelihood


def check_bits_per_dim(answer: Callable[[float, int, int], Any]) -> str:
    """−log p/(D log 2) − log₂(2/L)."""

    def of_density(log_p: float, D: int) -> float:
        return -log_p / (D * math.log(2))

    return judged(
        answer,
        [(4000.0, 3072, 256), (-20.0, 64, 17)],
        lambda logp, D, L: of_density(logp, D) + math.log2(L / 2),
        "−log p/(D log 2) + log₂(L/2).",
        {
            "that is of a density; a grey level is 2/L wide, which adds log₂(L/2) bits.": (
                lambda logp, D, L: of_density(logp, D)
            ),
            "pixels go from −1 to 1, so that a level is 2/L wide, not 1/L.": (
                lambda logp, D, L: of_density(logp, D) + math.log2(L)
            ),
            "nats become bits by division by log 2.": (
                lambda logp, D, L: -logp / D + math.log2(L / 2)
            ),
            "the width is in bits already; only log p is divided by log 2.": (
                lambda logp, D, L: of_density(logp, D) + math.log(L / 2)
            ),
            "mind the sign: a probable image takes few bits.": (
                lambda logp, D, L: -of_density(logp, D) + math.log2(L / 2)
            ),
            "a narrower level takes more bits, so its logarithm is subtracted.": (
                lambda logp, D, L: of_density(logp, D) - math.log2(L / 2)
            ),
        },
        "the probability of a level is about p(x) (2/L)^D; take −log₂ of it, and divide by D.",
    )


def check_scaled_density(answer: Callable[[float, float, int], Any]) -> str:
    """log N(z) + D log a."""
    return judged(
        answer,
        [(-3.0, 2.5, 3), (-1.2, 0.4, 2)],
        lambda log_normal, a, D: log_normal + D * math.log(a),
        "log N(z) + D log a. Volume grows by a^D, and the density of x is larger by that.",
        {
            "that is the density of z; the volume around x was changed on the way.": (
                lambda log_normal, a, D: log_normal
            ),
            "volume grows in every one of the D dimensions.": (
                lambda log_normal, a, D: log_normal + math.log(a)
            ),
            "mind the sign: what is blown up on the way to z was dense before.": (
                lambda log_normal, a, D: log_normal - D * math.log(a)
            ),
            "it is the logarithm of a that counts.": lambda log_normal, a, D: log_normal + D * a,
        },
        "p(x) dx = N(z) dz, and dz = a^D dx.",
    )


# 9. Few steps


def check_order(answer: Callable[[float, float], Any]) -> str:
    """log₂ of the quotient of the errors."""
    return judged(
        answer,
        [(0.9, 0.11), (0.05, 0.03)],
        lambda error, twice: math.log2(error / twice),
        "log₂(e(N)/e(2N)).",
        {
            "that is how much smaller the error became; the order is its logarithm to base 2.": (
                lambda error, twice: error / twice
            ),
            "that is the natural logarithm; twice the steps ask for base 2.": (
                lambda error, twice: math.log(error / twice)
            ),
            "upside down: an order is positive where the error falls.": (
                lambda error, twice: math.log2(twice / error)
            ),
            "that is the logarithm to base 10.": lambda error, twice: math.log10(error / twice),
            "what was measured need not be a whole number; leave it unrounded.": (
                lambda error, twice: round(math.log2(error / twice))
            ),
        },
        "e(N) = C N^(−p); divide e(N) by e(2N).",
    )


def check_heun(answer: Callable[..., Any]) -> str:
    """y + (ℓ' − ℓ) (n + n')/2 with n' at the end of Euler's step."""

    def n(y: Tensor, level: float) -> Tensor:
        return y * level / (1 + level**2)

    def euler(y: Tensor, level: float, after: float) -> Tensor:
        return y + (after - level) * n(y, level)

    def with_second(second: Callable[..., Tensor], own: float = 0.5) -> Callable[..., Tensor]:
        return lambda y, a, b, n: y + (b - a) * (own * n(y, a) + (1 - own) * second(y, a, b))

    def backwards(y: Tensor, a: float, b: float) -> Tensor:
        return y - (b - a) * (n(y, a) + n(y - (b - a) * n(y, a), b)) / 2

    return judged(
        answer,
        [
            (torch.tensor([[1.0, -0.5]]), 2.0, 1.5, n),
            (torch.tensor([[0.3, 2.0], [-1.0, 0.7]]), 0.8, 0.2, n),
        ],
        with_second(lambda y, a, b: n(euler(y, a, b), b)),
        "the mean of the guesses at both ends: order 2 for two evaluations.",
        {
            "that is Euler's step, DDIM: ask n again at its end.": (
                lambda y, a, b, n: euler(y, a, b)
            ),
            "that takes the second guess alone; take the mean of both.": with_second(
                lambda y, a, b: n(euler(y, a, b), b), own=0.0
            ),
            "the second guess is made at the new point and the new level.": with_second(
                lambda y, a, b: n(euler(y, a, b), a)
            ),
            "the second guess has to be made where Euler's step ends, not at y.": with_second(
                lambda y, a, b: n(y, b)
            ),
            "the step goes from level to level_next, which is smaller: mind its sign.": (
                lambda y, a, b, n: backwards(y, a, b)
            ),
            "the two guesses are added; take their mean.": (
                lambda y, a, b, n: y + (b - a) * (n(y, a) + n(euler(y, a, b), b))
            ),
            "that is the midpoint method, also of order 2; Heun's takes both ends.": with_second(
                lambda y, a, b: n(euler(y, a, (a + b) / 2), (a + b) / 2), own=0.0
            ),
        },
        "first = n(y, level), Euler's step, second = n there, and the mean of the two.",
        tolerance=1e-5,
    )


# 10. Guidance and inverse problems


def check_guided_score(answer: Callable[..., Any]) -> str:
    """s_u + w (s_c − s_u)."""
    own, other = torch.tensor([[1.0, 2.0]]), torch.tensor([[-0.5, 1.0]])
    return judged(
        answer,
        [(own, other, 3.0), (other, own, 0.4)],
        lambda own, other, w: other + w * (own - other),
        "s_u + w (s_c − s_u): 0 is no class, 1 the class, more leads away from the others.",
        {
            "w = 1 should give the class alone; Ho & Salimans' own w is less by 1.": (
                lambda own, other, w: own + w * (own - other)
            ),
            "that leads away from the class.": lambda own, other, w: other - w * (own - other),
            "with w = 0 it should be the score of no class.": (
                lambda own, other, w: own + w * other
            ),
            "the two are exchanged: w = 1 should give s_c.": (
                lambda own, other, w: own + w * (other - own)
            ),
        },
        "go from s_u towards s_c, w times as far as from one to the other.",
    )


def check_posterior(answer: Callable[..., Any]) -> str:
    """Precisions add; the mean is weighted by them."""

    def variance(s: float, r: float) -> float:
        return 1 / (1 / s**2 + 1 / r**2)

    def mean(y: float, m: float, s: float, r: float) -> float:
        return variance(s, r) * (m / s**2 + y / r**2)

    return judged(
        answer,
        [(2.0, 0.5, 1.5, 0.7), (-1.0, 3.0, 0.4, 1.1)],
        lambda y, m, s, r: (mean(y, m, s, r), variance(s, r)),
        "precisions add, and the mean lies between m and y, nearer to the more precise one.",
        {
            "the mean is right; variances do not add, their inverses do.": (
                lambda y, m, s, r: (mean(y, m, s, r), s**2 + r**2)
            ),
            "the mean is right; that is the precision, and the variance is its inverse.": (
                lambda y, m, s, r: (mean(y, m, s, r), 1 / variance(s, r))
            ),
            "the mean is right; that is the standard deviation.": (
                lambda y, m, s, r: (mean(y, m, s, r), variance(s, r) ** 0.5)
            ),
            "the variance is right; the weights of m and y are exchanged.": (
                lambda y, m, s, r: (mean(m, y, s, r), variance(s, r))
            ),
            "the variance is right; the mean is not half-way unless both are as precise.": (
                lambda y, m, s, r: ((m + y) / 2, variance(s, r))
            ),
        },
        "1/variance = 1/s² + 1/σ_y², and mean/variance = m/s² + y/σ_y².",
    )
