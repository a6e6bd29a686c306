"""Sample quality: samples by index, and how far they are from a data set."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from score_sde import evaluation
from score_sde.commands.drawing import draw
from score_sde.commands.figures import Figure, Subject, mean_figure, shard_size
from score_sde.commands.shards import Results
from score_sde.config import history
from score_sde.config.build import build_inverse_scaler
from score_sde.evaluation import FeatureNetwork, Reference
from score_sde.solvers.ode import Status

KID_SUBSET = 1000
NEAREST_ROWS = 1000
NEIGHBOUR = 3
"""Whose distance is the radius of an image's surroundings, for precision and recall."""
SHOWN = 100
"""Samples in a report's picture."""
RESAMPLES = 20
"""Of the bootstrap; a quarter of them for Inception, of which each takes half a minute."""


@dataclass(frozen=True)
class Drawn:
    """Samples that were drawn and measured.

    Attributes:
        figures: by name.
        left_out: why other figures are not there.
        images: uint8 (n, C, H, W), the first ones, a hundred at most.
        features: float32 (N, D), of all.
    """

    figures: dict[str, Figure]
    left_out: dict[str, str]
    images: Tensor
    features: Tensor


def sample_figures(
    subject: Subject, network: FeatureNetwork, held: Reference, shards: Results
) -> Drawn:
    """Measures how far samples are from a data set.

    Args:
        subject: what is evaluated.
        network: the feature network.
        held: its statistics of the split that samples are compared with.
        shards: what `draw_samples` gave.
    """
    done = torch.from_numpy(shards["status"] == Status.DONE)
    features = torch.from_numpy(shards["features"])[done]
    images = torch.from_numpy(shards["images"])
    images = images[done[: len(images)]]
    if len(features) < 2:
        why = f"only {len(features)} of {len(done)} are finite images: check the weights"
        if len(done) < 2:
            why = "distances need at least two: raise eval.num_samples"
        return Drawn({}, {"samples": why}, images, features)
    how = _how(subject, shards, network, held)
    spread = evaluation.bootstrap(
        features,
        held.mu,
        held.sigma,
        resamples=RESAMPLES if network.dimensions < 1000 else RESAMPLES // 4,
        seed=subject.config.seed,
    )
    prefix, n = _prefix(network), len(features)
    found: dict[str, Figure] = {
        f"f{prefix}d": {
            "value": spread.value,
            "se": spread.std,  # of the samples alone: the reference is held fixed
            "n": n,
            "bias": spread.bias,
            "resamples": spread.resamples,
            "name": evaluation.metric_name("frechet", network),
            **how,
        }
    }
    left_out = dict[str, str]()
    if held.features is None:
        left_out["kernel distance, precision, recall"] = "the reference has no features"
    elif min(len(held.features), n) <= NEIGHBOUR:
        left_out["kernel distance, precision, recall"] = f"they need {NEIGHBOUR + 1} images a side"
    else:
        found |= _by_features(held.features, features, network, how)
    parts = min(10, n // 10)  # as in the literature: their spread is the error of one part
    if "logits" in shards and not parts:
        left_out["score"] = "it needs at least ten samples"
    elif "logits" in shards:
        logits = torch.from_numpy(shards["logits"])[done]
        score = evaluation.inception_score(logits, splits=parts)
        found["is" if prefix == "i" else "score"] = {
            "value": score.mean,
            "se": score.std / (parts - 1) ** 0.5 if parts > 1 else None,
            "n": n,
            "name": evaluation.metric_name("score", network),
            **how,
        }
    return Drawn(found, left_out, images, features)


def _prefix(network: FeatureNetwork) -> str:
    """FID, KID and IS are Inception's; the distances of others are FD and KD."""
    return "" if network.label else "i"


def _by_features(
    real: Tensor, fake: Tensor, network: FeatureNetwork, how: dict[str, Any]
) -> dict[str, Figure]:
    n, least = len(fake), min(len(real), len(fake))
    subset = min(KID_SUBSET, least // 2)
    kernel = evaluation.kernel_distance(real, fake, subset_size=subset)
    covered = evaluation.precision_recall(real, fake, k=NEIGHBOUR)
    return {
        f"k{_prefix(network)}d": {
            "value": kernel.mean,
            "se": kernel.error,
            "n": n,
            "subset_std": kernel.std,  # which is what is published with KID
            "name": evaluation.metric_name("kernel", network),
            "subset_size": subset,
            **how,
        },
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
    figure = mean_figure(
        distances.double().numpy(), split="train", against=len(train), name=f"nearest-{label}"
    )
    return {**figure, "of_test": mean_figure(of_test.double().numpy(), split="test")}, rows


def _nearest(x: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and row of the nearest of `train`, some rows of x at a time: memory stays flat."""
    parts = [torch.cdist(rows, train).min(dim=1) for rows in x.split(NEAREST_ROWS)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _share_error(share: float, n: int) -> float:
    """Standard error of a share of n images (Agresti & Coull 1998): of 0 and 1 too it is not 0."""
    share = (share * n + 2) / (n + 4)
    return (share * (1 - share) / (n + 4)) ** 0.5


def draw_samples(subject: Subject, network: FeatureNetwork) -> Results:
    """Draws `eval.num_samples` images and their features, by sample index.

    Every process must call it. Of the images only the first hundred are given back.
    """
    config = subject.config
    inverse_scale = build_inverse_scaler(config)

    def compute(index: Tensor) -> dict[str, Tensor]:
        rows: dict[str, list[Tensor]] = {}
        parts = draw(config, subject.network, subject.sde, index, subject.device)
        for part in parts:
            status = torch.zeros_like(part.nfe) if part.status is None else part.status.clone()
            x = inverse_scale(part.x)
            status[~x.flatten(1).isfinite().all(1)] = Status.NON_FINITE
            images = evaluation.to_uint8(x.nan_to_num(0.0))
            features, logits = network(images)
            shown = images[part.index.to(images.device) < SHOWN]  # all would be gigabytes
            row = {"images": shown, "features": features, "nfe": part.nfe, "status": status}
            row |= {} if logits is None else {"logits": logits}
            for name, value in row.items():
                rows.setdefault(name, []).append(value.cpu())
        return {name: torch.cat(values) for name, values in rows.items()}

    count, size = config.eval.num_samples, config.sampling.batch_size
    return subject.shards.results(
        "samples",
        torch.arange(count),
        shard_size(count, size),
        compute,
        sampling=json.loads(history.to_json(config))["sampling"],
        network=network.fingerprint,
    )


def _how(
    subject: Subject, shards: Results, network: FeatureNetwork, held: Reference
) -> dict[str, Any]:
    """How samples were made, and what they are held against."""
    sampling, nfe = subject.config.sampling, shards["nfe"]
    method = sampling.method
    if method == "pc":
        method = f"pc ({sampling.predictor}, {sampling.corrector})"
    steps = {} if method == "ode" else {"num_steps": sampling.num_steps or subject.sde.N}
    classes = subject.config.model.get("num_classes", 0)
    return {
        # Files of others may tell neither.
        "split": held.facts.split or None,
        "against": held.facts.n or None,
        "method": method,
        **steps,
        **({"labels": "each class equally often"} if classes else {}),
        "nfe": float(nfe.mean()),
        "given_up": int((shards["status"] != Status.DONE).sum()),
        "sec": shards.sec,
        "network": network.name,
        "network_fingerprint": network.fingerprint,
    }
