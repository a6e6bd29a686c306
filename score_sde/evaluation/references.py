"""What samples are measured by and compared with: feature networks, statistics of data sets."""

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_sde.atomic import cannot_write
from score_sde.data import DatasetInfo, Source, canonical_name, opened
from score_sde.evaluation.classifier import Classifier, digits_classifier, suits_classifier
from score_sde.evaluation.classifier_training import accuracy, train_classifier
from score_sde.evaluation.features import (
    INCEPTION_FILE,
    FeatureNetwork,
    collect,
    inception,
    inception_file,
    spread_levels,
)
from score_sde.evaluation.figure import LeftOut
from score_sde.evaluation.statistics import Facts, Reference, cache_name, check_comparable

KEPT_NUMBERS = 2 * 10**8
"""Features of so many numbers are kept with a reference (800 MB; Inception's of CIFAR-10 are half
of it); without them only FID is computed."""


@dataclass(frozen=True, eq=False)
class References:
    """The feature network of a data set, and the statistics of its splits.

    Attributes:
        options: `features`, `inception_path`, `reference`, `reference_split`, `stats_folder` and
            `batch_size`, as the config's group `eval` has them.
        dataset: name of the data set, as configs have it.
        category: of LSUN.
        root: of a folder of images.
        shape: (C, H, W) of the images.
        device: where features are computed.
        seed: of a classifier that is trained.
    """

    options: Mapping[str, Any]
    dataset: str
    category: str
    root: Path
    shape: tuple[int, int, int]
    device: torch.device
    seed: int
    _kept: dict[str, tuple[Reference, Path]] = field(default_factory=dict, repr=False)

    @cached_property
    def network(self) -> FeatureNetwork:
        """The network of `eval.features`: Inception, or the small classifier of the data set.

        "auto" is Inception where its weights are at hand and images have one or three channels. No
        data are read.

        Raises:
            LeftOut: "auto" and neither is there; the reason says how to get one.
            OSError, ValueError: what was asked for by name is not there, or damaged.
        """
        options = self.options
        if self._named_inception:
            return inception(options["inception_path"], self.device)
        if options["features"] == "auto" and self.shape[0] in (1, 3) and _inception_is_here():
            return inception("", self.device)
        if canonical_name(self.dataset) == "digits":
            return digits_classifier(self.device)
        if self.classifier_path.is_file():
            return Classifier.load(self.classifier_path, self.device)
        suits = suits_classifier(self.shape)
        train = f"train one with --mode stats, which writes {self.classifier_path}, or "
        why = (
            f"there is no feature network for {self._label}: {train if suits else ''}put "
            f"Inception's {INCEPTION_FILE} somewhere and name it with "
            "--config.eval.inception_path"
        )
        if options["features"] == "auto" and not options["reference"]:
            raise LeftOut(why, "samples")
        raise FileNotFoundError(why)

    @property
    def _named_inception(self) -> bool:
        return self.options["features"] == "inception" or bool(self.options["inception_path"])

    @property
    def classifier_path(self) -> Path:
        """Where the small classifier is kept: for each folder of images another file."""
        words = [self._label, "x".join(str(side) for side in self.shape)]
        if self._is_folder:
            place = str(self.root.expanduser().resolve())
            words.append(hashlib.sha256(place.encode()).hexdigest()[:8])
        return Path(self.options["stats_folder"]) / f"{'-'.join(words)}-classifier.pt"

    @property
    def _is_folder(self) -> bool:
        return canonical_name(self.dataset) == "folder"

    @property
    def _label(self) -> str:
        """What distances are called after: the data set, its category, or the folder's name."""
        if self._is_folder:
            return self.root.expanduser().resolve().stem or "folder"
        name = canonical_name(self.dataset)
        return f"{name}-{self.category}" if name == "lsun" else name

    def check_files(self) -> None:
        """Refuses, before anything else is done, files named for the evaluation that are missing.

        Raises:
            OSError, ValueError: as `network` and `check_reference`.
        """
        if self._named_inception:
            inception_file(self.options["inception_path"])
        if self.options["reference"]:
            Reference.load(Path(self.options["reference"]))

    def check_reference(self) -> None:
        """Refuses, before data are read, an `eval.reference` that samples can't be compared with.

        Raises:
            ValueError: it is no file of statistics, or of other images, or of another network.
            OSError: it is not there.
        """
        if not self.options["reference"]:
            return
        known = self._facts(canonical_name(self.dataset), self.options["reference_split"])
        check_comparable(Reference.load(Path(self.options["reference"])).facts, known)

    def reference(self, source: Source) -> tuple[Reference, Path]:
        """What samples are compared with: `eval.reference`, or the data set's own statistics.

        Args:
            source: the split to compare with.

        Returns:
            The statistics, and the file that they are in.

        Raises:
            ValueError: the statistics are of other images or of another network.
            OSError: a file that cannot be read or written.
        """
        if not self.options["reference"]:
            return self.statistics(source)
        if "" not in self._kept:
            path = Path(self.options["reference"])
            reference = Reference.load(path)
            check_comparable(reference.facts, self._facts_of(source.info))
            self._kept[""] = reference, path
        return self._kept[""]

    def statistics(self, source: Source) -> tuple[Reference, Path]:
        """The statistics of a split, computed once and kept in `eval.stats_folder`.

        Arguments, results and errors as of `reference`.
        """
        split = source.info.split
        if split not in self._kept:
            name = cache_name(self._facts_of(source.info), source.info.fingerprint)
            path = Path(self.options["stats_folder"]) / name
            try:
                self._kept[split] = Reference.load(path), path
            except (FileNotFoundError, ValueError):  # missing, or damaged
                self._kept[split] = self._computed(source, path), path
        return self._kept[split]

    def _computed(self, source: Source, path: Path) -> Reference:
        parts = torch.arange(len(source)).split(self.options["batch_size"])
        with opened(source, parts) as stream:
            images = (spread_levels(part, source.info.levels).to(self.device) for part in stream)
            collected = collect(self.network, images, keep=self.keeps_features(source))
        facts = self._facts_of(source.info)
        reference = Reference.of(facts, collected.moments, collected.features, collected.logits)
        _save(reference, path)
        return reference

    def keeps_features(self, source: Source) -> bool:
        """Whether a data set is small enough for its features to be kept."""
        return len(source) * self.network.dimensions <= KEPT_NUMBERS

    def _facts_of(self, info: DatasetInfo) -> Facts:
        return self._facts(info.name, info.split, info.policy)

    def _facts(self, dataset: str, split: str, preprocessing: str = "") -> Facts:
        """What samples must be compared with."""
        return Facts(
            dataset=dataset,
            split=split,
            shape=self.shape,
            preprocessing=preprocessing,
            network=self.network.name,
            fingerprint=self.network.fingerprint,
            dimensions=self.network.dimensions,
        )

    def train(self, train: Source, test: Source) -> str:
        """Trains the small classifier of the data set, and keeps it at `classifier_path`.

        Returns:
            What it is, in one sentence.

        Raises:
            OSError: the file can't be written.
        """
        info, labelled = train.info, train.info.num_classes > 1
        network = train_classifier(
            _all_images(train),
            train.labels(torch.arange(len(train))) if labelled else None,
            info.num_classes,
            dataset=self._label,
            seed=self.seed,
            device=self.device,
        )
        _save(network, self.classifier_path)
        sentence = (
            f"{network.name}: trained on {info.num_images:,} images, in {self.classifier_path}"
        )
        if labelled and len(test):
            labels = test.labels(torch.arange(len(test)))
            share = accuracy(network, _all_images(test), labels)
            sentence += f"; it classifies {share:.1%} of the test images correctly"
        return sentence


def _save(what: Reference | Classifier, path: Path) -> None:
    try:
        what.save(path)
    except OSError as error:
        raise cannot_write(path, error, "--config.eval.stats_folder") from error


def _all_images(source: Source) -> Tensor:
    return spread_levels(source.images(torch.arange(len(source))), source.info.levels)


def _inception_is_here() -> bool:
    try:
        inception_file()
    except FileNotFoundError:
        return False
    return importlib.util.find_spec("torch_fidelity") is not None
