"""`--mode inpaint` and `--mode colorize`: completions of images of which a part is known."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from score_sde import pictures
from score_sde.commands.inputs import open_input
from score_sde.commands.origin import origin_of
from score_sde.commands.progress import advice_on_memory
from score_sde.commands.sample import prepare_output, write_images
from score_sde.commands.sampling_grid import times_of
from score_sde.commands.weights import network_of, open_checkpoint
from score_sde.config.build import (
    Config,
    build_device,
    build_inverse_scaler,
    build_sampler,
    build_scaler,
    build_sde,
    drawn_classes,
    guided,
    image_shape,
    thresholded,
)
from score_sde.config.holds import expanded
from score_sde.data import read_mask, to_unit
from score_sde.logbook import Logbook
from score_sde.samplers import GridSampler, Sampler, Samples, completion
from score_sde.samplers.completion import MASKS, Known, known_gray, known_pixels
from score_sde.solvers.few_step import FEW_STEP

GRID_IMAGES = 200
NO_CORRECTOR = (
    "sampling.corrector is none: completions fit what is known better where a corrector mixes the "
    "two at each time, such as --config.sampling.corrector=langevin"
)


def complete(
    config: Config,
    workdir: Path,
    task: str,
    *,
    source: Path | None = None,
    mask: str = "middle",
    num_images: int = 8,
    completions: int = 4,
    checkpoint: Path | None = None,
    output: Path | None = None,
    raw: bool = False,
    overrides: dict[str, object] | None = None,
) -> Path:
    """Draws what is hidden of images, several times over.

    Args:
        config: the recipe; the config in a checkpoint of ours rules network, data and SDE.
        workdir: where the newest checkpoint is looked for, and where completions go by default.
        task: "inpaint", or "colorize" from the mean of the channels.
        source: an image, a folder of images or an array file; by default the recipe's test images.
        mask: for inpainting, one of `MASKS`, or a picture that is white
            where images are known.
        num_images: how many images are completed, the first ones.
        completions: of each. Completion j of image i is number i · completions + j, on which alone
            its noise depends.
        checkpoint: a file to use instead, ours or a published one.
        output: a folder for PNG files, or a name ending in .npz; samples/step_… by default. Beside
            it a grid shows in each row an image, what is known of it, and its completions.
        raw: the weights as trained instead of their moving average.
        overrides: fields given on the command line, which may not contradict the checkpoint.

    Returns:
        Where the completions are.

    Raises:
        ValueError: no checkpoint, one that does not fit the recipe, a sampler or images that this
            cannot be done with.
        OSError: images that are not there, or an output that cannot be written; raised before
            anything is drawn.
    """
    reports: list[str] = []
    config, path, state = open_checkpoint(config, checkpoint, workdir, overrides, reports.append)
    known_of, sde = _known_of(config, task, mask), build_sde(config)
    sampler = _checked(build_sampler(config, sde), config, task)
    given = open_input(config, source, num_images)
    reports += given.info.notes
    row = torch.arange(min(num_images, len(given)))
    images = to_unit(given.images(row), given.info.levels)
    labels = given.labels(row) if given.info.num_classes and drawn_classes(config) else None
    name = f"{task}_{Path(mask).stem}" if task == "inpaint" else task
    default = workdir / "samples" / f"step_{state['step']:08d}_{name}"
    known = known_of(build_scaler(config)(images))
    total = len(images) * completions
    advice = (
        f"with {config.sampling.batch_size} images at a time: lower --config.sampling.batch_size"
    )
    chosen = "sampling.corrector" in (overrides or {})
    if config.sampling.method == "pc" and config.sampling.corrector == "none" and not chosen:
        reports.append(NO_CORRECTOR)
    with advice_on_memory(advice):
        network = network_of(config, state, path, raw=raw)
        times = times_of(config, network, path, reports.append)
        if times is not None:
            sampler = _checked(build_sampler(config, sde, times), config, task)
        # The first image stands for all: the same command may be repeated with more of them.
        first = {"known value": known.value[0], "known mask": known.mask[0]}
        place = str(source.absolute()) if source else ""
        facts = {"task": task, "input": place, "completions": completions}
        origin = origin_of(config, {**network.state_dict(), **first}, times=times, **facts)
        output, grid = prepare_output(output, default, origin, reports.append)
        few = max(1, GRID_IMAGES // (2 + completions))
        with Logbook(workdir, beside=grid.parent, tensorboard=False) as log:
            for report in reports:
                log.say(report)
            log.say(
                f"{task}: {completions} completions of each of {len(images)} images, to {output}"
            )
            parts = _draw(config, network, sampler, known, labels, completions)
            keep = few * completions
            drawn, nfe = write_images(
                log, config, parts, total, output, keep=keep, origin=origin, network=network
            )
            rows = [images[:few, None], _shown(config, known)[:few, None]]
            rows = [pictures.to_uint8(row) for row in rows]
            rows.append(drawn.unflatten(0, (-1, completions)))
            picture = pictures.grid(torch.cat(rows, dim=1).flatten(0, 1), columns=2 + completions)
            pictures.save_png(grid, picture)
            log.say(f"{total} completions, {nfe:.1f} network evaluations each; grid: {grid}")
    return output


def _checked(sampler: Sampler, config: Config, task: str) -> GridSampler:
    if not isinstance(sampler, GridSampler):
        raise ValueError(
            f"config.sampling.method={config.sampling.method!r}: --mode {task} takes hold at the "
            f"steps of a grid; take {', '.join(['pc', *FEW_STEP])}"
        )
    return sampler


def _known_of(config: Config, task: str, mask: str) -> Callable[[Tensor], Known]:
    """Images (B, C, H, W), as the network sees them → what is given of them."""
    channels, height, width = image_shape(config)
    if task == "colorize":
        if channels != 3:
            raise ValueError(
                f"--mode colorize needs images of 3 channels, and this network's have {channels}: "
                "take --mode inpaint, or a checkpoint of coloured images"
            )
        return known_gray
    if mask in MASKS:
        known = MASKS[mask](height, width, config.seed)
    elif expanded(mask).is_file():
        known = read_mask(expanded(mask), (height, width))
    else:
        raise ValueError(
            f"--mask {mask}: give {', '.join(MASKS)}, or a picture that is white where images are "
            "known"
        )
    if known.all():
        raise ValueError(f"--mask {mask} is white all over and hides nothing: paint a part black")
    if not known.any():
        raise ValueError(
            f"--mask {mask} is black all over where it is cut to {height}x{width}, as images are, "
            "and leaves nothing known: paint a part white, or take --mode sample"
        )
    return lambda images: known_pixels(images, known)


def _draw(
    config: Config,
    network: nn.Module,
    sampler: GridSampler,
    known: Known,
    labels: Tensor | None,
    completions: int,
) -> Iterator[Samples]:
    device = build_device(config)
    label_of = None if labels is None else lambda index: labels[index.cpu() // completions]
    return completion.complete(
        sampler,
        thresholded(config, sampler.sde, guided(config, network, sampler.sde, label_of)),
        lambda index: known.of(index.cpu() // completions).to(device),
        torch.arange(len(known.value) * completions),
        known.value.shape[1:],
        seed=config.seed,
        batch_size=config.sampling.batch_size,
        device=device,
    )


def _shown(config: Config, known: Known) -> Tensor:
    """What is given, as pictures in [0, 1]: hidden pixels and colours are grey."""
    grey = build_scaler(config)(torch.full_like(known.value, 0.5))
    return build_inverse_scaler(config)(known.put(grey, known.value))
