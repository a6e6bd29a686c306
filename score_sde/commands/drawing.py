"""Samples for the snapshots of a training run, with the film of how they came about."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.config.build import Config, build_inverse_scaler, draw
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
) -> tuple[Tensor, list[Tensor]]:
    """Images in [0, 1], and the states on the way, brought to the same range of values.

    `check` is called before every call of the network; what it raises ends the drawing.
    """

    def checked(*given: Any, **named: Any) -> Tensor:
        check()
        return network(*given, **named)

    inverse_scale = build_inverse_scaler(config)
    frames: dict[int, list[Tensor]] = {}

    def keep(k: int, total: int, t: float, x: Tensor, x_mean: Tensor) -> None:
        if k % -(-total // FILM_FRAMES) == 0:
            level = torch.tensor([t])
            size = (sde.mean_scale(level) ** 2 + sde.std(level) ** 2).sqrt().item()
            frames.setdefault(k, []).append(inverse_scale(x / size).clamp(0, 1).cpu())

    drawn = draw(config, checked, sde, index, device, on_step=keep)
    images = torch.cat([inverse_scale(part.x).clamp(0, 1).cpu() for part in drawn])
    return images, [torch.cat(parts) for _, parts in sorted(frames.items())] + [images]
