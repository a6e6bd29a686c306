"""Samples for the snapshots of a training run, with the film of how they came about."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from score_sde.config.build import Config, Given, build_inverse_scaler, draw
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


def save_grid_and_film(path: Path, images: Tensor, frames: Sequence[Tensor]) -> np.ndarray:
    """Writes what `draw_with_film` gives: a grid as PNG and, beside it, the film as GIF.

    Returns:
        The grid, (H, W, C) uint8.
    """
    picture = grid(images)
    save_png(path, picture)
    scale = max(1, FILM_PIXELS // max(images.shape[-2:]))
    save_film(path.with_suffix(".gif"), [grid(x[:FILM_IMAGES], scale=scale) for x in frames])
    return picture
