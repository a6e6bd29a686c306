"""What is shown and told of restored images: a sheet before and after, and figures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde import atomic, pictures
from score_sde.commands.drawing import sheet as laid_out
from score_sde.config.build import Config, Measured, build_inverse_scaler, build_scaler
from score_sde.evaluation.restoration import restoration_figures
from score_sde.posteriors import Measurement

GRID_IMAGES = 200


def rows(completions: int) -> int:
    """How many images a sheet shows."""
    return max(1, GRID_IMAGES // (2 + completions))


def sheet(
    config: Config,
    measurement: Measurement,
    measured: Measured,
    truth: Tensor | None,
    drawn: Tensor,
) -> np.ndarray:
    """In each row an image, what was measured of it, and its completions.

    Args:
        config: of the network.
        measurement: what y is of images.
        measured: of the n images; the first of them are shown.
        truth: (n, C, H, W) in [0, 1]; None where only measurements are known.
        drawn: (n, k, C, H, W) uint8.
    """
    m = min(len(drawn), rows(drawn.shape[1]))
    seen = shown(config, measurement, measured)[:m, None]
    columns = [] if truth is None else [pictures.to_uint8(truth[:m, None])]
    columns += [pictures.to_uint8(seen), drawn[:m]]
    together = torch.cat(columns, dim=1)
    return laid_out(config, together.flatten(0, 1), together.shape[1])


def shown(config: Config, measurement: Measurement, measured: Measured) -> Tensor:
    """Measurements as pictures in [0, 1], (n, C, H, W): what is not measured is grey.

    Where a measurement is no picture, the smallest image that fits it stands for it.
    """
    C, H, W = measurement.shape
    y, known = measured.y, measured.known
    unscale, grey = build_inverse_scaler(config), build_scaler(config)(torch.tensor(0.5)).item()
    if known is not None:
        return unscale(known.put(torch.full_like(known.value, grey), known.value))
    if measurement.in_pixels:
        seen = measurement.measured(torch.ones_like(y)) > 0.5
        y = torch.where(seen, y, grey).expand(-1, C, -1, -1)
        return unscale(torch.nn.functional.interpolate(y, size=(H, W)))
    x, spectral = measurement.pseudo_inverse(y), measurement.spectral
    if spectral is None:
        return unscale(x)
    c, rest = spectral.to_spectrum(x), spectral.to_spectrum(torch.full_like(x, grey))
    return unscale(spectral.from_spectrum(torch.where(spectral.gains(c) > 0, c, rest)))


def write(
    grid: Path, told: Mapping[str, Any], truth: Tensor | None, drawn: Tensor, levels: int
) -> str:
    """Writes what is told of images, with their scores where the truth is known, as JSON.

    Args:
        grid: the sheet, beside which the file goes.
        told: what else there is.
        truth: as in `sheet`.
        drawn: as in `sheet`.
        levels: grey levels of the true images.

    Returns:
        The figures in words.
    """
    figures = {}
    if truth is not None:
        figures = restoration_figures(truth, drawn.float() / 255, levels=levels)
    place = grid.with_name(f"{grid.name.removesuffix('_grid.png')}.json")
    text = json.dumps({**told, "figures": figures}, indent=2)
    atomic.write(place, lambda file: file.write(f"{text}\n".encode()))
    said = [
        f"{name} {figure['value']:.4g}{_error(figure['se'])}" for name, figure in figures.items()
    ]
    return f"{', '.join(said) or 'not scored'}, in {place}"


def _error(se: float | None) -> str:
    """The standard error in words; of one image there is none."""
    return "" if se is None else f" ± {se:.2g}"
