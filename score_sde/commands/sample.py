"""`--mode sample`: images from a checkpoint."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from score_sde import atomic, parallel, pictures
from score_sde.commands.drawing import (
    FILM_IMAGES,
    Film,
    method_in_words,
    save_labelled,
    seen,
    sheet,
    told_of_channels,
)
from score_sde.commands.origin import origin_of
from score_sde.commands.progress import advice_on_batches
from score_sde.commands.sampling_grid import times_of
from score_sde.commands.shared import draw_together, join, take_part
from score_sde.commands.weights import network_of, open_checkpoint
from score_sde.config.build import (
    Config,
    build_device,
    build_inverse_scaler,
    build_sampler,
    build_sde,
    data_range,
    draw,
    drawn_classes,
    field,
    image_shape,
    sample_labels,
)
from score_sde.data import from_unit
from score_sde.logbook import Logbook
from score_sde.samplers import SAMPLERS, Samples
from score_sde.solvers.step import arguments_of

GRID_IMAGES = 100


def sample(
    config: Config,
    workdir: Path,
    *,
    checkpoint: Path | None = None,
    num_samples: int = 64,
    output: Path | None = None,
    raw: bool = False,
    overrides: dict[str, object] | None = None,
    with_film: bool = False,
) -> Path:
    """Draws images from a checkpoint; several processes share the batches.

    Args:
        config: the recipe; the config in a checkpoint of ours rules network, data and SDE.
        workdir: where the newest checkpoint is looked for, and where samples go by default.
        checkpoint: a file to use instead, ours or a published one.
        num_samples: how many; image k is the same however many are drawn.
        output: a folder for PNG files, or a name ending in .npz; samples/step_… by default.
        raw: the weights as trained instead of their moving average.
        overrides: fields given on the command line, which may not contradict the checkpoint.
        with_film: also write the first images as a sheet, and a film of how they came about, with
            the method and its steps above them.

    Returns:
        Where the images are.

    Raises:
        ValueError: no checkpoint, or one that does not fit the recipe.
        OSError: an output that cannot be written; raised before anything is drawn.
    """
    reports: list[str] = []
    config, path, state = open_checkpoint(config, checkpoint, workdir, overrides, reports.append)
    world = join(path, state["step"])
    device, sde = build_device(config), build_sde(config)
    default = workdir / "samples" / f"step_{state['step']:08d}_{config.sampling.method}"
    with advice_on_batches(config.sampling.batch_size):
        network = network_of(config, state, path, raw=raw)
        with parallel.main_first(world):  # which keeps what it finds
            times = times_of(config, network, path, reports.append)
        sampler, film = build_sampler(config, sde, times), None
        if with_film:  # of the first batch, as others may be other processes'
            film = Film(config, sde, min(FILM_IMAGES, config.sampling.batch_size, num_samples))
        on_step = film and film.keep
        parts = draw_together(
            world,
            num_samples,
            config.sampling.batch_size,
            lambda index: draw(config, network, sde, index, device, on_step, sampler),
        )
        if not world.is_main:
            take_part(parts)
            return output or default
        origin = origin_of(config, network.state_dict(), times=times)
        output, grid = prepare_output(config, output, default, origin, reports.append)
        with Logbook(workdir, beside=grid.parent, tensorboard=False) as log:
            for report in reports:
                log.say(report)
            log.say(f"drawing {num_samples} images from {path} into {output}")
            images, nfe = write_images(
                log,
                config,
                parts,
                num_samples,
                output,
                origin=origin,
                network=network,
                label_of=sample_labels(config),
            )
            laid_out = _grid(config, images)
            pictures.save_png(grid, laid_out)
            log.say(
                f"{num_samples} images, {nfe:.1f} network evaluations each; grid: {grid}"
                f"{told_of_channels(config)}"
            )
            if film is not None:
                weights = f"{path.name}{', raw weights' if raw else ''}"
                how = f"{method_in_words(config, sampler)}, {nfe:,.0f} evaluations each"
                stem = grid.with_name(grid.name.removesuffix("_grid.png"))
                made = save_labelled(config, stem, laid_out, images, film, [weights, how])
                log.say(f"sheet: {made[0]}; film: {made[1]}")
    return output


def _grid(config: Config, images: Tensor) -> np.ndarray:
    """The first images; of each class a row, where all classes have their turn."""
    classes, n = drawn_classes(config), len(images)
    if not classes or n <= classes or field(config, "sampling.label") >= 0:
        return sheet(config, images)
    columns = -(-n // classes)
    white = images.new_full((columns * classes - n, *images.shape[1:]), 255)
    rows = torch.cat([images, white]).unflatten(0, (columns, classes)).transpose(0, 1)
    return sheet(config, rows.flatten(0, 1), columns)


def prepare_output(
    config: Config,
    output: Path | None,
    default: Path,
    origin: str,
    report: Callable[[str], None],
    *,
    in_folder: bool = False,
) -> tuple[Path, Path]:
    """Refuses an output that cannot be written, before anything is drawn; makes its folder.

    Images of another origin, such as another seed, are never overwritten: beside a folder that
    holds them a new one is taken, whose name ends in the origin's first digits.

    Args:
        config: of the network. Floats go into an `.npz` by default, and always where they have
            other channels than a picture.
        output: what the user asks for, if anything.
        default: a folder.
        origin: of the images to come, see `origin_of`.
        report: is given a sentence where another folder is taken, or PNG files lose numbers.
        in_folder: whether there is more to write than images, so that it must be a folder.

    Returns:
        Where the images go, and where the grid of them goes, beside it.

    Raises:
        ValueError: a name that is neither a folder's nor an `.npz`, or a folder for floats that
            are no pictures.
        OSError: a place that cannot be written to, or an `.npz` that is there.
    """
    range = () if in_folder else data_range(config)
    if output is None and range:
        default = default.with_name(f"{default.name}.npz")
    output = output or default
    if range and not seen(config) and not _is_npz(output):
        raise ValueError(
            f"--output {output}: PNG files hold grey or RGB pictures, and these numbers have "
            f"{image_shape(config)[0]} channels: give a name in .npz"
        )
    grid = writable(output)
    if range and not _is_npz(output):
        report(
            f"PNG files have 8 bits: {range[0]:g} is black there, {range[1]:g} white, and what "
            "lies beyond is clipped; an --output in .npz keeps the numbers"
        )
    if not _is_npz(output) and pictures.origin_of(output) not in (None, origin):
        whole = output.resolve()
        other = whole.with_name(f"{whole.name}_{origin[:8]}")
        report(f"{output} holds images of other weights, seed or settings: these go to {other}")
        output, grid = other, writable(other)
    return output, grid


def places(
    world: parallel.World,
    config: Config,
    output: Path | None,
    default: Path,
    origin: str,
    report: Callable[[str], None],
) -> tuple[Path, Path]:
    """`prepare_output` for the main process; the others write nothing."""
    if world.is_main:
        return prepare_output(config, output, default, origin, report)
    return output or default, output or default


def writable(output: Path) -> Path:
    """Where the grid of the images goes; refuses a place that cannot be written to."""
    if output.suffix.lower() in (".png", ".jpg", ".jpeg", ".gif", ".npy"):
        raise ValueError(f"--output {output}: give a folder for PNG files, or a name in .npz")
    npz = _is_npz(output)
    if npz and output.is_dir():
        raise ValueError(f"--output {output} is a folder: give another name in .npz")
    if npz and output.exists():
        raise FileExistsError(f"{output} exists: move it away or choose another --output")
    try:
        atomic.check_writable(output if npz else output / "000000.png")
        whole = output.resolve()  # of "." the name too
        grid = whole.with_name((whole.stem if npz else whole.name) + "_grid.png")
    except (OSError, ValueError) as error:  # a folder without a name is the root
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"--output {output} cannot be written ({reason}): choose another") from error
    try:
        atomic.check_writable(grid)
    except OSError as error:
        raise OSError(
            f"--output {output}: the grid of its images goes beside it, where {grid} cannot be "
            f"written ({error.strerror}): choose a place in a folder that can be written to"
        ) from error
    return grid


def _is_npz(output: Path) -> bool:
    return output.suffix.lower() == ".npz"


def write_images(
    log: Logbook,
    config: Config,
    parts: Iterable[Samples],
    total: int,
    output: Path,
    *,
    keep: int = GRID_IMAGES,
    origin: str = "",
    network: nn.Module | None = None,
    label_of: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, float]:
    """Images to files as they come; an .npz has floats in their own units, float32.

    Args:
        log: shows the progress.
        config: of the network.
        parts: the images as the network sees them; only one part is in memory at a time.
        total: of all parts.
        output: a folder, or a name in .npz.
        keep: how many images to give back, for a grid.
        origin: what PNG files are to say of where they come from.
        network: whose calls the progress bar counts, as many images may end at once.
        label_of: sample indices → classes, which an .npz then holds as well.

    Returns:
        The first images, uint8 (n, C, H, W), of floats their range in 256 levels, and the mean
        number of evaluations of all.
    """
    inverse_scale, first = build_inverse_scaler(config), list[Tensor]()
    evaluations, kept = 0.0, 0
    range, npz = data_range(config), _is_npz(output)

    def drawn() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal evaluations, kept
        for part in parts:
            _report_unfinished(log, config, part)
            unit = inverse_scale(part.x)
            images = pictures.to_uint8(unit).cpu()
            if kept < keep:
                first.append(images[: keep - kept].clone())
                kept += len(first[-1])
            if range and npz:
                images = from_unit(unit, range).cpu()
            evaluations += part.nfe.cpu().double().sum().item()
            yield images, part.index.cpu()
            bar.update(len(part.index))

    with log.progress(total, unit="image") as bar, _counted(network, bar):
        if npz:
            floats = bool(range)
            pictures.stream_npz(output, drawn(), total, label_of, as_floats=floats)
        else:
            for images, index in drawn():
                pictures.save_images(output, images, index, origin)
    older = sum(number >= total for number in _numbers(output))
    if older:
        log.say(f"{output} also holds {older} images of an earlier command, of higher numbers")
    return torch.cat(first), evaluations / total


def _numbers(output: Path) -> Iterator[int]:
    if output.is_dir():
        with os.scandir(output) as entries:
            for entry in entries:
                name = entry.name.removesuffix(".png")
                if name != entry.name and name.isdecimal():
                    yield int(name)


@contextmanager
def _counted(network: nn.Module | None, bar: "tqdm[Any]") -> Iterator[None]:
    if network is None:
        yield
        return
    calls = itertools.count(1)

    def show(*_: object) -> None:
        bar.set_postfix_str(f"{next(calls)} network calls", refresh=False)
        bar.update(0)

    hook = network.register_forward_hook(show)
    try:
        yield
    finally:
        hook.remove()


def _report_unfinished(log: Logbook, config: Config, part: Samples) -> None:
    if part.status is not None and part.status.any():
        lost, method = part.index[part.status != 0].tolist(), config.sampling.method
        takes = arguments_of(SAMPLERS[method])
        limits = [f"sampling.{takes[name]}" for name in ("max_steps", "rtol") if name in takes]
        advice = f"; raise {' or '.join(limits)}" if limits else ""
        log.say(f"{method} gave up on images {lost[:8]}: what it reached is saved{advice}")
