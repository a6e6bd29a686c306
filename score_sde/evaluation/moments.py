"""Means and covariances of features that come batch by batch."""

import torch
from torch import Tensor

_BLOCK_ROWS = 4096


class Moments:
    """Mean and covariance of features that come batch by batch, in float64 on the CPU.

    Batches are joined by the pairwise formula of Chan, Golub and LeVeque (1983), so that a large
    mean costs no digits and the order does not matter beyond rounding.

    Args:
        dimensions: D, the length of a feature vector.

    Attributes:
        n: vectors seen.
    """

    def __init__(self, dimensions: int) -> None:
        self.n = 0
        self._mean = torch.zeros(dimensions, dtype=torch.float64)
        self._scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64)

    def update(self, features: Tensor, counts: Tensor | None = None) -> None:
        """Takes in a batch.

        Args:
            features: (B, D) of any float dtype and device.
            counts: int64 (B,), how often each row counts; once each if left out.

        Raises:
            ValueError: unless the features are (B, D) and finite.
        """
        if features.ndim != 2 or features.shape[1] != len(self._mean):
            raise ValueError(
                f"features of shape {tuple(features.shape)} where (B, {len(self._mean)}) is "
                "needed: use one feature network throughout"
            )
        for start in range(0, len(features), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            block = features[rows].detach().to("cpu", torch.float64)
            if not block.isfinite().all():
                raise ValueError(
                    "some features are not finite: look at the images that they were made from"
                )
            weight = torch.ones(len(block)) if counts is None else counts[rows]
            self._join(*_moments_of(block, weight.to("cpu", torch.float64)))

    def _join(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if n == 0:
            return
        total, step = self.n + n, mean - self._mean
        self._mean = self._mean + step * (n / total)
        self._scatter = self._scatter + scatter + torch.outer(step, step) * (self.n * n / total)
        self.n = total

    @property
    def mu(self) -> Tensor:
        """The mean: float64 (D,).

        Raises:
            ValueError: where nothing has been seen.
        """
        self._need(1)
        return self._mean.clone()

    @property
    def sigma(self) -> Tensor:
        """The unbiased covariance (divided by n - 1): float64 (D, D).

        Raises:
            ValueError: below two vectors.
        """
        self._need(2)
        return self._scatter / (self.n - 1)

    def _need(self, least: int) -> None:
        if self.n < least:
            raise ValueError(f"statistics of {self.n} images: at least {least} are needed")


def _moments_of(block: Tensor, weight: Tensor) -> tuple[int, Tensor, Tensor]:
    n = round(weight.sum().item())
    mean = weight @ block / max(n, 1)
    centred = block - mean
    return n, mean, (centred * weight[:, None]).T @ centred
