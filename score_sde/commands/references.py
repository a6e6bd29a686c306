"""What samples are measured by and held against: feature networks, and statistics of data sets."""

import contextlib
import hashlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from score_sde import evaluation
from score_sde.atomic import cannot_write
from score_sde.config.build import Config, build_device, image_shape, open_split
from score_sde.config.check import check_config
from score_sde.data import DatasetInfo, Source, canonical_name
from score_sde.evaluation import Facts, FeatureNetwork, Reference

KEPT_NUMBERS = 2 * 10**8
"""Features of so many numbers are kept with a reference (800 MB; Inception's of CIFAR-10 are half
of it); without them only FID is computed."""


def feature_network(config: Config, device: torch.device) -> FeatureNetwork:
    """The network of `eval.features`: Inception, or the small classifier of the data set.

    "auto" is Inception where its weights are at hand and images have one or three channels. No
    data are read.

    Args:
        config: `eval.features`, `eval.inception_path`, `eval.stats_folder` and the data.
        device: where to compute.

    Raises:
        OSError, ValueError: it is not there; the sentence says how to get it.
    """
    options = config.eval
    if options.features == "inception" or options.inception_path:
        return evaluation.inception(options.inception_path, device)
    if options.features == "auto" and config.data.num_channels in (1, 3) and _inception_is_here():
        return evaluation.inception("", device)
    if canonical_name(config.data.dataset) == "digits":
        return evaluation.digits_classifier(device)
    path = classifier_path(config)
    if not path.is_file():
        suits = evaluation.suits_classifier(image_shape(config))
        train = f"train one with --mode stats, which writes {path}, or " if suits else ""
        raise FileNotFoundError(
            f"there is no feature network for {_data_name(config)}: {train}put Inception's "
            f"{evaluation.INCEPTION_FILE} somewhere and name it with "
            "--config.eval.inception_path"
        )
    return evaluation.Classifier.load(path, device)


def classifier_path(config: Config) -> Path:
    """Where the small classifier of a data set is kept: for each folder of images another file."""
    words = [_data_name(config), "x".join(str(side) for side in image_shape(config))]
    if _is_folder(config):
        place = Path(config.data.root).expanduser().resolve()
        words.append(hashlib.sha256(str(place).encode()).hexdigest()[:8])
    return Path(config.eval.stats_folder) / f"{'-'.join(words)}-classifier.pt"


def _data_name(config: Config) -> str:
    """What distances are called after: the data set, its category, or the folder's own name."""
    if _is_folder(config):
        return Path(config.data.root).expanduser().resolve().stem or "folder"
    name = canonical_name(config.data.dataset)
    return f"{name}-{config.data.category}" if name == "lsun" else name


def _is_folder(config: Config) -> bool:
    return canonical_name(config.data.dataset) == "folder"


def _inception_is_here() -> bool:
    try:
        evaluation.inception_file()
    except FileNotFoundError:
        return False
    return importlib.util.find_spec("torch_fidelity") is not None


def facts_of(info: DatasetInfo, network: FeatureNetwork) -> Facts:
    """What samples must be compared with."""
    return Facts(
        dataset=info.name,
        split=info.split,
        shape=info.shape,
        preprocessing=info.policy,
        network=network.name,
        fingerprint=network.fingerprint,
        dimensions=network.dimensions,
    )


def check_given(config: Config) -> None:
    """Refuses, before anything else is done, files named for the evaluation that are not there.

    Raises:
        OSError, ValueError: as `feature_network` and `check_reference`.
    """
    options = config.eval
    if options.features == "inception" or options.inception_path:
        evaluation.inception_file(options.inception_path)
    if options.reference:
        Reference.load(Path(options.reference))


def check_reference(config: Config, network: FeatureNetwork) -> None:
    """Refuses, before data are read, an `eval.reference` that samples can't be held against.

    Raises:
        ValueError: it is no file of statistics, or of other images, or of another network.
        OSError: it is not there.
    """
    if not config.eval.reference:
        return
    known = Facts(
        dataset=canonical_name(config.data.dataset),
        split=config.eval.reference_split,
        shape=image_shape(config),
        network=network.name,
        fingerprint=network.fingerprint,
        dimensions=network.dimensions,
    )
    evaluation.check_comparable(Reference.load(Path(config.eval.reference)).facts, known)


