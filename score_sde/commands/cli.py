"""Train, sample and evaluate score-based generative models from the command line.

    score-sde --config vp/digits --mode train
    score-sde --config vp/digits --mode sample --num_samples 64
    score-sde --config vp/digits --mode inpaint --mask left

`python main.py` is the same in a checkout.

Any field of the recipe can be overridden: --config.optim.lr=1e-4. Everything is written under
--workdir, which defaults to runs/ and the recipe's path (runs/vp/digits). Running a command again
resumes it.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from score_sde.commands import errors, recipes, signals, words
from score_sde.commands.command import Command, Mode
from score_sde.commands.heeded import drawing
from score_sde.commands.terminal import guarded, show
from score_sde.config import listing

_LED = ("label", "guidance", "guidance_interval", "classifier", "classifier_scale", "guide")
_DRAWING = ("checkpoint", "raw", "num_samples", "output", *_LED)
_COMPLETING = (*_DRAWING, "input", "fit", "completions")
_FITTED = ("fit", "tile_overlap")
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
        "score_sde.commands.modes:sample",
        "draw images",
        (*_DRAWING, "grid"),
        heeds=drawing(),
        several_processes=True,
    ),
    "eval": Mode(
        "score_sde.commands.modes:evaluate",
        "compute losses, bits/dim and distances",
        ("checkpoint", "raw", "eval_folder", "wait", "base", *_LED),
        heeds=drawing("image_noise"),
        several_processes=True,
        goes_on=True,
    ),
    "compare": Mode(
        "score_sde.commands.modes:compare",
        "compare samplers by what each evaluation of the network buys",
        ("checkpoint", "raw", "num_samples", "preset", "exact", "exact_std", *_LED),
        heeds=drawing(),
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
        heeds=drawing("resample", *_FITTED),
    ),
    "colorize": Mode(
        "score_sde.commands.modes:complete",
        "draw the colours of images",
        _COMPLETING,
        heeds=drawing("resample", *_FITTED),
        several_processes=True,
    ),
    "restore": Mode(
        "score_sde.commands.modes:restore",
        "draw images that fit what is measured of them",
        (*_COMPLETING, "measured", *_RESTORING),
        several_processes=True,
        short=_RESTORING,
        heeds=drawing("resample", *_FITTED),
    ),
    "edit": Mode(
        "score_sde.commands.modes:edit",
        "noise images part of the way and lead them back",
        (*_COMPLETING, "strength"),
        several_processes=True,
        short={"strength": "sampling.strength"},
        heeds=drawing("strength", *_FITTED),
    ),
    "encode": Mode(
        "score_sde.commands.modes:encode",
        "compute the latents of images, and what they are decoded to",
        (*_DRAWING, "input", "fit"),
        heeds=drawing("fit"),
        method="ode",
        several_processes=True,
    ),
    "interpolate": Mode(
        "score_sde.commands.modes:interpolate",
        "draw images between images, along arcs of their latents",
        (*_DRAWING, "input", "fit", "frames", "random"),
        heeds=drawing("fit"),
        method="ode",
        several_processes=True,
    ),
    "cascade": Mode(
        "score_sde.commands.modes:cascade",
        "upsample images that a base model draws",
        (*_DRAWING, "upsampler", "input", "fit"),
        heeds=drawing("fit", "image_noise"),
        several_processes=True,
    ),
    "tune": Mode(
        "score_sde.commands.modes:tune",
        "compute noise levels from the training images",
        by_main=True,
    ),
    "ema": Mode(
        "score_sde.commands.modes:average",
        "average the weights over another length",
        ("output",),
        by_main=True,
    ),
    "convert": Mode(
        "score_sde.commands.modes:convert",
        "write a checkpoint in another format",
        ("checkpoint", "output"),
        needs_recipe=False,
        by_main=True,
    ),
    "plot": Mode(
        "score_sde.commands.modes:plot",
        "draw curves of runs side by side",
        ("runs", "curves", "output"),
        needs_recipe=False,
        by_main=True,
    ),
    "report": Mode(
        "score_sde.commands.modes:report",
        "write a page about a work directory: curves, samples, evaluations, config",
        ("output",),
        needs_recipe=False,
        by_main=True,
    ),
    "figures": Mode(
        "score_sde.commands.modes:figures",
        "draw figures of the papers that need no network",
        ("output",),
        needs_recipe=False,
        by_main=True,
    ),
    "prepare": Mode(
        "score_sde.commands.modes:prepare",
        "write images of your own, in one size, into shards to train on",
        ("input", "output", "size", "fit", "ground"),
        needs_recipe=False,
        by_main=True,
        goes_on=True,
    ),
    "recipes": Mode(
        "score_sde.commands.recipes:list_recipes",
        "list the recipes",
        needs_recipe=False,
        by_main=True,
    ),
}
"""Name (`--mode`) → what it is. Recipes are run before names are looked up, and may add rows."""


def parse(argv: Sequence[str]) -> Command:
    """Reads the command line.

    Args:
        argv: the program's name and its arguments.

    Raises:
        ValueError: what is wrong and what to write instead, in one sentence.
    """
    return words.parse(argv, MODES)


def run(command: Command) -> None:
    """Carries out a command.

    Raises:
        ValueError: several processes, where the mode is made for one.
    """
    mode, several = MODES[command.mode], signals.is_one_of_several()
    if command.options["print_config"] and command.config is not None:
        _show_once(f"{command.config}\n")
        return
    if several and not (mode.several_processes or mode.by_main):
        ready = " or ".join(name for name, other in MODES.items() if other.several_processes)
        raise ValueError(
            f"--mode {command.mode} runs in one process, and "
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} says that torchrun has started others: start "
            f"it without torchrun, or unset WORLD_SIZE (--mode {ready} can share its work)"
        )
    if not several:
        mode.run(command)
        return
    from score_sde import parallel  # here: a listing needs no torch

    with parallel.together() as world:
        if mode.several_processes or world.is_main:
            mode.run(command)


def _show_once(text: str) -> None:
    """Prints what several processes would all print."""
    if not signals.is_one_of_several() or os.environ.get("RANK", "0") == "0":
        show(text)


def _help(argv: Sequence[str]) -> str:
    """What `--help` prints; with the modes that a recipe adds, where --config names one."""
    if any(word.partition("=")[0] == "--config" for word in argv):
        recipe, _ = words.split_recipe(argv, MODES)
        if recipe:
            recipes.fields(recipe, partial(words.read, MODES))  # runs it
    return f"{__doc__}\n{words.define_flags(MODES).module_help('options')}\n"


def is_debug(argv: Sequence[str]) -> bool:
    """Whether the command line asks for traces."""
    return "--debug" in argv or "--debug=true" in argv


@guarded()
def main(argv: Sequence[str]) -> int:
    """Runs the program and returns its exit code.

    0 when done, 1 for a user's mistake or another error (one sentence on stderr), 130 after
    Ctrl-C, 143 after SIGTERM and 129 after SIGHUP.
    """
    command, said = None, ""
    try:
        if "--help" in argv or "-h" in argv:
            _show_once(_help(argv))
        elif "--help_config" in argv:
            _show_once(listing.help_text())
        else:
            command = parse(argv)
            run(command)
    except KeyboardInterrupt:
        goes_on = command is not None and MODES[command.mode].goes_on
        more = "; the same command goes on with what is finished" if goes_on else ""
        code, said = 130, f"interrupted{more}"
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException as error:  # nothing reaches the terminal but a sentence
        folders = _folders(command) if command else []
        code, said = 1, errors.told(error, folders)
        if is_debug(argv):
            traceback.print_exc()
    else:
        return 0
    if signals.is_one_of_several():
        from score_sde import parallel

        return parallel.fail(said, code)
    if said:
        sys.stderr.write(f"{said}\n")
    return code


def _folders(command: Command) -> list[Path]:
    """Where a log may go: the work directory, or beside the output."""
    folders = [command.workdir]
    for name in ("eval_folder", "output"):
        if path := command.options.get(name):
            folders.append(path.parent if path.suffix else path)
    return folders
