"""Sample quality: how far the samples of a checkpoint are from a data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from score_sde.data import Source
from score_sde.evaluation.distances import inception_score, kernel_distance, precision_recall
from score_sde.evaluation.features import FeatureNetwork, metric_name, spread_levels
from score_sde.evaluation.figure import Figure, LeftOut, mean_figure
from score_sde.evaluation.frechet import bootstrap, frechet_distance
from score_sde.evaluation.moments import Moments
from score_sde.evaluation.references import References
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

_KEYS = {"frechet": ("fid", "fd"), "kernel": ("kid", "kd"), "score": ("is", "score")}
"""What the report calls a figure with Inception's features, and with others."""


@dataclass(frozen=True)
class _Comparison:
    """The samples, two at least, the feature network, and what they are compared with."""

    samples: SampleSet
    network: FeatureNetwork
    reference: Reference

    @property
    def features(self) -> Tensor:
        """Those of the reference, (M, D), where there are enough for a comparison by them."""
        what = "kernel distance, precision, recall"
        if self.reference.features is None:
            raise LeftOut("the reference has no features", what)
        if min(len(self.reference.features), len(self.samples.features)) <= NEIGHBOUR:
            raise LeftOut(f"they need {NEIGHBOUR + 1} images a side", what)
        return self.reference.features

    def figure(
        self,
        value: float,
        se: float | None,
        n: int,
        metric: Literal["frechet", "kernel", "score", ""] = "",
        **how: Any,
    ) -> Figure:
        """A figure, with how samples were made and what they are compared with."""
        facts, network = self.reference.facts, self.network
        if metric:
            how["key"] = _KEYS[metric][bool(network.label)]
            how["name"] = metric_name(metric, network)
        return {
            **{"value": value, "se": se, "n": n, **how},
            # Files of others may lack both.
            **{"split": facts.split or None, "against": facts.n or None},
            **self.samples.how,
            **{"network": network.name, "network_fingerprint": network.fingerprint},
        }


def _compared(subject: Subject) -> _Comparison:
    """For the main process alone: the others have done their share when the samples are drawn."""
    if not subject.options["enable_sampling"]:
        raise LeftOut
    network, split = subject.references.network, subject.options["reference_split"]
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
    return _Comparison(samples, network, subject.references.reference(source))


def frechet(subject: Subject) -> Figure:
    """Fréchet distance of features to the reference; FID with Inception's."""
    compared = _compared(subject)
    features, reference = compared.samples.features, compared.reference
    spread = bootstrap(
        features,
        reference.mu,
        reference.sigma,
        resamples=RESAMPLES if compared.network.dimensions < 1000 else RESAMPLES // 4,
        seed=subject.seed,
    )
    return compared.figure(
        spread.value,
        spread.std,  # of the samples alone: the reference stays as it is
        len(features),
        "frechet",
        bias=spread.bias,
        resamples=spread.resamples,
    )


def frechet_by_class(subject: Subject) -> Figure:
    """The mean over classes of the Fréchet distance of the samples of each to its real images.

    It is of the classes that have two samples and two images, as `classes` counts. `by_class` has
    that of every class, how many samples it is of (`n`) and against how many images (`against`).
    The distance of few is biased upwards, by what the bootstrap estimates as `bias` and more:
    compare classes of equal numbers, and networks on the same ones.
    """
    if subject.labels is None:
        raise LeftOut
    compared, what = _compared(subject), "distances by class"
    source = subject.sources[subject.options["reference_split"]]
    if subject.options["reference"]:
        raise LeftOut("a file of statistics does not say which class its images are of", what)
    if source.info.num_classes < 2:
        raise LeftOut(f"the images of {source.info.name} have no classes", what)
    features = compared.features
    label, real = subject.labels(compared.samples.index), source.labels(torch.arange(len(source)))
    rows = [
        _of_class(c, compared.samples.features[label == c], features[real == c], subject.seed)
        for c in range(source.info.num_classes)
    ]
    known = [row for row in rows if row["value"] is not None]
    if not known:
        raise LeftOut("no class has two samples and two images", what)
    value, n = sum(row["value"] for row in known) / len(known), sum(row["n"] for row in known)
    errors = [row["se"] for row in known if row["se"] is not None]
    se = sum(e**2 for e in errors) ** 0.5 / len(known) if len(errors) == len(known) else None
    figure = compared.figure(value, se, n, "frechet", classes=len(known), by_class=rows)
    return figure | {"key": f"{figure['key']}_by_class", "name": f"{figure['name']}-by-class"}


