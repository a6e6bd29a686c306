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
import math
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from score_sde.commands import recipes
from score_sde.config import parts

MODES = ("train", "sample", "eval", "stats", "inpaint", "colorize", "tune", "convert", "recipes")
WITHOUT_RECIPE = ("convert", "recipes")
FROM_CHECKPOINT = ("sample", "eval", "inpaint", "colorize")
USED_IN = {
    "checkpoint": (*FROM_CHECKPOINT, "convert"),
    "eval_folder": ("eval",),
    "wait": ("eval",),
    "init_from": ("train",),
    "num_samples": ("sample", "inpaint", "colorize"),
    "input": ("inpaint", "colorize"),
    "mask": ("inpaint",),
    "completions": ("inpaint", "colorize"),
    "output": ("sample", "inpaint", "colorize", "convert"),
    "raw": FROM_CHECKPOINT,
    "smoke": ("train",),
}
"""Options that not every mode heeds."""
TEXTS = ("workdir", "checkpoint", "eval_folder", "init_from", "input", "mask", "output")


@dataclass(frozen=True)
class Command:
    """What the command line asks for.

    Attributes:
        config: the resolved recipe; None where the mode needs none.
        overrides: dotted names and values of the fields given on the command line.
        workdir: where the run keeps everything.
        mode: one of `MODES`.
        eval_folder: where reports go, None for `eval` in the work directory.
        wait: minutes to wait for each checkpoint that is still to come.
        checkpoint: a file or a folder of diffusers, or None for the newest of the work directory.
        init_from: a checkpoint whose weights a new run begins with.
        num_samples: images to draw, or to complete; None for the mode's own number.
        input: images to complete, None for the recipe's test images.
        mask: what is known of them, for `inpaint`.
        completions: of each of them.
        output: a folder for PNG files or a name ending in .npz, None for the work directory; the
            file or folder that `convert` writes.
        raw: use the weights as trained instead of their moving average.
        smoke: try the whole recipe at reduced width in a temporary folder.
        print_config: print the config and stop.
        debug: show stack traces.
    """

    config: ml_collections.ConfigDict | None
    overrides: dict[str, object]
    workdir: Path
    mode: str
    eval_folder: Path | None
    wait: float
    checkpoint: Path | None
    init_from: Path | None
    num_samples: int | None
    input: Path | None
    mask: str
    completions: int
    output: Path | None
    raw: bool
    smoke: bool
    print_config: bool
    debug: bool


def _define_flags(argv: Sequence[str] = ()) -> flags.FlagValues:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "The recipe.", flag_values=values, sys_argv=list(argv)
    )
    options: list[tuple[Any, str, Any, str]] = [
        (flags.DEFINE_string, "mode", None, f"One of {', '.join(MODES)}."),
        (flags.DEFINE_string, "workdir", None, "Default: runs/ and the recipe's path."),
        (
            flags.DEFINE_string,
            "checkpoint",
            None,
            "A file, or a folder of diffusers. Default: the newest of the work directory.",
        ),
        (flags.DEFINE_string, "eval_folder", None, "Default: eval/ in the work directory."),
        (
            flags.DEFINE_float,
            "wait",
            0.0,
            "Evaluate checkpoints as they come, waiting at most so many minutes for each.",
        ),
        (flags.DEFINE_string, "init_from", None, "Train from this checkpoint's weights."),
        (
            flags.DEFINE_integer,
            "num_samples",
            None,
            "How many images to draw (default 64), or to inpaint or colorize (8).",
        ),
        (
            flags.DEFINE_string,
            "input",
            None,
            "An image, a folder of them or an array file. Default: test images.",
        ),
        (
            flags.DEFINE_string,
            "mask",
            None,
            "What to inpaint: middle (default), left, right, top, bottom, scattered, or a "
            "picture, white where images are known.",
        ),
        (flags.DEFINE_integer, "completions", None, "How many of each image (default 4)."),
        (
            flags.DEFINE_string,
            "output",
            None,
            "A folder for PNG files, or NAME.npz; for convert, NAME.pt or NAME.pth for a file, "
            "any other name for a folder of diffusers.",
        ),
        (flags.DEFINE_bool, "raw", False, "Use the raw weights, not their moving average."),
        (flags.DEFINE_bool, "smoke", False, "Try the recipe at reduced width, in a minute."),
        (flags.DEFINE_bool, "print_config", False, "Print the resolved config and stop."),
        (flags.DEFINE_bool, "debug", False, "Show the stack trace of an error."),
        (flags.DEFINE_bool, "help", False, "Show this text."),
    ]
    for define, name, default, text in options:
        define(name, default, text, flag_values=values, module_name="options")
    return values


