"""Exact scores: data from a mixture of Gaussians, whose score every linear SDE leaves known.

With x_0 ~ Σ_k w_k N(m_k, C_k) and p(x_t | x_0) = N(α x_0, σ² I),

    p_t(x) = Σ_k w_k N(x; α m_k, α² C_k + σ² I),
    ∇ log p_t(x) = Σ_k r_k(x) (α² C_k + σ² I)⁻¹ (α m_k − x),

where r_k is the posterior probability of component k. Two kinds are made of images: few of them
as means with one small std (`Points`), which a sampler must find one by one, and a Gaussian with a
full covariance for each class (`Classes`), which has structure at every scale. What a sampler
draws from such a score is compared with exact draws, and no network stands between.

Everything is computed in float64 where the device has it: with fine components log-densities are
differences of large numbers.

Symbols as in `sde`; D numbers in a sample, K components.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from score_sde import noise
from score_sde.sde import SDE
from score_sde.tensor_ops import times_for


class Mixture(ABC):
    """A mixture of Gaussians as data; `ExactScore` is its score under an SDE.

    Args:
        means: (K, ...) of the components.
        weights: (K,) their probabilities; equal by default.

    Raises:
        ValueError: no components, or weights that are no probabilities.
    """

    def __init__(self, means: Tensor, weights: Tensor | None = None) -> None:
        if means.ndim < 2 or not len(means):
            raise ValueError(
                f"means of shape {tuple(means.shape)}: a mixture needs (K, ...) with K ≥ 1"
            )
        self.shape = tuple(means.shape[1:])
        self.means = means.flatten(1).to(_precise(means.device))
        equal = torch.full((len(means),), 1 / len(means))
        self.weights = (equal if weights is None else weights).to(self.means)
        if self.weights.shape != (len(means),) or bool((self.weights < 0).any()):
            raise ValueError(
                f"weights of shape {tuple(self.weights.shape)} for {len(means)} components: give "
                "a probability for each"
            )

    def to(self, device: torch.device | str) -> "Mixture":
        """Moves its tensors to a device, in the precision that is at hand there."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device, _precise(torch.device(device))))
        return self

    @abstractmethod
    def log_terms(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log w_k + log N(x; α m_k, α² C_k + σ² I): (B, D), (B, 1), (B, 1) → (B, K)."""

    @abstractmethod
    def pull(self, x: Tensor, alpha: Tensor, sigma: Tensor, share: Tensor) -> Tensor:
        """Σ_k share_k (α² C_k + σ² I)⁻¹ (α m_k − x) for shares (B, K): (B, D)."""

    @abstractmethod
    def within(self, x: Tensor) -> Tensor:
        """Mean square of what x lies off its component, in units of that one's variances.

        The component is the most probable one. Of exact samples the mean is 1, or a little less
        where components overlap; noise that is left over makes it larger.

        Args:
            x: (B, ...) samples at time 0.

        Returns:
            (B,).
        """

    @abstractmethod
    def offsets(self, z: Tensor, which: Tensor) -> Tensor:
        """Standard normal noise (n, D) with the covariance of components `which` (n,)."""

    def sample(self, index: Tensor, seed: int) -> Tensor:
        """Exact draws, a function of (seed, index).

        Args:
            index: int64 (n,).
            seed: of the noise.

        Returns:
            float32 (n, ...).
        """
        stream, dtype = noise.Stream.DATA, self.means.dtype
        index = index.to(self.means.device)
        u = noise.uniform(seed, index, 0, (1,), stream=stream, dtype=dtype)[:, 0]
        ends = self.weights.cumsum(0)
        which = torch.searchsorted(ends, u * ends[-1], right=True).clamp_max(len(ends) - 1)
        z = noise.normal(seed, index, 1, self.means.shape[1:], stream=stream, dtype=dtype)
        x = self.means[which] + self.offsets(z, which)
        return x.float().reshape(-1, *self.shape)

    def _nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Samples as (B, D), and the most probable component of each."""
        x = x.flatten(1).to(self.means)
        one, zero = torch.ones_like(x[:, :1]), torch.zeros_like(x[:, :1])
        return x, self.log_terms(x, one, zero).argmax(1)


class Points(Mixture):
    """Components of one std, the same in all directions.

    Args:
        means: (K, ...).
        std: of every component, above 0.
        weights: (K,).

    Raises:
        ValueError: as `Mixture`, or a std that is not above 0.
    """

    def __init__(self, means: Tensor, std: float, weights: Tensor | None = None) -> None:
        super().__init__(means, weights)
        _check_std(std)
        self.std = std

    def log_terms(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Mixture.log_terms`."""
        variance = self._variance(alpha, sigma)
        squared = x.square().sum(1, keepdim=True) + alpha**2 * self.means.square().sum(1)
        squared = squared - 2 * alpha * (x @ self.means.T)
        log_normaliser = 0.5 * x.shape[1] * torch.log(2 * math.pi * variance)
        return self.weights.log() - squared / (2 * variance) - log_normaliser

    def pull(self, x: Tensor, alpha: Tensor, sigma: Tensor, share: Tensor) -> Tensor:
        """See `Mixture.pull`."""
        towards = alpha * (share @ self.means) - share.sum(1, keepdim=True) * x
        return towards / self._variance(alpha, sigma)

    def within(self, x: Tensor) -> Tensor:
        """See `Mixture.within`."""
        x, which = self._nearest(x)
        return (x - self.means[which]).square().mean(1) / self.std**2

    def offsets(self, z: Tensor, which: Tensor) -> Tensor:
        """See `Mixture.offsets`."""
        return self.std * z

    def _variance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha**2 * self.std**2 + sigma**2


class Classes(Mixture):
    """Components with full covariances.

    Args:
        means: (K, ...).
        covariances: (K, D, D), symmetric.
        std: of noise that is added to each, above 0: pixels that never change, and classes of
            fewer images than pixels, have no density without it.
        weights: (K,).

    Raises:
        ValueError: as `Mixture`, or covariances of another shape, or a std that is not above 0.
    """

    def __init__(
        self, means: Tensor, covariances: Tensor, std: float, weights: Tensor | None = None
    ) -> None:
        super().__init__(means, weights)
        _check_std(std)
        k, d = self.means.shape
        if covariances.shape != (k, d, d):
            raise ValueError(
                f"covariances of shape {tuple(covariances.shape)}: give ({k}, {d}, {d})"
            )
        values, self.axes = torch.linalg.eigh(covariances.to(self.means))
        self.variances = values.clamp_min(0) + std**2

    @classmethod
    def of(cls, samples: Tensor, labels: Tensor, std: float) -> "Classes":
        """The Gaussians of labelled samples, each as probable as its class.

        Args:
            samples: (N, ...).
            labels: int64 (N,); classes of fewer than two samples are left out.
            std: see the class.

        Raises:
            ValueError: as the class.
        """
        flat = samples.flatten(1).to(_precise(samples.device))
        parts = [flat[labels == label] for label in labels.unique()]
        parts = [part for part in parts if len(part) > 1]
        if not parts:
            raise ValueError("no class has two samples: give more of them, or take points")
        means = torch.stack([part.mean(0) for part in parts])
        sizes = torch.tensor([len(part) for part in parts], dtype=flat.dtype)
        covariances = torch.stack([torch.cov(part.T).reshape(flat.shape[1], -1) for part in parts])
        shape = (len(parts), *samples.shape[1:])
        return cls(means.reshape(shape), covariances, std, sizes / sizes.sum())

    def log_terms(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """See `Mixture.log_terms`."""
        terms = []
        for k, weight in enumerate(self.weights):
            along, variance = self._along(k, x, alpha, sigma)
            squared = (along.square() / variance).sum(1)
            log_normaliser = 0.5 * torch.log(2 * math.pi * variance).sum(1)
            terms.append(weight.log() - 0.5 * squared - log_normaliser)
        return torch.stack(terms, dim=1)

    def pull(self, x: Tensor, alpha: Tensor, sigma: Tensor, share: Tensor) -> Tensor:
        """See `Mixture.pull`."""
        total = torch.zeros_like(x)
        for k in range(len(self.means)):
            rows = share[:, k] > 0  # most components are out of reach and cost nothing
            along, variance = self._along(k, x[rows], alpha[rows], sigma[rows])
            total[rows] -= share[rows, k, None] * (along / variance) @ self.axes[k].T
        return total

    def within(self, x: Tensor) -> Tensor:
        """See `Mixture.within`."""
        x, which = self._nearest(x)
        along = torch.einsum("nd,nde->ne", x - self.means[which], self.axes[which])
        return (along.square() / self.variances[which]).mean(1)

    def offsets(self, z: Tensor, which: Tensor) -> Tensor:
        """See `Mixture.offsets`."""
        x = torch.empty_like(z)
        for k in which.unique():
            rows = which == k
            x[rows] = (z[rows] * self.variances[k].sqrt()) @ self.axes[k].T
        return x

    def _along(self, k: int, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What x lies off α m_k along the axes of component k, and the variances there."""
        along = (x - alpha * self.means[k]) @ self.axes[k]
        return along, alpha**2 * self.variances[k] + sigma**2


class ExactScore:
    """∇ log p_t of a mixture under an SDE: a score like any other, (x, t) → the shape of x.

    Args:
        mixture: the data.
        sde: the forward SDE.
    """

    def __init__(self, mixture: Mixture, sde: SDE) -> None:
        self.mixture, self.sde = mixture, sde

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """∇ log p_t(x), with the shape and dtype of x; t (B,), or one time for the whole batch."""
        flat, alpha, sigma = self._precisely(x, t)
        share = self.mixture.log_terms(flat, alpha, sigma).softmax(1)
        return self.mixture.pull(flat, alpha, sigma, share).to(x.dtype).reshape(x.shape)

    def log_density(self, x: Tensor, t: Tensor | float) -> Tensor:
        """log p_t(x) in nats: (B, ...) → (B,), float64 where the device has it."""
        return self.mixture.log_terms(*self._precisely(x, t)).logsumexp(1)

    def _precisely(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        t = times_for(x, t).to(self.mixture.means)
        flat = x.flatten(1).to(self.mixture.means)
        return flat, self.sde.mean_scale(t)[:, None], self.sde.std(t)[:, None]


def _precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _check_std(std: float) -> None:
    if not 0 < std < math.inf:
        raise ValueError(f"std={std:g}: components need a finite std above 0")
