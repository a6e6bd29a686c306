"""`--mode interpolate`: images along the arcs between latents, and a grid between four of them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_sde import parallel, pictures
from score_sde.commands.drawing import sheet as sheet_of
from score_sde.commands.inputs import Inputs, place_of, read_input
from score_sde.commands.latents import check_encodes, flow_options, with_flow
from score_sde.commands.origin import origin_of
from score_sde.commands.progress import advice_on_batches
from score_sde.commands.sample import places, write_images
from score_sde.commands.sampling_grid import times_of
from score_sde.commands.shared import draw_together, for_all, join, take_part
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
    image_shape,
    label_of,
    sample_labels,
    thresholded,
)
from score_sde.likelihoods.flow import encode
from score_sde.logbook import Logbook
from score_sde.noise import SampleNoise
from score_sde.samplers import Sampler, Samples
from score_sde.samplers.latent import corners, decode, strip
from score_sde.score import ScoreFor
from score_sde.sde import SDE
from score_sde.solvers.ode import Status

GRID_IMAGES = 300

Scores = Callable[[Tensor | None], ScoreFor]
"""Classes of the rows, int64 (N,), or None → row → the score of these."""


def interpolate(
    config: Config,
    workdir: Path,
    *,
    source: Path | None = None,
    random: bool = False,
    num_pairs: int = 4,
    frames: int = 9,
    checkpoint: Path | None = None,
    output: Path | None = None,
    raw: bool = False,
    overrides: dict[str, object] | None = None,
) -> Path:
    """Draws strips between pairs of images, and a grid between the first four of them.

    Images are encoded by the probability-flow ODE, and what lies on the arcs between their latents
    is decoded by a method without noise: the adaptive ODE, unless the command names another. Then
    the ends of a strip are the images themselves, up to the solver's error.

    A network of classes takes a strip's first half for the class of its first end, middle
    included, and the rest for that of the other; in the grid each image has the class of the
    nearest corner.

    Args:
        config: the recipe; the config in a checkpoint of ours rules network, data and SDE.
        workdir: where the newest checkpoint is looked for, and where images go by default.
        source: a folder of images or an array file; by default the recipe's test images. Images 0
            and 1 are the first pair, 2 and 3 the next.
        random: latents drawn from the prior instead: those of the images that --mode sample draws
            by the same method.
        num_pairs: how many pairs, at most.
        frames: images of a strip, both ends included.
        checkpoint: a file to use instead, ours or a published one.
        output: a folder for PNG files, or a name ending in .npz; samples/step_…_interpolate by
            default. Image j of pair i is number i · frames + j. Beside it a sheet shows a strip in
            each row, and another one the grid.
        raw: the weights as trained instead of their moving average.
        overrides: fields given on the command line, which may not contradict the checkpoint.

    Returns:
        Where the images are.

    Raises:
        ValueError: no checkpoint, one that does not fit the recipe, a network or a method that
            this cannot be done with, or fewer than two images.
        OSError: images that are not there, or an output that cannot be written; raised before
            anything is drawn.
    """
    overrides, reports = overrides or {}, list[str]()
    config = with_flow(config, overrides, to_images=not random)
    more: dict[str, Any] = {} if random else {"fits": check_encodes}
    config, path, state = open_checkpoint(
        config, checkpoint, workdir, overrides, reports.append, **more
    )
    world, sde = join(path, state["step"]), build_sde(config)
    _check_method(config, build_sampler(config, sde))
    inputs = None if random else read_input(config, source, 2 * num_pairs, reports.append)
    if inputs is not None and len(inputs) > 2 and len(inputs) % 2:
        reports.append(
            f"{inputs.names[-1]} is left without a second image, and so without a strip"
        )
    if inputs is not None and len(inputs) < 2:
        raise ValueError(
            f"one image ({inputs.names[0]}), and an arc has two ends: give a folder of two or "
            "more, or --random"
        )
    with advice_on_batches(config.sampling.batch_size):
        network = network_of(config, state, path, raw=raw)
        with parallel.main_first(world):  # which keeps what it finds
            times = times_of(config, network, path, reports.append)
        sampler = build_sampler(config, sde, times)
        facts = {
            "task": "interpolate",
            "input": place_of(source),
            "random": random,
            "frames": frames,
        }
        # The first image stands for all: the same command may be repeated with more of them.
        first = {} if inputs is None else {"first image": inputs.images[0]}
        origin = origin_of(config, {**network.state_dict(), **first}, times=times, **facts)
        default = workdir / "samples" / f"step_{state['step']:08d}_interpolate"
        output, sheet = places(world, config, output, default, origin, reports.append)

        def scores(labels: Tensor | None) -> ScoreFor:
            return thresholded(config, sde, guided(config, network, sde, label_of(labels)))

        def drawn_of(z: Tensor, labels: Tensor | None) -> Iterator[Samples]:
            """The images of latents; all of them for the main process, none for the others."""
            batch, device = config.sampling.batch_size, build_device(config)

            def draw(index: Tensor) -> Iterator[Samples]:
                own = scores(None if labels is None else labels[index])
                parts = decode(sampler, own, z[index], batch_size=batch, device=device)
                return (replace(part, index=index[part.index.cpu()]) for part in parts)

            return draw_together(world, len(z), batch, draw)

        with Logbook(workdir, beside=sheet.parent, tensorboard=False, active=world.is_main) as log:
            for report in reports:
                log.say(report)
            if inputs is None:
                z, labels = _drawn(config, sde, sampler, 2 * num_pairs)
            else:
                log.say(f"encoding {len(inputs)} images with {path}")
                z, lost = _encoded(config, sde, scores, inputs, world)
                labels = inputs.labels
                if lost:
                    log.say(
                        f"the ODE gave up on {', '.join(inputs.names[k] for k in lost[:8])}: "
                        "raise sampling.max_steps or sampling.rtol"
                    )
            strips, strip_labels = _strips(z, labels, frames)
            between = _between(z, labels, frames) if len(z) >= 4 else None
            if not world.is_main:
                take_part(drawn_of(strips, strip_labels))
                if between is not None:
                    take_part(drawn_of(*between))
                return output
            total = len(strips)
            log.say(f"drawing {total // frames} strips of {frames} images into {output}")
            drawn, nfe = write_images(
                log,
                config,
                drawn_of(strips, strip_labels),
                total,
                output,
                keep=max(1, GRID_IMAGES // frames) * frames,
                origin=origin,
                network=network,
                label_of=label_of(strip_labels),
            )
            pictures.save_png(sheet, sheet_of(config, drawn, frames))
            log.say(f"{total} images, {nfe:.1f} network evaluations each; strips: {sheet}")
            if between is None:
                return output
            parts = list(drawn_of(*between))
            images = build_inverse_scaler(config)(torch.cat([part.x for part in parts])).cpu()
            square = sheet.with_name(sheet.name.replace("_grid.png", "_corners.png"))
            pictures.save_png(square, sheet_of(config, images, frames))
            log.say(f"{len(images)} images between the first four: {square}")
    return output


def _check_method(config: Config, sampler: Sampler) -> None:
    if not sampler.deterministic:
        raise ValueError(
            f"config.sampling.method={config.sampling.method!r} as it is set draws noise on the "
            "way, and its images are no function of latents: leave it out for the adaptive ODE, "
            "or take a method without noise, such as ddim or dpm_solver++"
        )


def _drawn(config: Config, sde: SDE, sampler: Sampler, count: int) -> tuple[Tensor, Tensor | None]:
    """Latents of the prior, and the classes of these samples."""
    index = torch.arange(count)
    z = sde.prior_sampling((count, *image_shape(config)), noise=SampleNoise(config.seed, index))
    label_of = sample_labels(config)
    return sampler.temperature * z, None if label_of is None else label_of(index)


def _encoded(
    config: Config, sde: SDE, scores: Scores, inputs: Inputs, world: parallel.World
) -> tuple[Tensor, list[int]]:
    """Latents of images in [0, 1], and the numbers of those that the solver gave up on."""
    scale, device, options = build_scaler(config), build_device(config), flow_options(config, sde)

    def compute(index: Tensor) -> tuple[Tensor, Tensor]:
        own = scores(None if inputs.labels is None else inputs.labels[index])
        x = scale(inputs.images[index]).to(device)
        result = encode(sde, own, x, **options)  # type: ignore[arg-type]
        return result.y.cpu(), result.status.cpu()

    y, status = for_all(world, len(inputs), config.sampling.batch_size, compute)
    lost = (status != Status.DONE).nonzero()[:, 0].tolist()
    return field(config, "sampling.temperature") * y, lost


def _strips(z: Tensor, labels: Tensor | None, frames: int) -> tuple[Tensor, Tensor | None]:
    """Latents of all strips one after the other, and their classes."""
    pairs = len(z) // 2 * 2
    strips = strip(z[0:pairs:2], z[1:pairs:2], frames).flatten(0, 1)
    if labels is None:
        return strips, None
    second = _second(frames)
    return strips, torch.where(second, labels[1:pairs:2, None], labels[0:pairs:2, None]).flatten()


def _between(z: Tensor, labels: Tensor | None, frames: int) -> tuple[Tensor, Tensor | None]:
    """Latents between the first four, row by row, and their classes."""
    between = corners(z[:4], frames, frames).flatten(0, 1)
    if labels is None:
        return between, None
    second = _second(frames).long()
    return between, labels[:4].reshape(2, 2)[second[:, None], second].flatten()


def _second(frames: int) -> Tensor:
    """Which frames are nearer to the second end, bool (frames,)."""
    return torch.arange(frames) > (frames - 1) / 2
