"""`--mode edit`: images that are noised part of the way and led back (SDEdit)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from score_sde import parallel, pictures
from score_sde.commands import restored
from score_sde.commands.drawing import sheet
from score_sde.commands.inputs import Inputs, place_of, read_input
from score_sde.commands.origin import origin_of
from score_sde.commands.progress import advice_on_batches
from score_sde.commands.sample import prepare_output, write_images
from score_sde.commands.sampling_grid import times_of
from score_sde.commands.shared import draw_together, join, take_part
from score_sde.commands.weights import network_of, open_checkpoint
from score_sde.config.build import (
    Config,
    build_device,
    build_inverse_scaler,
    build_sampler,
    build_scaler,
    build_sde,
    field,
    guided,
    label_of,
    thresholded,
    tiled,
)
from score_sde.logbook import Logbook
from score_sde.noise import SampleNoise
from score_sde.samplers import Sampler, Samples
from score_sde.samplers.editing import edit as edit_samples
from score_sde.samplers.editing import noised
from score_sde.sde import SDE
from score_sde.tensor_ops import expand_to


def edit(
    config: Config,
    workdir: Path,
    *,
    source: Path | None = None,
    num_images: int = 8,
    completions: int = 4,
    checkpoint: Path | None = None,
    output: Path | None = None,
    raw: bool = False,
    overrides: dict[str, object] | None = None,
) -> Path:
    """Draws images that resemble given ones, several of each (Meng et al. 2022).

    `sampling.strength` says how much: the share of the sampler's steps that are taken. Methods
    that choose their own times begin where that share of the SDE's own grid begins.

    Args:
        config: the recipe; the config in a checkpoint of ours rules network, data and SDE.
        workdir: where the newest checkpoint is looked for, and where images go by default.
        source: an image, a folder of images or an array file; by default the recipe's test images.
        num_images: how many images are edited, the first ones.
        completions: of each. Number j of image i is number i · completions + j, on which alone
            its noise depends.
        checkpoint: a file to use instead, ours or a published one.
        output: a folder for PNG files, or a name ending in .npz; samples/step_…_edit by default.
            Beside it a sheet shows in each row an image, what its first edit begins with, and
            its edits.
        raw: the weights as trained instead of their moving average.
        overrides: fields given on the command line, which may not contradict the checkpoint.

    Returns:
        Where the images are.

    Raises:
        ValueError: no checkpoint, one that does not fit the recipe, or a strength that leaves no
            step of the grid.
        OSError: images that are not there, or an output that cannot be written; raised before
            anything is drawn.
    """
    reports: list[str] = []
    if field(config, "sampling.temperature") != 1:
        raise ValueError(
            f"config.sampling.temperature={config.sampling.temperature:g} scales draws from the "
            "prior, and --mode edit begins with noised images: leave it at 1"
        )
    config, path, state = open_checkpoint(config, checkpoint, workdir, overrides, reports.append)
    world = join(path, state["step"])
    sde, strength = build_sde(config), field(config, "sampling.strength")
    _last(build_sampler(config, sde), strength)
    inputs = read_input(config, source, num_images, reports.append, larger=True)
    total = len(inputs) * completions
    with advice_on_batches(config.sampling.batch_size):
        network = network_of(config, state, path, raw=raw)
        with parallel.main_first(world):  # which keeps what it finds
            times = times_of(config, network, path, reports.append)
        sampler = build_sampler(config, sde, times)
        # The first image stands for all: the same command may be repeated with more of them.
        tensors = {**network.state_dict(), "first image": inputs.images[0]}
        facts = {"task": "edit", "input": place_of(source), "completions": completions}
        origin = origin_of(config, tensors, times=times, **facts)
        default = workdir / "samples" / f"step_{state['step']:08d}_edit"
        image_for = _image_for(config, inputs, completions)
        classes, shape = label_of(inputs.labels, completions), inputs.images.shape[1:]
        led = thresholded(config, sde, tiled(config, guided(config, network, sde, classes), shape))
        batch, device = config.sampling.batch_size, build_device(config)

        def draw(index: Tensor) -> Iterator[Samples]:
            return edit_samples(
                sampler,
                led,
                image_for,
                strength,
                index,
                shape,
                seed=config.seed,
                batch_size=batch,
                device=device,
            )

        parts = draw_together(world, total, batch, draw)
        if not world.is_main:
            take_part(parts)
            return output or default
        output, grid = prepare_output(config, output, default, origin, reports.append)
        start = _last(sampler, strength).start
        with Logbook(workdir, beside=grid.parent, tensorboard=False) as log:
            for report in reports:
                log.say(report)
            log.say(
                f"edit: {completions} of each of {len(inputs)} images, from t={start:.3g} on "
                f"(strength {strength:g}), to {output}"
            )
            few = restored.rows(completions)
            drawn, nfe = write_images(
                log,
                config,
                parts,
                total,
                output,
                keep=few * completions,
                origin=origin,
                network=network,
                label_of=classes,
            )
            begun = _begun(config, sde, image_for, start, len(inputs.images[:few]), completions)
            rows = [inputs.images[:few, None], begun[:, None]]
            rows = [pictures.to_uint8(row) for row in rows]
            rows.append(drawn.unflatten(0, (-1, completions)))
            picture = sheet(config, torch.cat(rows, dim=1).flatten(0, 1), 2 + completions)
            pictures.save_png(grid, picture)
            log.say(f"{total} edits, {nfe:.1f} network evaluations each; sheet: {grid}")
    return output


def _last(sampler: Sampler, strength: float) -> Sampler:
    """The part of the sampler's walk that is taken."""
    try:
        return sampler.last(strength)
    except ValueError as error:
        raise ValueError(f"--strength {strength:g}: {error}") from error


def _image_for(config: Config, inputs: Inputs, completions: int) -> Callable[[Tensor], Tensor]:
    images = build_scaler(config)(inputs.images)
    return lambda index: images[index.cpu() // completions].to(index.device)


def _begun(
    config: Config,
    sde: SDE,
    image_for: Callable[[Tensor], Tensor],
    t: float,
    count: int,
    completions: int,
) -> Tensor:
    """What the first edits of the images begin with, at about the contrast of images."""
    index = torch.arange(count) * completions
    x = noised(sde, image_for, t)(index, SampleNoise(config.seed, index))
    level = torch.full((count,), t)
    scale, std = sde.mean_scale(level), sde.std(level)
    grey = build_scaler(config)(torch.full_like(x, 0.5))
    off = x - expand_to(scale, x) * grey
    return build_inverse_scaler(config)(grey + off / expand_to((scale**2 + std**2).sqrt(), x))
