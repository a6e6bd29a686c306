"""Scores of restoration: how near images come to the truth, and whether they vary as they should.

PSNR and SSIM (Wang et al. 2004) compare one image with the truth. Draws from a posterior are also
held against each other: where the truth is itself a draw from it, as it is for the exact
posterior of the measured images, its rank among k completions is uniform over 0 … k, pixel by
pixel. `coverage` is the share of truths that lie in the middle of their completions: at level ℓ it
is ℓ on average for the right posterior, for every k; less where completions are too much alike or
off, more where they differ too much.

Symbols: B images, k completions of each; (B, C, H, W) in [0, 1].
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.evaluation.figure import Figure, mean_figure

LARGEST_PSNR = 10 * math.log10(12 * 255**2)
"""58.9 dB, of images that are off by no more than their rounding to 256 levels."""


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, -10 log₁₀ of the mean squared error, in dB.

    Args:
        images: (B, C, H, W) in [0, 1].
        truth: of the same shape.

    Returns:
        float64 (B,); inf for images that are equal.

    Raises:
        ValueError: images of integers, or of two shapes.
    """
    _check(images, truth)
    error = (images.double() - truth.double()).square().flatten(1).mean(1)
    return -10 * error.log10()


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), the mean over channels and places of the window.

    The window is a Gaussian of std 1.5 cut at 11 pixels, K₁ = 0.01, K₂ = 0.03, and lies inside of
    the image, as in the paper. Images with a shorter side have the largest window of odd size that
    fits, its std smaller in proportion (`ssim_window`): figures of two windows do not compare.

    Args:
        images: (B, C, H, W) in [0, 1].
        truth: of the same shape.

    Returns:
        float64 (B,), 1 for images that are equal.

    Raises:
        ValueError: images of integers, of two shapes, or of less than three pixels a side.
    """
    # Within, as the package takes seconds to import.
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check(images, truth)
    window = ssim_window(images.shape[-2:])
    _, places = structural_similarity_index_measure(
        images.double(),
        truth.double(),
        sigma=1.5 * window / 11,  # torchmetrics' size of the window follows from it
        data_range=1.0,
        reduction="none",
        return_full_image=True,
    )
    # Windows that reach beyond the image see reflections of it: the paper has none.
    edge = window // 2
    return places[..., edge:-edge, edge:-edge].flatten(1).mean(1)


def ssim_window(size: tuple[int, int] | torch.Size) -> int:
    """How many pixels a side the window of `ssim` has in images of (H, W): 11, or fewer.

    Raises:
        ValueError: less than three pixels a side.
    """
    side = min(size)
    if side < 3:
        raise ValueError(f"images of {tuple(size)} pixels: SSIM needs three a side or more")
    return min(11, side - 1 + side % 2)


def coverage(truth: Tensor, completions: Tensor, level: float) -> Tensor:
    """The share of an image's pixels whose truth lies in the middle of its completions.

    A truth above L of k completions and equal to E of them has the ranks L … L + E, one as good as
    the other, out of 0 … k, and so the part of [0, 1] from L/(k + 1) to (L + E + 1)/(k + 1). It
    counts by the share of that which lies in the middle ℓ of [0, 1]. Where truth and completions
    are k + 1 draws of one law, whatever it is, this is ℓ on average, exactly, for every k and with
    ties (the randomised probability integral transform of Smith 1985, averaged over its random
    number). Pixels where all k + 1 agree, such as those that were measured without noise, say
    nothing and are left out; which they are does not depend on which of the k + 1 is the truth.

    A few completions tell little of a high level: truths outside of all count 0 only where
    ℓ ≤ (k − 1)/(k + 1).

    Args:
        truth: (B, C, H, W), of one rounding with the completions, lest ties be missed.
        completions: (B, k, C, H, W).
        level: ℓ, between 0 and 1.

    Returns:
        float64 (B,); NaN for an image without a pixel that says something.

    Raises:
        ValueError: shapes that do not belong together, or a level outside of (0, 1).
    """
    _check_completions(truth, completions)
    if not 0 < level < 1:
        raise ValueError(f"level={level:g}: a level of coverage lies between 0 and 1")
    k = completions.shape[1]
    below = (completions < truth[:, None]).sum(1)
    equal = (completions == truth[:, None]).sum(1)
    low, high = (k + 1) * (1 - level) / 2, (k + 1) * (1 + level) / 2
    first, last = below.double(), (below + equal + 1).double()
    within = (last.clamp(low, high) - first.clamp(low, high)) / (last - first)
    told = (completions != truth[:, None]).any(1)
    return torch.where(told, within, 0.0).flatten(1).sum(1) / told.flatten(1).sum(1)


def restoration_figures(
    truth: Tensor, completions: Tensor, *, levels: int = 256
) -> dict[str, Figure]:
    """What restored images score, each figure with its standard error over images.

    `psnr` and `ssim` are means over completions, `psnr_of_mean` and `ssim_of_mean` those of the
    mean of an image's completions, which has the larger PSNR wherever they differ: a posterior's
    mean is best by it, its draws are 3 dB worse. `coverage_of_half` is that of the middle half
    of completions, from three of them on; `coverage_of_range` that between the least and the
    greatest, from two on; each has beside it the `nominal` value of the right posterior. An
    image's PSNR counts as 58.9 dB at most, that of rounding to 256 levels.

    Args:
        truth: (n, C, H, W) in [0, 1].
        completions: (n, k, C, H, W) in [0, 1].
        levels: of the true images, to which all are rounded for coverage: where a truth lies among
            completions that are finer than itself is not known.

    Raises:
        ValueError: images of integers, shapes that do not belong together, or images of less than
            three pixels a side.
    """
    _check_completions(truth, completions)
    k, window = completions.shape[1], ssim_window(truth.shape[-2:])

    def bounded_psnr(images: Tensor, truth: Tensor) -> Tensor:
        return psnr(images, truth).clamp_max(LARGEST_PSNR)

    def each(score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return torch.stack([score(one, truth) for one in completions.unbind(1)]).mean(0)

    def figure(values: Tensor, **how: object) -> Figure:
        return mean_figure(values.cpu().numpy(), **how)

    found = {
        "psnr": figure(each(bounded_psnr), unit="dB", completions=k),
        "ssim": figure(each(ssim), window=window, completions=k),
    }
    if k == 1:
        return found
    mean = completions.mean(1)
    found["psnr_of_mean"] = figure(bounded_psnr(mean, truth), unit="dB", completions=k)
    found["ssim_of_mean"] = figure(ssim(mean, truth), window=window, completions=k)
    truth, completions = ((v.clamp(0, 1) * (levels - 1)).round() for v in (truth, completions))
    asked = {"coverage_of_half": 1 / 2, "coverage_of_range": (k - 1) / (k + 1)}
    for name, level in asked.items():
        values = coverage(truth, completions, level)
        values = values[~values.isnan()]
        # Of two completions the middle half cannot be told from what lies outside of both.
        if len(values) and level <= (k - 1) / (k + 1):
            found[name] = figure(values, nominal=level, completions=k)
    return found


def _check(images: Tensor, truth: Tensor) -> None:
    if images.shape != truth.shape or images.ndim != 4:
        raise ValueError(
            f"images of shape {tuple(images.shape)} and truth of {tuple(truth.shape)}: give both "
            "as (B, C, H, W)"
        )
    if not (images.is_floating_point() and truth.is_floating_point()):
        raise ValueError(
            f"images of {images.dtype} and truth of {truth.dtype}: give both in [0, 1], as floats"
        )


def _check_completions(truth: Tensor, completions: Tensor) -> None:
    if completions.ndim != 5 or not completions.shape[1]:
        raise ValueError(
            f"completions of shape {tuple(completions.shape)}: give (B, k, C, H, W), k ≥ 1"
        )
    _check(completions[:, 0], truth)
