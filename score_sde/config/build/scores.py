"""Config → the scores that samples are drawn with: of which class, led how, kept to the range."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from score_sde import noise
from score_sde.config.build.compiling import compiled_evaluation
from score_sde.config.build.given import NEEDED, Given
from score_sde.config.build.guides import (
    Guide,
    check_chain,
    check_fits,
    classifier_of,
    guide_of,
)
from score_sde.config.build.objects import (
    Config,
    build_parameterisation,
    field,
    image_shape,
    label_dropout,
    num_classes,
    upsampling_factor,
)
from score_sde.samplers.thresholding import ThresholdedScore
from score_sde.score import (
    ClassifierGuidedScore,
    GuidedScore,
    Network,
    NetworkScore,
    NoisyClassifier,
    ScoreFor,
)
from score_sde.score.guidance import EVERYWHERE
from score_sde.score.tiling import TiledScore, Tiling
from score_sde.sde import SDE, Score

Labels = Callable[[Tensor], Tensor]
"""int64 (b,) sample indices → their classes, int64 (b,)."""


def drawn_classes(config: Config) -> int:
    """Classes that samples are drawn of: the network's, or those of the classifier that leads it.

    0 for an unconditional network that no classifier leads.
    """
    classifier = None if num_classes(config) else classifier_of(config)
    return classifier.classes if classifier else num_classes(config)


def check_guidance(config: Config) -> None:
    """Refuses classes and guidance that the config's network does not know.

    Raises:
        OSError: no such file of a classifier or guide.
        ValueError: a class that is none of the network's or classifier's, guidance without the
            score of no class or a guide, or a guide without guidance.
    """
    classes, label = drawn_classes(config), field(config, "sampling.label")
    scale = field(config, "sampling.guidance")
    classifier, guide = classifier_of(config), guide_of(config)
    if label >= classes:
        remedy = "no classes: set -1, or lead it by a classifier (--classifier FILE)"
        if classes:
            last = classes - 1
            remedy = f"the classes 0 to {last}: give one of them, or -1 (--label all) for each"
        raise ValueError(f"config.sampling.label={label}: this network knows {remedy}")
    if classifier and classifier.classes != classes:
        raise ValueError(
            f"--classifier {classifier.path} tells {classifier.classes} classes apart, and the "
            f"network knows {classes}: name one that was trained on the same images"
        )
    if guide:
        _check_guide(guide, classes, scale)
    elif scale != 1:
        _check_null_class(config, scale)


def _check_guide(guide: Guide, classes: int, scale: float) -> None:
    if scale == 1:
        raise ValueError(
            f"--guide {guide.path} has no say at sampling.guidance=1: give --guidance 2, or "
            "another scale than 1, or leave --guide out"
        )
    if guide.classes not in (0, classes):
        raise ValueError(
            f"--guide {guide.path} takes {guide.classes} classes, and the network that it is to "
            f"lead {classes or 'none'}: name one of the same classes"
        )


def _check_null_class(config: Config, scale: float) -> None:
    if not num_classes(config):
        raise ValueError(
            f"config.sampling.guidance={scale:g}: this network has no classes to be led to; set "
            "1, train one with config.model.num_classes and config.model.label_dropout above 0, "
            "or name a weaker network to lead it (--guide FILE)"
        )
    if not label_dropout(config):
        raise ValueError(
            f"config.sampling.guidance={scale:g}: this network has not learnt the score of no "
            "class, as config.model.label_dropout was 0 in its training; set 1, train one with "
            "--config.model.label_dropout=0.1, or name a weaker network to lead it (--guide FILE)"
        )


def check_guides(config: Config, sde: SDE) -> None:
    """Refuses a classifier or a guide that does not fit the network's images or SDE.

    Raises:
        OSError, ValueError: as `check_guidance`, `check_fits` and `check_chain`.
    """
    check_guidance(config)
    if classifier := classifier_of(config):
        check_fits(classifier, config, sde, "--classifier")
    if guide := guide_of(config):
        check_fits(guide, config, sde, "--guide")
        check_chain(guide, config, sde, "--guide")


def sample_labels(config: Config) -> Labels | None:
    """The classes that samples are drawn of, by their indices; None where there are none."""
    classes, label = drawn_classes(config), field(config, "sampling.label")
    if not classes:
        return None
    return (lambda index: index % classes) if label < 0 else lambda i: torch.full_like(i, label)


def label_of(labels: Tensor | None, each: int = 1) -> Labels | None:
    """The classes of samples, `each` of which in turn are of one of these, int64 (n,); or None."""
    return None if labels is None else lambda index: labels[index.cpu() // each]


def proportional_labels(counts: Tensor, seed: int) -> Labels:
    """Classes as frequent as in a data set, by sample indices: a function of (seed, index).

    Args:
        counts: int64 (K,) images of each class, one of them above 0.
        seed: of the draws.
    """
    ends = counts.cumsum(0)

    def labels(index: Tensor) -> Tensor:
        index, stream = index.cpu(), noise.Stream.CLASS
        u = noise.uniform(seed, index, 0, (1,), stream=stream, dtype=torch.float64)[:, 0]
        return torch.searchsorted(ends, (u * ends[-1]).long(), right=True)

    return labels


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
    net = compiled_evaluation(config, network)

    def score_for(index: Tensor) -> Score:
        label = labels(index).to(index.device) if labelled and labels else None
        inputs = {} if given is None else given(index)
        return NetworkScore(net, sde, True, label, parameterisation=read, **inputs)

    return score_for


def guided(
    config: Config,
    network: Network,
    sde: SDE,
    labels: Labels | None = None,
    given: Given | None = None,
) -> ScoreFor:
    """The scores that samples are drawn with: of their classes, led as the group `sampling` says.

    s_u + w (s_c − s_u) + v ∇ log p(c | x_t), with w of `guidance`, away from the score of no class
    or from that of `guide`, and v of `classifier_scale`, by the gradient of `classifier`.

    Args:
        config: of the network.
        network: with its weights in place.
        sde: that it was trained for.
        labels: classes of samples that have some of their own, where `sampling.label` is -1.
        given: what a network that upsamples draws them from.

    Raises:
        OSError, ValueError: as `check_guides` and `build_score_for`.
    """
    check_guides(config, sde)
    if labels is None and given is not None and given.labels is not None:
        labels = given.label_of
    if labels is None or field(config, "sampling.label") >= 0:
        labels = sample_labels(config)
    led = _led(config, network, sde, labels, given)
    classifier, scale = classifier_of(config), field(config, "sampling.classifier_scale")
    if classifier is None or labels is None:
        return led
    logits, of = NoisyClassifier(classifier.network(), sde), labels
    return lambda index: ClassifierGuidedScore(
        led(index), logits, of(index).to(index.device), scale
    )


def _led(
    config: Config, network: Network, sde: SDE, labels: Labels | None, given: Given | None
) -> ScoreFor:
    """The scores of the network, led by `sampling.guidance`."""
    of_class = build_score_for(config, network, sde, labels, given)
    scale, null, guide = field(config, "sampling.guidance"), num_classes(config), guide_of(config)
    if scale == 1:
        return of_class
    if guide:
        smaller = given if upsampling_factor(guide.config) else None
        other = build_score_for(guide.config, guide.network(), sde, labels, smaller)
    else:
        none = partial(torch.full_like, fill_value=null)
        other = build_score_for(config, network, sde, none, given)
    interval = tuple(field(config, "sampling.guidance_interval")) or EVERYWHERE
    return lambda index: GuidedScore(of_class(index), other(index), sde, scale, interval)


def tiled(config: Config, score_for: ScoreFor, shape: Sequence[int]) -> ScoreFor:
    """The scores of images that may be larger than the network's: blended of tiles of its size.

    Args:
        config: of the network.
        score_for: of images of the network's size, guided where they are.
        shape: (C, H, W) of the images to draw; where they have the network's size nothing changes.

    Raises:
        ValueError: images smaller than the network's.
    """
    size, tile = tuple(shape[1:]), image_shape(config)[1:]
    if size == tile:
        return score_for
    tiling = Tiling(size, tile, field(config, "sampling.tile_overlap"))
    return lambda index: TiledScore(score_for, index, tiling, config.sampling.batch_size)


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
