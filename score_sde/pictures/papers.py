"""Figures of the papers, drawn from numbers: perturbation kernels, and paths over densities."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from score_sde.pictures.images import save
from score_sde.pictures.plots import frame

_CURVE, _MARKS = "#1f4e89", "#c2571a"
_SHADES = 20  # of densities: a file of few colours is a third as large
_MARKED = 26  # of a chain of a thousand steps


@dataclass(frozen=True)
class Kernel:
    """A coefficient of a perturbation kernel, of a chain and of the SDE that continues it.

    Attributes:
        title: what it is.
        t: (N,) times.
        chain: (N,) of the chain's steps.
        sde: (N,) of the SDE at these times.
        names: of both, for the legend.
        log: whether values stand on a logarithmic axis.
    """

    title: str
    t: np.ndarray
    chain: np.ndarray
    sde: np.ndarray
    names: tuple[str, str]
    log: bool = False


@dataclass(frozen=True)
class Paths:
    """Paths in one dimension over the density that they have at each time.

    Attributes:
        t: (T,) times, in the order in which the paths go through them.
        x: (X,) places.
        density: (T, X) at these times and places.
        sde: (T, n) paths of the SDE.
        ode: (T, n) paths of the probability-flow ODE.
    """

    t: np.ndarray
    x: np.ndarray
    density: np.ndarray
    sde: np.ndarray
    ode: np.ndarray


def kernel_plot(path: str | Path, title: str, kernels: Sequence[Kernel]) -> None:
    """Draws chains as marks over the curves of SDEs, and below how far they are apart, as PNG.

    Raises:
        OSError: if the file can't be written, in one sentence.
    """
    figure = Figure(figsize=(4.4 * len(kernels), 5.2), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    rows = figure.subplots(2, len(kernels), squeeze=False, height_ratios=(3, 1))
    for above, below, kernel in zip(*rows, kernels, strict=True):
        some = np.unique(np.linspace(0, len(kernel.t) - 1, _MARKED).astype(int))
        curve, marks = kernel.names[::-1]
        above.plot(kernel.t, kernel.sde, color=_CURVE, label=curve)
        style = {"marker": "o", "markersize": 4.5, "markerfacecolor": "none", "linestyle": ""}
        above.plot(kernel.t[some], kernel.chain[some], color=_MARKS, label=marks, **style)
        frame(above, kernel.title, "", "")
        if kernel.log:
            above.set_yscale("log")
        above.legend(frameon=False, fontsize=8.5)
        apart = kernel.chain - kernel.sde
        if kernel.log:
            apart = apart / kernel.sde
        below.plot(kernel.t, apart, color=_MARKS, linewidth=1.1)
        frame(below, "", "t", "relative difference" if kernel.log else "difference")
        below.ticklabel_format(axis="y", scilimits=(-2, 3))
    save(path, lambda file: figure.savefig(file, format="png"))


def path_plot(path: str | Path, title: str, rows: Mapping[str, tuple[Paths, Paths]]) -> None:
    """Draws paths forward and back over densities, a row for each SDE, as a PNG file.

    At each time the density is shown relative to its largest value, as it spreads; a path of the
    SDE has a colour, one of the ODE is white.

    Args:
        path: where to.
        title: of the whole.
        rows: by name, forward and reverse.

    Raises:
        OSError: if the file can't be written, in one sentence.
    """
    figure = Figure(figsize=(11, 2.7 * len(rows) + 0.5), dpi=80, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    panels = figure.subplots(len(rows), 2, squeeze=False)
    for line, (name, both) in zip(panels, rows.items(), strict=True):
        for panel, paths, way in zip(line, both, ("data to noise", "noise to data"), strict=True):
            _draw_paths(panel, paths)
            panel.set_title(f"{name}: {way}", loc="left", fontsize=11)
    for panel in panels[-1]:
        panel.set_xlabel("t")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as picture:  # shades of two colours need no millions of them
        small = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    save(path, lambda file: small.save(file, format="PNG", optimize=True))


def _draw_paths(panel: Axes, paths: Paths) -> None:
    shown = (paths.density / paths.density.max(axis=1, keepdims=True)).T
    colours = colormaps["magma"].resampled(_SHADES)
    panel.pcolormesh(paths.t, paths.x, shown, cmap=colours, vmax=1.25, shading="nearest")
    for k, walk in enumerate(paths.sde.T):
        colour = colormaps["Set2"](k % 8)
        panel.plot(paths.t, walk, color=colour, linewidth=0.8, label="SDE" if not k else None)
    for k, walk in enumerate(paths.ode.T):
        style = {"color": "white", "linewidth": 1.3, "alpha": 0.9}
        panel.plot(paths.t, walk, label="probability-flow ODE" if not k else None, **style)
    panel.set_xlim(paths.t[0], paths.t[-1])
    panel.set_ylim(paths.x[0], paths.x[-1])
    panel.legend(loc="upper center", fontsize=7.5, framealpha=0.75, ncols=2)