def reference(config: Config, source: Source, network: FeatureNetwork) -> tuple[Reference, Path]:
    """What samples are held against: `eval.reference`, or the data set's own, kept once computed.

    Args:
        config: with `eval.reference` and `eval.stats_folder`.
        source: the split to compare with.
        network: the feature network, on its device.

    Returns:
        The statistics, and the file that they are in.

    Raises:
        ValueError: the statistics are of other images or of another network.
        OSError: a file that cannot be read or written.
    """
    if not config.eval.reference:
        return own_statistics(config, source, network)
    path = Path(config.eval.reference)
    found = Reference.load(path)
    evaluation.check_comparable(found.facts, facts_of(source.info, network))
    return found, path


def own_statistics(
    config: Config, source: Source, network: FeatureNetwork
) -> tuple[Reference, Path]:
    """The statistics of a data set, computed by its loader and kept in `eval.stats_folder`.

    Arguments, results and errors as of `reference`.
    """
    facts = facts_of(source.info, network)
    name = evaluation.cache_name(facts, source.info.fingerprint)
    path = Path(config.eval.stats_folder) / name
    with contextlib.suppress(FileNotFoundError, ValueError):  # missing or damaged: computed anew
        return Reference.load(path), path
    device = build_device(config)
    parts = torch.arange(len(source)).split(config.eval.batch_size)
    images = (
        evaluation.spread_levels(part, source.info.levels).to(device)
        for part in source.stream(parts)
    )
    collected = evaluation.collect(network, images, keep=keeps_features(source, network))
    found = Reference.of(facts, collected.moments, collected.features, collected.logits)
    try:
        found.save(path)
    except OSError as error:
        raise cannot_write(path, error, "--config.eval.stats_folder") from error
    return found, path


def no_nearest(train: Source, test: Source, network: FeatureNetwork) -> str:
    """Why no nearest training images can be told; empty if they can."""
    if min(len(train), len(test)) < 2:
        return "it needs at least two training and two test images"
    if not (keeps_features(train, network) and keeps_features(test, network)):
        return "the data set is too large for its features to be kept"
    return ""


def keeps_features(source: Source, network: FeatureNetwork) -> bool:
    """Whether a data set is small enough for its features to be kept."""
    return len(source) * network.dimensions <= KEPT_NUMBERS


def stats(config: Config) -> str:
    """`--mode stats`: the feature network and the reference statistics of a data set.

    Trains the small classifier where neither Inception nor a classifier is at hand.

    Returns:
        What was done, in sentences.

    Raises:
        OSError, ValueError: missing data, or a folder that cannot be written to.
    """
    check_config(config)
    device, said = build_device(config), []
    try:
        network = feature_network(config, device)
    except FileNotFoundError:
        suits = evaluation.suits_classifier(image_shape(config))
        if config.eval.features == "inception" or config.eval.inception_path or not suits:
            raise
        network, sentence = _train(config, device)
        said.append(sentence)
    for split in ("train", "test"):
        source = open_split(config, split)
        if len(source) > 1:
            found, path = own_statistics(config, source, network)
            said.append(f"{split}: {found.facts.n:,} images under {network.name}, in {path}")
    return "\n".join(said)


def _train(config: Config, device: torch.device) -> tuple[FeatureNetwork, str]:
    train, test = (open_split(config, split) for split in ("train", "test"))
    info, path = train.info, classifier_path(config)
    labelled = info.num_classes > 1
    network = evaluation.train_classifier(
        _all_images(train),
        train.labels(torch.arange(len(train))) if labelled else None,
        info.num_classes,
        dataset=_data_name(config),
        seed=config.seed,
        device=device,
    )
    try:
        network.save(path)
    except OSError as error:
        raise cannot_write(path, error, "--config.eval.stats_folder") from error
    sentence = f"{network.name}: trained on {info.num_images:,} images, in {path}"
    if labelled and len(test):
        labels = test.labels(torch.arange(len(test)))
        share = evaluation.accuracy(network, _all_images(test), labels)
        sentence += f"; it names {share:.1%} of the test images rightly"
    return network, sentence


def _all_images(source: Source) -> Tensor:
    return evaluation.spread_levels(source.images(torch.arange(len(source))), source.info.levels)
