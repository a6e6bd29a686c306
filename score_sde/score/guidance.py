"""Guidance: a score that is led by another one, or by a classifier, and is a score itself.

With s_c the score of what is wanted (of a class c), s_u the guide's, and p(c | x_t) the
probability of the class of a noisy image,

    s = s_u + w (s_c − s_u) + v ∇ log p(c | x_t).

w > 1 is classifier-free guidance (Ho & Salimans 2022, with 1 + w for this w) where the guide is
the score of no class, and autoguidance (Karras et al. 2024, "Guiding a Diffusion Model with a Bad
Version of Itself") where it is that of a smaller or less trained network, given the same class.
w = 1, v = 0 is s_c and w = 0 is s_u. The unconditional score with v = 1 is s_c once more, by
Bayes' rule, and v > 1 is classifier guidance (Song et al. 2021, appendix I; Dhariwal & Nichol
2021). Both are wrappers around scores, so that one may stand around the other, and predictor,
corrector and every solver are led alike.

Symbols as in `sde`: x (B, ...), t (B,), or one number for the whole batch.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from score_sde.sde import SDE, Score
from score_sde.tensor_ops import expand_to, times_for

Classifier = Callable[[Tensor, Tensor], Tensor]
"""(x, t) → logits of K classes of x_t = x, (B, K): of each sample by itself, up to a constant."""

EVERYWHERE = (0.0, math.inf)


def evaluations_at(score: Score, t: Tensor) -> Tensor | int:
    """How many evaluations one call of a score makes of each sample at its time.

    A score that is made of others says so by a method of this name; one that has none counts as
    one.

    Args:
        score: any.
        t: (B,), on any device.

    Returns:
        int64 (B,), or one number for all.
    """
    says = getattr(score, "evaluations_at", None)
    return 1 if says is None else says(t)


class GuidedScore:
    """s_u + w (s_c − s_u): a score led away from another one, the guide (see the module).

    What is not needed is not evaluated: the guide where w = 1, the score itself where w = 0. Where
    samples of a batch lie on both sides of the interval both see the whole batch, since what a
    network gives for a sample may depend, in rounding, on the size of its batch.

    Args:
        score: s_c.
        guide: s_u: of no class, or of a weaker network.
        sde: of both.
        scale: w.
        interval: noise levels σ/α (above the first, at most the second) at which the guide leads;
            at others w = 1 (Kynkäänniemi et al. 2024).

    Raises:
        ValueError: a scale that is not finite, or an interval that is none.
    """

    def __init__(
        self,
        score: Score,
        guide: Score,
        sde: SDE,
        scale: float = 1.0,
        interval: tuple[float, float] = EVERYWHERE,
    ) -> None:
        if not math.isfinite(scale):
            raise ValueError(f"scale={scale}: give a finite number, such as 2")
        low, high = interval
        if not 0 <= low < high:
            raise ValueError(
                f"interval={interval}: give two noise levels from 0 up, the lower one first"
            )
        self.score, self.guide, self.sde = score, guide, sde
        self.scale, self.interval = scale, interval

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The guided score, with the shape of x."""
        t = times_for(x, t)
        if self.scale == 1:
            return self.score(x, t)
        led = self._led(t)
        how_many = len(t) if led is None else int(led.sum())
        if not how_many:
            return self.score(x, t)
        if self.scale == 0 and how_many == len(t):
            return self.guide(x, t)
        own, other = self.score(x, t), self.guide(x, t)
        value = other if self.scale == 0 else other + self.scale * (own - other)
        return value if led is None else torch.where(expand_to(led, x), value, own)

    def evaluations_at(self, t: Tensor) -> Tensor | int:
        """How many evaluations a call makes of each sample, see `evaluations_at`."""
        own = evaluations_at(self.score, t)
        if self.scale == 1:
            return own
        both = evaluations_at(self.guide, t) + (own if self.scale else 0)
        led = self._led(t)
        return both if led is None else own + led * (both - own)

    def _led(self, t: Tensor) -> Tensor | None:
        """Which samples the guide leads, (B,); None for all, whatever their times."""
        if self.interval == EVERYWHERE:
            return None
        level, (low, high) = self.sde.noise_level(t), self.interval
        return (low < level) & (level <= high)


class ClassifierGuidedScore:
    """s + v ∇ log p(c | x_t): a score led by a classifier of noisy images.

    The classifier has to know the SDE's own α and σ. Its gradient is taken whatever the caller
    allows, under `no_grad` and `inference_mode` as well, and can be differentiated once more where
    the caller differentiates by x. It counts as one evaluation.

    Args:
        score: s.
        classifier: (x, t) → logits (B, K).
        label: int64 (B,), the class c of each sample.
        scale: v.

    Raises:
        ValueError: a scale that is not finite.
    """

    def __init__(
        self, score: Score, classifier: Classifier, label: Tensor, scale: float = 1.0
    ) -> None:
        if not math.isfinite(scale):
            raise ValueError(f"scale={scale}: give a finite number, such as 1")
        self.score, self.classifier, self.label, self.scale = score, classifier, label, scale

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The guided score, with the shape of x; `score` itself where v = 0.

        Raises:
            ValueError: as many labels as samples are needed.
        """
        t = times_for(x, t)
        value = self.score(x, t)
        return value if self.scale == 0 else value + self.scale * self.gradient(x, t)

    def gradient(self, x: Tensor, t: Tensor | float) -> Tensor:
        """∇ log p(c | x_t = x), with the shape of x; raises as a call does."""
        if self.label.shape != x.shape[:1]:
            raise ValueError(
                f"labels of shape {tuple(self.label.shape)} for {len(x)} samples: give one each"
            )
        differentiated = torch.is_grad_enabled() and x.requires_grad
        # Tensors of inference mode know no gradients, but their copies do.
        with torch.inference_mode(False), torch.enable_grad():
            x, t, label = (_usable(v) for v in (x, times_for(x, t), self.label))
            at = x if differentiated else x.detach().requires_grad_()
            chosen = self.classifier(at, t).log_softmax(1).gather(1, label[:, None])
            (gradient,) = torch.autograd.grad(chosen.sum(), at, create_graph=differentiated)
        return gradient

    def evaluations_at(self, t: Tensor) -> Tensor | int:
        """How many evaluations a call makes of each sample, see `evaluations_at`."""
        return evaluations_at(self.score, t) + (self.scale != 0)


def _usable(v: Tensor) -> Tensor:
    return v.clone() if v.is_inference() else v
