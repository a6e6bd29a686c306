"""`--mode restore`, and with it inpaint and colorize: images that fit what is measured of them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from score_sde import parallel, pictures
from score_sde.commands import restored
from score_sde.commands.inputs import inside_of, open_input, place_of
from score_sde.commands.origin import origin_of
from score_sde.commands.progress import advice_on_batches
from score_sde.commands.sample import prepare_output, write_images
from score_sde.commands.sampling_grid import times_of
from score_sde.commands.shared import draw_together, join, take_part
from score_sde.commands.weights import network_of, open_checkpoint
from score_sde.config import history
from score_sde.config.build import (
    Config,
    Measured,
    Restorer,
    build_measurement,
    build_restorer,
    build_sampler,
    build_scaler,
    build_sde,
    build_task,
    drawn_classes,
)
from score_sde.data import Source
from score_sde.logbook import Logbook
from score_sde.noise import SampleNoise, Stream
from score_sde.posteriors import Measurement, Replaced
from score_sde.samplers import Samples

NO_CORRECTOR = (
    "sampling.corrector is none: completions fit what is known better where a corrector mixes the "
    "two at each time, such as --config.sampling.corrector=langevin"
)


def restore(
    config: Config,
    workdir: Path,
    task: str = "",
    *,
    source: Path | None = None,
    measured: bool = False,
    num_images: int = 8,
    completions: int = 4,
    checkpoint: Path | None = None,
    output: Path | None = None,
    raw: bool = False,
    overrides: dict[str, object] | None = None,
) -> Path:
    """Measures images and draws others that fit, several of each, and says how near they come.

    Args:
        config: the recipe, with the group `restore`; the config in a checkpoint of ours rules
            network, data and SDE.
        workdir: where the newest checkpoint is looked for, and where images go by default.
        task: a row of `posteriors.TASKS`; by default `restore.task`.
        source: an image, a folder of images or an array file; by default the recipe's test images.
        measured: whether these are the measurements themselves, so that nothing is scored.
        num_images: how many images are measured, the first ones. Their noise is a function of
            seed and place.
        completions: of each. Completion j of image i is number i · completions + j, on which alone
            its noise depends.
        checkpoint: a file to use instead, ours or a published one.
        output: a folder for PNG files, or a name ending in .npz; samples/step_… by default. Beside
            it a grid shows in each row an image, what is measured of it, and its completions, and
            a JSON file has the figures.
        raw: the weights as trained instead of their moving average.
        overrides: fields given on the command line, which may not contradict the checkpoint.

    Returns:
        Where the images are.

    Raises:
        ValueError: no checkpoint, one that does not fit the recipe, a task, sampler or images that
            this cannot be done with.
        OSError: images that are not there, or an output that cannot be written; raised before
            anything is drawn.
    """
    reports, overrides = list[str](), overrides or {}
    config, path, state = open_checkpoint(config, checkpoint, workdir, overrides, reports.append)
    world = join(path, state["step"])
    _set_task(config, task, overrides)
    measurement, sde = build_measurement(config), build_sde(config)
    given = _open(config, measurement, source, num_images, measured)
    shape = _shape_of_images(measurement, given, measured)
    if shape != measurement.shape or config.sampling.fit == "tile":
        measurement = build_measurement(config, shape)

    def restorer_on(times: Tensor | None) -> Restorer:
        sampler = build_sampler(config, sde, times)
        return build_restorer(config, measurement, sde, sampler, completions, times)

    restorer = restorer_on(None)
    _check_heeded(config, restorer, overrides)
    reports += [*given.info.notes, *_advice(config, restorer, overrides)]
    row = torch.arange(min(num_images, len(given)))
    pixels = given.info.to_unit(given.images(row))
    truth = None if measured else pixels
    labels = given.labels(row) if given.info.num_classes and drawn_classes(config) else None
    known = _measure(config, measurement, pixels, labels, measured)
    own = inside_of(given)
    if own is not None:  # what surrounds a padded image is not its own, and scores nothing
        known, truth = _within(restorer, known, own[row]), None
    default = workdir / "samples" / f"step_{state['step']:08d}_{_folder(config, task, restorer)}"
    with advice_on_batches(config.sampling.batch_size):
        network = network_of(config, state, path, raw=raw)
        with parallel.main_first(world):  # which keeps what it finds
            times = times_of(config, network, path, reports.append)
        if times is not None:
            restorer = restorer_on(times)
        total = len(known.y) * completions
        parts = draw_together(
            world,
            total,
            config.sampling.batch_size,
            lambda index: restorer.draw(network, known, index),
        )
        if not world.is_main:
            take_part(parts)
            restorer.facts()
            return output or default
        tensors = {**network.state_dict(), **_first(known, measurement)}
        # As the figures of all lie in one file, fewer or more images go to another folder.
        facts = _facts(config, source, len(row), completions, measured)
        origin = origin_of(config, tensors, times=times, **facts)
        output, grid = prepare_output(config, output, default, origin, reports.append)
        with Logbook(workdir, beside=grid.parent, tensorboard=False) as log:
            for report in reports:
                log.say(report)
            levels = given.info.levels or 256  # floats are compared as they are shown
            _draw(log, restorer, parts, network, known, truth, levels, output, grid, origin)
    return output


def _draw(
    log: Logbook,
    restorer: Restorer,
    parts: Iterator[Samples],
    network: nn.Module,
    known: Measured,
    truth: Tensor | None,
    levels: int,
    output: Path,
    grid: Path,
    origin: str,
) -> None:
    """Draws, with the sheet and the figures of what was drawn beside it."""
    config, completions, count = restorer.config, restorer.completions, len(known.y)
    total, few = count * completions, restored.rows(completions)
    task = config.restore.task
    log.say(f"{task}: {completions} completions of each of {count} images, to {output}")
    drawn, nfe = write_images(
        log,
        config,
        parts,
        total,
        output,
        keep=total if truth is not None else few * completions,
        origin=origin,
        network=network,
        label_of=restorer.label_of(known),
    )
    drawn = drawn.unflatten(0, (-1, completions))
    sheet = restored.sheet(config, restorer.measurement, known, truth, drawn)
    pictures.save_png(grid, sheet)
    told = {"task": task, "posterior": restorer.name, "noise": config.restore.noise, "nfe": nfe}
    told |= {"images": count, "completions": completions, **restorer.facts()}
    log.say(restored.write(grid, told, truth, drawn, levels))
    log.say(f"{total} completions, {nfe:.1f} network evaluations each; grid: {grid}")


def _set_task(config: Config, task: str, overrides: dict[str, object]) -> None:
    """Makes a mode of one task that of the config."""
    asked = overrides.get("restore.task", task)
    if task and asked != task:
        raise ValueError(
            f"--config.restore.task={asked} has no use in --mode {task}: take --mode restore"
        )
    if task:
        config.restore.task = task


def _check_heeded(config: Config, restorer: Restorer, overrides: dict[str, object]) -> None:
    """Refuses settings that neither the task nor the method takes."""
    heeded = {"task", "noise", "posterior", *build_task(config).arguments.values()}
    heeded |= {*restorer.heeds}
    for name, value in overrides.items():
        group, _, leaf = name.rpartition(".")
        if group == "restore" and leaf not in heeded:
            raise ValueError(
                f"{name}={value} has no use in the task {config.restore.task} by "
                f"{restorer.name}: leave it out"
            )
        corrects = name == "sampling.corrector" and value != "none"
        why = "takes steps of its own" if corrects and restorer.own_steps else ""
        if name == "sampling.temperature" and value != 1 and restorer.own_steps:
            why = "draws noise in steps of its own"
        if name == "sampling.resample" and value != 1 and not restorer.constrains:
            why = "does not act on the sampler's steps"
        if why:
            raise ValueError(
                f"--config.{name}={value} has no use beside the posterior {restorer.name}, which "
                f"{why}: leave it out"
            )


def _advice(config: Config, restorer: Restorer, overrides: dict[str, object]) -> list[str]:
    chosen, sampling = "sampling.corrector" in overrides, config.sampling
    lacks = sampling.method == "pc" and sampling.corrector == "none"
    if restorer.constrains and lacks and not chosen:
        return [NO_CORRECTOR]
    if restorer.own_steps:
        return [f"{restorer.name} takes steps of its own, in the place of {sampling.method}'s"]
    return []


def _open(
    config: Config, measurement: Measurement, source: Path | None, count: int, measured: bool
) -> Source:
    """The images to measure, or the measurements as pictures of their own size."""
    if not measured:
        return open_input(config, source, count)
    if source is None:
        raise ValueError("--measured says that --input holds what was measured: name it as well")
    if not measurement.in_pixels:
        raise ValueError(
            f"--measured takes pictures, and what {config.restore.task} measures is none: give "
            "the images themselves, without --measured"
        )
    shape = measurement.forward(torch.zeros(1, *measurement.shape)).shape[1:]
    return open_input(config, source, count, shape)


def _shape_of_images(
    measurement: Measurement, given: Source, measured: bool
) -> tuple[int, int, int]:
    """(C, H, W) of the images to draw, given a measurement of those of the network's size."""
    channels, height, width = given.info.shape
    if not measured:
        return channels, height, width
    C, H, W = measurement.shape
    h, w = measurement.forward(torch.zeros(1, C, H, W)).shape[2:]
    return C, height * H // h, width * W // w


