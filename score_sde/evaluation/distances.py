"""Distances between two sets of features, and a score of one, all in float64.

`real` always stands before `fake`. The Fréchet distance has a file of its own.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_BLOCK_ROWS = 2048


@dataclass(frozen=True)
class MeanStd:
    """A mean over parts and their (population) standard deviation."""

    mean: float
    std: float


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance over random subsets.

    Attributes:
        mean: mean over the subsets; unbiased, so a good model's may fall below 0.
        std: standard deviation over the subsets, as published with KID. It is the spread of one
            subset's estimate, not the error of the mean.
        error: standard error of the mean, from that spread. Subsets without repetition overlap;
            of m among n, their variance times m/(n − m) is that of the whole (the delete-d
            jackknife, Shao & Wu 1989), with n the smaller of both sets, and a share of it comes
            from the number of subsets. NaN where m is n.
    """

    mean: float
    std: float
    error: float


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision: share of fake images that look real. Recall: share of real ones covered."""

    precision: float
    recall: float


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> KernelDistance:
    """Kernel distance over random subsets; KID on Inception features (Bińkowski et al. 2018).

    The unbiased squared MMD with k(x, y) = (xᵀy / D + 1)³. Subsets, their order and the default
    numbers are torch-fidelity's with the generated images as its first input.

    Args:
        real: (N, D).
        fake: (M, D).
        subsets: number of subsets.
        subset_size: images of either set in each, drawn without repetition.
        seed: of the subsets.

    Raises:
        ValueError: where the features do not fit, or there are fewer than a subset needs.
    """
    real, fake = _pair(real, fake)
    least = min(len(real), len(fake))
    if subsets < 1 or not 2 <= subset_size <= least:
        raise ValueError(
            f"{subsets} subsets of {subset_size} images from {len(real)} real and {len(fake)} "
            f"generated ones: give at least one subset of 2 to {least} images, or more images"
        )
    draw = np.random.RandomState(seed)
    values = np.empty(subsets)
    for i in range(subsets):
        of_fake, of_real = (
            torch.from_numpy(draw.choice(len(x), subset_size, replace=False)).to(x.device)
            for x in (fake, real)
        )
        values[i] = _unbiased_mmd2(real[of_real], fake[of_fake])
    mean, std, left = float(values.mean()), float(values.std()), least - subset_size
    error = std * math.sqrt(subset_size / left + 1 / subsets) if left else math.nan
    return KernelDistance(mean, std, error)


def _unbiased_mmd2(x: Tensor, y: Tensor) -> float:
    """Bińkowski et al. 2018, eq. 4, with sets of any two sizes."""
    within = sum(
        (_kernel_sum(z, z) - _kernel(z.square().sum(1), z.shape[1]).sum().item())
        / (len(z) * (len(z) - 1))
        for z in (x, y)
    )
    return within - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def _kernel(product: Tensor, dimensions: int) -> Tensor:
    base = product / dimensions + 1
    return base * base * base


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    return sum(
        _kernel(rows @ columns.T, x.shape[1]).sum().item()
        for rows in x.split(_BLOCK_ROWS)
        for columns in y.split(_BLOCK_ROWS)
    )


def inception_score(logits: Tensor, *, splits: int = 10, seed: int | None = 2020) -> MeanStd:
    """Inception score (Salimans et al. 2016): exp of the mean KL from p(y|x) to p(y), per split.

    Args:
        logits: (N, K); logarithms of probabilities will do.
        splits: number of parts. Parts of few images score low; papers use 10 of 5,000.
        seed: images are shuffled before they are split, as torch-fidelity does with 2020; None
            keeps their order.

    Raises:
        ValueError: where logits are not (N, K), or there are fewer images than splits.
    """
    if logits.ndim != 2 or not 1 <= splits <= len(logits):
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} in {splits} splits: give (N, K) and at most "
            "N splits"
        )
    logits = logits.detach().to("cpu", torch.float64)
    n = len(logits)
    if seed is not None:
        logits = logits[torch.from_numpy(np.random.RandomState(seed).permutation(n))]
    log_p = logits.log_softmax(1)
    scores = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        # The logarithm of the mean of p: sums of exponentials keep it finite where p underflows.
        log_mean = part.logsumexp(0) - math.log(len(part))
        # p log p is 0 where p is: −∞ times 0 would spoil the sum.
        kl = torch.where(part > -torch.inf, part.exp() * (part - log_mean), 0.0).sum(1)
        scores.append(kl.mean().exp().item())
    return MeanStd(float(np.mean(scores)), float(np.std(scores)))


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eqs. 1 and 2).

    A set covers the balls around its members that reach to their k-th nearest neighbour (not
    counting themselves). Precision is the share of `fake` within the cover of `real`, recall the
    share of `real` within the cover of `fake`. Memory is flat.

    Args:
        real: (N, D).
        fake: (M, D).
        k: which neighbour; the paper takes 3.

    Raises:
        ValueError: where the features do not fit, or a set has no more than k members.
    """
    real, fake = _pair(real, fake)
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"neighbour {k} of {len(real)} real and {len(fake)} generated images: k must be at "
            "least 1 and below both numbers"
        )
    centre = real.mean(0)  # distances do not change, and products keep more digits
    real, fake = real - centre, fake - centre
    return PrecisionRecall(
        _covered(fake, by=real, k=k),
        _covered(real, by=fake, k=k),
    )


def _covered(x: Tensor, *, by: Tensor, k: int) -> float:
    """Share of x inside the balls around the rows of `by`."""
    # Squared distances that are equal, those of copies above all, come out within this.
    slack = 1e-12 * max(z.square().sum(1).max().item() for z in (x, by))
    radii = torch.cat(
        [_squared_distances(rows, by).kthvalue(k + 1).values for rows in by.split(_BLOCK_ROWS)]
    )
    inside = sum(
        (_squared_distances(rows, by) <= radii + slack).any(1).sum().item()
        for rows in x.split(_BLOCK_ROWS)
    )
    return inside / len(x)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.T, alpha=-2)


def _pair(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of features in float64, on the device they lie on if it has float64."""
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"features of shapes {tuple(real.shape)} and {tuple(fake.shape)} do not fit: give "
            "(N, D) and (M, D) of one feature network"
        )
    device = "cpu" if real.device.type == "mps" else real.device
    return real.detach().to(device, torch.float64), fake.detach().to(device, torch.float64)
