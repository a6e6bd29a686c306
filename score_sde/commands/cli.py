"""Train, sample and evaluate score-based generative models from the command line.

    score-sde --config vp/digits --mode train
    score-sde --config vp/digits --mode sample --num_samples 64
    score-sde --config vp/digits --mode inpaint --mask left

`python main.py` is the same in a checkout.

Any field of the recipe can be overridden: --config.optim.lr=1e-4. Everything is written under
--workdir, which defaults to runs/ and the recipe's path (runs/vp/digits). Running a command again
resumes it.
"""

import difflib
import importlib
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from score_sde.commands import errors, options, recipes, signals
from score_sde.commands.terminal import guarded, show
from score_sde.config import listing
from score_sde.config.holds import Names
from score_sde.config.schema import FIELDS


@dataclass(frozen=True)
class Command:
    """What the command line asks for.

    Attributes:
        config: the resolved recipe, locked; None where the mode needs none.
        overrides: dotted names and values of the fields given on the command line.
        workdir: where the run keeps everything.
        mode: a name of `MODES`.
        options: every option of `options.define` by name, None or False where it was not given;
            those that name a file or a folder as `Path`.
    """

    config: ml_collections.ConfigDict | None
    overrides: dict[str, object]
    workdir: Path
    mode: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Mode:
    """A row of `MODES`.

    Attributes:
        function: takes the `Command`; or where it is, as "module:function", which is imported
            when the mode runs, so that `--help` needs no torch.
        help: one line.
        options: those that it heeds, beside those that every mode has.
        short: those of them that are short for a field in this mode, with its dotted name.
        needs_recipe: whether --config must be given.
        several_processes: whether it is ready for those that torchrun starts.
        goes_on: whether it takes up what an interrupted run of it has finished.
    """

    function: str | Callable[[Command], None]
    help: str
    options: tuple[str, ...] = ()
    needs_recipe: bool = True
    several_processes: bool = False
    goes_on: bool = False
    short: Mapping[str, str] = field(default_factory=dict)

    def run(self, command: Command) -> None:
        """Calls the function."""
        function = self.function
        if isinstance(function, str):
            module, _, name = function.partition(":")
            function = getattr(importlib.import_module(module), name)
        with signals.interruptible():
            function(command)


_LED = ("label", "guidance", "guidance_interval", "classifier", "classifier_scale", "guide")
_DRAWING = ("checkpoint", "raw", "num_samples", "output", *_LED)
_COMPLETING = (*_DRAWING, "input", "fit", "completions")
_RESTORING = {name: f"restore.{name}" for name in ("mask", "task", "factor", "noise", "posterior")}

MODES: dict[str, Mode] = {
    "train": Mode(
        "score_sde.commands.modes:train",
        "train, or resume the work directory's run",
        ("init_from", "allow", "smoke"),
        several_processes=True,
        goes_on=True,
    ),
    "train_classifier": Mode(
        "score_sde.commands.modes:train_classifier",
        "train a classifier of noisy images, or resume it, in the work directory's classifier/",
        ("allow",),
        several_processes=True,
        goes_on=True,
    ),
    "sample": Mode(
        "score_sde.commands.modes:sample", "draw images", _DRAWING, several_processes=True
    ),
    "eval": Mode(
        "score_sde.commands.modes:evaluate",
        "compute losses, bits/dim and distances",
        ("checkpoint", "raw", "eval_folder", "wait", "base", *_LED),
        several_processes=True,
        goes_on=True,
    ),
    "compare": Mode(
        "score_sde.commands.modes:compare",
        "compare samplers by what each evaluation of the network buys",
        ("checkpoint", "raw", "num_samples", "preset", "exact", "exact_std", *_LED),
        several_processes=True,
        goes_on=True,
    ),
    "stats": Mode(
        "score_sde.commands.modes:stats",
        "compute the data set's statistics",
        several_processes=True,
    ),
    "inpaint": Mode(
        "score_sde.commands.modes:complete",
        "draw what a mask hides of images",
        (*_COMPLETING, "mask"),
        several_processes=True,
        short={"mask": "restore.mask"},
    ),
    "colorize": Mode(
        "score_sde.commands.modes:complete",
        "draw the colours of images",
        _COMPLETING,
        several_processes=True,
    ),
    "restore": Mode(
        "score_sde.commands.modes:restore",
        "draw images that fit what is measured of them",
        (*_COMPLETING, "measured", *_RESTORING),
        several_processes=True,
        short=_RESTORING,
    ),
    "edit": Mode(
        "score_sde.commands.modes:edit",
        "noise images part of the way and lead them back",
        (*_COMPLETING, "strength"),
        several_processes=True,
        short={"strength": "sampling.strength"},
    ),
    "encode": Mode(
        "score_sde.commands.modes:encode",
        "compute the latents of images, and what they are decoded to",
        (*_DRAWING, "input", "fit"),
        several_processes=True,
    ),
    "interpolate": Mode(
        "score_sde.commands.modes:interpolate",
        "draw images between images, along arcs of their latents",
        (*_DRAWING, "input", "fit", "frames", "random"),
    ),
    "cascade": Mode(
        "score_sde.commands.modes:cascade",
        "upsample images that a base model draws",
        (*_DRAWING, "upsampler", "input", "fit"),
    ),
    "tune": Mode("score_sde.commands.modes:tune", "compute noise levels from the training images"),
    "ema": Mode(
        "score_sde.commands.modes:average",
        "average the weights over another length",
        ("output",),
    ),
    "convert": Mode(
        "score_sde.commands.modes:convert",
        "write a checkpoint in another format",
        ("checkpoint", "output"),
        needs_recipe=False,
    ),
    "plot": Mode(
        "score_sde.commands.modes:plot",
        "draw curves of runs side by side",
        ("runs", "curves", "output"),
        needs_recipe=False,
    ),
    "recipes": Mode(
        "score_sde.commands.recipes:list_recipes", "list the recipes", needs_recipe=False
    ),
}
"""Name (`--mode`) → what it is. Recipes are run before names are looked up, and may add rows."""


