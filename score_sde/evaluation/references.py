"""What samples are measured by and compared with: feature networks, statistics of data sets."""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde.atomic import cannot_write
from score_sde.data import (
    OF_THE_USER,
    DatasetInfo,
    Range,
    Source,
    are_pictures,
    canonical_name,
    opened,
)
from score_sde.evaluation.classifier import Classifier, digits_classifier, suits_classifier
from score_sde.evaluation.classifier_training import train_classifier
from score_sde.evaluation.features import (
    INCEPTION_FILE,
    FeatureNetwork,
    collect,
    inception,
    inception_file,
    spread_levels,
)
from score_sde.evaluation.figure import LeftOut
from score_sde.evaluation.shards import make_way
from score_sde.evaluation.statistics import Facts, Reference, cache_name, check_comparable
from score_sde.parallel import World, barrier, gather_objects

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
        say: is given a sentence on statistics that are computed again.
        range: of floats, (low, high); () for grey levels.
    """

    options: Mapping[str, Any]
    dataset: str
    category: str
    root: Path
    shape: tuple[int, int, int]
    device: torch.device
    seed: int
    say: Callable[[str], None] = lambda sentence: None
    range: Range = ()
    _kept: dict[str, Reference] = field(default_factory=dict, repr=False)

    @property
    def seen(self) -> bool:
        """Whether feature networks see images of these channels."""
        return are_pictures(self.shape[0], self.range)

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
        if not self.seen:
            why = (
                f"feature networks see grey, RGB and RGBA pictures, and these images have "
                f"{self.shape[0]} channels: compare statistics of the numbers themselves "
                "(--mode sample --output NAME.npz), or set eval.enable_sampling=False"
            )
            if not (self._named_inception or options["features"] != "auto" or self._given):
                raise LeftOut(why, "samples")
            raise ValueError(why)
        if self._named_inception:
            return inception(options["inception_path"], self.device)
        if options["features"] == "auto" and self.shape[0] in (1, 3) and _inception_is_here():
            return inception("", self.device)
        if canonical_name(self.dataset) == "digits" and suits_classifier(self.shape):
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
            place = str(self.root.resolve())
            words.append(hashlib.sha256(place.encode()).hexdigest()[:8])
        return Path(self.options["stats_folder"]) / f"{'-'.join(words)}-classifier.pt"

    @property
    def _is_folder(self) -> bool:
        return canonical_name(self.dataset) in OF_THE_USER

    @property
    def _label(self) -> str:
        """What distances are called after: the data set, its category, or the folder's name."""
        if self._is_folder:
            return self.root.resolve().stem or "folder"
        name = canonical_name(self.dataset)
        return f"{name}-{self.category}" if name == "lsun" else name

    def check_files(self) -> None:
        """Refuses, before anything else is done, files named for the evaluation that are missing.

        Raises:
            OSError, ValueError: as `network` and `reference`.
        """
        if self._named_inception:
            inception_file(self.options["inception_path"])
        _ = self._given

    @cached_property
    def _given(self) -> Reference | None:
        """The statistics of `eval.reference`, where it names a file."""
        path = self.options["reference"]
        return Reference.load(Path(path)) if path else None

    def are_there(self) -> bool:
        """Whether samples can be measured, before data are read.

        Raises:
            ValueError: `eval.reference` is of other images or of another network.
            OSError, ValueError: as `network`.
        """
        try:
            facts = self._facts()
        except LeftOut:
            return False
        if self._given:
            check_comparable(self._given.facts, facts)
        return True

    def reference(self, source: Source) -> Reference:
        """What samples are compared with: `eval.reference`, or the data set's own statistics.

        Args:
            source: the split to compare with.

        Raises:
            ValueError: the statistics are of other images or of another network.
            OSError: a file that cannot be read or written.
        """
        if not self._given:
            return self.statistics(source)
        check_comparable(self._given.facts, self._facts(source.info))
        return self._given

    def statistics(self, source: Source) -> Reference:
        """The statistics of a split, computed once and kept in `eval.stats_folder`.

        A file that is damaged, or of other images, is computed again. Arguments and errors as of
        `reference`.
        """
        split = source.info.split
        if split not in self._kept:
            self._kept[split] = self._read(source) or self._computed(source)
        return self._kept[split]

    def find_together(self, source: Source, world: World) -> None:
        """Makes sure of `reference`, before hours of work; every process must call it.

        Arguments and errors as of `reference`.
        """
        if self._given:
            self.reference(source)
        else:
            self.compute_together(source, world)

    def compute_together(self, source: Source, world: World) -> None:
        """Computes the statistics of a split where they are not kept, each process its batches.

        They are those of one process bit for bit. Every process must call it; `statistics` then
        finds them. Arguments and errors as of `reference`.
        """
        split = source.info.split
        if world.is_main and split not in self._kept and (kept := self._read(source)):
            self._kept[split] = kept
        if not gather_objects(split in self._kept)[0]:
            computed = self._computed(source, world)
            if world.is_main:
                self._kept[split] = computed
        barrier()  # the file is there

    def path(self, source: Source) -> Path:
        """Where the statistics of a split are kept."""
        name = cache_name(self._facts(source.info), source.info.fingerprint)
        return Path(self.options["stats_folder"]) / name

    def _read(self, source: Source) -> Reference | None:
        """What is kept of a split; None where there is nothing, or something else."""
        path, n, D = self.path(source), len(source), self.network.dimensions
        if not path.exists():
            return None
        types: dict[str, tuple[Any, Any]] = {
            "mu": (np.float64, (D,)),
            "sigma": (np.float64, (D, D)),
        }
        if self.keeps_features(source):
            types["pool_3"] = np.float32, (n, D)
        try:
            reference = Reference.load(path, types)
            if reference.facts == replace(self._facts(source.info), n=n):
                return reference
            why: object = "it is of other images or another network"
        except Exception as error:  # of many types
            why = error
        self.say(f"computed again, as {path} is not what was kept there: {why}")
        return None

    def _computed(self, source: Source, world: World | None = None) -> Reference:
        world = world or World()
        parts = torch.arange(len(source)).split(self.options["batch_size"])
        keep = self.keeps_features(source) and world.is_main
        with opened(source, parts[world.rank :: world.size]) as stream:
            info = source.info
            images = (
                spread_levels(part, info.levels, info.range).to(self.device) for part in stream
            )
            collected = collect(self.network, images, keep=keep, together=world.size > 1)
        facts = self._facts(source.info)
        reference = Reference.of(facts, collected.moments, collected.features, collected.logits)
        if world.is_main:
            _save(reference, self.path(source))
        return reference

    def keeps_features(self, source: Source) -> bool:
        """Whether a data set is small enough for its features to be kept."""
        return len(source) * self.network.dimensions <= KEPT_NUMBERS

    def _facts(self, info: DatasetInfo | None = None) -> Facts:
        """What samples must be compared with, as far as that is known before data are read."""
        network, name = self.network, canonical_name(self.dataset)
        return Facts(
            dataset=info.name if info else name,
            split=info.split if info else self.options["reference_split"],
            shape=self.shape,
            preprocessing=info.policy if info else "",
            network=network.name,
            fingerprint=network.fingerprint,
            dimensions=network.dimensions,
        )

    def train(self, train: Source) -> Classifier:
        """Trains the small classifier of the data set, and keeps it at `classifier_path`.

        Raises:
            OSError: the file can't be written.
        """
        labelled = train.info.num_classes > 1
        network = train_classifier(
            all_images(train),
            train.labels(torch.arange(len(train))) if labelled else None,
            train.info.num_classes,
            dataset=self._label,
            seed=self.seed,
            device=self.device,
        )
        _save(network, self.classifier_path)
        return network


def all_images(source: Source) -> Tensor:
    """All images of a split, uint8 (N, C, H, W) of 256 levels."""
    images, info = source.images(torch.arange(len(source))), source.info
    return spread_levels(images, info.levels, info.range)


def _save(what: Reference | Classifier, path: Path) -> None:
    try:
        make_way(path)
        what.save(path)
    except OSError as error:
        raise cannot_write(path, error, "--config.eval.stats_folder") from error


def _inception_is_here() -> bool:
    try:
        inception_file()
    except FileNotFoundError:
        return False
    return importlib.util.find_spec("torch_fidelity") is not None
