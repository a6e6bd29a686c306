"""What a comparison of samplers says of each: figures of one row, and the floor of them all.

Every row draws the same samples from the same starting noise, so that rows differ by the sampler
alone. The Fréchet distance says how far a row's samples are from the truth as a whole. It is
blind to fine noise that is left in them, as features average over pixels; so beside it stand the
distance to the images of the converged ODE, where the method is deterministic and should reach
them, and for exact mixtures the variance within a component. The floor is what sets of the same
size reach that are the truth.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde.evaluation import quality
from score_sde.evaluation.features import FeatureNetwork, collect, to_uint8
from score_sde.evaluation.figure import Figure, LeftOut, mean_figure
from score_sde.evaluation.frechet import frechet_distance
from score_sde.evaluation.moments import Moments
from score_sde.evaluation.statistics import Facts, Reference
from score_sde.evaluation.subject import SampleSet, Subject

FLOOR_SETS = 8
"""Sets of true images, each of as many as there are samples."""

REFERENCE_IMAGES = 10_000
"""Exact draws that samples from an exact score are compared with."""


@dataclass(frozen=True)
class Truth:
    """True images.

    Attributes:
        images: int64 (n,) → images in [0, 1] or a little beyond, (n, C, H, W); other ones for each
            number.
        available: how many there are.
        name: what they are.
        within: samples in the network's range, (B, ...) → (B,): the mean square of what each lies
            off its component, in units of that one's variances; None where there are none.
        fingerprint: of what they are taken from, where `Shards.facts` do not say it.
    """

    images: Callable[[Tensor], Tensor]
    available: int
    name: str
    within: Callable[[Tensor], Tensor] | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Floor:
    """What sets of true images reach that are as large as the sets of samples.

    Attributes:
        truth: the images.
        sets: by figure, its values of S sets, (S,): `frechet`, the distance to the reference;
            `within`, the mean of `Truth.within`; and the colours.
    """

    truth: Truth
    sets: Mapping[str, np.ndarray]

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "of": self.truth.name,
            "sets": len(self.sets["frechet"]),
            **{
                name: {"mean": values.mean(), "least": values.min(), "most": values.max()}
                for name, values in self.sets.items()
            },
        }


@dataclass(frozen=True)
class Result:
    """What is known of one row.

    Attributes:
        series: the method.
        at: where on its curve.
        how: what it was asked to do.
        made: what it did: `nfe`, `sec_each`, `given_up` and more.
        figures: by name.
        left_out: why others are not there.
    """

    series: str
    at: str
    how: Mapping[str, Any]
    made: Mapping[str, Any]
    figures: Mapping[str, Figure]
    left_out: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        made = {name: self.made[name] for name in ("nfe", "given_up")}
        return {
            "series": self.series,
            "at": self.at,
            **self.how,
            **made,
            "sec_per_image": self.made["sec_each"],
            **self.figures,
            "left_out": dict(self.left_out),
        }


def write_reference(
    images: Callable[[Tensor], Tensor],
    network: FeatureNetwork,
    shape: tuple[int, ...],
    path: Path,
) -> None:
    """Writes the statistics of `REFERENCE_IMAGES` images, unless they are there.

    Raises:
        OSError: the file can't be written.
    """
    try:
        Reference.load(path)
        return
    except (OSError, ValueError):
        pass  # not there yet, or damaged
    parts = torch.arange(REFERENCE_IMAGES).split(1000)
    collected = collect(network, (to_uint8(images(part)) for part in parts))
    facts = Facts(shape=tuple(shape), network=network.name, fingerprint=network.fingerprint)
    Reference.of(facts, collected.moments, collected.features).save(path)


def compute_floor(subject: Subject, truth: Truth) -> Floor:
    """The floor of a comparison; every process must call it.

    Args:
        subject: of any row.
        truth: see there.

    Raises:
        LeftOut: there are not enough true images for one set.
    """
    n = subject.options["num_samples"]
    sets = min(FLOOR_SETS, truth.available // n)
    if not sets:
        raise LeftOut(f"{truth.available:,} {truth.name} make no set of {n:,}")
    network, within = subject.references.network, truth.within
    off = within or (lambda x: x.new_zeros(len(x)))

    def compute(index: Tensor) -> dict[str, Tensor]:
        x = truth.images(index).to(subject.device)
        features, _ = network(to_uint8(x))
        return {
            "features": features,
            "within": off(subject.scale(x)).double(),
            "channels": _channels(x),
        }

    results = subject.shards.results(
        "floor",
        torch.arange(sets * n),
        min(n, subject.sampling["batch_size"]),
        compute,
        {
            "features": (np.float32, (network.dimensions,)),
            "within": np.float64,
            "channels": (np.float32, (subject.references.shape[0],)),
        },
        network=network.fingerprint,
        truth=truth.name,
        images=truth.fingerprint,
    )
    split = subject.options["reference_split"]
    reference = subject.references.reference(subject.sources[split])
    distances = []
    for features in torch.from_numpy(results["features"]).split(n):
        moments = Moments(network.dimensions)
        moments.update(features)
        both = moments.mu, moments.sigma, reference.mu, reference.sigma
        distances.append(frechet_distance(*both))
    colours = _colours(results["channels"])
    means = {name: values.reshape(sets, n).mean(1) for name, values in colours.items()}
    if within:
        means["within"] = results["within"].reshape(sets, n).mean(1)
    return Floor(truth, {"frechet": np.array(distances), **means})


def compute_figures(
    subject: Subject, converged: SampleSet | None, floor: Floor | None
) -> tuple[dict[str, Figure], dict[str, str]]:
    """The figures of one row; for the main process alone.

    Args:
        subject: the row's, with its samples drawn and kept (`Subject.keeps_x`).
        converged: the samples of the converged ODE, where the row should reach them.
        floor: of the comparison.

    Returns:
        By name, `fid` or `fd`, `kid` or `kd`, `to_converged`, `within`, and the colours; and why
        others are left out.
    """
    made, left_out = dict[str, Figure](), dict[str, str]()
    for name, compute in (("fd", quality.frechet), ("kd", quality.kernel)):
        try:
            figure = compute(subject)
        except LeftOut as reason:
            left_out[reason.what or name] = reason.why
        else:
            made[figure.pop("key")] = figure
    samples = subject.samples
    if samples.x is None or not len(samples.x):
        return made, left_out
    if converged is not None:
        try:
            made["to_converged"] = distance_to(samples, converged)
        except LeftOut as reason:
            left_out["to_converged"] = reason.why
    if floor is not None and floor.truth.within is not None:
        values = floor.truth.within(subject.scale(samples.x)).double().cpu().numpy()
        made["within"] = mean_figure(values / floor.sets["within"].mean())
    for name, values in _colours(_channels(samples.x).numpy()).items():
        made[name] = mean_figure(values)
    return made, left_out


def distance_to(samples: SampleSet, converged: SampleSet) -> Figure:
    """Root mean square over pixels of what each sample differs by, averaged over samples.

    Images are in [0, 1], so that 1/255 is one level. Samples that either side gave up are not
    compared.

    Raises:
        LeftOut: no sample is finite on both sides.
    """
    assert samples.x is not None
    assert converged.x is not None
    _, mine, theirs = np.intersect1d(samples.index, converged.index, return_indices=True)
    if not len(mine):
        raise LeftOut("no sample is finite both here and of the converged ODE")
    difference = samples.x[mine] - converged.x[theirs]
    return mean_figure(difference.double().square().flatten(1).mean(1).sqrt().numpy())


_CHANNEL_NAMES = ("red", "green", "blue")


def _channels(x: Tensor) -> Tensor:
    """Mean values of the channels of images, as they are seen: (n, C, H, W) → float32 (n, C)."""
    return x.float().clamp(0, 1).mean((2, 3))


def _colours(channels: np.ndarray) -> dict[str, np.ndarray]:
    """Of each image, (N, C) → by name (N,): the channels, and the warmth, red minus blue.

    Of images that are not of three channels the brightness, the mean of all.
    """
    channels = channels.astype(np.float64)
    if channels.shape[1] != len(_CHANNEL_NAMES):
        return {"brightness": channels.mean(1)}
    each = {f"mean_{name}": channels[:, k] for k, name in enumerate(_CHANNEL_NAMES)}
    return {**each, "warmth": channels[:, 0] - channels[:, 2]}
