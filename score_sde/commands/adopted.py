"""What a checkpoint decides, and how that is told: against a recipe, of names, of conventions."""

from pathlib import Path

import torch

from score_sde.atomic.weights import listed
from score_sde.config import history
from score_sde.config.build import Config, build_parameterisation, build_sde
from score_sde.config.check import check_config, check_fields
from score_sde.score import Parameterisation
from score_sde.sde import SDE
from score_sde.tensor_ops import UnknownName

_KINDS = ("training.sde", "model.name", "model.prediction")  # told before their numbers


def check_adopted(config: Config, written: str, path: Path) -> None:
    """`check_config` of a config that a checkpoint decides, whose names a recipe may have added.

    Args:
        config: the adopted one.
        written: the checkpoint's own, as JSON.
        path: of the checkpoint, named in the message.

    Raises:
        ValueError: as `check_config`; of a name that the checkpoint brings, what to give besides.
    """
    try:
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
        key=lambda name: name not in _KINDS,
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
    sde, read = here = _convention(config)
    if before[0].name == sde.name and _alike(before[1], read):
        return ""
    return (
        f"warning: the weights of {path} were trained for {_in_words(*before)}, and this run "
        f"trains for {_in_words(*here)}: they fit by their shapes alone, so that the loss may "
        "begin high and what they know be of little use"
    )


def _convention(config: Config) -> tuple[SDE, Parameterisation]:
    sde = build_sde(config)
    return sde, build_parameterisation(config, sde)


def _alike(one: Parameterisation, other: Parameterisation) -> bool:
    """Whether networks put out the same and are told the time in the same way."""
    return (one.prediction.name, one.time_label) == (other.prediction.name, other.time_label)


def _in_words(sde: SDE, read: Parameterisation) -> str:
    told = read.label(torch.tensor([sde.T])).item()
    return f"{sde.name} (output {read.prediction.name}, told {told:.4g} at the most noise)"
