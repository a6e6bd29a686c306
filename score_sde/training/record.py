"""What is recorded of a training step, and what is computed from many records for the log."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class TrainingDiverged(ArithmeticError):  # noqa: N818, named after what happened
    """A loss or a gradient was not finite.

    Attributes:
        what: what happened.
        step: the update, counted from 0, at which it happened.

    Args:
        what: what happened.
        step: at which update.
        advice: what to do.
    """

    def __init__(
        self,
        what: str,
        step: int,
        advice: str = "go on from the last checkpoint with a lower learning rate",
    ) -> None:
        super().__init__(f"{what}: {advice}")
        self.what = what
        self.step = step


@dataclass(frozen=True)
class StepRecord:
    """What is recorded of a step; tensors stay on the device.

    Attributes:
        step: the update, counted from 0.
        loss: mean loss of the batch, a scalar.
        losses: (B,) loss of each sample.
        t: (B,) their times in [0, T], 0 without noise, whatever the objective counts them in.
        grad_norm: total norm of the gradient before clipping, a scalar.
        lr: learning rate of the update.
    """

    step: int
    loss: Tensor
    losses: Tensor
    t: Tensor
    grad_norm: Tensor
    lr: float

    @property
    def finite(self) -> Tensor:
        """Whether loss and gradient are finite: a boolean scalar."""
        return self.loss.isfinite() & self.grad_norm.isfinite()


def check_finite(records: Sequence[StepRecord]) -> None:
    """Stops training that diverged; to be called on the logging schedule and before each save.

    Updates from gradients that are not finite were left out when they came up (`TrainStep`), so
    weights, average and optimiser hold only good ones.

    Args:
        records: of all steps since the last call. Reading them waits for the device, once.

    Raises:
        TrainingDiverged: the first loss or gradient that was not finite, with its step, noise
            levels and gradient norm.
    """
    if not records:
        return
    finite = torch.stack([record.finite for record in records]).tolist()
    if all(finite):
        return
    record = records[finite.index(False)]
    bad = record.t[~record.losses.isfinite()].tolist()
    levels = ", ".join(f"{t:.3g}" for t in sorted(bad)[:8]) + (" …" if len(bad) > 8 else "")
    where = f"{len(bad)} of {len(record.losses)} samples, at t = {levels}" if bad else "no sample"
    raise TrainingDiverged(
        f"training diverged in step {record.step}: the loss is {record.loss.item():.4g} "
        f"(not finite for {where}) and the norm of its gradient {record.grad_norm.item():.4g}; "
        "this update was left out",
        record.step,
    )


def loss_by_level(t: Tensor, losses: Tensor, parts: Tensor) -> dict[int, float]:
    """Mean loss by noise level, for the log.

    Args:
        t: (n,) times, of any number of steps.
        losses: (n,) their losses.
        parts: (k + 1,) times that rise, between which losses are averaged.

    Returns:
        Mean loss by number of the part, 0 … k − 1, without those that have no sample.
    """
    k = len(parts) - 1
    part = torch.bucketize(t, parts[1:-1].to(t), right=True)
    total = torch.zeros(k, device=t.device).index_add_(0, part, losses.float())
    count = torch.zeros_like(total).index_add_(0, part, torch.ones_like(total[part]))
    means = (total / count.clamp_min(1)).tolist()
    return {k: means[k] for k, present in enumerate((count > 0).tolist()) if present}
