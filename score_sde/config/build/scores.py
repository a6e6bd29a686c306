"""Config → the scores that samples are drawn with: of which class, led how, kept to the range."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from score_sde.config.build.given import Given
from score_sde.config.build.objects import (
    Config,
    build_parameterisation,
    field,
    label_dropout,
    num_classes,
    upsampling_factor,
)
from score_sde.networks.low_resolution import NEEDED
from score_sde.samplers.thresholding import ThresholdedScore
from score_sde.score import GuidedScore, Network, NetworkScore, ScoreFor
from score_sde.score.guidance import EVERYWHERE
from score_sde.sde import SDE, Score

Labels = Callable[[Tensor], Tensor]
"""int64 (b,) sample indices → their classes, int64 (b,)."""


def check_guidance(config: Config) -> None:
    """Refuses classes and guidance that the config's network does not know.

    Raises:
        ValueError: a class that is none of the network's, or guidance without the score of no
            class.
    """
    classes, label = num_classes(config), field(config, "sampling.label")
    scale = field(config, "sampling.guidance")
    if label >= classes:
        remedy = "no classes: set -1"
        if classes:
            remedy = f"the classes 0 to {classes - 1}: give one of them, or -1 for each in turn"
        raise ValueError(f"config.sampling.label={label}: this network knows {remedy}")
    if scale != 1 and not classes:
        raise ValueError(
            f"config.sampling.guidance={scale:g}: this network has no classes to be led to; set "
            "1, or train one with config.model.num_classes and config.model.label_dropout above 0"
        )
    if scale != 1 and not label_dropout(config):
        raise ValueError(
            f"config.sampling.guidance={scale:g}: this network has not learnt the score of no "
            "class, as config.model.label_dropout was 0 in its training; set 1, or train one with "
            "--config.model.label_dropout=0.1"
        )


def sample_labels(config: Config) -> Labels | None:
    """The classes that samples are drawn of, by their indices; None for a network without."""
    classes, label = num_classes(config), field(config, "sampling.label")
    if not classes:
        return None
    return (lambda index: index % classes) if label < 0 else lambda i: torch.full_like(i, label)


def build_score_for(
    config: Config,
    network: Network,
    sde: SDE,
    labels: Labels | None = None,
    given: Given | None = None,
) -> ScoreFor:
    """A callable: sample indices → the score for these samples, so that labels follow them.

    Args:
        config: of the network.
        network: with its weights in place.
        sde: that it was trained for.
        labels: int64 (b,) sample indices → their classes; not asked where the network has none.
        given: what a network that upsamples draws them from.

    Raises:
        ValueError: such a network, and nothing that is given.
    """
    labelled, read = num_classes(config) > 0, build_parameterisation(config, sde)
    if upsampling_factor(config) and given is None:
        raise ValueError(NEEDED)

    def score_for(index: Tensor) -> Score:
        label = labels(index).to(index.device) if labelled and labels else None
        inputs = {} if given is None else given(index)
        return NetworkScore(network, sde, True, label, parameterisation=read, **inputs)

    return score_for


def guided(
    config: Config,
    network: Network,
    sde: SDE,
    labels: Labels | None = None,
    given: Given | None = None,
) -> ScoreFor:
    """The scores that samples are drawn with: of their classes, led by `sampling.guidance`.

    Args:
        config: of the network.
        network: with its weights in place.
        sde: that it was trained for.
        labels: classes of samples that have some of their own, where `sampling.label` is -1.
        given: what a network that upsamples draws them from.

    Raises:
        ValueError: as `check_guidance` and `build_score_for`.
    """
    check_guidance(config)
    if labels is None and given is not None and given.labels is not None:
        labels = given.label_of
    if labels is None or field(config, "sampling.label") >= 0:
        labels = sample_labels(config)
    of_class = build_score_for(config, network, sde, labels, given)
    scale, null = field(config, "sampling.guidance"), num_classes(config)
    if scale == 1:
        return of_class
    none = partial(torch.full_like, fill_value=null)
    of_none = build_score_for(config, network, sde, none, given)
    interval = tuple(field(config, "sampling.guidance_interval")) or EVERYWHERE
    return lambda index: GuidedScore(of_class(index), of_none(index), sde, scale, interval)


def thresholded(config: Config, sde: SDE, score_for: ScoreFor) -> ScoreFor:
    """The scores that samples are drawn with: their denoised images as `sampling.threshold` says.

    Args:
        config: of the network.
        sde: that it was trained for.
        score_for: as `build_score_for` gives it, for whatever else a score is asked for.
    """
    kind = field(config, "sampling.threshold")
    if kind == "none":
        return score_for
    centered = config.data.centered
    return lambda index: ThresholdedScore(score_for(index), sde, kind, centered)
