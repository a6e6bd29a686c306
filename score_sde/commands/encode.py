"""`--mode encode`: the latents of images, and how nearly these come back from them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from score_sde import parallel, pictures
from score_sde.commands.drawing import sheet
from score_sde.commands.inputs import Inputs, place_of, read_input
from score_sde.commands.latents import check_encodes, flow_options, shown, with_flow
from score_sde.commands.origin import origin_of
from score_sde.commands.progress import advice_on_batches
from score_sde.commands.sample import prepare_output, writable, write_images
from score_sde.commands.shared import draw_together, join, take_part
from score_sde.commands.weights import network_of, open_checkpoint
from score_sde.config.build import (
    Config,
    build_device,
    build_scaler,
    build_sde,
    data_range,
    field,
    guided,
    label_of,
    thresholded,
)
from score_sde.likelihoods.flow import Reconstruction, reconstruct
from score_sde.logbook import Logbook
from score_sde.pictures.images import save
from score_sde.samplers import Samples
from score_sde.score import ScoreFor
from score_sde.sde import SDE
from score_sde.solvers.ode import Status

GRID_IMAGES = 64
COLUMNS = 8
ROUNDS = 8  # batches that are solved together


def encode(
    config: Config,
    workdir: Path,
    *,
    source: Path | None = None,
    num_images: int = 64,
    checkpoint: Path | None = None,
    output: Path | None = None,
    raw: bool = False,
    overrides: dict[str, object] | None = None,
) -> Path:
    """Encodes images by the probability-flow ODE, and decodes their latents.

    Both ways have the tolerances `sampling.rtol` and `atol`, and nothing is denoised at the end,
    so that the round trip's error is the solver's.

    Args:
        config: the recipe; the config in a checkpoint of ours rules network, data and SDE.
        workdir: where the newest checkpoint is looked for, and where results go by default.
        source: an image, a folder of images or an array file; by default the recipe's test images.
        num_images: how many, at most.
        checkpoint: a file to use instead, ours or a published one.
        output: a folder; samples/step_…_encode by default. It holds `latents.npz` (float32
            `latent` (N, C, H, W), `name`, `nfe` of both ways and, for a network of classes,
            `label`), `round_trip.json` and the reconstructions as PNG files, of floats as
            `reconstructions.npz`. Beside it a sheet shows images, latents and reconstructions.
        raw: the weights as trained instead of their moving average.
        overrides: fields given on the command line, which may not contradict the checkpoint.

    Returns:
        The folder.

    Raises:
        ValueError: no checkpoint, one that does not fit the recipe, a network of a discrete chain,
            or fields that have no say here.
        OSError: images that are not there, or an output that cannot be written; raised before
            anything is encoded.
    """
    overrides, reports = overrides or {}, list[str]()
    _check(config, overrides, output)
    config = with_flow(config, overrides, to_images=True)
    config, path, state = open_checkpoint(
        config, checkpoint, workdir, overrides, reports.append, fits=check_encodes
    )
    world = join(path, state["step"])
    sde = build_sde(config)
    inputs = read_input(config, source, num_images, reports.append)
    with advice_on_batches(config.sampling.batch_size):
        network = network_of(config, state, path, raw=raw)
        score_for = thresholded(config, sde, guided(config, network, sde, label_of(inputs.labels)))
        done: dict[int, Reconstruction] = {}
        parts = draw_together(
            world,
            len(inputs),
            config.sampling.batch_size * ROUNDS,
            lambda index: _trips(config, sde, score_for, inputs, index, done),
        )
        if not world.is_main:
            take_part(parts)
            _of_all(done)
            return output or workdir
        # The first image stands for all. As all latents lie in one file, fewer or more of them go
        # to another folder.
        tensors = {**network.state_dict(), "first image": inputs.images[0]}
        facts = {"task": "encode", "input": place_of(source), "images": len(inputs)}
        origin = origin_of(config, tensors, **facts)
        default = workdir / "samples" / f"step_{state['step']:08d}_encode"
        output, grid = prepare_output(
            config, output, default, origin, reports.append, in_folder=True
        )
        place = output
        if data_range(config):
            writable(place := output / "reconstructions.npz")
        with Logbook(workdir, beside=grid.parent, tensorboard=False) as log:
            for report in reports:
                log.say(report)
            log.say(f"encoding {len(inputs)} images with {path} into {output}")
            drawn, nfe = write_images(
                log,
                config,
                parts,
                len(inputs),
                place,
                keep=GRID_IMAGES,
                origin=origin,
                network=network,
            )
            trips = _of_all(done)
            latents = torch.cat([trip.z for trip in trips])
            report = _report(config, sde, inputs, trips)
            _save_latents(output / "latents.npz", latents, inputs, trips)
            text = json.dumps(report, indent=2) + "\n"
            save(output / "round_trip.json", lambda file: file.write(text.encode()))
            pictures.save_png(grid, _sheet(config, inputs.images, shown(sde, latents), drawn))
            unit = "numbers scaled to" if data_range(config) else "pixels in"
            log.say(
                f"{len(inputs)} latents: {output / 'latents.npz'}; reconstructions are off by "
                f"{report['max']:.2g} at most and by {report['rms']:.2g} (RMS) in the mean, of "
                f"{unit} [0, 1]; {nfe:.1f} network evaluations each; sheet: {grid}"
            )
    return output


def _check(config: Config, overrides: dict[str, object], output: Path | None) -> None:
    method = overrides.get("sampling.method", "ode")
    if method != "ode":
        raise ValueError(
            f"config.sampling.method={method!r}: --mode encode takes the adaptive ODE there and "
            "back; leave it out (--mode interpolate decodes by other methods)"
        )
    if field(config, "sampling.temperature") != 1:
        raise ValueError(
            f"config.sampling.temperature={config.sampling.temperature:g} scales latents, and "
            "those of --mode encode are to come back to their images: leave it at 1"
        )
    if output is not None and output.suffix.lower() == ".npz":
        raise ValueError(
            f"--output {output}: --mode encode writes latents, errors and reconstructions, so "
            "give a folder for them"
        )


def _trips(
    config: Config,
    sde: SDE,
    score_for: ScoreFor,
    inputs: Inputs,
    numbers: Tensor,
    done: dict[int, Reconstruction],
) -> Iterator[Samples]:
    """The reconstructions of some images, by their numbers.

    `done` is given all that is known of them, on the CPU, by the first number of each part.
    """
    device, scale = build_device(config), build_scaler(config)
    options = flow_options(config, sde)
    for part in numbers.split(config.sampling.batch_size * ROUNDS):
        index = part.to(device)
        trip = reconstruct(
            sde,
            lambda row, index=index: score_for(index[row]),
            scale(inputs.images[part]).to(device),
            **options,
        )
        kept = {name: value.cpu() for name, value in vars(trip).items()}
        done[int(part[0])] = Reconstruction(**kept)
        yield Samples(part, trip.x, trip.nfe, trip.status)


def _of_all(done: dict[int, Reconstruction]) -> list[Reconstruction]:
    """What all processes have done, in the order of the images. Each must call it."""
    given: list[dict[int, Reconstruction]] = parallel.gather_objects(done)  # type: ignore
    parts = {first: trip for one in given for first, trip in one.items()}
    return [parts[first] for first in sorted(parts)]


def _report(
    config: Config, sde: SDE, inputs: Inputs, done: list[Reconstruction]
) -> dict[str, object]:
    """Errors in pixels from 0 to 1, which are not clipped."""
    unit = 0.5 if config.data.centered else 1.0
    rows = [
        {
            "name": name,
            "max": unit * worst.item(),
            "rms": unit * rms.item(),
            "nfe": int(nfe),
            "status": Status(int(status)).name,
        }
        for name, worst, rms, nfe, status in zip(
            inputs.names,
            *(
                torch.cat([getattr(trip, what) for trip in done])
                for what in ("max_error", "rms_error", "nfe", "status")
            ),
            strict=True,
        )
    ]
    options = flow_options(config, sde)
    return {
        "max": max(row["max"] for row in rows),
        "rms": sum(row["rms"] for row in rows) / len(rows),
        "nfe": sum(row["nfe"] for row in rows) / len(rows),
        **{name: options[name] for name in ("rtol", "atol", "eps")},
        "ode_solver": options["method"],
        "images": rows,
    }


def _save_latents(path: Path, latents: Tensor, inputs: Inputs, done: list[Reconstruction]) -> None:
    arrays = {
        "latent": latents.float().numpy(),
        "name": np.array(inputs.names),
        "nfe": torch.cat([trip.nfe for trip in done]).numpy(),
    }
    if inputs.labels is not None:
        arrays["label"] = inputs.labels.numpy()
    save(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _sheet(config: Config, images: Tensor, latents: Tensor, drawn: Tensor) -> np.ndarray:
    """Rows of images, with their latents and their reconstructions below."""
    rows = [pictures.to_uint8(x[: len(drawn)]) for x in (images, latents, drawn)]
    columns = min(COLUMNS, len(drawn))
    white = rows[0].new_full((-len(drawn) % columns, *drawn.shape[1:]), 255)
    blocks = [torch.cat([row, white]).unflatten(0, (-1, columns)) for row in rows]
    return sheet(config, torch.stack(blocks, dim=1).flatten(0, 2), columns)
