"""`--mode sample`: images from a checkpoint."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from score_sde import pictures
from score_sde.commands.progress import advice_on_memory
from score_sde.commands.weights import network_of, open_checkpoint
from score_sde.config.build import Config, build_device, build_inverse_scaler, build_sde, draw
from score_sde.logbook import Logbook
from score_sde.samplers import Samples


def sample(
    config: Config,
    workdir: Path,
    *,
    checkpoint: Path | None = None,
    num_samples: int = 64,
    output: Path | None = None,
    raw: bool = False,
    overrides: dict[str, object] | None = None,
) -> Path:
    """Draws images from a checkpoint.

    Args:
        config: the recipe; the config in a checkpoint of ours rules network, data and SDE.
        workdir: where the newest checkpoint is looked for, and where samples go by default.
        checkpoint: a file to use instead, ours or a published one.
        num_samples: how many; image k is the same however many are drawn.
        output: a folder for PNG files, or a name ending in .npz; samples/step_… by default.
        raw: the weights as trained instead of their moving average.
        overrides: fields given on the command line, which may not contradict the checkpoint.

    Returns:
        Where the images are.

    Raises:
        ValueError: no checkpoint, or one that does not fit the recipe.
        OSError: an output that cannot be written; raised before anything is drawn.
    """
    reports: list[str] = []
    config, path, state = open_checkpoint(config, checkpoint, workdir, overrides, reports.append)
    device, sde = build_device(config), build_sde(config)
    output = output or workdir / "samples" / f"step_{state['step']:08d}_{config.sampling.method}"
    grid = prepare_output(output)
    advice = (
        f"with {config.sampling.batch_size} images at a time: lower --config.sampling.batch_size"
    )
    with Logbook(workdir, tensorboard=False) as log, advice_on_memory(advice):
        network = network_of(config, state, path, raw=raw)
        for report in reports:
            log.say(report)
        log.say(f"drawing {num_samples} images from {path} into {output}")
        parts = draw(config, network, sde, torch.arange(num_samples), device)
        images, nfe = write_images(log, config, network, parts, num_samples, output)
        pictures.save_png(grid, pictures.grid(images[:100]))
        log.say(f"{num_samples} images, {nfe:.1f} network evaluations each; grid: {grid}")
    return output


def prepare_output(output: Path) -> Path:
    """Refuses an output that cannot be written, before anything is drawn; makes its folder.

    Returns:
        Where the grid of its images goes, beside it.
    """
    folder = output.parent if output.suffix == ".npz" else output
    if output.suffix.lower() in (".png", ".jpg", ".jpeg", ".gif", ".npy"):
        raise ValueError(f"--output {output}: give a folder for PNG files, or a name in .npz")
    if output.suffix == ".npz" and output.is_dir():
        raise ValueError(f"--output {output} is a folder: give another name in .npz")
    if output.suffix == ".npz" and output.exists():
        raise FileExistsError(f"{output} exists: move it away or choose another --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"--output {output} cannot be made ({error.strerror or error}): choose another place"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"--output {output} cannot be written to: choose another place")
    whole = output.resolve()  # of "." the name too
    return whole.with_name(whole.name.removesuffix(".npz") + "_grid.png")


def _numbered(output: Path) -> list[Path]:
    files = output.glob("*.png") if output.is_dir() else ()
    return [path for path in files if path.stem.isdecimal()]


def write_images(
    log: Logbook,
    config: Config,
    network: nn.Module,
    parts: Iterator[Samples],
    total: int,
    output: Path,
) -> tuple[Tensor, float]:
    """Images to files as they come; gives them back, with the mean number of evaluations.

    The progress bar also counts the calls of the network, as many images may end at once.
    """
    inverse_scale = build_inverse_scaler(config)
    images, index, nfe = [], [], []
    with log.progress(total, unit="image") as bar, _counted(network, bar):
        for part in parts:
            _report_unfinished(log, part)
            images.append(pictures.to_uint8(inverse_scale(part.x)).cpu())
            index.append(part.index.cpu())
            nfe.append(part.nfe.cpu())
            if output.suffix != ".npz":
                pictures.save_images(output, images[-1], index[-1])
            bar.update(len(part.index))
    if output.suffix == ".npz":
        pictures.save_npz(output, torch.cat(images), torch.cat(index))
    older = sum(int(path.stem) >= total for path in _numbered(output))
    if older:
        log.say(f"{output} also holds {older} images of an earlier command, of higher numbers")
    return torch.cat(images), torch.cat(nfe).float().mean().item()


@contextmanager
def _counted(network: nn.Module, bar: "tqdm[Any]") -> Iterator[None]:
    calls = itertools.count(1)

    def show(*_: object) -> None:
        bar.set_postfix_str(f"{next(calls)} network calls", refresh=False)
        bar.update(0)

    hook = network.register_forward_hook(show)
    try:
        yield
    finally:
        hook.remove()


def _report_unfinished(log: Logbook, part: Samples) -> None:
    if part.status is not None and part.status.any():
        lost = part.index[part.status != 0].tolist()
        log.say(
            f"the ODE solver gave up on images {lost[:8]}: what it reached is saved; "
            "raise sampling.max_steps or sampling.rtol"
        )
