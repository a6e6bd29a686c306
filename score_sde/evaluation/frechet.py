"""The Fréchet distance between two sets of features, in float64, and how sure it is."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from score_sde import noise
from score_sde.evaluation.moments import Moments


@dataclass(frozen=True)
class Bootstrap:
    """How far a Fréchet distance would move with another draw of as many samples.

    Attributes:
        value: the distance of the features as given.
        std: standard deviation over the resamples, an estimate of the value's own.
        bias: mean over the resamples minus `value`, an estimate of how far the value lies above
            the distance of infinitely many samples. Trust it where n is well above D; below, a
            covariance has lost directions that no resample brings back.
        resamples: their number.
    """

    value: float
    std: float
    bias: float
    resamples: int


def frechet_distance(mu_1: Tensor, sigma_1: Tensor, mu_2: Tensor, sigma_2: Tensor) -> float:
    """Squared Fréchet distance of two Gaussians (Dowson & Landau 1982; FID: Heusel et al. 2017).

    |μ₁ - μ₂|² + Tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½). With Σ = A Aᵀ from the eigenvalues of each, the trace of
    the root is the sum of the singular values of A₁ᵀA₂: always real, and without the square root
    of a rounding error that roots of the eigenvalues of a product have where Σ is singular.

    Args:
        mu_1: (D,).
        sigma_1: (D, D), symmetric; its lower triangle is read.
        mu_2: (D,).
        sigma_2: (D, D).

    Returns:
        The distance, ≥ 0 up to rounding.

    Raises:
        ValueError: where shapes do not fit, or numbers are not finite.
    """
    mu_1, sigma_1, mu_2, sigma_2 = _checked(mu_1, sigma_1, mu_2, sigma_2)
    return _distance(mu_1, _factor(sigma_1), mu_2, _factor(sigma_2))


def _checked(*statistics: Tensor) -> list[Tensor]:
    """Two pairs of mean and covariance in float64 on the CPU, if they fit."""
    values = [value.detach().to("cpu", torch.float64) for value in statistics]
    d = len(values[0])
    if [value.shape for value in values] != [(d,), (d, d), (d,), (d, d)]:
        shapes = ", ".join(str(tuple(value.shape)) for value in values)
        raise ValueError(
            f"statistics of the shapes {shapes} do not fit: both sides need mu (D,) and "
            "sigma (D, D) of one feature network"
        )
    if not all(value.isfinite().all() for value in values):
        raise ValueError("some statistics are not finite: make them again")
    return values


def _distance(mu_1: Tensor, factor_1: Tensor, mu_2: Tensor, factor_2: Tensor) -> float:
    overlap = torch.linalg.svdvals(factor_1.T @ factor_2).sum()
    traces = factor_1.square().sum() + factor_2.square().sum()
    return ((mu_1 - mu_2).square().sum() + traces - 2 * overlap).item()


def _factor(sigma: Tensor) -> Tensor:
    """A with A Aᵀ = Σ: (D, rank)."""
    values, vectors = torch.linalg.eigh(sigma)
    rounding = torch.finfo(sigma.dtype).eps * len(values) * values[-1].clamp_min(0)
    kept = values > rounding  # the rest is rounding of a singular covariance, of either sign
    return vectors[:, kept] * values[kept].sqrt()


def bootstrap(
    fake: Tensor, mu: Tensor, sigma: Tensor, *, resamples: int = 20, seed: int = 0
) -> Bootstrap:
    """Spread and bias of a Fréchet distance by resampling the samples (Efron 1979).

    Each resample takes as many of the samples with repetition; the reference stays as it is.
    Memory stays flat: a resample is a count for each row. Where N > D each costs N D²
    multiplications and two decompositions of D x D matrices: seconds where D = 2,048.

    Args:
        fake: (N, D), features of the samples.
        mu: (D,), mean of the reference.
        sigma: (D, D), its covariance.
        resamples: number of resamples, at least 2.
        seed: of the resamples; any int.

    Raises:
        ValueError: where shapes do not fit, or below two resamples or samples.
    """
    if resamples < 2:
        raise ValueError(f"{resamples} bootstrap resamples have no spread: give at least 2")
    n = len(fake)
    mu, sigma, *_ = _checked(mu, sigma, *_statistics(fake, None))
    factor = _factor(sigma)
    value = _distance(mu, factor, *_mean_and_factor(fake, None))
    values = []
    for draw in range(resamples):
        u = noise.uniform(
            seed, torch.arange(n), draw, (1,), stream=noise.Stream.ORDER, dtype=torch.float64
        )
        counts = (u.flatten() * n).long().bincount(minlength=n)
        values.append(_distance(mu, factor, *_mean_and_factor(fake, counts)))
    return Bootstrap(
        value, float(np.std(values, ddof=1)), float(np.mean(values)) - value, resamples
    )


def _mean_and_factor(features: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """μ (D,) of N rows and an A with A Aᵀ = Σ, (D, rank or N), in float64 on the CPU."""
    n, d = features.shape
    if n > d:
        mu, sigma = _statistics(features, counts)
        return mu.cpu(), _factor(sigma.cpu())
    # Σ = Σᵢ cᵢ (xᵢ - μ)(xᵢ - μ)ᵀ / (N - 1): so few rows are a factor themselves.
    x = features.detach().to("cpu", torch.float64)
    weights = torch.ones(n) if counts is None else counts
    weights = weights.to("cpu", torch.float64)[:, None]
    mu = (weights * x).mean(0)
    return mu, ((weights / (n - 1)).sqrt() * (x - mu)).T


def _statistics(features: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    moments = Moments(features.shape[1])
    moments.update(features, counts)
    return moments.mu, moments.sigma
