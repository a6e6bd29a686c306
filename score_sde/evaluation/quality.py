"""Sample quality: how far the samples of a checkpoint are from a data set."""

from typing import Any

import torch
from torch import Tensor

from score_sde.evaluation.distances import inception_score, kernel_distance, precision_recall
from score_sde.evaluation.features import FeatureNetwork, metric_name, spread_levels
from score_sde.evaluation.figure import Figure, LeftOut, mean_figure
from score_sde.evaluation.frechet import bootstrap
from score_sde.evaluation.statistics import Reference
from score_sde.evaluation.subject import SampleSet, Subject

KID_SUBSET = 1000
NEAREST_ROWS = 1000
NEIGHBOUR = 3
"""Whose distance is the radius of an image's surroundings, for precision and recall."""
PAIRS = 8
"""Samples that are shown above their nearest training images."""
RESAMPLES = 20
"""Of the bootstrap; a quarter of them for Inception, of which each takes half a minute."""

_BY_FEATURES = "kernel distance, precision, recall"


def frechet(subject: Subject, inception: bool) -> Figure:
    """Fréchet distance of features to the reference; FID with Inception's."""
    network = _network(subject, inception)
    samples, reference = _compared(subject)
    spread = bootstrap(
        samples.features,
        reference.mu,
        reference.sigma,
        resamples=RESAMPLES if network.dimensions < 1000 else RESAMPLES // 4,
        seed=subject.seed,
    )
    return {
        "value": spread.value,
        "se": spread.std,  # of the samples alone: the reference stays as it is
        "n": len(samples.features),
        "bias": spread.bias,
        "resamples": spread.resamples,
        "name": metric_name("frechet", network),
        **_how(subject, samples, reference),
    }


