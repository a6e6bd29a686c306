"""What each mode of the command line hands to the function that carries it out."""

from typing import Any

from score_sde import parallel
from score_sde.commands.average import average as average_weights
from score_sde.commands.cascade import cascade as draw_cascade
from score_sde.commands.command import Command
from score_sde.commands.compare import compare as compare_samplers
from score_sde.commands.edit import edit as edit_images
from score_sde.commands.encode import encode as encode_images
from score_sde.commands.evaluate import evaluate as evaluate_checkpoints
from score_sde.commands.figures import figures as draw_figures
from score_sde.commands.interpolate import interpolate as interpolate_latents
from score_sde.commands.plot import plot as plot_curves
from score_sde.commands.prepare import prepare as prepare_images
from score_sde.commands.report import report as write_report
from score_sde.commands.restore import restore as restore_images
from score_sde.commands.sample import sample as draw_samples
from score_sde.commands.smoke import smoke
from score_sde.commands.stats import stats as compute_statistics
from score_sde.commands.terminal import show
from score_sde.commands.train import train as train_network
from score_sde.commands.train_classifier import train_classifier as train_noisy_classifier
from score_sde.commands.tune import tune as tune_levels
from score_sde.commands.weights import convert as convert_checkpoint
from score_sde.config.holds import expanded


def train(command: Command) -> None:
    """`--mode train`, and `--smoke`."""
    if command.options["smoke"]:
        smoke(command.config)
    else:
        train_network(
            command.config,
            command.workdir,
            init_from=command.options["init_from"],
            allow=_names(command, "allow"),
        )


def train_classifier(command: Command) -> None:
    """`--mode train_classifier`."""
    train_noisy_classifier(command.config, command.workdir, allow=_names(command, "allow"))


def sample(command: Command) -> None:
    """`--mode sample`."""
    draw_samples(
        command.config,
        command.workdir,
        num_samples=command.options["num_samples"] or 64,
        with_film=command.options["grid"],
        **_of_checkpoint(command),
    )


def complete(command: Command) -> None:
    """`--mode inpaint` and `--mode colorize`, each a task of `--mode restore`."""
    restore(command, task=command.mode)


def restore(command: Command, task: str = "") -> None:
    """`--mode restore`."""
    options = command.options
    restore_images(
        command.config,
        command.workdir,
        task,
        source=options["input"],
        measured=options["measured"],
        num_images=options["num_samples"] or 8,
        completions=options["completions"] or 4,
        **_of_checkpoint(command),
    )


def edit(command: Command) -> None:
    """`--mode edit`."""
    options = command.options
    edit_images(
        command.config,
        command.workdir,
        source=options["input"],
        num_images=options["num_samples"] or 8,
        completions=options["completions"] or 4,
        **_of_checkpoint(command),
    )


def encode(command: Command) -> None:
    """`--mode encode`."""
    encode_images(
        command.config,
        command.workdir,
        source=command.options["input"],
        num_images=command.options["num_samples"] or 64,
        **_of_checkpoint(command),
    )


def interpolate(command: Command) -> None:
    """`--mode interpolate`.

    Raises:
        ValueError: images and random latents are both asked for.
    """
    options = command.options
    if options["random"] and options["input"] is not None:
        raise ValueError("--random takes latents of no images: leave --input out, or --random")
    interpolate_latents(
        command.config,
        command.workdir,
        source=options["input"],
        random=options["random"],
        num_pairs=options["num_samples"] or 4,
        frames=options["frames"] or 9,
        **_of_checkpoint(command),
    )


def cascade(command: Command) -> None:
    """`--mode cascade`.

    Raises:
        ValueError: the upsampler is not named.
    """
    options = command.options
    if options["upsampler"] is None:
        raise ValueError(
            "--mode cascade takes --upsampler: name the checkpoint that upsamples what the base "
            "model of --checkpoint draws, or the images of --input"
        )
    draw_cascade(
        command.config,
        command.workdir,
        upsampler=options["upsampler"],
        source=options["input"],
        num_samples=options["num_samples"] or 64,
        **_of_checkpoint(command),
    )


def evaluate(command: Command) -> None:
    """`--mode eval`."""
    options = command.options
    evaluate_checkpoints(
        command.config,
        command.workdir,
        eval_folder=options["eval_folder"],
        checkpoint=options["checkpoint"],
        raw=options["raw"],
        overrides=command.overrides,
        wait_minutes=options["wait"],
        base=options["base"],
    )


def compare(command: Command) -> None:
    """`--mode compare`."""
    options = command.options
    compare_samplers(
        command.config,
        command.workdir,
        preset=options["preset"] or "few_steps",
        num_samples=options["num_samples"] or 100,
        checkpoint=options["checkpoint"],
        raw=options["raw"],
        exact=options["exact"] or "",
        exact_std=options["exact_std"],
        overrides=command.overrides,
    )


def stats(command: Command) -> None:
    """`--mode stats`."""
    done = compute_statistics(command.config)
    if parallel.init().is_main:
        show(f"{done}\n")


def tune(command: Command) -> None:
    """`--mode tune`."""
    show(f"{tune_levels(command.config, command.workdir)}\n")


def average(command: Command) -> None:
    """`--mode ema`."""
    output, overrides = command.options["output"], command.overrides
    made = average_weights(command.config, command.workdir, output=output, overrides=overrides)
    show(f"{made}\n")


def convert(command: Command) -> None:
    """`--mode convert`.

    Raises:
        ValueError: the file to read or the one to write is not named.
    """
    checkpoint, output = command.options["checkpoint"], command.options["output"]
    if checkpoint is None or output is None:
        raise ValueError("--mode convert takes --checkpoint and --output: give both")
    show(f"{convert_checkpoint(checkpoint, output, command.config)}\n")


def plot(command: Command) -> None:
    """`--mode plot`."""
    runs = [expanded(name) for name in _names(command, "runs")] or [command.workdir]
    output = command.options["output"] or command.workdir / "plot.png"
    show(f"{plot_curves(runs, _names(command, 'curves'), output)}\n")


def report(command: Command) -> None:
    """`--mode report`."""
    written = write_report(command.workdir, command.config, command.options["output"])
    show(f"{written}\n")


def figures(command: Command) -> None:
    """`--mode figures`."""
    made = draw_figures(command.options["output"] or command.workdir / "figures")
    show("".join(f"{path}\n" for path in made))


def prepare(command: Command) -> None:
    """`--mode prepare`."""
    options = command.options
    fit, ground = options["fit"] or "crop", options["ground"] or "white"
    done = prepare_images(options["input"], options["output"], options["size"], fit, ground)
    show(f"{done}\n")


def _names(command: Command, option: str) -> list[str]:
    """The names of an option that may be given again and again."""
    return [name for names in command.options[option] or [] for name in names]


def _of_checkpoint(command: Command) -> dict[str, Any]:
    """The options of every mode that draws from a checkpoint."""
    options = {name: command.options[name] for name in ("checkpoint", "output", "raw")}
    return {**options, "overrides": command.overrides}