def _measure(
    config: Config, measurement: Measurement, pixels: Tensor, labels: Tensor | None, measured: bool
) -> Measured:
    """What is measured of images in [0, 1], or these as measurements."""
    x = build_scaler(config)(pixels)
    if measured:
        y, x = x, measurement.pseudo_inverse(x)
    else:
        y = measurement.measure(x, SampleNoise(config.seed, torch.arange(len(x)), Stream.MEASURE))
    known_of = build_task(config).known
    if known_of is None or Replaced.accepts(measurement) is not None:
        return Measured(y, labels=labels)
    return Measured(y, known_of(measurement, x), labels)


def _within(restorer: Restorer, measured: Measured, own: Tensor) -> Measured:
    """What is measured of padded images: no pixels are known but their own, bool (n, 1, H, W)."""
    known = measured.known
    if known is None or not restorer.constrains:
        raise ValueError(
            "--fit=pad hides what surrounds an image, as only inpaint and colorize by replacement "
            "can: take --fit crop, resize or tile"
        )
    both = known.mask & own
    if not both.flatten(1).any(1).all():
        raise ValueError(
            f"--mask {restorer.config.restore.mask} leaves nothing known of a padded image: paint "
            "a part of its middle white"
        )
    value = torch.where(both, known.value, 0.0)
    return dataclasses.replace(measured, known=dataclasses.replace(known, mask=both, value=value))