def _define_flags(argv: Sequence[str] = ()) -> flags.FlagValues:
    for name, mode in MODES.items():
        if not (isinstance(mode, Mode) and isinstance(name, str)):
            raise ValueError(
                f"MODES[{name!r}] is {mode!r:.60}: give Mode(function, help) of "
                "score_sde.commands.cli under a name"
            )
    return options.define({name: mode.help for name, mode in MODES.items()}, argv)


def _split_recipe(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Finds the recipe of --config, and the other words."""
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
    without = [name for name, mode in MODES.items() if not getattr(mode, "needs_recipe", True)]
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


def _read(words: Sequence[str]) -> Any:
    """The config of a command line."""
    values = _define_flags(words)
    values(words)
    return values.config


def _explain(argv: Sequence[str], recipe: Path, known: dict[str, object]) -> str | None:
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
            _read(trial)
        except flags.Error:
            kind = type(known[field]).__name__
            return (
                f"--{name}={value}: this field takes a value of type {kind}, as {known[field]!r}"
            )
    return None


def parse(argv: Sequence[str]) -> Command:
    """Reads the command line.

    Args:
        argv: the program's name and its arguments.

    Raises:
        ValueError: what is wrong and what to write instead, in one sentence.
    """
    recipe, words = _split_recipe([argv[0], *options.with_flagfiles(argv[1:])])
    known = recipes.fields(recipe, _read) if recipe else {}
    if recipe:
        words = [words[0], f"--config={recipe}", *_last_of_each(words[1:])]
    values = _define_flags(words)
    for word in words[1:]:
        # absl would look for the nearest option, one call deep for each letter.
        if word.startswith("-") and len(word.partition("=")[0]) > 200:
            raise ValueError(f"{word!r} is not an option; options are written --name=value")
    try:
        rest = values(words)
        config = None if values.config is None else values.config.lock()
    except (AttributeError, KeyError, flags.Error) as error:
        sentence = _explain(words, recipe, known) if recipe else None
        raise ValueError(sentence or str(error).removeprefix("flag ")) from error
    if rest[1:]:
        raise ValueError(f"{rest[1]!r} is not an option; options are written --name=value")
    if not values.mode and not (values.print_config or values.smoke):
        raise ValueError(f"--mode is missing: give one of {', '.join(MODES)}")
    mode = values.mode or "train"
    defined = values.flags_by_module_dict()["options"]
    of_modes = {flag.name: flag for flag in defined if flag.name not in options.EVERY_MODE}
    chosen = {name: flag.value for name, flag in of_modes.items()}
    given = [name for name, flag in of_modes.items() if flag.value != flag.default]
    _check_options(mode, given, chosen)
    overrides = dict(values["config"].override_values) if recipe else {}  # type: ignore[attr-defined]
    if config is not None:
        options.set_short(chosen, overrides, config, MODES[mode].short)
        _check_steps(overrides, config)
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


def _check_options(mode: str, given: Sequence[str], chosen: Mapping[str, Any]) -> None:
    """Refuses options that a mode does not heed, or that contradict each other."""
    for name in MODES[mode].options:
        if name not in chosen:
            raise ValueError(
                f"the row of MODES for {mode!r} names the option --{name}, which the command line "
                f"does not have: make it a field of the recipe, such as {{'{mode}.{name}': 3}}, "
                f"given as --config.{mode}.{name}"
            )
    for name in given:
        if name not in MODES[mode].options:
            modes = [other for other in MODES if name in MODES[other].options]
            raise ValueError(
                f"--{name} has no use in --mode {mode}: leave it out, or take --mode "
                f"{' or '.join(modes)}"
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


def _check_steps(overrides: Mapping[str, object], config: Any) -> None:
    """Refuses steps that are asked for on the command line and that the method does not take."""
    method, row = config.sampling.method, FIELDS["sampling.method"].holds
    for name in ("sampling.predictor", "sampling.corrector"):
        asked = overrides.get(name, "none") != "none"
        if asked and method != "pc" and isinstance(row, Names) and method in row.allowed():
            raise ValueError(
                f"--config.{name}={overrides[name]} has no use beside sampling.method={method!r}, "
                "which takes no predictor and no corrector: leave it out, or set "
                "--config.sampling.method=pc"
            )


def run(command: Command) -> None:
    """Carries out a command.

    Raises:
        ValueError: several processes, where the mode is made for one.
    """
    mode, processes = MODES[command.mode], os.environ.get("WORLD_SIZE", "1")
    if command.options["print_config"] and command.config is not None:
        show(f"{command.config}\n")
        return
    if processes != "1" and not mode.several_processes:
        ready = " or ".join(name for name, other in MODES.items() if other.several_processes)
        raise ValueError(
            f"--mode {command.mode} runs in one process, and WORLD_SIZE={processes} says that "
            f"torchrun has started others: start it without torchrun, or unset WORLD_SIZE (--mode "
            f"{ready} can share its work)"
        )
    if processes == "1":
        mode.run(command)
        return
    from score_sde import parallel  # here: a listing needs no torch

    with parallel.together():
        mode.run(command)


def _help(argv: Sequence[str]) -> str:
    """What `--help` prints; with the modes that a recipe adds, where --config names one."""
    if any(word.partition("=")[0] == "--config" for word in argv):
        recipe, _ = _split_recipe(argv)
        if recipe:
            recipes.fields(recipe, _read)  # runs it
    return f"{__doc__}\n{_define_flags().module_help('options')}\n"


def is_debug(argv: Sequence[str]) -> bool:
    """Whether the command line asks for traces."""
    return "--debug" in argv or "--debug=true" in argv


@guarded()
def main(argv: Sequence[str]) -> int:
    """Runs the program and returns its exit code.

    0 when done, 1 for a user's mistake or another error (one sentence on stderr), 130 after
    Ctrl-C, 143 after SIGTERM and 129 after SIGHUP.
    """
    command, words = None, ""
    try:
        if "--help" in argv or "-h" in argv:
            show(_help(argv))
        elif "--help_config" in argv:
            show(listing.help_text())
        else:
            command = parse(argv)
            run(command)
    except KeyboardInterrupt:
        goes_on = command is not None and MODES[command.mode].goes_on
        more = "; the same command goes on with what is finished" if goes_on else ""
        code, words = 130, f"interrupted{more}"
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException as error:  # nothing reaches the terminal but a sentence
        folders = _folders(command) if command else []
        code, words = 1, errors.told(error, folders)
        if is_debug(argv):
            traceback.print_exc()
    else:
        return 0
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from score_sde import parallel

        return parallel.fail(words, code)
    if words:
        sys.stderr.write(f"{words}\n")
    return code


def _folders(command: Command) -> list[Path]:
    """Where a log may go: the work directory, or beside the output."""
    folders = [command.workdir]
    for name in ("eval_folder", "output"):
        if path := command.options.get(name):
            folders.append(path.parent if path.suffix else path)
    return folders
