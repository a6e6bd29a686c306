"""Curves as SVG: drawn twice, on a linear and on a logarithmic axis, of which one is shown.

They are there without a script, which only adds the values under the pointer. Colours are the
page's, by classes, so that they suit its light and its dark dress.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from score_sde.pictures.curves import Line, smoothing
from score_sde.pictures.page.elements import Html, fold, tag
from score_sde.pictures.page.parts import table
from score_sde.pictures.plots import running_mean

MOST_POINTS = 600
"""Of a line that are drawn; of more, the highest and the lowest of each stretch of steps."""

_WIDTH, _HEIGHT = 400, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 20, 10, 24
_MARKED = 40  # points; fewer are marked each
_LOG_FROM = 4.0  # ratio of the largest value to the smallest
_COLOURS = 8
_ROWS = 20  # of the table of a chart
_LARGEST = 1e300  # beyond it, and below its inverse, an axis has no room in floats


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` over pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        share = (self._scaled(value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values on it, about five."""
        if not self.is_log:
            return list(_even(self.low, self.high))
        decades = math.log10(self.high / self.low)
        steps = (1,) if decades > 3 else (1, 2, 5) if decades > 0.6 else range(1, 10)
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        exponents = exponents[:: max(1, round(decades / 5))]
        every = [k * 10.0**e for e in exponents for k in steps]
        inside = [value for value in every if self.low <= value <= self.high]
        # Within less than a factor of two round values are even ones.
        return inside if len(inside) > 1 else list(_even(self.low, self.high))

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def chart(title: str, lines: Sequence[Line], *, unit: str = "", ordered: bool = False) -> Html:
    """Values over the steps of training.

    A noisy line is drawn faintly under its running mean, as `curves.side_by_side` does.

    Args:
        title: of the chart.
        lines: their `run` is what the legend calls them.
        unit: of the values, below the title.
        ordered: lines stand in an order, such as noise levels, and have colours in an order.

    Returns:
        Empty where no value is finite.
    """
    drawn = [(line, line.finite()) for line in lines]
    drawn = [
        (line, points[:, np.abs(points[1]) < _LARGEST]) for line, points in drawn if points.size
    ]
    drawn = [(line, points) for line, points in drawn if points.size]
    if not drawn:
        return Html()
    values = np.concatenate([points[1] for _, points in drawn])
    positive = bool((values > 1 / _LARGEST).all())
    log = positive and bool(values.max() > _LOG_FROM * values.min())
    key = f"chart-{hashlib.sha256(title.encode('utf-8', 'replace')).hexdigest()[:8]}"
    kinds = ("linear", "log") if positive else ("linear",)
    switch, plots = [], []
    for kind in kinds:
        name = f"{key}-{kind}"
        checked = (kind == "log") == log
        switch += [
            tag("input", type="radio", name=key, id=name, class_=kind, checked=checked),
            tag("label", kind, for_=name),
        ]
        plots.append(_plot(title, drawn, kind == "log", ordered))
    return tag(
        "figure",
        tag("figcaption", title, tag("small", unit) if unit else None),
        *(switch if len(kinds) > 1 else ()),
        tag("div", *plots, class_="plot", tabindex=0, role="group", aria_label=f"{title}: values"),
        _legend(drawn, ordered),
        Html(f'<script type="application/json">{_for_script(drawn)}</script>'),
        _numbers_of(title, drawn),
        class_="chart",
    )


