"""Plots: loss curves, and the sheet of an evaluation."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from score_sde.pictures.images import save

Curve = tuple[Sequence[int], Sequence[float]]

_FACTORS = 50  # tenths that are even in time are within 19 times of one another
_COLOURS = ("#1f4e89", "#c2571a", "#4f8a4c")


def loss_curve(
    path: str | Path,
    steps: Sequence[int],
    losses: Sequence[float],
    held_out: Curve | None = None,
    by_level: Mapping[str, Curve] | None = None,
) -> None:
    """Draws the training loss over the steps as a PNG file.

    Args:
        path: where to.
        steps: the steps of `losses`.
        losses: the loss at each, drawn as it is and as a running mean; those that are not finite
            are left out.
        held_out: steps and losses on held-out data.
        by_level: steps and losses for each noise level, by label from low to high noise; drawn in
            a second panel.

    Raises:
        ValueError: if there is nothing to draw, or a curve has other numbers of steps and losses.
        OSError: if the file can't be written, in one sentence.
    """
    levels = by_level or {}
    for x, y in [(steps, losses), *([held_out] if held_out else []), *levels.values()]:
        if len(x) != len(y):
            raise ValueError(f"a curve has {len(x)} steps and {len(y)} losses: give one for each")
    finite = [(step, loss) for step, loss in zip(steps, losses, strict=True) if isfinite(loss)]
    if not finite:
        raise ValueError("there are no finite losses to draw: record at least one before drawing")
    steps, losses = zip(*finite, strict=True)
    # A Figure of its own: pyplot would keep global state, and might look for a display.
    figure = Figure(figsize=(12 if levels else 7, 4), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2 if levels else 1, squeeze=False)[0]
    panels[0].plot(steps, losses, color="#9db8d6", linewidth=0.8, label="training")
    smooth = running_mean(losses, max(1, len(losses) // 20))
    panels[0].plot(steps, smooth, color="#1f4e89", linewidth=1.6, label="training, running mean")
    if held_out:
        panels[0].plot(*held_out, color="#c2571a", marker="o", markersize=3, label="held out")
    for i, (label, curve) in enumerate(levels.items()):
        colour = colormaps["viridis"](0.9 * i / max(1, len(levels) - 1))
        panels[1].plot(*curve, color=colour, linewidth=1.2, label=label)
    for panel, title in zip(panels, ("Loss", "Loss by noise level"), strict=False):
        _dress(panel, title)
    save(path, lambda file: figure.savefig(file, format="png"))


def evaluation_sheet(
    path: str | Path,
    title: str,
    pictures: Mapping[str, np.ndarray],
    histograms: Mapping[str, Mapping[str, np.ndarray]],
    levels: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]],
) -> None:
    """Draws what is known of a checkpoint on one page, as a PNG file.

    Args:
        path: where to.
        title: of the page.
        pictures: (H, W, C) uint8 by title, such as a grid of samples.
        histograms: by title, numbers by label, drawn over one another.
        levels: by title, times, means and standard errors.

    Raises:
        ValueError: if there is nothing to draw.
        OSError: if the file can't be written, in one sentence.
    """
    count = len(pictures) + len(histograms) + len(levels)
    if not count:
        raise ValueError("there is nothing to draw: give at least one picture or figure")
    rows = -(-count // 2)
    figure = Figure(figsize=(12, 4.6 * rows), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    panels = iter(figure.subplots(rows, 2, squeeze=False).flat)
    for name, picture in pictures.items():
        panel = next(panels)
        panel.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
        panel.set_title(name, loc="left", fontsize=11)
        panel.axis("off")
    for name, series in histograms.items():
        panel = next(panels)
        every = np.concatenate([values[np.isfinite(values)] for values in series.values()])
        for colour, (label, values) in zip(_COLOURS, series.items(), strict=False):
            edges = np.histogram_bin_edges(every, bins=30)
            panel.hist(values, edges, alpha=0.55, color=colour, label=label, density=True)
        frame(panel, name, "", "density")
        panel.legend(frameon=False, fontsize=8)
    for name, (t, means, errors) in levels.items():
        panel = next(panels)
        panel.errorbar(t, means, errors, color=_COLOURS[0], marker="o", markersize=3, capsize=2)
        frame(panel, name, "t", "loss")
        if max(t) > _FACTORS * min(t):
            panel.set_xscale("log")
        if min(means) > 0:
            panel.set_yscale("log")
    for panel in panels:
        panel.axis("off")
    save(path, lambda file: figure.savefig(file, format="png"))


def accuracy_curve(
    path: str | Path,
    title: str,
    levels: Sequence[float],
    shares: Mapping[str, Sequence[float]],
    chance: float,
) -> None:
    """Draws shares of images whose class is known over the noise level, as a PNG file.

    Args:
        path: where to.
        title: of the plot.
        levels: noise levels σ/α, above 0.
        shares: at each of them, by label.
        chance: the share that guessing gives.

    Raises:
        OSError: if the file can't be written, in one sentence.
    """
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    panel = figure.subplots()
    for colour, (label, values) in zip(_COLOURS, shares.items(), strict=False):
        panel.plot(levels, values, color=colour, marker="o", markersize=3, label=label)
    panel.axhline(chance, color="#9a9a9a", linewidth=0.8, linestyle=":", label="by chance")
    frame(panel, title, "noise level σ/α", "accuracy")
    panel.set_xscale("log")
    panel.set_ylim(0, 1.02)
    panel.legend(frameon=False, fontsize=8)
    save(path, lambda file: figure.savefig(file, format="png"))


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Mean of the last `width` values, or of as many as there are."""
    total = np.cumsum(np.concatenate([[0.0], np.asarray(values, dtype=np.float64)]))
    end = np.arange(1, len(total))
    start = np.maximum(end - width, 0)
    return (total[end] - total[start]) / (end - start)


def _dress(panel: Axes, title: str) -> None:
    frame(panel, title, "step", "loss")
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in panel.lines])
    if (drawn[np.isfinite(drawn)] > 0).all():
        panel.set_yscale("log")
    panel.legend(frameon=False, fontsize=8)


def frame(panel: Axes, title: str, x: str, y: str) -> None:
    """Gives a panel its title, labels and faint grid."""
    panel.set_title(title, loc="left", fontsize=11)
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.grid(color="#e6e6e6", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