def kernel(subject: Subject, inception: bool) -> Figure:
    """Kernel distance of features to the reference; KID with Inception's."""
    network = _network(subject, inception)
    samples, reference, real = _with_features(subject)
    subset = min(KID_SUBSET, len(real) // 2, len(samples.features) // 2)
    distance = kernel_distance(real, samples.features, subset_size=subset)
    return {
        "value": distance.mean,
        "se": distance.error,
        "n": len(samples.features),
        "subset_std": distance.std,  # which is what is published with KID
        "name": metric_name("kernel", network),
        "subset_size": subset,
        **_how(subject, samples, reference),
    }


def covered(subject: Subject, real: bool) -> Figure:
    """Recall: share of real images within the surroundings of samples. Precision: the reverse."""
    samples, reference, features = _with_features(subject)
    shares = subject.once(
        "covered", lambda: precision_recall(features, samples.features, k=NEIGHBOUR)
    )
    share = shares.recall if real else shares.precision
    n = len(features) if real else len(samples.features)
    of = {"of": "real images"} if real else {}
    se = _share_error(share, n)
    return {"value": share, "se": se, "n": n, **of, **_how(subject, samples, reference)}


def _share_error(share: float, n: int) -> float:
    """Standard error of a share of n images (Agresti & Coull 1998): of 0 and 1 too it is not 0."""
    share = (share * n + 2) / (n + 4)
    return (share * (1 - share) / (n + 4)) ** 0.5


def class_score(subject: Subject, inception: bool) -> Figure:
    """Inception score, or that of another network that knows classes."""
    network = _network(subject, inception)
    samples, reference = _compared(subject)
    if samples.logits is None:
        raise LeftOut
    parts = min(10, len(samples.logits) // 10)  # as in the literature; the error needs two
    if not parts:
        raise LeftOut("it needs at least ten samples", "score")
    score = inception_score(samples.logits, splits=parts)
    return {
        "value": score.mean,
        "se": score.std / (parts - 1) ** 0.5 if parts > 1 else None,
        "n": len(samples.logits),
        "name": metric_name("score", network),
        **_how(subject, samples, reference),
    }


def nearest_train(subject: Subject) -> Figure:
    """How near samples are to training images, beside how near other real images are.

    A network that has memorised draws samples much nearer than those: `value` is the mean distance
    of samples to the nearest training image, `of_test` that of test images.
    """
    distances, _, train, test = _nearest_of(subject)
    network = subject.references.network
    of_test, _ = subject.once("nearest of test", lambda: _nearest(test, train))
    figure = mean_figure(
        distances.double().numpy(),
        split="train",
        against=len(train),
        name=f"nearest-{network.label or network.name}",
    )
    return {**figure, "of_test": mean_figure(of_test.double().numpy(), split="test")}


def shown(subject: Subject) -> dict[str, tuple[Tensor, int | None]]:
    """Images for the picture of a report: by title, uint8 (n, C, H, W) and how many in a row.

    Empty where samples were not measured.
    """
    try:
        images = subject.samples.images
    except LeftOut:
        return {}
    rows = dict[str, tuple[Tensor, int | None]]()
    if len(images):
        rows[f"the first {len(images)} samples"] = images, None
    try:
        _, nearest, _, _ = _nearest_of(subject)
    except LeftOut:
        return rows
    few, source = min(PAIRS, len(images)), subject.sources["train"]
    near = spread_levels(source.images(nearest[:few]).cpu(), source.info.levels)
    rows["samples, and the training images nearest to them"] = torch.cat([images[:few], near]), few
    return rows


def _network(subject: Subject, inception: bool) -> FeatureNetwork:
    """The feature network, for figures that have one name with Inception and another without."""
    if not subject.options["enable_sampling"]:
        raise LeftOut
    network = subject.references.network
    if inception == bool(network.label):
        raise LeftOut
    return network


def _compared(subject: Subject) -> tuple[SampleSet, Reference]:
    """The samples, two at least, and what they are compared with: for the main process alone.

    The others have done their share when the samples are drawn.
    """
    if not subject.options["enable_sampling"]:
        raise LeftOut
    split = subject.options["reference_split"]
    source = subject.sources[split]
    if len(source) < 2:
        raise LeftOut(
            f"the {split} split has one image: set eval.reference_split to the other", "samples"
        )
    samples = subject.samples
    n, drawn = len(samples.features), subject.options["num_samples"]
    if drawn < 2:
        raise LeftOut("distances need at least two: raise eval.num_samples", "samples")
    if n < 2:
        raise LeftOut(f"only {n} of {drawn} are finite images: check the weights", "samples")
    if not subject.shards.world.is_main:
        raise LeftOut
    return samples, subject.references.reference(source)[0]


def _with_features(subject: Subject) -> tuple[SampleSet, Reference, Tensor]:
    """As `_compared`, and the features of the reference, (M, D)."""
    samples, reference = _compared(subject)
    real = reference.features
    if real is None:
        raise LeftOut("the reference has no features", _BY_FEATURES)
    if min(len(real), len(samples.features)) <= NEIGHBOUR:
        raise LeftOut(f"they need {NEIGHBOUR + 1} images a side", _BY_FEATURES)
    return samples, reference, real


def _nearest_of(subject: Subject) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distance (N,) and row (N,) of the training image nearest to each sample.

    Also the features of all training images and of all test images.
    """
    samples, _ = _compared(subject)
    references, both = subject.references, (subject.sources["train"], subject.sources["test"])
    if min(map(len, both)) < 2:
        raise LeftOut("it needs at least two training and two test images")
    if not all(map(references.keeps_features, both)):
        raise LeftOut("the data set is too large for its features to be kept")
    of_train, of_test = (references.statistics(source)[0].features for source in both)
    if of_train is None or of_test is None:
        raise LeftOut
    distances, rows = subject.once("nearest", lambda: _nearest(samples.features, of_train))
    return distances, rows, of_train, of_test


def _nearest(x: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and row of the nearest of `train`, some rows of x at a time: memory stays flat."""
    parts = [torch.cdist(rows, train).min(dim=1) for rows in x.split(NEAREST_ROWS)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _how(subject: Subject, samples: SampleSet, reference: Reference) -> dict[str, Any]:
    """How samples were made, and what they are compared with."""
    facts, network = reference.facts, subject.references.network
    return {
        # Files of others may lack both.
        "split": facts.split or None,
        "against": facts.n or None,
        **samples.how,
        "network": network.name,
        "network_fingerprint": network.fingerprint,
    }