def _of_class(c: int, fake: Tensor, real: Tensor, seed: int) -> dict[str, Any]:
    """The distance of one class; without an error where each resample takes half a minute."""
    row: dict[str, Any] = {"class": c, "value": None, "se": None}
    row |= {"n": len(fake), "against": len(real)}
    if min(len(fake), len(real)) < 2:
        return row
    moments = Moments(real.shape[1])
    moments.update(real)
    if real.shape[1] >= 1000:
        own = Moments(fake.shape[1])
        own.update(fake)
        return row | {"value": frechet_distance(own.mu, own.sigma, moments.mu, moments.sigma)}
    spread = bootstrap(fake, moments.mu, moments.sigma, resamples=RESAMPLES, seed=seed)
    return row | {"value": spread.value, "se": spread.std, "bias": spread.bias}


def kernel(subject: Subject) -> Figure:
    """Kernel distance of features to the reference; KID with Inception's."""
    compared = _compared(subject)
    real, features = compared.features, compared.samples.features
    subset = min(KID_SUBSET, len(real) // 2, len(features) // 2)
    distance = kernel_distance(real, features, subset_size=subset)
    return compared.figure(
        distance.mean,
        distance.error,
        len(features),
        "kernel",
        subset_std=distance.std,  # which is what is published with KID
        subset_size=subset,
    )


def covered(subject: Subject, real: bool) -> Figure:
    """Recall: share of real images within the surroundings of samples. Precision: the reverse."""
    compared = _compared(subject)
    sets = compared.features, compared.samples.features
    shares = subject.once("covered", lambda: precision_recall(*sets, k=NEIGHBOUR))
    share, n = (shares.recall, len(sets[0])) if real else (shares.precision, len(sets[1]))
    figure = compared.figure(share, _share_error(share, n), n)
    return figure | {"of": "real images"} if real else figure


def _share_error(share: float, n: int) -> float:
    """Standard error of a share of n images (Agresti & Coull 1998): of 0 and 1 too it is not 0."""
    share = (share * n + 2) / (n + 4)
    return (share * (1 - share) / (n + 4)) ** 0.5


def class_score(subject: Subject) -> Figure:
    """Inception score, or that of another network that knows classes."""
    compared = _compared(subject)
    logits = compared.samples.logits
    if logits is None:
        raise LeftOut
    parts = min(10, len(logits) // 10)  # as in the literature; the error needs two
    if not parts:
        raise LeftOut("it needs at least ten samples", "score")
    score = inception_score(logits, splits=parts)
    se = score.std / (parts - 1) ** 0.5 if parts > 1 else None
    return compared.figure(score.mean, se, len(logits), "score")


def nearest_train(subject: Subject) -> Figure:
    """How near samples are to training images, beside how near other real images are.

    A network that has memorised draws samples much nearer than those: `value` is the mean distance
    of samples to the nearest training image, `of_test` that of test images.

    `subject.results` then has `nearest`: distances, and rows of these training images.
    """
    compared, references = _compared(subject), subject.references
    both = subject.sources["train"], subject.sources["test"]
    if min(map(len, both)) < 2:
        raise LeftOut("it needs at least two training and two test images")
    if not all(map(references.keeps_features, both)):
        raise LeftOut("the data set is too large for its features to be kept")
    train, test = (references.statistics(source).features for source in both)
    if train is None or test is None:
        raise LeftOut
    distances, _ = subject.results["nearest"] = _nearest(compared.samples.features, train)
    of_test, _ = _nearest(test, train)
    network = compared.network
    return mean_figure(
        distances.double().numpy(),
        split="train",
        against=len(train),
        name=f"nearest-{network.label or network.name}",
        of_test=mean_figure(of_test.double().numpy(), split="test"),
    )


def splits_of_nearest(references: References, sources: Mapping[str, Source]) -> list[Source]:
    """The splits whose statistics `nearest_train` takes; none where it is left out."""
    both = [sources[split] for split in ("train", "test") if split in sources]
    able = len(both) == 2 and min(map(len, both)) > 1
    return both if able and all(map(references.keeps_features, both)) else []


def _nearest(x: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and row of the nearest of `train`, some rows of x at a time: memory stays flat."""
    parts = [torch.cdist(rows, train).min(dim=1) for rows in x.split(NEAREST_ROWS)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def shown(subject: Subject) -> dict[str, tuple[Tensor, int | None]]:
    """Images for the picture of a report: by title, uint8 (n, C, H, W) and how many in a row.

    Empty where samples were not measured.
    """
    samples, pictures = subject.results.get("samples"), dict[str, tuple[Tensor, int | None]]()
    if samples and len(samples.images):
        pictures[f"the first {len(samples.images)} samples"] = samples.images, None
    if samples and "nearest" in subject.results:
        few, source = samples.images[:PAIRS], subject.sources["train"]
        rows = subject.results["nearest"][1][: len(few)]
        near = spread_levels(source.images(rows).cpu(), source.info.levels, source.info.range)
        pictures["samples, and the training images nearest to them"] = (
            torch.cat([few, near]),
            len(few),
        )
    return pictures
