"""`--mode train_classifier`: a classifier of noisy images, in a work directory's `classifier/`."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde import checkpoints, noise, pictures
from score_sde.atomic import write_whole
from score_sde.commands.first_screen import kept_bytes
from score_sde.commands.loop import averaged, draw_losses, held_out_batch
from score_sde.commands.run import Kind, Run
from score_sde.commands.signals import Interrupted
from score_sde.commands.train import train
from score_sde.config.build import (
    Config,
    build_classification,
    build_classifier_state,
    build_scaler,
    build_sources,
    build_train_step,
    empty_classifier,
    field,
    fresh_classifier,
    image_shape,
)
from score_sde.config.check import check_config
from score_sde.config.history import from_json
from score_sde.config.schema import defaults
from score_sde.data import Source
from score_sde.score import NoisyClassifier
from score_sde.sde import SDE
from score_sde.tensor_ops import expand_to

FOLDER = "classifier"
"""Where it lies in the work directory of its score network."""

LEVELS = 20  # noise levels at which its accuracy is told
IMAGES = 1000  # test images, at most, at each of them


def train_classifier(
    config: Config,
    workdir: Path,
    *,
    allow: Collection[str] = (),
    sources: tuple[Source, Source] | None = None,
    quiet: bool = False,
) -> None:
    """Trains a classifier p(c | x_t) of the recipe's images and SDE (Song et al. 2021, app. I).

    It goes on as training does: by `training.*` and `optim.*`, from its newest checkpoint, and to
    an end by a signal. At each checkpoint that is kept `accuracy.json` and `accuracy.png` tell how
    many test images it knows at which noise level.

    Args:
        config: the recipe, of a network with classes or without.
        workdir: of the score network; the classifier's own is its folder `classifier`.
        allow: as of `train`.
        sources: training and test images; the config's own by default.
        quiet: leave the screen alone.

    Raises:
        ValueError: as `train`; images without labels; or a classifier that is none of the
            checkpoint's.
        OSError, TrainingDiverged, SystemExit: as `train`.
    """
    check_config(config)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if not config.classifier.num_classes:
            config.classifier.num_classes = 2  # to see whether the rest of it can be made
        empty_classifier(config)
        train_source, test_source = sources or build_sources(config)
        config.classifier.num_classes = _classes(config, train_source)
    place = workdir / FOLDER
    _check_same(config, place)
    both = train_source, test_source
    train(config.lock(), place, allow=allow, sources=both, quiet=quiet, kind=CLASSIFIER)


def _classes(config: Config, train: Source) -> int:
    info = train.info
    if info.num_classes < 2:
        raise ValueError(
            f"the images of {info.name} have no labels that a classifier could learn (they are of "
            f"{info.num_classes} classes): take a data set with labels, such as a folder that has "
            "a folder for each class"
        )
    return info.num_classes


def _check_same(config: Config, place: Path) -> None:
    """Refuses to go on with another network than that of the newest checkpoint."""
    newest = checkpoints.newest(place / "checkpoints", lambda text: None)
    if newest is None:
        return
    before = from_json(newest[1]["config"])
    for leaf in defaults("classifier"):
        there, here = (field(one, f"classifier.{leaf}") for one in (before, config))
        if there != here:
            raise ValueError(
                f"{place} holds a classifier with classifier.{leaf}={there!r}, and here it is "
                f"{here!r}: give --config.classifier.{leaf}={there} to go on with it, or move it "
                "away"
            )


def _screen(config: Config, sde: SDE) -> dict[str, Any]:
    x, cond = torch.zeros(1, *image_shape(config), device="meta"), torch.zeros(1, device="meta")
    every = config.training.snapshot_freq
    return {
        "network": f"{config.classifier.name}, a classifier",
        "activations": kept_bytes(empty_classifier(config), lambda network: network(x, cond)),
        "snapshots": f"accuracy by noise level, every {every:,} steps",
    }


@torch.no_grad()
def _held_out(run: Run) -> dict[str, float]:
    """Mean loss and share of classes that are right, of test images at the times of training."""
    x_0, t, z, label = held_out_batch(run)
    with averaged(run) as network:
        losses = run.objective(network, x_0, t, z, label)
        logits = run.objective.logits(network, x_0, t, z)  # type: ignore[attr-defined]
    right = (logits.argmax(1) == label).float()
    return {"held_out_loss": losses.mean().item(), "held_out_accuracy": right.mean().item()}


def _snapshot(run: Run) -> None:
    """Accuracy by noise level, as JSON and as a plot; the curve of the losses."""
    draw_losses(run)
    if not len(run.test_source):
        return
    step = run.state.step
    try:
        with averaged(run) as network:
            levels, shares, n = accuracy_by_level(run, network)
    except Interrupted:
        run.log.say(f"the accuracy of step {step} was left off")
        return
    report = {
        "step": step,
        "n": n,
        "classes": run.config.classifier.num_classes,
        "by_level": [
            {"noise_level": level, "accuracy": share}
            for level, share in zip(levels, shares, strict=True)
        ],
    }
    text = json.dumps(report, indent=2) + "\n"
    path = run.workdir / "accuracy.json"
    write_whole(path, lambda file: file.write(text.encode()), "--workdir")
    title = f"Test images whose class is known, of {n:,} (step {step:,})"
    chance = 1 / run.config.classifier.num_classes
    curves = {"classifier of noisy images": shares}
    pictures.accuracy_curve(run.workdir / "accuracy.png", title, levels, curves, chance)
    words = ", ".join(f"{shares[k]:.1%} at {levels[k]:.2g}" for k in range(0, LEVELS, 4))
    run.log.say(f"accuracy by noise level σ/α: {words}; see {path}")


@torch.no_grad()
def accuracy_by_level(run: Run, network: nn.Module) -> tuple[list[float], list[float], int]:
    """Noise levels σ/α, the shares of test images whose class is right, and how many these are.

    The levels are even in their logarithm between those of training; image k has the same noise
    at each.
    """
    config, sde, source = run.config, run.sde, run.test_source
    index = noise.permutation(len(source), config.seed, 0)[:IMAGES].sort().values
    levels = _levels(sde)
    right = torch.zeros(len(levels), dtype=torch.int64)
    classifier = NoisyClassifier(network, sde)
    for part in index.split(config.eval.batch_size):
        images = source.info.to_unit(source.images(part))
        x_0 = build_scaler(config)(images.to(run.device))
        label = source.labels(part).to(run.device)
        z = noise.normal(
            config.seed, part.to(run.device), 1, x_0.shape[1:], stream=noise.Stream.HELD_OUT
        )
        for k, t in enumerate(sde.time_of_noise_level(levels).to(x_0)):
            run.stop.check()
            right[k] += (classifier(_noisy(sde, x_0, t, z), t).argmax(1) == label).sum().cpu()
    return levels.tolist(), (right / len(index)).tolist(), len(index)


def _noisy(sde: SDE, x_0: Tensor, t: Tensor, z: Tensor) -> Tensor:
    mean, std = sde.marginal_prob(x_0, t.repeat(len(x_0)))
    return mean + expand_to(std, x_0) * z


def _levels(sde: SDE) -> Tensor:
    ends = sde.noise_level(torch.tensor([sde.eps, sde.T], dtype=torch.float64)).log()
    return torch.linspace(ends[0].item(), ends[1].item(), LEVELS, dtype=torch.float64).exp()


CLASSIFIER = Kind(
    network=fresh_classifier,
    state=build_classifier_state,
    objective=build_classification,
    step=lambda config, objective: build_train_step(config, objective, augmented=False),
    labelled=lambda config: True,
    label_dropout=lambda config: 0.0,
    screen=_screen,
    held_out=_held_out,
    snapshot=_snapshot,
)
"""A classifier of noisy images."""
