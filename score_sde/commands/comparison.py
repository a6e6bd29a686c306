"""A comparison of samplers for the reader: tables on the screen, panels of the plot."""

import math
from collections.abc import Mapping, Sequence

from score_sde.evaluation import Figure
from score_sde.evaluation.study import Floor, Result
from score_sde.pictures import Panel, Points

_TITLES = {
    "to_converged": "root mean square off the converged ODE's images",
    "within": "variance within a component, relative to truth",
    "warmth": "warmth: mean red minus mean blue",
    "brightness": "mean brightness",
}
_LINEAR = ("warmth", "brightness")


def tables(results: Sequence[Result], floor: Floor | None, left_out: Mapping[str, str]) -> str:
    """What was found, as text: a table for each figure, methods down and budgets across."""
    parts = []
    for key, title in {**_distances(results), **_TITLES}.items():
        cells = {
            (result.series, result.at): _number(result.figures[key])
            for result in results
            if key in result.figures
        }
        if cells:
            band = _band(floor, key)
            words = f", {_range(band)} of {band[2]}" if band else ""
            parts.append(_matrix(f"{title}{words}", cells))
    costs = {
        (result.series, result.at): f"{result.made['nfe']:.4g}, "
        f"{1000 * result.made['sec_each']:.3g}"
        for result in results
    }
    parts.append(_matrix("evaluations, and milliseconds of computation, an image", costs))
    if left_out:
        by_reason = dict[str, list[str]]()
        for name, why in left_out.items():
            by_reason.setdefault(why, []).append(name)
        lines = [f"left out: {'; '.join(names)}: {why}" for why, names in by_reason.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def panels(results: Sequence[Result], floor: Floor | None) -> list[Panel]:
    """What the plot shows against evaluations."""
    (frechet, title), *_ = _distances(results).items()
    made = []
    for key, words in {frechet: title, **_TITLES}.items():
        if curves := _curves(results, key):
            made.append(Panel(words, curves, _band(floor, key), log=key not in _LINEAR))
    return made


def _distances(results: Sequence[Result]) -> dict[str, str]:
    """The Fréchet and the kernel distance: their keys in the report, and what they are called."""
    names = {
        key: result.figures[key]["name"]
        for result in results
        for key in ("fid", "fd", "kid", "kd")
        if key in result.figures
    }
    return names or {"fd": "FD"}


def _band(floor: Floor | None, key: str) -> tuple[float, float, str] | None:
    """The lowest and the highest value of true images, and what they are."""
    values = floor.sets.get("frechet" if key in ("fid", "fd") else key) if floor else None
    if floor is None or values is None:
        return None
    if key == "within":
        values = values / values.mean()
    what = f"{len(values)} sets of {floor.truth.name}"
    return float(values.min()), float(values.max()), what


def _range(band: tuple[float, float, str]) -> str:
    return f"{band[0]:.3g} to {band[1]:.3g}"


def _matrix(title: str, cells: Mapping[tuple[str, str], str]) -> str:
    rows = list(dict.fromkeys(series for series, _ in cells))
    # Methods without a budget come first.
    columns = sorted(dict.fromkeys(at for _, at in cells), key=bool)
    lines = [["", *columns]]
    lines += [[row, *(cells.get((row, column), "") for column in columns)] for row in rows]
    wide = [max(len(line[k]) for line in lines) for k in range(len(columns) + 1)]
    text = [
        f"{line[0]:<{wide[0]}}"
        + "".join(f"{cell:>{width + 3}}" for cell, width in zip(line[1:], wide[1:], strict=True))
        for line in lines
    ]
    return "\n".join([title, *(line.rstrip() for line in text)])


def _number(figure: Figure) -> str:
    """A value to the first digit of its standard error: 0.036 ± 0.009."""
    value, se = figure["value"], figure["se"]
    if not se or not math.isfinite(se) or not math.isfinite(value):
        return f"{value:.3g}"
    place = math.floor(math.log10(se))
    digits = max(0, -place)
    return f"{round(value, -place):.{digits}f} ± {round(se, -place):.{digits}f}"


def _curves(results: Sequence[Result], key: str) -> dict[str, Points]:
    """By method, in order of the evaluations."""
    curves = dict[str, list[tuple[float, float, float]]]()
    for result in results:
        figure = result.figures.get(key)
        if figure and math.isfinite(figure["value"]):
            se = figure["se"] or 0.0
            point = (result.made["nfe"], figure["value"], se if math.isfinite(se) else 0.0)
            curves.setdefault(result.series, []).append(point)
    return {
        name: Points(*map(list, zip(*sorted(points), strict=True)))
        for name, points in curves.items()
    }
