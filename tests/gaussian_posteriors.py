"""Gaussian data with a linear measurement: the posterior and its scores in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.posterior_matrix import SHAPE, SIZE, matrix
from score_sde.posteriors.measurements import Measurement
from score_sde.samplers import ODESampler
from score_sde.sde import SDE, Score
from score_sde.tensor_ops import times_for


@dataclass(frozen=True)
class Data:
    """x_0 ~ N(mean, covariance) of (8,) and (8, 8), as images of shape SHAPE."""

    sde: SDE
    mean: Tensor
    covariance: Tensor

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        """∇ log p_t(x)."""
        t = times_for(x, t).double()
        variances, axes = torch.linalg.eigh(self.covariance)
        alpha, sigma = self.sde.mean_scale(t)[:, None], self.sde.std(t)[:, None]
        along = (alpha * self.mean - x.flatten(1).double()) @ axes
        pulled = (along / (alpha**2 * variances + sigma**2)) @ axes.mT
        return pulled.reshape(x.shape).to(x.dtype)

    def moments(self, t: float) -> tuple[Tensor, Tensor]:
        """Mean and covariance of p_t."""
        time = torch.tensor([t], dtype=torch.float64)
        alpha, sigma = self.sde.mean_scale(time), self.sde.std(time)
        eye = torch.eye(SIZE, dtype=torch.float64)
        return alpha * self.mean, alpha**2 * self.covariance + sigma**2 * eye

    def given(self, measurement: Measurement, y: Tensor) -> "Data":
        """The posterior p(x_0 | y) of one measurement (1, ...)."""
        A = matrix(measurement.forward)
        shape = measurement.forward(torch.zeros(1, *SHAPE)).shape[1:]
        noise = matrix(measurement.covariance, shape)
        gain = self.covariance @ A.mT
        gain = gain @ torch.linalg.pinv(A @ gain + noise, hermitian=True, rtol=1e-12)
        mean = self.mean + gain @ (measurement.measured(y).double().flatten() - A @ self.mean)
        return Data(self.sde, mean, self.covariance - gain @ A @ self.covariance)


def carried(mean: Tensor, covariance: Tensor, function) -> tuple[Tensor, Tensor]:
    """Mean and covariance of function(x, z) for x ~ N(mean, covariance) and z ~ N(0, I).

    The function is affine in images x and z (B, *SHAPE); `mean` is (8,).
    """
    zero = torch.zeros(1, *SHAPE, dtype=torch.float64)
    start = function(zero, zero).flatten()
    slope, spread = (
        matrix(lambda v, k=k: function(*((v, 0 * v) if k == 0 else (0 * v, v)))) - start[:, None]
        for k in (0, 1)
    )
    return slope @ mean + start, slope @ covariance @ slope.mT + spread @ spread.mT


def affine_moments(draw) -> tuple[Tensor, Tensor]:
    """Mean and covariance of draw(n, noise) (n, *SHAPE), affine in its draws of noise: exactly.

    Each row is given 1 for one number of one draw and 0 for all others.
    """
    draws = 0

    def count(shape):
        nonlocal draws
        draws += 1
        return torch.zeros(shape, dtype=torch.float64)

    draw(1, count)
    rows, place = 1 + SIZE * draws, iter(range(1, 1 + SIZE * draws, SIZE))

    def noise(shape):
        z = torch.zeros(rows, SIZE, dtype=torch.float64)
        k = next(place)
        z[k : k + SIZE] = torch.eye(SIZE, dtype=torch.float64)
        return z.reshape(shape)

    x = draw(rows, noise).flatten(1)
    slope = x[1:] - x[0]
    return x[0], slope.mT @ slope


def isotropic(sde: SDE, std: float = 0.6) -> Data:
    """N(m, std² I)."""
    mean = torch.linspace(-0.5, 0.7, SIZE, dtype=torch.float64)
    return Data(sde, mean, std**2 * torch.eye(SIZE, dtype=torch.float64))


def smooth(sde: SDE) -> Data:
    """Pixels in a row, whose covariance falls off as a Gaussian of 1.5 pixels; variance 0.25."""
    at = torch.arange(SIZE, dtype=torch.float64)
    covariance = (-((at[:, None] - at) ** 2) / (2 * 1.5**2)).exp() + 0.01 * torch.eye(SIZE)
    mean = torch.linspace(-0.5, 0.7, SIZE, dtype=torch.float64)
    return Data(sde, mean, 0.25 * covariance)


def drawn_moments(posterior: Data, score: Score, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance at time eps of what the converged ODE makes of p_T(x | y) by a score.

    The score is affine in x, as all are here, and the flow then too: it is known from where it
    carries the mean and one step from it along each axis.
    """
    mean, total = posterior.moments(posterior.sde.T)
    start = torch.cat([mean[None], mean + torch.eye(SIZE, dtype=torch.float64)])
    sampler = ODESampler(posterior.sde, 1e-8, 1e-8, eps, method="dop853")
    index = torch.arange(len(start))
    with torch.no_grad():
        prior = start.unflatten(1, SHAPE)
        end = sampler.solve(prior, lambda _: score, index, 0, len(start)).y.flatten(1)
    slope = (end[1:] - end[0]).mT
    return end[0], slope @ total @ slope.mT
