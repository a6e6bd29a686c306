"""The options of the command line, each defined once; `cli.MODES` says which mode heeds which."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from score_sde.atomic import read_whole
from score_sde.config.holds import expanded


class _Text(flags.ArgumentParser):
    """Words that are not empty: an option left empty is not taken for its default."""

    syntactic_help = "text"

    def parse(self, argument: str) -> Any:
        """The words themselves."""
        if not argument:
            raise ValueError("it is empty; give it a value, or leave it out")
        return argument


class _Names(_Text):
    syntactic_help = "names"

    def __init__(self, what: str) -> None:
        """`what` they are, with an example, for the message."""
        self.what = what

    def parse(self, argument: str) -> list[str]:
        """The names between commas."""
        names = [name.strip() for name in super().parse(argument).split(",")]
        if not any(names):
            raise ValueError(f"it names nothing; give {self.what}")
        return [name for name in names if name]


class _Label(_Text):
    syntactic_help = "a class"

    def parse(self, argument: str | int) -> int:
        """The class; -1 for all, as `sampling.label` has it."""
        words = super().parse(str(argument))
        if words == "all":
            return -1
        if not words.isdecimal():
            raise ValueError("give a class, from 0 up, or all for each class in turn")
        return int(words)


class _Interval(_Text):
    syntactic_help = "two numbers"

    def parse(self, argument: str | tuple[float, ...]) -> tuple[float, ...]:
        """The numbers between commas."""
        words = super().parse(str(argument)).strip("()").split(",")
        try:
            low, high = map(float, words)
        except ValueError:
            raise ValueError("give two numbers with a comma between them, as 0.2,5") from None
        return low, high


class _Path(_Text):
    syntactic_help = "a path"

    def parse(self, argument: str | Path) -> Path:
        """The path that the words name."""
        return expanded(super().parse(str(argument)))


def define(modes: Mapping[str, str], argv: Sequence[str] = ()) -> flags.FlagValues:
    """Defines every option.

    Args:
        modes: their names, with a line of help.
        argv: the words in which --config and its overrides stand.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "The recipe.", flag_values=values, sys_argv=list(argv)
    )
    here: Any = {"flag_values": values, "module_name": "options"}

    def path(name: str, text: str) -> None:
        flags.DEFINE(_Path(), name, None, text, **here)

    def names(name: str, what: str, text: str) -> None:
        serializer = flags.ArgumentSerializer()
        flags.DEFINE_multi(_Names(what), serializer, name, None, text, **here)

    lines = "; ".join(f"{name}: {line}" for name, line in modes.items())
    flags.DEFINE_enum("mode", None, list(modes), f"What to do. {lines}.", **here)
    path("workdir", "Default: runs/ and the recipe's path.")
    path("checkpoint", "A file, or a folder of diffusers. Default: the newest of the workdir.")
    path("upsampler", "Of a cascade: the checkpoint that upsamples what another draws.")
    path(
        "base",
        "Of an upsampler's evaluation: the checkpoint that draws the low-resolution images. "
        "Default: test images.",
    )
    path("eval_folder", "Default: eval/ in the work directory.")
    path("init_from", "Train from this checkpoint's weights.")
    names(
        "allow",
        "names of fields, as optim.lr,optim.warmup",
        "What a resumed run may change: names of fields with commas between them, as "
        "optim.lr,training.batch_size, and data for other images.",
    )
    names(
        "runs",
        "work directories, as runs/vp/digits,runs/ve/digits",
        "Work directories to plot, with commas between them. Default: the workdir.",
    )
    names(
        "curves",
        "names of curves, as loss,held_out_loss,fd",
        "What to plot of them: names of metrics and figures with commas between them, as "
        "loss,held_out_loss,fd. Default: losses, distances and bits/dim where there are any.",
    )
    path(
        "input",
        "An image, a folder of them or an array file. Default: test images. For prepare a folder, "
        "a zip or TFRecords.",
    )
    path(
        "output",
        "A folder for PNG files, or NAME.npz; for convert, NAME.pt or NAME.pth for a file, any "
        "other name for a folder of diffusers; for ema, NAME.pt; for plot, NAME.png, NAME.pdf or "
        "NAME.svg; for report, NAME.html; for figures, a folder; for prepare, a new folder.",
    )
    for name, text in (
        (
            "mask",
            "What to inpaint: middle (default), left, right, top, bottom, scattered, or a "
            "picture, white where images are known.",
        ),
        (
            "task",
            "What to restore: inpaint (default), super_resolution, deblur, or another row of "
            "score_sde.posteriors:TASKS.",
        ),
        (
            "posterior",
            "How: auto (default), replacement, ddrm, twisted, or a row of "
            "score_sde.posteriors:POSTERIORS.",
        ),
    ):
        flags.DEFINE(_Text(), name, None, text, **here)
    flags.DEFINE_integer("factor", None, "How many times smaller images are (default 2).", **here)
    flags.DEFINE_float(
        "noise", None, "Std of the noise of what is given, in units of [0, 1] pixels.", **here
    )
    flags.DEFINE_integer(
        "num_samples",
        None,
        "How many images to draw or encode (default 64), to compare (100), or to restore or edit "
        "(8); pairs to interpolate between (4).",
        lower_bound=1,
        **here,
    )
    flags.DEFINE(
        _Label(),
        "label",
        None,
        "Class of the images, or all: each in turn, a row a class in the grid (default). Short "
        "for --config.sampling.label.",
        **here,
    )
    flags.DEFINE_float(
        "guidance",
        None,
        "How far images are led to their class: 1 as trained (default), 0 not at all. Short for "
        "--config.sampling.guidance.",
        **here,
    )
    flags.DEFINE(
        _Text(),
        "fit",
        None,
        "How images of --input come to the network's size: resize (default), crop or pad; tile "
        "keeps theirs. Short for --config.sampling.fit. For prepare, crop (default): resized to "
        "cover --size, the middle is kept; or pad: resized to fit into it, on the ground.",
        **here,
    )
    flags.DEFINE(
        _Text(),
        "size",
        None,
        "Of prepared images in pixels: 64, or height x width as 96x64.",
        **here,
    )
    flags.DEFINE(
        _Text(),
        "ground",
        None,
        "Colour behind transparent parts of prepared images and around padded ones: white "
        "(default), black, #808080 and so on.",
        **here,
    )
    flags.DEFINE(
        _Interval(),
        "guidance_interval",
        None,
        "Noise levels std/mean scale between which it leads, as 0.2,5 (default: all). Short for "
        "--config.sampling.guidance_interval.",
        **here,
    )
    path(
        "classifier",
        "Lead images to their class by this classifier of noisy images: a checkpoint of --mode "
        "train_classifier, or its work directory. Short for --config.sampling.classifier.",
    )
    flags.DEFINE_float(
        "classifier_scale",
        None,
        "How far (default 1); alone it takes the classifier of the workdir. Short for "
        "--config.sampling.classifier_scale.",
        **here,
    )
    path(
        "guide",
        "A weaker network that --guidance leads away from, instead of the network's own score of "
        "no class: a checkpoint, or a work directory. Short for --config.sampling.guide.",
    )
    flags.DEFINE_float(
        "strength",
        None,
        "How much of images is forgotten: the share of the sampler's steps that they are led back "
        "along (default 0.5), 1 all. Short for --config.sampling.strength.",
        **here,
    )
    flags.DEFINE_integer(
        "frames", None, "Images from one end to the other (default 9).", lower_bound=2, **here
    )
    flags.DEFINE_integer(
        "completions", None, "How many of each image (default 4).", lower_bound=1, **here
    )
    flags.DEFINE(
        _Text(),
        "preset",
        None,
        "What to compare: few_steps (default), or a row of score_sde.config.presets:PRESETS.",
        **here,
    )
    flags.DEFINE(
        _Text(),
        "exact",
        None,
        "Compare on an exact score instead of a network's, of data made of "
        "training images: points (300 of them, each with the std of --exact_std around it) or "
        "classes (a Gaussian for each).",
        **here,
    )
    flags.DEFINE_float("exact_std", None, "In units of the scaled data (default 0.1).", **here)
    flags.DEFINE_float(
        "wait",
        0.0,
        "Evaluate checkpoints as they come, waiting at most so many minutes for each.",
        **here,
    )
    for name, text in (
        ("measured", "The images of --input are what was measured, not images to measure."),
        ("raw", "Use the raw weights, not their moving average."),
        ("grid", "Also write a sheet and a film of the samples, with method and steps above."),
        ("random", "Take latents drawn from the prior, not those of images."),
        ("smoke", "Try the recipe at reduced width, in a minute."),
        ("print_config", "Print the resolved config and stop."),
        ("help_config", "Show every field of a config and stop."),
        ("debug", "Show the stack trace of an error."),
        ("help", "Show this text."),
    ):
        flags.DEFINE_boolean(name, False, text, **here)
    return values


