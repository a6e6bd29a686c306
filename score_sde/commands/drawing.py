"""Samples with the film of how they came about, and what sheets and films say of themselves."""

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
from score_sde.data import are_pictures
from score_sde.pictures import grid, labelled, save_film, save_png, to_uint8
from score_sde.samplers import Sampler
from score_sde.sde import SDE

FILM_FRAMES = 50
FILM_IMAGES = 25  # noise does not compress: more, or larger ones, are many megabytes
FILM_PIXELS = 32  # tiny images are enlarged up to this side


class Film:
    """Keeps the states of the first samples on their way, as `on_step` of a sampler.

    States are brought to the images' range of values.

    Args:
        config: of the network.
        sde: that it was trained for.
        most: how many samples it shows.
    """

    def __init__(self, config: Config, sde: SDE, most: int = FILM_IMAGES) -> None:
        self.most = most
        self._inverse_scale, self._sde = build_inverse_scaler(config), sde
        self._parts: dict[int, list[Tensor]] = {}
        self._at: dict[int, tuple[int, float]] = {}

    def keep(self, k: int, total: int, t: float, x: Tensor, x_mean: Tensor) -> None:
        """Takes the state after step k of `total`, at time t, where the film has room for it."""
        parts = self._parts.setdefault(k, [])
        room = self.most - sum(map(len, parts))
        if k % -(-total // FILM_FRAMES) == 0 and room > 0:
            level = torch.tensor([t])
            size = (self._sde.mean_scale(level) ** 2 + self._sde.std(level) ** 2).sqrt().item()
            parts.append(to_uint8(self._inverse_scale(x[:room] / size)).cpu())
            self._at[k] = total, t

    def frames(self, images: Tensor) -> list[Tensor]:
        """The states, uint8 (n, C, H, W) each, and at the end the images that became of them."""
        kept = [torch.cat(parts) for _, parts in sorted(self._parts.items()) if parts]
        return [*kept, images[: self.most]]

    def captions(self) -> list[str]:
        """What to say of each frame."""
        steps = [f"step {k} of {of:,}, t = {t:.3g}" for k, (of, t) in sorted(self._at.items())]
        return [*steps, "the images"]


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

    `check` is called before every call of the network; what it raises ends the drawing. `given` is
    what a network that upsamples draws from.

    Raises:
        NotFiniteError: pixels that are not finite.
    """

    def checked(*given: Any, **named: Any) -> Tensor:
        check()
        return network(*given, **named)

    film, inverse_scale = Film(config, sde), build_inverse_scaler(config)
    drawn = draw(config, checked, sde, index, device, on_step=film.keep, given=given)
    images = torch.cat([to_uint8(inverse_scale(part.x)).cpu() for part in drawn])
    return images, film.frames(images)


def save_grid_and_film(
    config: Config, path: Path, images: Tensor, frames: Sequence[Tensor]
) -> np.ndarray:
    """Writes what `draw_with_film` gives: a grid as PNG and, beside it, the film as GIF.

    Returns:
        The grid, (H, W, C) uint8.
    """
    picture = sheet(config, images)
    save_png(path, picture)
    save_film(path.with_suffix(".gif"), [_of_film(config, x) for x in frames])
    return picture


def save_labelled(
    config: Config,
    stem: Path,
    laid_out: np.ndarray,
    images: Tensor,
    film: Film,
    said: Sequence[str],
) -> tuple[Path, Path]:
    """Writes a sheet and a film of samples, with what made them written above.

    Args:
        config: of the network.
        stem: `STEM_sheet.png` and `STEM_film.gif` are written.
        laid_out: the samples in a sheet, (H, W, C) uint8.
        images: the first samples, (n, C, H, W), uint8 or in [0, 1].
        film: of them.
        said: lines for both.

    Returns:
        The two files.
    """
    png, gif = (stem.with_name(f"{stem.name}{end}") for end in ("_sheet.png", "_film.gif"))
    save_png(png, labelled(laid_out, said))
    frames = zip(film.frames(images), film.captions(), strict=True)
    save_film(gif, [labelled(_of_film(config, x), [*said, caption]) for x, caption in frames])
    return png, gif


def method_in_words(config: Config, sampler: Sampler) -> str:
    """What draws, and in how many steps: "pc (reverse_diffusion, langevin), 1,000 steps"."""
    sampling = config.sampling
    method = sampling.method
    if method == "pc":
        flow = ", probability flow" if sampling.probability_flow else ""
        method += f" ({sampling.predictor}{flow}, {sampling.corrector})"
    steps = sampler.num_steps
    said = [method, "steps of its own" if steps is None else f"{steps:,} steps"]
    if sampling.label >= 0:
        said.append(f"class {sampling.label}")
    if sampling.guidance != 1:
        said.append(f"guidance {sampling.guidance:g}")
    if sampling.temperature != 1:
        said.append(f"temperature {sampling.temperature:g}")
    return ", ".join(said)


def seen(config: Config) -> bool:
    """Whether a config's images are seen as they are, which those of other channels are not."""
    return are_pictures(image_shape(config)[0], data_range(config))


def told_of_channels(config: Config) -> str:
    """How a sheet shows the channels of images that are no pictures, for a log."""
    return "" if seen(config) else ", each channel grey, side by side"


def sheet(
    config: Config, images: Tensor, columns: int | None = None, scale: int | None = None
) -> np.ndarray:
    """Images (N, C, H, W) in [0, 1] or uint8, laid out by `pictures.grid`.

    Those of a config whose images are no pictures are grey panels, one for each channel.
    """
    if not seen(config):
        images = images.transpose(1, 2).flatten(2)[:, None]
    return grid(images, columns, scale)


def _of_film(config: Config, x: Tensor) -> np.ndarray:
    return sheet(config, x[:FILM_IMAGES], scale=max(1, FILM_PIXELS // max(x.shape[-2:])))
