"""Noise levels and the Langevin step, computed from the data (Song & Ermon 2020).

"Improved Techniques for Training Score-Based Generative Models", technique by technique:

    1   σ_max is the largest distance between two images; `data.distances` finds it
    2   levels form a geometric sequence whose ratio γ lets neighbours overlap
    4   the step of annealed Langevin dynamics keeps the variance of each level

In D dimensions N(0, σ² I) lies in a thin shell of radius σ√D and thickness σ/√2. Annealed Langevin
dynamics steps at level σ_i by ε σ_i²/σ_min², which `AnnealedLangevinDynamics` writes as
2 (snr σ_i)²; so snr = √(ε/2)/σ_min.
"""

import math

from scipy.optimize import brentq, minimize_scalar
from scipy.special import ndtr

from score_sde.sde.exploding import check_levels

OVERLAP = 0.5665
"""How much of a level lies in the shell of the next larger one.

The paper writes "≈ 0.5". The numbers of levels that it prints (232, 500, 1,086) all follow from
0.5660 to 0.5669 and from nothing else; 0.5 itself would give 219, 472 and 1,026.
"""


def shell_overlap(gamma: float, dimensions: int) -> float:
    """The part of N(0, σ² I) that lies in the shell of N(0, γ² σ² I), three deviations thick.

    Φ(√(2D) (γ − 1) + 3γ) − Φ(√(2D) (γ − 1) − 3γ) of technique 2.

    Args:
        gamma: γ ≥ 1, the ratio of two neighbouring levels.
        dimensions: D.
    """
    apart = math.sqrt(2 * dimensions) * (gamma - 1)
    return float(ndtr(apart + 3 * gamma) - ndtr(apart - 3 * gamma))


def level_ratio(dimensions: int, overlap: float = OVERLAP) -> float:
    """γ at which neighbouring levels overlap so much (technique 2).

    Args:
        dimensions: D, numbers in one image.
        overlap: between 0 and 0.99.

    Raises:
        ValueError: fewer than five dimensions, where shells never part.
    """
    spread = math.sqrt(2 * dimensions)
    if spread <= 3:
        raise ValueError(
            f"images of {dimensions} numbers are too small for noise levels by the thickness of "
            "shells: give at least 5 (Song & Ermon 2020, technique 2)"
        )
    apart = (spread + 10) / (spread - 3)  # the inner shell lies 10 deviations off: no overlap
    root = brentq(lambda gamma: shell_overlap(gamma, dimensions) - overlap, 1.0, apart)
    return float(root)  # type: ignore[arg-type]


def count_levels(
    sigma_min: float, sigma_max: float, dimensions: int, overlap: float = OVERLAP
) -> int:
    """Levels from σ_max down to σ_min, both counted, at about the ratio of `level_ratio`.

    Raises:
        ValueError: levels that do not satisfy 0 < σ_min < σ_max, or too few dimensions.
    """
    check_levels(sigma_min, sigma_max)
    gaps = math.log(sigma_max / sigma_min) / math.log(level_ratio(dimensions, overlap))
    return max(round(1 + gaps), 2)


def ratio_of(sigma_min: float, sigma_max: float, num_levels: int) -> float:
    """γ of so many levels, two or more, in a geometric sequence."""
    return (sigma_max / sigma_min) ** (1 / (num_levels - 1))


def variance_kept(relative_step: float, gamma: float, n_steps: int) -> float:
    """s_T²/σ_i² after the T Langevin steps of a level (proposition of technique 4).

    Where the data are one point, x begins at level i with the variance γ² σ_i² of the level
    before. Each step multiplies x by 1 − η and adds noise of variance 2 η σ_i². The result
    exceeds 1 for every γ > 1 and 0 < η < 1.

    Args:
        relative_step: η = ε/σ_min², the step in units of σ_i².
        gamma: γ.
        n_steps: T.
    """
    stationary = 2 / (2 - relative_step)
    return (1 - relative_step) ** (2 * n_steps) * (gamma**2 - stationary) + stationary


def step_size(sigma_min: float, gamma: float, n_steps: int) -> float:
    """ε whose T steps leave the variance of a level nearest to its own (technique 4).

    Args:
        sigma_min: the smallest level; the step at level σ_i is ε σ_i²/σ_min².
        gamma: γ > 1.
        n_steps: T, steps at each level.
    """
    optimum = minimize_scalar(
        variance_kept,
        args=(gamma, n_steps),
        bounds=(0.0, 1.0),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(optimum.x) * sigma_min**2  # type: ignore[attr-defined]


def snr_of_step(epsilon: float, sigma_min: float) -> float:
    """`snr` with which `AnnealedLangevinDynamics` steps by ε σ_i²/σ_min² at level σ_i."""
    return math.sqrt(epsilon / 2) / sigma_min
