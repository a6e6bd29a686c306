"""The exercises of notebooks 1 to 5."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from checks.judging import UNANSWERED, judged, unanswered

# 1. Langevin dynamics


def check_stationary_variance(answer: Callable[[float], Any]) -> str:
    """The variance of Langevin steps of ε on N(0, 1): 1/(1 − ε/2)."""
    e = 0.5
    return judged(
        answer(e),
        1 / (1 - e / 2),
        "1/(1 − ε/2), which is too wide by about ε/2; only the limit of small steps is right.",
        {
            "1 is the limit of infinitely short steps; solve for a finite one.": 1.0,
            "1 + ε/2 is only the beginning of the series in ε; solve v = (1 − ε)² v + 2ε.": 1
            + e / 2,
            "the factor of v is (1 − ε)², not 1 − ε: the variance is squared.": 2.0,
            "that is too narrow; check the sign of what you divide by.": 1 / (1 + e / 2),
        },
        "put v for both v_k and v_{k+1}, and solve for v.",
    )


def check_largest_step(answer: Callable[[float], Any]) -> str:
    """ε < 2 s²."""
    s = 0.4
    return judged(
        answer(s),
        2 * s**2,
        "2 s². The narrowest island rules the step, however large the others are.",
        {
            "at ε = s² a step forgets where it came from; there is room beyond.": s**2,
            "the step has the unit of a variance: s enters squared.": 2 * s,
            "2 is right for s = 1 only.": 2.0,
        },
        "points run away where |1 − ε/s²| exceeds 1.",
    )


# 2. Denoising score matching


def check_dsm_target(answer: Callable[[Tensor, Tensor, float], Any]) -> str:
    """(x − x̃)/σ²."""
    x, noisy, sigma = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.3, 1.6]]), 0.5
    apart = x - noisy
    return judged(
        answer(x, noisy, sigma),
        apart / sigma**2,
        "(x − x̃)/σ², an arrow from the noisy point to the clean one.",
        {
            "the arrow leads away from the data; the density grows towards them.": -apart
            / sigma**2,
            "divided by σ it is −z, the noise; the score is −z/σ.": apart / sigma,
            "it points the right way; the logarithm of a Gaussian also divides by σ².": apart,
        },
        "it is the gradient by x̃ of −‖x̃ − x‖²/(2σ²).",
    )


def check_denoised(answer: Callable[[Tensor, Tensor, float], Any]) -> str:
    """x̃ + σ² s."""
    noisy, score, sigma = torch.tensor([[1.3, 1.6]]), torch.tensor([[-2.0, 0.5]]), 0.5
    return judged(
        answer(noisy, score, sigma),
        noisy + sigma**2 * score,
        "x̃ + σ² s(x̃): Tweedie's formula.",
        {
            "check the sign: the score points from noisy to clean.": noisy - sigma**2 * score,
            "the score is divided by σ², so it is multiplied by σ², not σ.": noisy + sigma * score,
            "that is the way from x̃ to the mean; add x̃ itself.": sigma**2 * score,
            "a step of 1 along the score only is right for σ = 1.": noisy + score,
        },
        "multiply both sides by σ² and add x̃.",
    )


# 3. Many noise levels


def check_weighting(answer: Callable[[float], Any]) -> str:
    """σ² and 1."""
    given = answer(0.5)
    if unanswered(given):
        return UNANSWERED
    twice = torch.as_tensor(answer(1.0)).double() / torch.as_tensor(given).double()
    return judged(
        twice,
        torch.tensor([4.0, 1.0]),
        "λ ∝ σ², which is the plain error of the noise with the same weight everywhere.",
        {
            "the target is squared in the loss, so λ = σ leaves 1/σ of it.": torch.tensor(
                [2.0, 1.0]
            ),
            "that makes small levels count even more; the targets are long there.": torch.tensor(
                [0.25, 1.0]
            ),
            "λ is right; σ s + z has the target −z already, which has no σ in it.": torch.tensor(
                [4.0, 4.0]
            ),
            "the noise's weight is right; the score's target is z/σ, whose square is ∝ 1/σ².": (
                torch.tensor([1.0, 1.0])
            ),
        },
        "with s = 0 the loss is λ(σ) E‖z‖²/(2σ²); make it the same for all σ.",
    )


def check_langevin_steps(answer: Callable[..., Any]) -> str:
    """L · steps, and ε σ_i²/σ_L²."""
    given = answer(10, 100, 2e-5, 0.04, 0.01)
    if unanswered(given):
        return UNANSWERED
    if not isinstance(given, tuple):
        return "Not yet: two numbers are asked for."
    in_all, alpha = given
    if in_all != 1000:
        return f"Not yet: {in_all} steps in all; each of the L levels takes `steps` of its own."
    return judged(
        alpha,
        32e-5,
        "L · steps of them, α_i = ε σ_i²/σ_L². NCSN took 1,000 steps for 10 levels.",
        {
            "the step has the unit of a variance: the ratio of levels enters squared.": 8e-5,
            "the ratio is upside down; large levels take large steps.": 2e-5 / 16,
            "every level has a step of its own, larger where the level is.": 2e-5,
        },
        "α_i grows as σ_i², and is ε at the smallest level.",
    )


# 4. Noise levels from the data


def check_farthest_pair(answer: Callable[[Tensor], Any]) -> str:
    """The largest Euclidean distance of two rows."""
    images = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    from_mean = (images - images.mean(0)).norm(dim=1).max().item()
    return judged(
        answer(images),
        5.0,
        "the largest of all pairs. For many images `data.distances` leaves most pairs out, "
        "exactly.",
        {
            "that is its square.": 25.0,
            "that is the largest difference of one pixel; images are apart by all of theirs.": 4.0,
            "that is the farthest from the mean; two images can be apart by up to twice that.": (
                from_mean
            ),
            "that is twice the farthest from the mean, which no pair need reach.": 2 * from_mean,
        },
        "take ‖x⁽ⁱ⁾ − x⁽ʲ⁾‖ for all pairs, and the largest of them.",
    )


def check_number_of_levels(answer: Callable[[float, float, float], Any]) -> str:
    """1 + log(σ_1/σ_L)/log γ, rounded."""
    sigma_1, sigma_L, gamma = 50.0, 0.01, 1.0375
    gaps = math.log(sigma_1 / sigma_L) / math.log(gamma)
    return judged(
        answer(sigma_1, sigma_L, gamma),
        round(1 + gaps),
        "the 232 levels of the paper's CIFAR-10 models, nearly: 1 + log(σ₁/σ_L)/log γ.",
        {
            "those are the gaps; a fence has one post more.": round(gaps),
            "a whole number is asked for: round it.": 1 + gaps,
            "levels are multiplied by γ, not spaced by it; take logarithms.": round(
                1 + sigma_1 / sigma_L / gamma
            ),
        },
        "σ₁ = γ^(L−1) σ_L; solve for L.",
        tolerance=1e-6,
    )


# 5. Diffusion as a latent-variable model


def check_posterior_variance(answer: Callable[[float, float, float], Any]) -> str:
    """β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t)."""
    beta, before = 0.1, 0.6
    now = before * (1 - beta)
    return judged(
        answer(beta, before, now),
        beta * (1 - before) / (1 - now),
        "β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t). It is below β_t: who knows x₀ knows more.",
        {
            "that is β_t, the variance of the step forwards.": beta,
            "the quotient is upside down; knowing x₀ cannot make the variance larger.": beta
            * (1 - now)
            / (1 - before),
            "that is the precision; the variance is its inverse.": (1 - beta) / beta
            + 1 / (1 - before),
            "the precision of q(x_t | x_{t−1}) as a function of x_{t−1} is α_t/β_t, not 1/β_t.": 1
            / (1 / beta + 1 / (1 - before)),
        },
        "1/β̃_t = α_t/β_t + 1/(1 − ᾱ_{t−1}).",
    )


def check_elbo_weight(answer: Callable[[float, float, float], Any]) -> str:
    """β_t/(2 α_t (1 − ᾱ_{t−1}))."""
    beta, before = 0.1, 0.6
    now = before * (1 - beta)
    return judged(
        answer(beta, before, now),
        beta / (2 * (1 - beta) * (1 - before)),
        "β_t/(2 α_t (1 − ᾱ_{t−1})), large where there is little noise.",
        {
            "that has σ_t² = β_t for the variance; here it is β̃_t.": beta
            / (2 * (1 - beta) * (1 - now)),
            "the factor 1/2 of the divergence is missing.": beta / ((1 - beta) * (1 - before)),
            "the mean is divided by √α_t, so its square by α_t.": beta / (2 * (1 - before)),
            "1 is L_simple.": 1.0,
        },
        "the means differ by β_t/(√α_t √(1 − ᾱ_t)) times the noises' difference.",
    )
