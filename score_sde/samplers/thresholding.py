"""Thresholding: denoised images kept to the range of the data (Saharia et al. 2022, section 2.3).

Where a step is long, the denoised image that a network gives can lie far outside of the range that
images have, and saturate what follows. It is clipped at each evaluation, and the score is that of
the clipped image, so that it serves every solver and SDE.
"""

from typing import Literal

import torch
from torch import Tensor

from score_sde.score import denoised_from_score, evaluations_at
from score_sde.sde import SDE, Score
from score_sde.tensor_ops import check_name, expand_to, times_for

QUANTILE = 0.995
"""Of a dynamic threshold: that share of an image's values is left as it is."""


def static(unit: Tensor) -> Tensor:
    """Clips values to [−1, 1]."""
    return unit.clamp(-1, 1)


def dynamic(unit: Tensor) -> Tensor:
    """Clips each sample at its own quantile s of |values|, and divides by it, where s > 1.

    Args:
        unit: (B, ...) in units of half the data's range, around its middle.

    Returns:
        The same shape, within [−1, 1].
    """
    size = unit.flatten(1).abs()
    # The quantile by linear interpolation between the two values around it; `torch.quantile`
    # takes no large images.
    place = QUANTILE * (size.shape[1] - 1)
    largest = size.topk(size.shape[1] - int(place), dim=1).values
    upper, lower = largest[:, -min(2, largest.shape[1])], largest[:, -1]
    s = torch.lerp(lower, upper, place - int(place)).clamp_min(1)
    s = expand_to(s, unit)
    return unit.clamp(-s, s) / s


_KINDS = {"static": static, "dynamic": dynamic}


class ThresholdedScore:
    """A score whose denoised images are thresholded.

    Args:
        score: (x, t) → ∇ log p_t(x).
        sde: of the score.
        kind: "static" or "dynamic".
        centered: the data lie in [−1, 1], otherwise in [0, 1].

    Raises:
        ValueError: another kind.
    """

    def __init__(
        self, score: Score, sde: SDE, kind: Literal["static", "dynamic"], centered: bool
    ) -> None:
        check_name(kind, _KINDS, "threshold")
        self.score, self.sde, self.threshold = score, sde, _KINDS[kind]
        self.centre, self.half = (0.0, 1.0) if centered else (0.5, 0.5)

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The score (B, ...) at x (B, ...) and t (B,); as it was where nothing is clipped."""
        t = times_for(x, t)
        value = self.score(x, t)
        unit = (denoised_from_score(self.sde, x, value, t) - self.centre) / self.half
        moved = self.half * (self.threshold(unit) - unit)
        per_denoised = self.sde.mean_scale(t) / self.sde.std(t) ** 2
        return value + expand_to(per_denoised, x) * moved

    def evaluations_at(self, t: Tensor) -> Tensor | int:
        """Those of the score, see `score.evaluations_at`."""
        return evaluations_at(self.score, t)
