"""The words of the command line, read and checked against the table of modes."""

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from score_sde.commands import options, recipes
from score_sde.commands.command import Command, Mode
from score_sde.commands.heeded import check_heeded

Modes = Mapping[str, Mode]
"""The table; recipes are run before names are looked up in it, and may add rows."""


def define_flags(modes: Modes, argv: Sequence[str] = ()) -> flags.FlagValues:
    """Every option, with --config and its overrides as they stand in the words.

    Raises:
        ValueError: a row of the table that is none.
    """
    for name, mode in modes.items():
        if not (isinstance(mode, Mode) and isinstance(name, str)):
            raise ValueError(
                f"MODES[{name!r}] is {mode!r:.60}: give Mode(function, help) of "
                "score_sde.commands.cli under a name"
            )
    return options.define({name: mode.help for name, mode in modes.items()}, argv)


def split_recipe(argv: Sequence[str], modes: Modes) -> tuple[Path | None, list[str]]:
    """Finds the recipe of --config, and the other words.

    Raises:
        ValueError: none, or more than one.
    """
    words, given = list(argv), ""
    for place, word in enumerate(words):
        if word.startswith("--config="):
            given = words.pop(place).partition("=")[2]
            break
        if word == "--config" and place + 1 < len(words):
            given = words.pop(place + 1)
            words.pop(place)
            break
    if given and any(word.partition("=")[0] == "--config" for word in words):
        raise ValueError("--config is given twice: name one recipe")
    without = [name for name, mode in modes.items() if not getattr(mode, "needs_recipe", True)]
    if not given and any(
        f"--mode={name}" in words or ["--mode", name] in _pairs(words) for name in without
    ):
        return None, words
    if not given:
        raise ValueError(
            "--config is missing: name a recipe, such as --config configs/vp/digits.py"
        )
    return recipes.find(given), words


def _pairs(words: list[str]) -> list[list[str]]:
    return [words[place : place + 2] for place in range(len(words))]


def _last_of_each(words: list[str]) -> list[str]:
    """Of a field that is given twice the last word counts; absl would join tuples."""
    last = {word.partition("=")[0]: place for place, word in enumerate(words)}
    return [
        word
        for place, word in enumerate(words)
        if not (word.startswith("--config.") and "=" in word)
        or last[word.partition("=")[0]] == place
    ]


def read(modes: Modes, words: Sequence[str]) -> Any:
    """The config of a command line, unchecked."""
    values = define_flags(modes, words)
    values(words)
    return values.config


def _explain(
    argv: Sequence[str], recipe: Path, known: dict[str, object], modes: Modes
) -> str | None:
    """A sentence about the first --config.NAME=VALUE that does not fit the recipe."""
    bare = [argv[0], f"--config={recipe}"]
    for word in argv[1:]:
        name, _, value = word.lstrip("-").partition("=")
        field = name if name in known else name.removeprefix("no")
        if not field.startswith("config."):
            continue
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1, cutoff=0.4)
            hint = f"; did you mean --{near[0]}?" if near else ""
            return f"--{name}: {recipe.name} has no such field{hint}"
        try:
            trial = [*bare, word] if "=" in word else bare
            read(modes, trial)
        except flags.Error:
            kind = type(known[field]).__name__
            return (
                f"--{name}={value}: this field takes a value of type {kind}, as {known[field]!r}"
            )
    return None


def parse(argv: Sequence[str], modes: Modes) -> Command:
    """Reads the command line.

    Args:
        argv: the program's name and its arguments.
        modes: the table.

    Raises:
        ValueError: what is wrong and what to write instead, in one sentence.
    """
    recipe, words = split_recipe([argv[0], *options.with_flagfiles(argv[1:])], modes)
    known = recipes.fields(recipe, partial(read, modes)) if recipe else {}
    if recipe:
        words = [words[0], f"--config={recipe}", *_last_of_each(words[1:])]
    values = define_flags(modes, words)
    for word in words[1:]:
        # absl would look for the nearest option, one call deep for each letter.
        if word.startswith("-") and len(word.partition("=")[0]) > 200:
            raise ValueError(f"{word!r} is not an option; options are written --name=value")
    try:
        rest = values(words)
        config = None if values.config is None else values.config.lock()
    except (AttributeError, KeyError, flags.Error) as error:
        sentence = _explain(words, recipe, known, modes) if recipe else None
        raise ValueError(sentence or str(error).removeprefix("flag ")) from error
    if rest[1:]:
        raise ValueError(
            f"{rest[1]!r} is not an option; options are written --name=value, and what holds a "
            "space in quotes"
        )
    if not values.mode and not (values.print_config or values.smoke):
        raise ValueError(f"--mode is missing: give one of {', '.join(modes)}")
    mode = values.mode or "train"
    defined = values.flags_by_module_dict()["options"]
    of_modes = {flag.name: flag for flag in defined if flag.name not in options.EVERY_MODE}
    chosen = {name: flag.value for name, flag in of_modes.items()}
    given = [name for name, flag in of_modes.items() if flag.value != flag.default]
    _check_options(mode, given, chosen, modes)
    overrides = dict(values["config"].override_values) if recipe else {}  # type: ignore[attr-defined]
    if config is not None:
        options.set_short(chosen, overrides, config, modes[mode].short)
        check_heeded(mode, modes, overrides, config, chosen)
    default = recipes.default_workdir(recipe) if recipe else Path("runs")
    workdir = values.workdir or default
    if config is not None:
        options.set_classifier(overrides, config, workdir)
    return Command(
        config=config,
        overrides=overrides,
        workdir=workdir,
        mode=mode,
        options=chosen | {"print_config": values.print_config},
    )


def _check_options(
    mode: str, given: Sequence[str], chosen: Mapping[str, Any], modes: Modes
) -> None:
    """Refuses options that a mode does not heed, or that contradict each other."""
    for name in modes[mode].options:
        if name not in chosen:
            raise ValueError(
                f"the row of MODES for {mode!r} names the option --{name}, which the command line "
                f"does not have: make it a field of the recipe, such as {{'{mode}.{name}': 3}}, "
                f"given as --config.{mode}.{name}"
            )
    for name in given:
        if name not in modes[mode].options:
            takers = [other for other in modes if name in modes[other].options]
            raise ValueError(
                f"--{name} has no use in --mode {mode}: leave it out, or take --mode "
                f"{' or '.join(takers)}"
            )
    drawn = (chosen["num_samples"] or 1) * (chosen["completions"] or 1)
    if drawn > options.MOST_IMAGES:
        raise ValueError(
            f"--num_samples and --completions ask for {drawn:,} images: one command draws at most "
            f"{options.MOST_IMAGES:,}, so ask for fewer"
        )
    # A bound of absl's would let nan pass.
    if not 0 <= chosen["wait"] < math.inf:
        raise ValueError(f"--wait {chosen['wait']:g}: give a number of minutes from 0 up")
    if chosen["wait"] and chosen["checkpoint"]:
        raise ValueError(
            "--wait waits for checkpoints of the work directory: leave --checkpoint out"
        )