def _folder(config: Config, task: str, restorer: Restorer) -> str:
    """The end of the default folder's name."""
    if not task:
        return f"restore_{config.restore.task}_{restorer.name}"
    return f"{task}_{Path(config.restore.mask).stem}" if task == "inpaint" else task


def _facts(
    config: Config, source: Path | None, images: int, completions: int, measured: bool
) -> dict[str, object]:
    """What the images depend on beside weights and sampler, for their digest."""
    facts: dict[str, object] = {"task": config.restore.task, "input": place_of(source)}
    facts |= {"images": images, "completions": completions}
    # Of the task speaks its name, of the mask what it hides (`_mask`).
    settings = history.of_group(config, "restore")
    settings = {k: v for k, v in settings.items() if k not in ("task", "mask")}
    if settings:
        facts["restore"] = settings
    return facts | {"measured": True} if measured else facts


def _first(known: Measured, measurement: Measurement) -> dict[str, Tensor]:
    """The first image stands for all, as it is the same command on the same place.

    What is measured of ones, and how well, is told too: two masks may say the same of one image.
    """
    if known.known is None:
        ones = measurement.forward(torch.ones(1, *measurement.shape))[0]
        seen = {"measured": known.y[0], "measured of ones": ones}
        spectral = measurement.spectral
        return seen if spectral is None else {**seen, "variance": spectral.variance}
    return {"known value": known.known.value[0], "known mask": known.known.mask[0]}
