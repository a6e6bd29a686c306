"""Pictures of a comparison of samplers: quality against evaluations, and a sheet of samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from torch import Tensor

from score_sde.pictures.images import grid, save
from score_sde.pictures.plots import frame

_COLOURS = (
    "#1f4e89",
    "#c2571a",
    "#4f8a4c",
    "#a03a6a",
    "#6b5ca5",
    "#8c6d1f",
    "#2a9d9d",
    "#d0342c",
    "#5f6b73",
    "#e39a00",
    "#3f7fd0",
    "#8fae1b",
    "#d57fb2",
    "#7a3b12",
    "#101010",
    "#61c0bf",
    "#9b1d20",
    "#b5a642",
    "#5b8c9e",
    "#c79ecf",
)
_MARKERS = "osD^vP*X<>phd8"
_NARROW = 3


@dataclass(frozen=True)
class Points:
    """Figures of a method: evaluations, values and standard errors, in order of evaluations."""

    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """One figure against evaluations.

    Attributes:
        title: what is drawn.
        curves: by method.
        band: lowest and highest value of the truth, and what they are of.
        log: whether values stand on a logarithmic axis.
    """

    title: str
    curves: Mapping[str, Points]
    band: tuple[float, float, str] | None = None
    log: bool = True


def quality_plot(path: str | Path, title: str, panels: Sequence[Panel]) -> None:
    """Draws figures against evaluations of the network, on logarithmic axes, as a PNG file.

    A method has one colour and one marker in all panels.

    Raises:
        ValueError: if there is nothing to draw.
        OSError: if the file can't be written, in one sentence.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    if not names:
        raise ValueError("there is nothing to draw: give at least one curve")
    styles = dict(zip(names, zip(cycle(_COLOURS), cycle(_MARKERS), strict=False), strict=False))
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    height = max(4.2 * down, 1.2 + 0.22 * len(names))
    figure = Figure(figsize=(6.2 * across + 2.2, height), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    spaces = iter(figure.subplots(down, across, squeeze=False).flat)
    handles = dict[str, Any]()
    for panel, axes in zip(panels, spaces, strict=False):
        handles |= _draw(axes, panel, styles)
    for axes in spaces:
        axes.axis("off")
    figure.legend(
        handles.values(), handles, loc="outside right upper", frameon=False, fontsize=8.5
    )
    save(path, lambda file: figure.savefig(file, format="png"))


def _draw(axes: Axes, panel: Panel, styles: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """One panel; what the legend shows of it, by name."""
    frame(axes, panel.title, "evaluations of the network", "")
    handles = dict[str, Any]()
    for name, curve in panel.curves.items():
        colour, marker = styles[name]
        handles[name] = axes.errorbar(
            curve.x,
            curve.y,
            curve.error,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.3,
            elinewidth=0.7,
        )
    if panel.band is not None:
        low, high, what = panel.band
        handles[what] = axes.axhspan(low, high, color="#9a9a9a", alpha=0.35, linewidth=0.8)
    axes.set_xscale("log")
    _write_ticks(axes.xaxis, *axes.get_xlim(), room=3.2)
    values = np.array([y for curve in panel.curves.values() for y in curve.y])
    # Values that lie within a factor of a few read better on an even axis.
    if panel.log and (values > 0).all() and values.max() > _NARROW * values.min():
        axes.set_yscale("log")
        # An error as large as the value would stretch the axis down to nothing.
        lowest = min(values.min(), panel.band[0] if panel.band else np.inf)
        axes.set_ylim(bottom=0.6 * lowest)
        _write_ticks(axes.yaxis, *axes.get_ylim(), room=2.5)
    return handles


def _write_ticks(axis: Axis, low: float, high: float, room: float) -> None:
    """Ticks at 1, 2 and 5 of each decade, written out; beyond `room` decades at 1 alone."""
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(10, (1.0,) if decades > room else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


_SIDE = 32
"""Pixels that a sample has at least on the sheet."""

_WIDTH = 1500
_MOST = 6


def sample_sheet(path: str | Path, title: str, cells: Mapping[tuple[str, str], Tensor]) -> None:
    """Draws the same samples by every method: methods down, budgets across, as a PNG file.

    Args:
        path: where to.
        title: of the sheet.
        cells: by method and budget, images (N, C, H, W) in [0, 1] or uint8, whose first ones are
            shown. A method without a budget, "", stands in every column.

    Raises:
        ValueError: if there is nothing to draw.
        OSError: if the file can't be written, in one sentence.
    """
    if not cells:
        raise ValueError("there are no samples to lay out: give at least one cell")
    rows = list(dict.fromkeys(series for series, _ in cells))
    columns = list(dict.fromkeys(at for _, at in cells if at)) or [""]
    side = max(next(iter(cells.values())).shape[-2:])
    scale = max(1, round(_SIDE / side))
    each = max(1, min(_MOST, _WIDTH // (len(columns) * (side * scale + 2))))
    strips = {place: grid(images[:each], each, scale) for place, images in cells.items()}
    high, wide, channels = np.max([strip.shape for strip in strips.values()], axis=0)
    wide += 6  # between columns
    sheet = np.full((len(rows) * high, len(columns) * wide, channels), 255, np.uint8)
    for (series, at), strip in strips.items():
        for column in [columns.index(at)] if at else range(len(columns)):
            top, left = rows.index(series) * high, column * wide
            sheet[top : top + strip.shape[0], left : left + strip.shape[1]] = strip
    figure, axes = _page(sheet, title, 0.085 * max(map(len, rows)) + 0.25)
    axes.set_yticks([(k + 0.5) * high for k in range(len(rows))], rows, fontsize=9)
    centres = [(k + 0.5) * wide - 3 for k in range(len(columns))]
    axes.set_xticks(centres, columns, fontsize=9)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    save(path, lambda file: figure.savefig(file, format="png"))


def _page(picture: np.ndarray, title: str, left: float) -> tuple[Figure, Axes]:
    """A figure with a picture pixel by pixel, room for labels and a title; inches."""
    dpi, top, edge = 100, 0.6, 0.1
    height, width = picture.shape[0] / dpi, picture.shape[1] / dpi
    whole = max(left + width + edge, 0.08 * len(title) + 2 * edge), top + height + edge
    figure = Figure(figsize=whole, dpi=dpi)
    place = (left / whole[0], edge / whole[1], width / whole[0], height / whole[1])
    axes = figure.add_axes(place)
    axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    figure.text(edge / whole[0], 1 - edge / whole[1], title, va="top", fontsize=10)
    return figure, axes
