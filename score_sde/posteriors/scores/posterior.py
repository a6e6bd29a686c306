"""What a posterior score is: one evaluation of a score, and what a measurement makes of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.posteriors.measurements import Measurement
from score_sde.score import denoised_from_score, evaluations_at
from score_sde.sde import SDE, Score
from score_sde.tensor_ops import times_for


@dataclass(frozen=True)
class Evaluation:
    """A score evaluated once, with what a measurement makes of it.

    Attributes:
        x: (B, ...) where; a leaf that gradients lead back to.
        t: (B,) when.
        score: ∇ log p_t(x), as x.
        denoised: x̂ = E[x_0 | x], as x.
        residual: y − A x̂, as y.
    """

    x: Tensor
    t: Tensor
    score: Tensor
    denoised: Tensor
    residual: Tensor

    def pull(self, v: Tensor) -> Tensor:
        """Jᵀ v, with J = ∂x̂/∂x: as x → as x."""
        return torch.autograd.grad(self.denoised, self.x, v, retain_graph=True)[0]


@dataclass(eq=False, repr=False)
class PosteriorScore(ABC):
    """An estimate of ∇ log p_t(x | y): (x, t) → the shape of x, as any score.

    Args:
        score: (x, t) → ∇ log p_t(x), differentiable in x, each sample by itself.
        sde: the forward SDE of the score.
        measurement: what y is of x_0.
        y: (B, ...) the measurements of the samples in their order; (1, ...) one for all.

    A child is a dataclass too, and declares what it is given besides as fields.

    Attributes:
        name: what recipes and messages call it.
        arguments: what it is given besides, by name.

    Raises:
        ValueError: a measurement that it does not run on, or y of another shape; where it is
            called, x of another number of samples than y.
    """

    name: ClassVar[str]
    arguments: ClassVar[Sequence[str]] = ()

    score: Score
    sde: SDE
    measurement: Measurement
    y: Tensor

    def __post_init__(self) -> None:
        measurement, y = self.measurement, self.y
        refusal = self.accepts(measurement)
        if refusal is not None:
            raise ValueError(f"{self.name} does not run on {measurement.name}: {refusal}")
        one = measurement.forward(y.new_zeros(1, *measurement.shape))
        if y.shape[1:] != one.shape[1:]:
            raise ValueError(
                f"measurements of shape {tuple(y.shape)}: {measurement.name} of images of shape "
                f"{measurement.shape} gives {('B', *one.shape[1:])}"
            )
        with torch.inference_mode(False):
            self.y = measurement.measured(y.detach().clone())

    @classmethod
    def accepts(cls, measurement: Measurement) -> str | None:
        """None where it runs on this measurement, else the reason why it does not."""
        return None

    @abstractmethod
    def guidance(self, at: Evaluation) -> Tensor:
        """∇ log p_t(y | x), as x; called where gradients are on."""

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The posterior score at (x, t); gradients are switched on inside, and end here."""
        # Also where a caller has switched gradients off, or is in inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            at = self.evaluate(x, t)
            return (at.score + self.guidance(at)).detach()

    def evaluations_at(self, t: Tensor) -> Tensor | int:
        """How many evaluations a call makes of each sample: those of the score inside."""
        return evaluations_at(self.score, t)

    def residual_of(self, denoised: Tensor) -> Tensor:
        """y − A x̂, in the dtype of x̂ (B, C, H, W) and on its device.

        Raises:
            ValueError: images of another number of samples than y.
        """
        if len(self.y) not in (1, len(denoised)):
            raise ValueError(
                f"{len(denoised)} samples with measurements of {len(self.y)}: give one for each "
                "of them, in their order, or one for all"
            )
        return self.y.to(denoised) - self.measurement.forward(denoised)

    def evaluate(self, x: Tensor, t: Tensor | float) -> Evaluation:
        """One evaluation of the score; to be called where gradients are on.

        Raises:
            ValueError: a score that gradients do not pass through.
        """
        t = times_for(x, t).clone()
        x = x.detach().clone().requires_grad_()
        score = self.score(x, t)
        if not score.requires_grad:
            raise ValueError(
                f"{self.name} differentiates the score, and the one that it was given is computed "
                "without gradients: take away what switches them off, such as torch.no_grad"
            )
        denoised = denoised_from_score(self.sde, x, score, t)
        residual = self.residual_of(denoised.detach())
        return Evaluation(x, t, score, denoised, residual)
