"""The table of figures: what an evaluation computes of a checkpoint, in this order."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from score_sde.evaluation import likelihood, quality
from score_sde.evaluation.figure import Figure, LeftOut, mean_figure
from score_sde.evaluation.subject import Subject

FigureOf = Callable[[Subject], Figure]
"""A subject → a figure of it. Raises LeftOut where there is none."""


@dataclass(frozen=True)
class EachSample:
    """The mean over all samples of one number of each, computed while they are drawn.

    Samples that an earlier evaluation has drawn without it are drawn again.

    Args:
        of: uint8 images (b, C, H, W), on the device → (b,). A black image shows first of which
            type its numbers are.
    """

    of: Callable[[Tensor], Tensor]

    def __call__(self, subject: Subject) -> Figure:
        """The mean and its standard error over the samples that are finite images."""
        samples = subject.samples
        if not len(values := samples.values[self.of]):
            raise LeftOut("no sample is a finite image: check the weights")
        return mean_figure(values, of="samples", **samples.how)


FIGURES: dict[str, FigureOf] = {
    "held_out_loss": likelihood.held_out_loss,
    "bound": partial(likelihood.bound, split="test"),
    "bits_per_dim": partial(likelihood.bits_per_dim, split="test"),
    "bound_nats": partial(likelihood.bound, split="test", unit="nats"),
    "nats_per_dim": partial(likelihood.nats_per_dim, split="test"),
    "bound_train": partial(likelihood.bound, split="train"),
    "bits_per_dim_train": partial(likelihood.bits_per_dim, split="train"),
    "bound_nats_train": partial(likelihood.bound, split="train", unit="nats"),
    "nats_per_dim_train": partial(likelihood.nats_per_dim, split="train"),
    "fid": quality.frechet,
    "fid_by_class": quality.frechet_by_class,
    "kid": quality.kernel,
    "precision": partial(quality.covered, real=False),
    "recall": partial(quality.covered, real=True),
    "is": quality.class_score,
    "nearest_train": quality.nearest_train,
}
"""From a figure's name in the report to the function that computes it. With another feature
network than Inception's the report has `fd`, `kd` and `score` for `fid`, `kid` and `is`."""


def each_sample() -> dict[str, Callable[[Tensor], Tensor]]:
    """What the table's rows compute of every sample, by the name of the figure."""
    return {name: row.of for name, row in FIGURES.items() if isinstance(row, EachSample)}


def compute(subject: Subject) -> tuple[dict[str, Figure], dict[str, str]]:
    """Every figure of the table, in turn. Every process must call it.

    Returns:
        The figures by name, and why others are left out.

    """
    figures, left_out = dict[str, Figure](), dict[str, str]()
    for name, row in FIGURES.items():
        try:
            figure = row(subject)
        except LeftOut as reason:
            if reason.why:
                left_out[reason.what or name] = reason.why
            continue
        if isinstance(figure, dict) and {"value", "se", "n"} <= figure.keys():
            key = figure.pop("key", name)
            figures[key] = {fact: _plain(value) for fact, value in figure.items()}
        else:  # a user's row, whose mistake must not cost what the others have computed
            left_out[name] = (
                f"FIGURES[{name!r}] gave {figure!r:.60}: a figure is a dict with value, se and n, "
                "as score_sde.evaluation.mean_figure makes it"
            )
    return figures, left_out


def _plain(value: Any) -> Any:
    """What a report can hold: of tensors and arrays their numbers."""
    return value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value
