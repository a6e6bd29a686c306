"""The exercises of notebooks 1 to 5."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from checks.judging import ANY, judged, unanswered

# 1. Langevin dynamics


def check_stationary_variance(answer: Callable[[float], Any]) -> str:
    """The variance of Langevin steps of ε on N(0, 1): 1/(1 − ε/2)."""
    return judged(
        answer,
        [(0.6,), (0.2,)],
        lambda e: 1 / (1 - e / 2),
        "1/(1 − ε/2), which is too wide by about ε/2; only the limit of small steps is right.",
        {
            "1 is the limit of infinitely short steps; solve for a finite one.": lambda e: 1.0,
            "1 + ε/2 is only the beginning of the series in ε; solve v = (1 − ε)² v + 2ε.": (
                lambda e: 1 + e / 2
            ),
            "2ε is what the noise of one step adds; the variance before it counts too.": (
                lambda e: 2 * e
            ),
            "the factor of v is (1 − ε)², not 1 − ε: the variance is squared.": lambda e: 2.0,
            "that is too narrow; check the sign of what you divide by.": lambda e: 1 / (1 + e / 2),
        },
        "put v for both v_k and v_{k+1}, and solve for v.",
    )


def check_largest_step(answer: Callable[[float], Any]) -> str:
    """ε < 2 s²."""
    return judged(
        answer,
        [(0.4,), (1.5,)],
        lambda s: 2 * s**2,
        "2 s². The narrowest island rules the step, however large the others are.",
        {
            "at ε = s² a step forgets where it came from; there is room beyond.": lambda s: s**2,
            "the step has the unit of a variance: s enters squared.": lambda s: 2 * s,
            "2 is right for s = 1 only.": lambda s: 2.0,
        },
        "points run away where |1 − ε/s²| exceeds 1.",
    )


# 2. Denoising score matching


def check_dsm_target(answer: Callable[[Tensor, Tensor, float], Any]) -> str:
    """(x − x̃)/σ²."""
    x, noisy = torch.tensor([[1.0, 2.0], [-0.5, 3.0]]), torch.tensor([[1.3, 1.6], [0.4, 2.0]])
    return judged(
        answer,
        [(x, noisy, 0.5), (x[:1], noisy[:1], 2.0)],
        lambda x, noisy, sigma: (x - noisy) / sigma**2,
        "(x − x̃)/σ², an arrow from the noisy point to the clean one.",
        {
            "the arrow leads away from the data; the density grows towards them.": (
                lambda x, noisy, sigma: (noisy - x) / sigma**2
            ),
            "divided by σ it is −z, the noise; the score is −z/σ.": (
                lambda x, noisy, sigma: (x - noisy) / sigma
            ),
            "it points the right way; the logarithm of a Gaussian also divides by σ².": (
                lambda x, noisy, sigma: x - noisy
            ),
        },
        "it is the gradient by x̃ of −‖x̃ − x‖²/(2σ²).",
    )


def check_denoised(answer: Callable[[Tensor, Tensor, float], Any]) -> str:
    """x̃ + σ² s."""
    noisy, score = torch.tensor([[1.3, 1.6], [0.4, 2.0]]), torch.tensor([[-2.0, 0.5], [1.0, -0.7]])
    return judged(
        answer,
        [(noisy, score, 0.5), (noisy[:1], score[:1], 2.0)],
        lambda noisy, score, sigma: noisy + sigma**2 * score,
        "x̃ + σ² s(x̃): Tweedie's formula.",
        {
            "check the sign: the score points from noisy to clean.": (
                lambda noisy, score, sigma: noisy - sigma**2 * score
            ),
            "the score is divided by σ², so it is multiplied by σ², not σ.": (
                lambda noisy, score, sigma: noisy + sigma * score
            ),
            "that is the way from x̃ to the mean; add x̃ itself.": (
                lambda noisy, score, sigma: sigma**2 * score
            ),
            "a step of 1 along the score only is right for σ = 1.": (
                lambda noisy, score, sigma: noisy + score
            ),
        },
        "multiply both sides by σ² and add x̃.",
    )


# 3. Many noise levels


def check_weighting(answer: Callable[[float], Any]) -> str:
    """c σ² and c, for any c."""

    def relative(sigma: float) -> Any:
        given, unit = answer(sigma), answer(1.0)
        if unanswered(given) or unanswered(unit):
            return None
        if not (isinstance(given, tuple) and isinstance(unit, tuple)):
            return given
        return tuple(torch.as_tensor(part) / torch.as_tensor(unit[0]) for part in given)

    return judged(
        relative,
        [(0.5,), (1.0,), (3.0,)],
        lambda sigma: (sigma**2, 1.0),
        "λ ∝ σ², which is the plain error of the noise with the same weight everywhere.",
        {
            "the target is squared in the loss, so λ = σ leaves 1/σ of it.": (
                lambda sigma: (sigma, ANY)
            ),
            "that makes small levels count even more; the targets are long there.": (
                lambda sigma: (sigma**-2, ANY)
            ),
            "the noise's weight is right; the score's target is z/σ, whose square is ∝ 1/σ².": (
                lambda sigma: (1.0, 1.0)
            ),
            "λ is right; σ s + z has the target −z already, which has no σ in it.": (
                lambda sigma: (sigma**2, sigma**2)
            ),
            "λ is right; the ½ stands before both losses, so it is not in the weight.": (
                lambda sigma: (sigma**2, 0.5)
            ),
            "λ is right; ‖σ s + z‖² is σ² ‖s + z/σ‖², so what is left is λ/σ².": (
                lambda sigma: (sigma**2, ANY)
            ),
        },
        "with s = 0 the loss is λ(σ) E‖z‖²/(2σ²); make it the same for all σ.",
    )


def check_langevin_steps(answer: Callable[..., Any]) -> str:
    """L · steps, and ε σ_i²/σ_L²."""
    return judged(
        answer,
        [(10, 100, 2e-5, 0.04, 0.01), (12, 20, 3e-4, 0.3, 0.05)],
        lambda L, steps, e, s, last: (L * steps, e * (s / last) ** 2),
        "L · steps of them, α_i = ε σ_i²/σ_L². NCSN took 1,000 steps for 10 levels.",
        {
            "`steps` are those of one level; in all, each of the L levels takes as many.": (
                lambda L, steps, e, s, last: (steps, ANY)
            ),
            "steps in all are L times `steps`: each level takes as many of its own.": (
                lambda L, steps, e, s, last: (L + steps, ANY)
            ),
            "the step has the unit of a variance: the ratio of levels enters squared.": (
                lambda L, steps, e, s, last: (L * steps, e * s / last)
            ),
            "the ratio is upside down; large levels take large steps.": (
                lambda L, steps, e, s, last: (L * steps, e * (last / s) ** 2)
            ),
            "every level has a step of its own, larger where the level is.": (
                lambda L, steps, e, s, last: (L * steps, e)
            ),
        },
        "L levels of `steps` each; α_i grows as σ_i², and is ε at the smallest level.",
    )


# 4. Noise levels from the data


def check_farthest_pair(answer: Callable[[Tensor], Any]) -> str:
    """The largest Euclidean distance of two rows."""
    # The farthest are neither the first two rows nor neighbours, and no row is the origin.
    plane = torch.tensor([[3.0, 1.0], [2.0, 1.0], [2.0, 3.0], [5.0, 5.0], [3.0, 2.0]])
    space = torch.tensor([[1.0, 0.5, 1.0], [-2.0, 1.0, 0.0], [0.5, 1.0, 1.0], [1.0, 3.0, 4.0]])

    def from_mean(images: Tensor) -> Tensor:
        return (images - images.mean(0)).norm(dim=1).max()

    def farthest(images: Tensor) -> Tensor:
        return torch.cdist(images, images).max()

    return judged(
        answer,
        [(plane,), (space,)],
        farthest,
        "the largest of all pairs. For many images `data.distances` leaves most pairs out, "
        "exactly.",
        {
            "that is its square.": lambda images: farthest(images) ** 2,
            "that is the largest difference of one pixel; images are apart by all of theirs.": (
                lambda images: (images[:, None] - images).abs().max()
            ),
            "that adds differences up; a distance is the root of the sum of their squares.": (
                lambda images: torch.cdist(images, images, p=1).max()
            ),
            "that is the farthest from the origin, which is no image; take pairs.": (
                lambda images: images.norm(dim=1).max()
            ),
            "that is the farthest from the first image only; take all pairs.": (
                lambda images: (images - images[0]).norm(dim=1).max()
            ),
            "that is the farthest of neighbours in the list; take all pairs.": (
                lambda images: images.diff(dim=0).norm(dim=1).max()
            ),
            "that is the farthest from the mean; two images can be apart by up to twice that.": (
                from_mean
            ),
            "that is twice the farthest from the mean, which no pair need reach.": (
                lambda images: 2 * from_mean(images)
            ),
        },
        "take ‖x⁽ⁱ⁾ − x⁽ʲ⁾‖ for all pairs, and the largest of them.",
    )


def check_number_of_levels(answer: Callable[[float, float, float], Any]) -> str:
    """1 + log(σ_1/σ_L)/log γ, rounded to the nearest."""

    def levels(sigma_1: float, sigma_L: float, gamma: float) -> float:
        return 1 + math.log(sigma_1 / sigma_L) / math.log(gamma)

    return judged(
        answer,
        [(50.0, 0.01, 1.0375), (9.0, 0.05, 1.3)],  # 232.36 and 20.79 before rounding
        lambda *given: round(levels(*given)),
        "the 232 levels of the paper's CIFAR-10 models, nearly: 1 + log(σ₁/σ_L)/log γ.",
        {
            "those are the gaps; a fence has one post more.": lambda *given: round(
                levels(*given) - 1
            ),
            "a whole number is asked for: round it.": levels,
            "rounded up; take the nearest, as γ is to be met about, from either side.": (
                lambda *given: math.ceil(levels(*given))
            ),
            "rounded down; take the nearest, as γ is to be met about, from either side.": (
                lambda *given: math.floor(levels(*given))
            ),
            "levels are multiplied by γ, not spaced by it; take logarithms.": (
                lambda first, last, gamma: round(1 + first / last / gamma)
            ),
        },
        "σ₁ = γ^(L−1) σ_L; solve for L.",
        tolerance=1e-6,
    )


# 5. Diffusion as a latent-variable model

CHAIN = [(beta, before, before * (1 - beta)) for beta, before in ((0.1, 0.6), (0.02, 0.9))]


def check_posterior_variance(answer: Callable[[float, float, float], Any]) -> str:
    """β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t)."""
    return judged(
        answer,
        CHAIN,
        lambda beta, before, now: beta * (1 - before) / (1 - now),
        "β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t). It is below β_t: who knows x₀ knows more.",
        {
            "that is β_t, the variance of the step forwards.": lambda beta, before, now: beta,
            "the quotient is upside down; knowing x₀ cannot make the variance larger.": (
                lambda beta, before, now: beta * (1 - now) / (1 - before)
            ),
            "that is the precision; the variance is its inverse.": (
                lambda beta, before, now: (1 - beta) / beta + 1 / (1 - before)
            ),
            "the precision of q(x_t | x_{t−1}) as a function of x_{t−1} is α_t/β_t, not 1/β_t.": (
                lambda beta, before, now: 1 / (1 / beta + 1 / (1 - before))
            ),
        },
        "1/β̃_t = α_t/β_t + 1/(1 − ᾱ_{t−1}).",
    )


def check_elbo_weight(answer: Callable[[float, float, float], Any]) -> str:
    """β_t/(2 α_t (1 − ᾱ_{t−1}))."""
    return judged(
        answer,
        CHAIN,
        lambda beta, before, now: beta / (2 * (1 - beta) * (1 - before)),
        "β_t/(2 α_t (1 − ᾱ_{t−1})), large where there is little noise.",
        {
            "that has σ_t² = β_t for the variance; here it is β̃_t.": (
                lambda beta, before, now: beta / (2 * (1 - beta) * (1 - now))
            ),
            "the factor 1/2 of the divergence is missing.": (
                lambda beta, before, now: beta / ((1 - beta) * (1 - before))
            ),
            "the mean is divided by √α_t, so its square by α_t.": (
                lambda beta, before, now: beta / (2 * (1 - before))
            ),
            "1 is L_simple.": lambda beta, before, now: 1.0,
        },
        "the means differ by β_t/(√α_t √(1 − ᾱ_t)) times the noises' difference.",
    )