def thinned(x: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Which points stand for a line: the ends, and the extremes of each stretch.

    Args:
        x: values (n,).
        most: how many are kept.

    Returns:
        int64 (m,), m ≤ `most`, ascending; all where n ≤ `most`.
    """
    if len(x) <= most:
        return np.arange(len(x))
    edges = np.linspace(0, len(x), (most - 2) // 2 + 1).astype(int)
    kept = {0, len(x) - 1}
    for start, end in pairwise(edges.tolist()):
        kept |= {start + int(x[start:end].argmin()), start + int(x[start:end].argmax())}
    return np.array(sorted(kept))


def _plot(
    title: str, drawn: Sequence[tuple[Line, np.ndarray]], is_log: bool, ordered: bool
) -> Html:
    """One SVG."""
    steps = np.concatenate([points[0] for _, points in drawn])
    errors = [np.nan_to_num(points[2]) for _, points in drawn]
    low = min(float((p[1] - e).min()) for (_, p), e in zip(drawn, errors, strict=True))
    high = max(float((p[1] + e).max()) for (_, p), e in zip(drawn, errors, strict=True))
    if is_log:  # an error as large as its value has no end there
        least = min(float(points[1].min()) for _, points in drawn)
        low = max(low, least / 2)
    first, last = float(steps.min()), float(steps.max())
    x = _Axis(*_widened(first, last, 0.0), _LEFT, _WIDTH - _RIGHT)
    y = _Axis(*_widened(low, high, 0.06, is_log), _HEIGHT - _BOTTOM, _TOP, is_log)
    parts = []
    for value in y.ticks():
        at = f"{y.at(value):.1f}"
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", _short(value), x=_LEFT - 6, y=at, dy="0.32em", class_="y"))
    for value in x.ticks():
        at = f"{x.at(value):.1f}"
        parts.append(tag("text", _short(value), x=at, y=_HEIGHT - 7, class_="x"))
    for k, (line, points) in enumerate(drawn):
        parts += _line(line, points, x, y, _colour(k, len(drawn), ordered))
    parts.append(tag("line", y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="cross"))
    parts += [
        tag("circle", r=3.5, class_=f"dot {_colour(k, len(drawn), ordered)}")
        for k in range(len(drawn))
    ]
    return tag(
        "svg",
        *parts,
        class_="log" if is_log else "linear",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=_said(title, drawn),
        data_x=f"{x.low!r} {x.high!r} {x.start} {x.end}",
        data_y=f"{y.low!r} {y.high!r} {y.start} {y.end}",
    )


def _line(line: Line, points: np.ndarray, x: _Axis, y: _Axis, colour: str) -> Iterator[Html]:
    """Its error bars, its points, and the running mean of a noisy one."""
    steps, values = points[:2]

    def path(which: np.ndarray, heights: np.ndarray) -> str:
        places = zip(steps[which].tolist(), heights[which].tolist(), strict=True)
        return " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in places)

    width = smoothing(values) if line.errors is None else 1
    kept = thinned(values)
    faint = " faint" if width > 1 else ""
    yield tag("polyline", points=path(kept, values), class_=f"line {colour}{faint}")
    if width > 1:
        means = running_mean(values.tolist(), width)
        yield tag("polyline", points=path(thinned(means), means), class_=f"line {colour} mean")
    if len(values) >= _MARKED:
        return
    for step, value, error in points.T.tolist():
        across = f"{x.at(step):.1f}"
        if math.isfinite(error):
            ends = {"y1": value - error, "y2": value + error}
            heights = {key: f"{y.at(max(end, y.low)):.1f}" for key, end in ends.items()}
            yield tag("line", x1=across, x2=across, **heights, class_=f"error {colour}")
        place = {"cx": across, "cy": f"{y.at(value):.1f}"}
        yield tag("circle", tag("title", _of(step, value, error)), **place, r=2.2, class_=colour)


def _legend(drawn: Sequence[tuple[Line, np.ndarray]], ordered: bool) -> Html:
    """Each line with its last value; a script puts others in its place."""
    rows = []
    for k, (line, points) in enumerate(drawn):
        step, value, error = points[:, -1].tolist()
        width = smoothing(points[1]) if line.errors is None else 1
        mean = f", and the mean of {width}" if width > 1 else ""
        rows.append(
            tag(
                "li",
                tag("span", class_=f"swatch {_colour(k, len(drawn), ordered)}"),
                tag("span", f"{_name(line)}{mean}", class_="name"),
                tag("span", _of(step, value, error), class_="value"),
            )
        )
    return tag("ul", *rows, class_="legend", aria_live="off")


def _numbers_of(title: str, drawn: Sequence[tuple[Line, np.ndarray]]) -> Html:
    """The values as a table, for those who do not see curves: at some of the steps."""
    steps = sorted({step for _, points in drawn for step in points[0].tolist()})
    chosen = [steps[k] for k in np.linspace(0, len(steps) - 1, min(len(steps), _ROWS)).astype(int)]
    by_step = [
        {step: _value(value, error) for step, value, error in points.T.tolist()}
        for _, points in drawn
    ]
    rows = [[f"{step:,.0f}", *(cells.get(step, "–") for cells in by_step)] for step in chosen]
    some = "" if len(chosen) == len(steps) else f", {len(chosen)} of {len(steps):,} steps"
    made = table(f"{title}{some}", ["step", *(_name(line) for line, _ in drawn)], rows)
    return fold("numbers", made)


def _for_script(drawn: Sequence[tuple[Line, np.ndarray]]) -> str:
    """The points under the pointer: of each line steps, values, and values in words."""
    content = []
    for _, points in drawn:
        some = points[:, thinned(points[1])]
        words = [_value(value, error) for value, error in some[1:].T.tolist()]
        content.append({"x": some[0].tolist(), "y": some[1].tolist(), "words": words})
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _said(title: str, drawn: Sequence[tuple[Line, np.ndarray]]) -> str:
    ends = [
        f"{_name(line)} from {points[1][0]:.4g} at step {points[0][0]:,.0f} "
        f"to {points[1][-1]:.4g} at step {points[0][-1]:,.0f}"
        for line, points in drawn
    ]
    return f"{title}: {'; '.join(ends)}"


def _name(line: Line) -> str:
    return ", ".join(filter(None, (line.run, line.more)))


def _of(step: float, value: float, error: float) -> str:
    return f"{_value(value, error)} at step {step:,.0f}"


def _value(value: float, error: float) -> str:
    return f"{value:.4g} ± {error:.2g}" if math.isfinite(error) else f"{value:.4g}"


def _colour(k: int, of: int, ordered: bool) -> str:
    """The class of line k; in an order those between are left out."""
    if ordered:
        return f"o{round(k * (_COLOURS - 1) / max(1, of - 1))}"
    return f"c{k % _COLOURS}"


def _widened(low: float, high: float, by: float, is_log: bool = False) -> tuple[float, float]:
    """Ends a share further apart; of one value, ends around it."""
    if is_log:
        a, b = _widened(math.log10(low), math.log10(high), by)
        return 10**a, 10**b
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    room = by * (high - low)
    return low - room, high + room


def _even(low: float, high: float) -> Iterator[float]:
    """Multiples of 1, 2 or 5 and a power of ten, four to eight of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough)
    for k in range(math.ceil(low / step), math.floor(high / step) + 1):
        yield float(f"{k * step:.12g}")


def _short(value: float) -> str:
    """A number as an axis has room for it."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (size if letter != 'k' else 1e3):.4g}{letter}"
    return f"{value:.4g}"