def _flat(config: ml_collections.ConfigDict, prefix: str = "config.") -> dict[str, object]:
    fields = {}
    for key, value in config.items():
        inside = isinstance(value, ml_collections.ConfigDict)
        fields |= _flat(value, f"{prefix}{key}.") if inside else {prefix + key: value}
    return fields


def _split_recipe(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Finds --config, relative to here or to this file's folder, and the other words.

    Only the modes of `WITHOUT_RECIPE` can do without.
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
    if not given and any(
        f"--mode={mode}" in words or ["--mode", mode] in _pairs(words) for mode in WITHOUT_RECIPE
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


def _fields(recipe: Path) -> dict[str, object]:
    """What the recipe holds, as long dotted names and values.

    Raises:
        ValueError: the file gives no recipe. It is the user's code, so any error may come of it.
    """
    bare = ["main.py", f"--config={recipe}"]
    try:
        values = _define_flags(bare)
        values(bare)
        fields = _flat(values.config)
    except Exception as error:
        raise ValueError(
            f"--config {recipe}: its get_config() gives no recipe ({type(error).__name__}: "
            f"{error}); write it like those under configs/"
        ) from error
    missing = [name for name in parts.COMMON if f"config.{name}" not in fields]
    if missing:
        raise ValueError(
            f"--config {recipe}: the recipe lacks {missing[0]} and {len(missing) - 1} more "
            "fields; compose it with recipe() of score_sde.config.parts"
        )
    return fields


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
            _define_flags(trial)(trial)
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
    recipe, words = _split_recipe(argv)
    known = _fields(recipe) if recipe else {}
    if recipe:
        words = [words[0], f"--config={recipe}", *_last_of_each(words[1:])]
    values = _define_flags(words)
    try:
        rest = values(words)
        config = values.config
        if config is not None:
            config.lock()
    except (AttributeError, KeyError, flags.Error) as error:
        sentence = _explain(words, recipe, known) if recipe else None
        raise ValueError(sentence or str(error)) from error
    if rest[1:]:
        raise ValueError(f"{rest[1]!r} is not an option; options are written --name=value")
    if not values.mode and not (values.print_config or values.smoke):
        raise ValueError(f"--mode is missing: give one of {', '.join(MODES)}")
    if values.mode and values.mode not in MODES:
        raise ValueError(f"--mode {values.mode} is unknown: give one of {', '.join(MODES)}")
    for name in TEXTS:
        if values[name].value == "":
            raise ValueError(f"--{name} is empty: give it a value, or leave it out")
    for name in ("num_samples", "completions"):
        number = values[name].value
        if number is not None and number < 1:
            raise ValueError(f"--{name} {number}: give at least 1")
    if not 0 <= values.wait < math.inf:
        raise ValueError(f"--wait {values.wait:g}: give a number of minutes from 0 up")
    if values.wait and values.checkpoint:
        raise ValueError(
            "--wait waits for checkpoints of the work directory: leave --checkpoint out"
        )
    for name, modes in USED_IN.items():
        if values[name].value not in (None, False) and (values.mode or "train") not in modes:
            raise ValueError(
                f"--{name} has no use in --mode {values.mode}: leave it out, or take --mode "
                f"{' or '.join(modes)}"
            )
    return Command(
        config=config,
        overrides=dict(values["config"].override_values) if recipe else {},  # type: ignore[attr-defined]
        workdir=Path(values.workdir) if values.workdir else _default_workdir(recipe),
        mode=values.mode or "train",
        eval_folder=Path(values.eval_folder) if values.eval_folder else None,
        wait=values.wait,
        checkpoint=Path(values.checkpoint) if values.checkpoint else None,
        init_from=Path(values.init_from) if values.init_from else None,
        num_samples=values.num_samples,
        input=Path(values.input) if values.input else None,
        mask=values.mask or "middle",
        completions=values.completions or 4,
        output=Path(values.output) if values.output else None,
        raw=values.raw,
        smoke=values.smoke,
        print_config=values.print_config,
        debug=values.debug,
    )


def _default_workdir(recipe: Path | None) -> Path:
    return recipes.default_workdir(recipe) if recipe else Path("runs")


def run(command: Command) -> None:
    """Carries out a command."""
    if command.mode == "recipes":
        recipes.list_recipes()
        return
    if command.print_config:
        sys.stdout.write(f"{command.config}\n")
        return
    from score_sde.commands.complete import complete
    from score_sde.commands.evaluate import evaluate
    from score_sde.commands.references import stats
    from score_sde.commands.sample import sample
    from score_sde.commands.smoke import smoke
    from score_sde.commands.train import train
    from score_sde.commands.tune import tune
    from score_sde.commands.weights import convert

    if command.smoke:
        smoke(command.config)
    elif command.mode == "train":
        train(command.config, command.workdir, init_from=command.init_from)
    elif command.mode == "tune":
        sys.stdout.write(f"{tune(command.config, command.workdir)}\n")
    elif command.mode == "convert":
        if command.checkpoint is None or command.output is None:
            raise ValueError("--mode convert takes --checkpoint and --output: give both")
        done = convert(command.checkpoint, command.output, command.config)
        sys.stdout.write(f"{done}\n")
    elif command.mode == "eval":
        evaluate(
            command.config,
            command.workdir,
            eval_folder=command.eval_folder,
            checkpoint=command.checkpoint,
            raw=command.raw,
            overrides=command.overrides,
            wait_minutes=command.wait,
        )
    elif command.mode == "stats":
        sys.stdout.write(f"{stats(command.config)}\n")
    elif command.mode == "sample":
        sample(
            command.config,
            command.workdir,
            num_samples=command.num_samples or 64,
            **_of_checkpoint(command),
        )
    else:
        complete(
            command.config,
            command.workdir,
            command.mode,
            source=command.input,
            mask=command.mask,
            num_images=command.num_samples or 8,
            completions=command.completions,
            **_of_checkpoint(command),
        )


def _of_checkpoint(command: Command) -> dict[str, Any]:
    """The options of every mode that draws from a checkpoint."""
    return {
        "checkpoint": command.checkpoint,
        "output": command.output,
        "raw": command.raw,
        "overrides": command.overrides,
    }


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def main(argv: Sequence[str]) -> int:
    """Runs the program and returns its exit code.

    0 when done, 1 for a user's mistake (one sentence on stderr), 130 after Ctrl-C and 143 after
    SIGTERM.
    """
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(f"{__doc__}\n{_define_flags().module_help('options')}\n")
        return 0
    debug = "--debug" in argv or "--debug=true" in argv
    try:
        run(parse(argv))
    except KeyboardInterrupt:
        return 130
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 1
    except (ValueError, OSError, ArithmeticError) as error:
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"{_sentence(error)}\n")
        return 1
    return 0


def script() -> int:
    """The command `score-sde`, and `python main.py`."""
    code = main(sys.argv)
    sys.stdout.flush()
    return code
