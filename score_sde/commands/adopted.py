"""What a checkpoint decides, and how that is told: against a recipe, of names, of conventions."""

from collections.abc import Callable
from pathlib import Path

import torch

from score_sde.atomic.weights import listed
from score_sde.config import history
from score_sde.config.build import Config, build_parameterisation, build_sde
from score_sde.config.check import check_config, check_fields
from score_sde.score import Parameterisation
from score_sde.sde import SDE
from score_sde.tensor_ops import UnknownName

_FIRST = ("training.sde", "model.name", "model.prediction")
"""Fields that are told first of those that differ, as only some find room."""


def check_adopted(
    config: Config,
    written: str,
    path: Path,
    fits: Callable[[Config], None] = lambda config: None,
) -> None:
    """`check_config` of a config that a checkpoint decides, whose names a recipe may have added.

    Args:
        config: the adopted one.
        written: the checkpoint's own, as JSON.
        path: of the checkpoint, named in the message.
        fits: a check of the mode's own, made first.

    Raises:
        ValueError: as `fits` and `check_config`; of a name that the checkpoint brings, what to
            give besides.
    """
    try:
        fits(config)
        check_config(config)
    except UnknownName as error:
        name = error.what.removeprefix("config.")
        own, used = history.leaves(history.from_json(written)), history.leaves(config)
        if name not in own or own[name] != used.get(name):
            raise
        raise UnknownName(
            f"{error}; {path} was trained with it: where a recipe of yours adds it, name the "
            "recipe too, --config mine.py (in Python config='mine.py')",
            error.what,
        ) from error


def decided_by_checkpoint(recipe: Config, adopted: Config) -> str:
    """What the checkpoint decided against the recipe, for the log; empty where that is nothing."""
    wanted, fields = history.of_checkpoint(recipe), history.of_checkpoint(adopted)
    other = sorted(
        (name for name, value in fields.items() if wanted.get(name) != value),
        key=lambda name: name not in _FIRST,
    )
    said = listed([f"{name}={fields[name]!r}" for name in other])
    return f"of the checkpoint, not of the recipe: {said}" if other else ""


def of_other_conventions(written: str, config: Config, path: Path) -> str:
    """That weights which a run begins with mean something else in it; empty where they do not.

    Weights fit by their shapes, whatever they were trained to put out and however they were told
    the time.

    Args:
        written: the config of their checkpoint, as JSON.
        config: of the run.
        path: of the checkpoint.
    """
    try:
        own = history.from_json(written)
        check_fields(own)
        before = _convention(own)
    except ValueError as error:
        return f"what the weights of {path} were trained to put out is not known here ({error})"
    here = _convention(config)
    if before[0].name == here[0].name and _alike(*before, *here):
        return ""
    return (
        f"warning: the weights of {path} were trained for {_in_words(*before)}, and this run "
        f"trains for {_in_words(*here)}: they fit by their shapes alone, so that the loss may "
        "begin high and what they know be of little use"
    )


def _convention(config: Config) -> tuple[SDE, Parameterisation]:
    sde = build_sde(config)
    return sde, build_parameterisation(config, sde)


def _alike(one: SDE, read_one: Parameterisation, other: SDE, read_other: Parameterisation) -> bool:
    """Whether networks are told the same at equal noise levels, and put out the same there."""
    ends = [sde.noise_level(torch.tensor([sde.eps, sde.T])) for sde in (one, other)]
    low, high = torch.maximum(*ends)[0], torch.minimum(*ends)[1]
    if low >= high:
        return False
    levels = torch.logspace(low.log10().item(), high.log10().item(), 7)
    for first, second in zip(
        _at(levels, one, read_one), _at(levels, other, read_other), strict=True
    ):
        # A label of a chain is that of its nearest step.
        if (first - second).abs().max() > 0.02 * first.abs().max():
            return False
    return True


def _at(levels: torch.Tensor, sde: SDE, read: Parameterisation) -> tuple[torch.Tensor, ...]:
    """Time label, and the factors of state and output in E[z | x], at noise levels σ/α."""
    t = sde.time_of_noise_level(levels)
    noise = read.noise(t)
    return read.label(t), torch.zeros_like(t) if noise.a is None else noise.a, noise.b


def _in_words(sde: SDE, read: Parameterisation) -> str:
    told = read.label(torch.tensor([sde.T])).item()
    return f"{sde.name} (output {read.prediction.name}, told {told:.4g} at the most noise)"
