"""The exercises of notebooks 6 to 10."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from checks.judging import judged, unanswered

# 6. From chains to SDEs


def check_drift_and_diffusion(answer: Callable[[float], Any]) -> str:
    """−1/(1 − t) and 2t/(1 − t)."""
    t = 0.4
    rate, squared = -1 / (1 - t), 2 * t / (1 - t)
    return judged(
        answer(t),
        torch.tensor([rate, squared]),
        "−1/(1 − t) and 2t/(1 − t). It is `StraightSDE`, whose probability-flow ODE is the flow "
        "of flow matching.",
        {
            "2t is dσ²/dt alone; the drift shrinks noise as well, which g has to make up for.": (
                torch.tensor([rate, 2 * t])
            ),
            "the factor is α'/α, not α'.": torch.tensor([-1.0, squared]),
            "that is g; g² is asked for.": torch.tensor([rate, squared**0.5]),
            "mind the sign of −2 (α'/α) σ²: α' is negative here.": torch.tensor(
                [rate, 2 * t - 2 * t**2 / (1 - t)]
            ),
        },
        "put α' = −1, α = 1 − t, σ² = t² into the two formulas.",
    )


def check_reverse_drifts(answer: Callable[..., Any]) -> str:
    """f − g² s and f − ½ g² s."""
    f, g, score = torch.tensor([1.0, -2.0]), 2.0, torch.tensor([0.5, 1.5])
    whole = g**2 * score
    return judged(
        answer(f, g, score),
        torch.stack([f - whole, f - whole / 2]),
        "f − g² s and f − ½ g² s, both followed from t = 1 down to 0.",
        {
            "the sign of the score's part: backwards in time −g² s leads uphill.": torch.stack(
                [f + whole, f + whole / 2]
            ),
            "the ODE takes half of the score, as it has no noise to be made up for.": torch.stack(
                [f - whole, f - whole]
            ),
            "the two are exchanged.": torch.stack([f - whole / 2, f - whole]),
            "g enters squared.": torch.stack([f - g * score, f - g * score / 2]),
        },
        "f(x, t) − g(t)² ∇ log p_t(x), and the same with half of the last part.",
    )


# 7. Predictors and correctors


def check_reverse_diffusion(answer: Callable[..., Any]) -> str:
    """x + (σ² − σ_next²) s + √(σ² − σ_next²) z."""
    x, score, z = (torch.tensor([[a, b]]) for a, b in ((1.0, -2.0), (-0.3, 0.8), (0.5, 1.1)))
    sigma, after = 2.0, 1.2
    G2 = sigma**2 - after**2
    return judged(
        answer(x, score, sigma, after, z),
        x + G2 * score + G2**0.5 * z,
        "x + G² ∇ log p + G z with G² = σ² − σ_next².",
        {
            "that leads away from the data: −f with f = −G² s is +G² s.": x
            - G2 * score
            + G2**0.5 * z,
            "that is half of the score: the step of the ODE, which has no noise.": x
            + G2 / 2 * score
            + G2**0.5 * z,
            "the noise is missing.": x + G2 * score,
            "the noise has the standard deviation G, not G².": x + G2 * score + G2 * z,
            "a difference of variances, not of standard deviations.": x
            + (sigma - after) ** 2 * score
            + (sigma - after) * z,
        },
        "G² is the variance that the step forwards added; the score is multiplied by it.",
    )


def check_evaluations(
    answer: Callable[[int, int], Any], affordable: Callable[[int, int], Any]
) -> str:
    """steps (1 + corrections), and its inverse."""
    given = answer(100, 3), affordable(1000, 1)
    if not unanswered(given) and given[0] == 300:
        return "Not yet: each prediction is an evaluation too."
    if not unanswered(given) and given[0] == 103:
        return "Not yet: the corrections are made at every time, not once."
    return judged(
        given,
        torch.tensor([400.0, 500.0]),
        "steps · (1 + corrections). Corrections at the same budget cost predictions.",
        {
            "your counts do not fit together: a step with one correction costs two.": torch.tensor(
                [400.0, 1000.0]
            ),
        },
        "count one step: one evaluation for its prediction, one for each of its corrections.",
    )


# 8. Likelihood


def check_bits_per_dim(answer: Callable[[float, int, int], Any]) -> str:
    """−log p/(D log 2) − log₂(2/L)."""
    log_p, D, L = 4000.0, 3072, 256
    nats, offset = -log_p / (D * math.log(2)), math.log2(L / 2)
    return judged(
        answer(log_p, D, L),
        nats + offset,
        "−log p/(D log 2) + log₂(L/2).",
        {
            "that is of a density; a grey level is 2/L wide, which adds log₂(L/2) bits.": nats,
            "pixels go from −1 to 1, so that a level is 2/L wide, not 1/L.": nats + math.log2(L),
            "nats become bits by division by log 2.": -log_p / D + offset,
            "mind the sign: a probable image takes few bits.": -nats + offset,
            "a narrower level takes more bits, so its logarithm is subtracted.": nats - offset,
        },
        "the probability of a level is about p(x) (2/L)^D; take −log₂ of it, and divide by D.",
    )


def check_scaled_density(answer: Callable[[float, float, int], Any]) -> str:
    """log N(z) + D log a."""
    log_normal, a, D = -3.0, 2.5, 3
    return judged(
        answer(log_normal, a, D),
        log_normal + D * math.log(a),
        "log N(z) + D log a. Volume grows by a^D, and the density of x is larger by that.",
        {
            "that is the density of z; the volume around x was changed on the way.": log_normal,
            "volume grows in every one of the D dimensions.": log_normal + math.log(a),
            "mind the sign: what is blown up on the way to z was dense before.": log_normal
            - D * math.log(a),
            "it is the logarithm of a that counts.": log_normal + D * a,
        },
        "p(x) dx = N(z) dz, and dz = a^D dx.",
    )


# 9. Few steps


def check_order(answer: Callable[[float, float], Any]) -> str:
    """log₂ of the quotient of the errors."""
    quotient = 0.9 / 0.11
    return judged(
        answer(0.9, 0.11),
        math.log2(quotient),
        "log₂(e(N)/e(2N)).",
        {
            "that is how much smaller the error became; the order is its logarithm to base 2.": (
                quotient
            ),
            "that is the natural logarithm; twice the steps ask for base 2.": math.log(quotient),
            "upside down: an order is positive where the error falls.": -math.log2(quotient),
            "that is the logarithm to base 10.": math.log10(quotient),
        },
        "e(N) = C N^(−p); divide e(N) by e(2N).",
    )


def check_heun(answer: Callable[..., Any]) -> str:
    """y + (ℓ' − ℓ) (n + n')/2 with n' at the end of Euler's step."""
    y, level, after = torch.tensor([[1.0, -0.5]]), 2.0, 1.5

    def n(y: Tensor, level: float) -> Tensor:
        return y * level / (1 + level**2)

    step = after - level
    first = n(y, level)
    euler = y + step * first
    middle = (level + after) / 2
    return judged(
        answer(y, level, after, n),
        y + step * (first + n(euler, after)) / 2,
        "the mean of the guesses at both ends: order 2 for two evaluations.",
        {
            "that is Euler's step, DDIM: ask n again at its end.": euler,
            "that takes the second guess alone; take the mean of both.": y
            + step * n(euler, after),
            "the second guess is made at the new point and the new level.": y
            + step * (first + n(euler, level)) / 2,
            "the second guess has to be made where Euler's step ends, not at y.": y
            + step * (first + n(y, after)) / 2,
            "the step goes from level to level_next, which is smaller: mind its sign.": y
            - step * (first + n(y - step * first, after)) / 2,
            "that is the midpoint method, also of order 2; Heun's takes both ends.": y
            + step * n(y + step / 2 * first, middle),
        },
        "first = n(y, level), Euler's step, second = n there, and the mean of the two.",
        tolerance=1e-5,
    )


# 10. Guidance and inverse problems


def check_guided_score(answer: Callable[..., Any]) -> str:
    """s_u + w (s_c − s_u)."""
    own, other, w = torch.tensor([[1.0, 2.0]]), torch.tensor([[-0.5, 1.0]]), 3.0
    return judged(
        answer(own, other, w),
        other + w * (own - other),
        "s_u + w (s_c − s_u): 0 is no class, 1 the class, more leads away from the others.",
        {
            "w = 1 should give the class alone; Ho & Salimans' own w is less by 1.": own
            + w * (own - other),
            "that leads away from the class.": other - w * (own - other),
            "with w = 0 it should be the score of no class.": own + w * other,
            "the two are exchanged: w = 1 should give s_c.": own + w * (other - own),
        },
        "go from s_u towards s_c, w times as far as from one to the other.",
    )


def check_posterior(answer: Callable[..., Any]) -> str:
    """Precisions add; the mean is weighted by them."""
    y, m, s, sigma = 2.0, 0.5, 1.5, 0.7
    variance = 1 / (1 / s**2 + 1 / sigma**2)
    mean = variance * (m / s**2 + y / sigma**2)
    return judged(
        answer(y, m, s, sigma),
        torch.tensor([mean, variance]),
        "precisions add, and the mean lies between m and y, nearer to the more precise one.",
        {
            "the mean is right; variances do not add, their inverses do.": torch.tensor(
                [mean, s**2 + sigma**2]
            ),
            "the mean is right; that is the standard deviation.": torch.tensor(
                [mean, variance**0.5]
            ),
            "the variance is right; the weights of m and y are exchanged.": torch.tensor(
                [variance * (m / sigma**2 + y / s**2), variance]
            ),
            "the variance is right; the mean is not half-way unless both are as precise.": (
                torch.tensor([(m + y) / 2, variance])
            ),
        },
        "1/variance = 1/s² + 1/σ_y², and mean/variance = m/s² + y/σ_y².",
    )
