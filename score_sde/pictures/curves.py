"""Curves of several runs side by side: a panel for each quantity, lines for each run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from score_sde.pictures.images import save
from score_sde.pictures.plots import frame, running_mean

FORMATS = (".png", ".pdf", ".svg")
_MANY = 40  # points; fewer are marked each, and never smoothed
_LOG_FROM = 4.0  # ratio of the largest value to the smallest
_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Line:
    """Values over the steps of training.

    Attributes:
        run: whose they are: lines of one run have one colour in all panels.
        steps: of training.
        values: at each; those that are not finite are left out of the drawing.
        errors: the standard error of each, NaN where it is not known; None for values that have
            none, such as the loss of a batch.
        more: what tells it from other lines of the run in the same panel, for the legend.
    """

    run: str
    steps: Sequence[int]
    values: Sequence[float]
    errors: Sequence[float] | None = None
    more: str = ""

    def finite(self) -> np.ndarray:
        """Steps, values and errors of the finite values: (3, n)."""
        errors = [nan] * len(self.values) if self.errors is None else self.errors
        points = zip(self.steps, self.values, errors, strict=True)
        return np.array([point for point in points if isfinite(point[1])], dtype=float).T


def side_by_side(
    path: str | Path,
    panels: Mapping[str, Sequence[Line]],
    units: Mapping[str, str] | None = None,
    title: str = "",
) -> None:
    """Draws lines over the steps of training, as a PNG, PDF or SVG file.

    A line that is noisy (it has many points, no errors, and turns at more than half of them) is
    drawn faintly, with its running mean over it, and the legend says so. A panel has a
    logarithmic axis where its values are positive and range widely.

    Args:
        path: where to; its suffix is one of `FORMATS`.
        panels: lines by the panel's title.
        units: what the values are, by the panel's title, where it does not say so.
        title: of the whole.

    Raises:
        ValueError: there is nothing to draw, or a line has other numbers of steps and values.
        OSError: the file can't be written, in one sentence.
    """
    lines = [line for panel in panels.values() for line in panel]
    for line in lines:
        errors = line.values if line.errors is None else line.errors
        if not len(line.steps) == len(line.values) == len(errors):
            raise ValueError(
                f"a line has {len(line.steps)} steps, {len(line.values)} values and {len(errors)} "
                "errors: give one for each step"
            )
    if not any(line.finite().size for line in lines):
        raise ValueError("there are no finite values to draw: give a run that has some")
    runs = list(dict.fromkeys(line.run for line in lines))
    columns = min(len(panels), 3 if len(panels) > 4 else 2)
    rows = -(-len(panels) // columns)
    # A Figure of its own: pyplot would keep global state, and might look for a display.
    figure = Figure(figsize=(6 * columns, 4 * rows), dpi=120, layout="constrained")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place, (name, panel) in zip(places, panels.items(), strict=False):
        _draw(place, panel, runs)
        frame(place, name, "training step", (units or {}).get(name, ""))
    for place in places[len(panels) :]:
        place.axis("off")
    kind = Path(path).suffix[1:]
    save(path, lambda file: figure.savefig(file, format=kind))


def smoothing(values: Sequence[float] | np.ndarray) -> int:
    """How many points the running mean of a noisy line is of: a twentieth; 1 for a smooth line."""
    if len(values) < _MANY:
        return 1
    turns = np.diff(np.sign(np.diff(values))) != 0
    return len(values) // 20 if turns.mean() > 0.5 else 1


def _draw(place: Axes, panel: Sequence[Line], runs: Sequence[str]) -> None:
    drawn, lines_of = list[float](), Counter[str]()
    for line in panel:
        style = {
            "color": colormaps["tab10"](runs.index(line.run) % 10),
            "linestyle": _STYLES[lines_of[line.run] % len(_STYLES)],
        }
        lines_of[line.run] += 1
        label = ", ".join(filter(None, (line.run, line.more)))
        if not line.finite().size:
            place.plot([], [], label=f"{label}, nothing finite", **style)
            continue
        steps, values, errors = line.finite()
        width = smoothing(values) if line.errors is None else 1
        if width > 1:
            place.plot(steps, values, color=style["color"], alpha=0.25, linewidth=0.7)
            values = running_mean(values.tolist(), width)
            label = f"{label}, running mean of {width} points"
        if len(values) < _MANY:
            style |= {"marker": "o", "markersize": 3}
        if np.isfinite(errors).any():
            label = f"{label}, ± standard error"
            place.errorbar(steps, values, errors, capsize=2, label=label, **style)
        else:
            place.plot(steps, values, linewidth=1.4, label=label, **style)
        drawn += values.tolist()
    steps = {step for line in panel for step in line.steps}
    if len(steps) == 1:
        place.set_xticks([*steps])
    else:
        place.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if drawn and min(drawn) > 0 and max(drawn) > _LOG_FROM * min(drawn):
        place.set_yscale("log")
        place.yaxis.set_major_formatter("{x:g}")
        if max(drawn) < 100 * min(drawn):
            place.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
            place.yaxis.set_minor_formatter("{x:g}")
    place.legend(frameon=False, fontsize=8)