def set_short(
    chosen: Mapping[str, Any],
    overrides: dict[str, object],
    config: Any,
    short: Mapping[str, str],
) -> None:
    """Sets the fields that options are short for, in a config and among its overrides.

    Args:
        chosen: options by name, None where they were not given.
        overrides: fields given on the command line.
        config: of the command.
        short: those of its mode, beside `SHORT_FOR`.

    Raises:
        ValueError: option and field are both given.
    """
    for option, name in {**SHORT_FOR, **short}.items():
        if chosen[option] is None:
            continue
        if name in overrides:
            raise ValueError(
                f"--{option} is short for --config.{name}, which is given as well: leave one out"
            )
        group, _, leaf = name.rpartition(".")
        with config.unlocked():
            value = chosen[option]
            value = str(value) if isinstance(value, Path) else value
            config[group][leaf] = overrides[name] = value


def set_classifier(overrides: dict[str, object], config: Any, workdir: Path) -> None:
    """Takes the classifier of the work directory where a scale is given, and no file."""
    given = "sampling.classifier_scale" in overrides and config.sampling.classifier_scale
    if given and not config.sampling.classifier:
        with config.unlocked():
            config.sampling.classifier = str(workdir / "classifier")


def with_flagfiles(words: Sequence[str], within: tuple[Path, ...] = ()) -> list[str]:
    """The words of the command line, with those of each `--flagfile` in its place.

    A line of such a file is one word; empty lines and those that begin with # or // are passed
    over, as absl does.

    Raises:
        ValueError: no file is named, it is none that can be read, or it names itself.
    """
    every, rest = [], iter(words)
    for word in rest:
        name, _, value = word.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            every.append(word)
            continue
        path = expanded(value or next(rest, ""))
        if not path.is_file() or path.stat().st_size > _FLAGFILE_BYTES or path in within:
            raise ValueError(
                f"--flagfile={path if path.name else ''}: name a text file of at most "
                f"{_FLAGFILE_BYTES:,} bytes with one option a line, which does not name itself"
            )
        try:
            lines = [line.strip() for line in read_whole(path).decode("utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise ValueError(f"--flagfile={path}: it is no text in UTF-8") from error
        options = [line for line in lines if line and not line.startswith(("#", "//"))]
        every += with_flagfiles(options, (*within, path))
    return every


_FLAGFILE_BYTES = 2**20

MOST_IMAGES = 10**7
"""What may be drawn by one command; it knows the number of each, which takes eight bytes."""

SHORT_FOR = {
    name: f"sampling.{name}"
    for name in (
        "label",
        "guidance",
        "guidance_interval",
        "classifier",
        "classifier_scale",
        "guide",
        "fit",
    )
}
"""Options that are short for a field of the config, in every mode."""

EVERY_MODE = ("mode", "workdir", "print_config", "help_config", "debug", "help")
"""Options that belong to no mode."""
