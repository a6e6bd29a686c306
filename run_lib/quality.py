"""Sample quality: which feature network, what the samples are held against, and the distances."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import assembly
import datasets
import evaluation
from assembly import Config
from datasets import DatasetInfo, Source
from evaluation import Facts, FeatureNetwork, Reference
from run_lib.drawing import draw
from run_lib.figures import SHARD_BATCHES, Figure, Subject, mean_figure
from solvers.ode import Status

KEPT_NUMBERS = 2 * 10**8
"""Features of so many numbers are kept with a reference (800 MB; Inception's of CIFAR-10 are half
of it); without them only FID is computed."""

KID_SUBSET = NEAREST_ROWS = 1000
RESAMPLES = 20
"""Of the bootstrap; a quarter of them for Inception, of which each takes half a minute."""


def feature_network(config: Config, info: DatasetInfo, device: torch.device) -> FeatureNetwork:
    """The network of `eval.features`: Inception, or the small classifier of the data set.

    "auto" is Inception where its weights are at hand and images have one or three channels.

    Args:
        config: `eval.features`, `eval.inception_path` and `eval.stats_folder`.
        info: of the data set.
        device: where to compute.

    Raises:
        OSError, ValueError: it is not there; the sentence says how to get it.
    """
    options = config.eval
    if options.features == "inception" or options.inception_path:
        return evaluation.inception(options.inception_path, device)
    if options.features == "auto" and info.shape[0] in (1, 3) and _inception_is_here():
        return evaluation.inception("", device)
    if info.name == "digits":
        return evaluation.digits_classifier(device)
    path = classifier_path(config, info)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no feature network for {info.name}: train one with --mode stats, which "
            f"writes {path}, or put Inception's {evaluation.INCEPTION_FILE} somewhere and name it "
            "with --config.eval.inception_path"
        )
    return evaluation.Classifier.load(path, device)


def classifier_path(config: Config, info: DatasetInfo) -> Path:
    """Where the small classifier of a data set is kept."""
    size = "x".join(str(side) for side in info.shape)
    return Path(config.eval.stats_folder) / f"{info.name.replace('/', '_')}-{size}-classifier.pt"


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
    if path.is_file():
        return Reference.load(path), path
    device = assembly.build_device(config)
    parts = torch.arange(len(source)).split(config.eval.batch_size)
    images = (
        evaluation.spread_levels(part, source.info.levels).to(device)
        for part in source.stream(parts)
    )
    collected = evaluation.collect(network, images, keep=keeps_features(source, network))
    found = Reference.of(facts, collected.moments, collected.features, collected.logits)
    found.save(path)
    return found, path


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
    assembly.check(config)
    device, said = assembly.build_device(config), []
    try:
        info = datasets.open_from_config(config, "test").info
        network = feature_network(config, info, device)
    except FileNotFoundError:
        if config.eval.features == "inception" or config.eval.inception_path:
            raise
        network, sentence = _train(config, device)
        said.append(sentence)
    for split in ("train", "test"):
        source = datasets.open_from_config(config, split)
        if len(source) > 1:
            found, path = own_statistics(config, source, network)
            said.append(f"{split}: {found.facts.n:,} images under {network.name}, in {path}")
    return "\n".join(said)


def _train(config: Config, device: torch.device) -> tuple[FeatureNetwork, str]:
    train, test = (datasets.open_from_config(config, split) for split in ("train", "test"))
    info, path = train.info, classifier_path(config, train.info)
    labelled = info.num_classes > 1
    network = evaluation.train_classifier(
        _all_images(train),
        train.labels(torch.arange(len(train))) if labelled else None,
        info.num_classes,
        dataset=info.name,
        seed=config.seed,
        device=device,
    )
    network.save(path)
    sentence = f"{network.name}: trained on {info.num_images:,} images, in {path}"
    if labelled and len(test):
        labels = test.labels(torch.arange(len(test)))
        share = evaluation.accuracy(network, _all_images(test), labels)
        sentence += f"; it names {share:.1%} of the test images rightly"
    return network, sentence


def _all_images(source: Source) -> Tensor:
    return evaluation.spread_levels(source.images(torch.arange(len(source))), source.info.levels)


@dataclass(frozen=True)
class Drawn:
    """Samples that were drawn and measured.

    Attributes:
        figures: by name.
        images: uint8 (N, C, H, W), the first hundred.
        features: float32 (M, D), of all.
    """

    figures: dict[str, Figure]
    images: Tensor
    features: Tensor


def sample_figures(
    subject: Subject, source: Source, network: FeatureNetwork, held: Reference
) -> Drawn:
    """Draws samples and measures how far they are from a data set.

    Args:
        subject: what is evaluated.
        source: the split that they are compared with.
        network: the feature network.
        held: its statistics of that split.
    """
    shards = _samples(subject, network)
    done = torch.from_numpy(shards["status"] == Status.DONE)
    features = torch.from_numpy(shards["features"])[done]
    how = _how(subject, shards, source, network)
    prefix = "" if network.label else "i"
    spread = evaluation.bootstrap(
        features,
        held.mu,
        held.sigma,
        resamples=RESAMPLES if network.dimensions < 1000 else RESAMPLES // 4,
        seed=subject.config.seed,
    )
    found: dict[str, Figure] = {
        f"f{prefix}d": {
            "value": spread.value,
            "se": spread.std,
            "n": len(features),
            "bias": spread.bias,
            "name": evaluation.metric_name("frechet", network),
            **how,
        }
    }
    if held.features is not None:
        found |= _by_features(held.features, features, prefix, network, how)
    if "logits" in shards:
        name = evaluation.metric_name("score", network)
        score = evaluation.inception_score(torch.from_numpy(shards["logits"])[done])
        key = "is" if prefix else "score"
        # Ten parts, as in the literature: their spread is the error of one part.
        found[key] = {
            "value": score.mean,
            "se": score.std / 10**0.5,
            "n": len(features),
            "name": name,
            **how,
        }
    return Drawn(found, torch.from_numpy(shards["images"][:100]), features)


def _by_features(
    real: Tensor, fake: Tensor, prefix: str, network: FeatureNetwork, how: dict[str, Any]
) -> dict[str, Figure]:
    subset = min(KID_SUBSET, len(real), len(fake))
    kernel = evaluation.kernel_distance(real, fake, subset_size=subset)
    covered = evaluation.precision_recall(real, fake)
    n = len(fake)
    return {
        f"k{prefix}d": {
            "value": kernel.mean,
            "se": kernel.std,  # that of one subset, as is published; the mean's is smaller
            "n": n,
            "name": evaluation.metric_name("kernel", network),
            "subset_size": subset,
            **how,
        },
        # The error of a share of n independent samples.
        "precision": {
            "value": covered.precision,
            "se": _share_error(covered.precision, n),
            "n": n,
            **how,
        },
        "recall": {
            "value": covered.recall,
            "se": _share_error(covered.recall, len(real)),
            "n": len(real),
            "of": "real images",
            **how,
        },
    }


def nearest(fake: Tensor, real: Tensor, train: Tensor, label: str) -> tuple[Figure, Tensor]:
    """How near samples are to training images, beside how near other real images are.

    A network that has memorised draws samples much nearer than those.

    Args:
        fake: (N, D) features of samples.
        real: (M, D) of images that are not of the training set.
        train: (K, D) of the training set.
        label: of the feature network.

    Returns:
        The mean distance to the nearest training image, with `of_test` beside, and the nearest
        one's row (N,).
    """
    distances, rows = _nearest(fake, train)
    of_test, _ = _nearest(real, train)
    figure = mean_figure(distances.double().numpy(), split="train", name=f"nearest-{label}")
    return {**figure, "of_test": mean_figure(of_test.double().numpy(), split="test")}, rows


def _nearest(x: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and row of the nearest of `train`, some rows of x at a time: memory stays flat."""
    parts = [torch.cdist(rows, train).min(dim=1) for rows in x.split(NEAREST_ROWS)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _share_error(share: float, n: int) -> float:
    return (share * (1 - share) / n) ** 0.5


def _samples(subject: Subject, network: FeatureNetwork) -> dict[str, np.ndarray]:
    """Images and features by sample index."""
    config = subject.config
    inverse_scale = datasets.get_data_inverse_scaler(config)

    def compute(index: Tensor) -> dict[str, Tensor]:
        rows: dict[str, list[Tensor]] = {}
        parts = draw(config, subject.network, subject.sde, index, subject.device)
        for part in parts:
            status = torch.zeros_like(part.nfe) if part.status is None else part.status
            images = evaluation.to_uint8(inverse_scale(part.x).nan_to_num(0.0))
            features, logits = network(images)
            row = {"images": images, "features": features, "nfe": part.nfe, "status": status}
            row |= {} if logits is None else {"logits": logits}
            for name, value in row.items():
                rows.setdefault(name, []).append(value.cpu())
        return {name: torch.cat(values) for name, values in rows.items()}

    sampling = json.loads(assembly.to_json(config))["sampling"]
    return subject.shards.results(
        "samples",
        config.eval.num_samples,
        SHARD_BATCHES * config.sampling.batch_size,
        compute,
        sampling=sampling,
        network=network.fingerprint,
    )


def _how(
    subject: Subject, shards: dict[str, np.ndarray], source: Source, network: FeatureNetwork
) -> dict[str, Any]:
    sampling, info = subject.config.sampling, source.info
    method = sampling.method
    if method == "pc":
        method = f"pc ({sampling.predictor}, {sampling.corrector})"
    return {
        "split": info.split,
        "against": len(source),
        "method": method,
        "num_steps": sampling.num_steps or subject.sde.N,
        "nfe": float(shards["nfe"].mean()),
        "given_up": int((shards["status"] != Status.DONE).sum()),
        "network": network.name,
    }
