"""Fields of the group `sampling` that are typed and have no effect are refused in a sentence.

What a recipe sets is passed over where nothing asks for it; what the command line says is meant.
Which fields a mode heeds its row of `cli.MODES` says, with the sets here. Only what is certain is
refused: fields of a recipe's own and modes that a recipe adds are let be, and so is what one
method takes and another does not, as one command line often serves for several methods; but a
corrector that is asked for by name is expected to act.
"""

from collections.abc import Mapping
from typing import Any

from score_sde.commands.command import Mode
from score_sde.config.schema import FIELDS


def _named(*names: str) -> frozenset[str]:
    return frozenset(f"sampling.{name}" for name in names)


_ALL = frozenset(name for name in FIELDS if name.startswith("sampling."))
_OF_FEW = _named("strength", "resample", "fit", "tile_overlap", "image_noise")
FEW = 5
"""Modes that are named where a field is of these alone."""


def drawing(*more: str) -> frozenset[str]:
    """What every mode that draws heeds, and those of the fields of few modes that it does."""
    return _ALL - _OF_FEW | _named(*more)


def check_heeded(
    name: str,
    modes: Mapping[str, Mode],
    overrides: Mapping[str, object],
    config: Any,
    options: Mapping[str, Any],
) -> None:
    """Refuses fields that are given on the command line and have no effect.

    Args:
        name: of the mode.
        modes: the table.
        overrides: fields given on the command line.
        config: the recipe with these.
        options: of the command line.

    Raises:
        ValueError: the first such field, and what it would need.
    """
    mode = modes[name]
    if mode.heeds is not None:
        _check_mode(name, mode.heeds, modes, overrides, config, options)
    _check_corrector(mode, overrides, config)


def _check_mode(
    name: str,
    heeds: frozenset[str],
    modes: Mapping[str, Mode],
    overrides: Mapping[str, object],
    config: Any,
    options: Mapping[str, Any],
) -> None:
    """Refuses what the mode does not take, or not as the other fields stand."""
    for given in sorted(_ALL & overrides.keys() - heeds):
        takers = [other for other in modes if given in (modes[other].heeds or ())]
        rest = f", or take --mode {' or '.join(takers)}" if len(takers) <= FEW else ""
        raise ValueError(
            f"{_said(given, overrides)} has no use in --mode {name}: leave it out{rest}"
        )
    for given in sorted(_OF_FEW & overrides.keys()):
        FIELDS[given].check(overrides[given], f"config.{given}")
    if "sampling.fit" in overrides and options["input"] is None:
        raise ValueError(
            f"--fit={overrides['sampling.fit']} is for images of one's own, and none are given: "
            "name them with --input, or leave it out"
        )
    if "sampling.tile_overlap" in overrides and config.sampling.fit != "tile":
        raise ValueError(
            f"{_said('sampling.tile_overlap', overrides)} has no use without tiles: give --fit "
            "tile as well, or leave it out"
        )


def _check_corrector(mode: Mode, overrides: Mapping[str, object], config: Any) -> None:
    """Refuses a corrector beside a method that takes none."""
    method = str(overrides.get("sampling.method") or mode.method or config.sampling.method)
    row: Any = FIELDS["sampling.method"].holds
    if overrides.get("sampling.corrector", "none") == "none" or method == "pc":
        return
    if method in row.allowed():  # another name has a sentence of its own
        rest = "" if mode.method else ", or set --config.sampling.method=pc"
        raise ValueError(
            f"{_said('sampling.corrector', overrides)} has no use beside "
            f"sampling.method={method!r}, which takes no corrector: leave it out{rest}"
        )


def _said(name: str, overrides: Mapping[str, object]) -> str:
    return f"--config.{name}={overrides[name]}"
