"""Samples for the snapshots of a training run, with the film of how they came about."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from score_sde.config.build import (
    Config,
    Given,
    build_inverse_scaler,
    data_range,
    draw,
    image_shape,
)
from score_sde.pictures import grid, save_film, save_png, to_uint8
from score_sde.sde import SDE

FILM_FRAMES = 50
FILM_IMAGES = 25  # noise does not compress: more, or larger ones, are many megabytes
FILM_PIXELS = 32  # tiny images are enlarged up to this side


def draw_with_film(
    config: Config,
    network: nn.Module,
    sde: SDE,
    index: Tensor,
    device: torch.device,
    check: Callable[[], None],
    given: Given | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Images, and the states of the first `FILM_IMAGES` on the way, as uint8.

    States are brought to the images' range of values. `check` is called before every call of the
    network; what it raises ends the drawing. `given` is what a network that upsamples draws from.

    Raises:
        NotFiniteError: pixels that are not finite.
    """

    def checked(*given: Any, **named: Any) -> Tensor:
        check()
        return network(*given, **named)

    inverse_scale = build_inverse_scaler(config)
    frames: dict[int, list[Tensor]] = {}

    def keep(k: int, total: int, t: float, x: Tensor, x_mean: Tensor) -> None:
        parts = frames.setdefault(k, [])
        room = FILM_IMAGES - sum(map(len, parts))
        if k % -(-total // FILM_FRAMES) == 0 and room > 0:
            level = torch.tensor([t])
            size = (sde.mean_scale(level) ** 2 + sde.std(level) ** 2).sqrt().item()
            parts.append(to_uint8(inverse_scale(x[:room] / size)).cpu())

    drawn = draw(config, checked, sde, index, device, on_step=keep, given=given)
    images = torch.cat([to_uint8(inverse_scale(part.x)).cpu() for part in drawn])
    film = [torch.cat(parts) for _, parts in sorted(frames.items()) if parts]
    return images, [*film, images[:FILM_IMAGES]]


def save_grid_and_film(
    config: Config, path: Path, images: Tensor, frames: Sequence[Tensor]
) -> np.ndarray:
    """Writes what `draw_with_film` gives: a grid as PNG and, beside it, the film as GIF.

    Returns:
        The grid, (H, W, C) uint8.
    """
    picture = sheet(config, images)
    save_png(path, picture)
    scale = max(1, FILM_PIXELS // max(images.shape[-2:]))
    film = [sheet(config, x[:FILM_IMAGES], scale=scale) for x in frames]
    save_film(path.with_suffix(".gif"), film)
    return picture


def are_pictures(config: Config) -> bool:
    """Whether a config's images are seen as they are: grey or RGB, or RGBA of 8 bits."""
    channels = image_shape(config)[0]
    return channels in (1, 3) or (channels == 4 and not data_range(config))


def told_of_channels(config: Config) -> str:
    """How a sheet shows the channels of images that are no pictures, for a log."""
    return "" if are_pictures(config) else ", each channel grey, side by side"


def sheet(
    config: Config, images: Tensor, columns: int | None = None, scale: int | None = None
) -> np.ndarray:
    """Images (N, C, H, W) in [0, 1] or uint8, laid out by `pictures.grid`.

    Those of a config whose images are no pictures are grey panels, one for each channel.
    """
    if not are_pictures(config):
        images = images.transpose(1, 2).flatten(2)[:, None]
    return grid(images, columns, scale)
