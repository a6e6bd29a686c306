"""Figures in words: the lines of a report, and a table over checkpoints."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from score_sde.atomic import read_json
from score_sde.evaluation.figure import Figure

HIGHER_IS_BETTER = ["is", "score", "precision", "recall"]
LOWER_IS_BETTER = ["held_out_loss", "bound", "bits_per_dim", "fid", "fd", "kid", "kd"]
LOWER_IS_BETTER += ["bound_train", "bits_per_dim_train", "fid_by_class", "fd_by_class"]
LOWER_IS_BETTER += ["nats_per_dim", "bound_nats", "nats_per_dim_train", "bound_nats_train"]
"""Figures of which a table marks the best. Of others, such as `nearest_train`, which only shows
whether images were copied, neither high nor low values are better."""

_NUMBER = 28


def lines(figures: dict[str, Figure], left_out: dict[str, str]) -> str:
    """One line a figure, and one for each that is left out."""
    text = []
    for name, figure in figures.items():
        more = f", {figure['nfe']:.0f} evaluations each" if "nfe" in figure else ""
        more += f", {figure['given_up']:,} given up" if figure.get("given_up") else ""
        rows = figure.get("by_class", [])
        more += f", {figure['classes']} of {len(rows)} classes" if rows else ""
        what, split = figure.get("of", "samples"), figure.get("split")
        if "against" in figure:
            what += f" against {split} images" if split else " against the reference"
        elif split:
            what = f"{split} images"
        label = figure.get("name", name)
        text.append(f"{label:<20} {_number(figure)} ({figure['n']:,} {what}{more})")
    return "\n".join(text + [f"{name:<20} left out: {why}" for name, why in left_out.items()])


def table(reports: list[dict[str, Any]]) -> str:
    """One line a report; the best of each column has a star, and what is missing a dash."""
    columns = {
        name: {report["step"]: report[name] for report in reports if is_figure(report.get(name))}
        for name in dict.fromkeys(name for report in reports for name in report)
    }
    columns = {name: column for name, column in columns.items() if column}
    best = {name: _best(name, column) for name, column in columns.items()}
    rows = ["step      " + "".join(f"{name:>{_NUMBER}}" for name in columns)]
    for step in (report["step"] for report in reports):
        cells = []
        for name, column in columns.items():
            figure, star = column.get(step), "*" if step in best[name] else " "
            number = f"{_number(figure)}{star}" if figure else "– "
            cells.append(f"{number:>{_NUMBER}}")
        rows.append(f"{step:<10}" + "".join(cells))
    return "\n".join(rows)


def is_figure(value: object) -> bool:
    """Whether an entry of a report is a figure; others are facts."""
    return isinstance(value, dict) and {"value", "se", "n"} <= value.keys()


def _best(name: str, column: dict[int, Figure]) -> list[int]:
    """The steps with the best value; none where values are not ranked."""
    if name not in HIGHER_IS_BETTER + LOWER_IS_BETTER:
        return []
    choose = max if name in HIGHER_IS_BETTER else min
    known = {step: figure["value"] for step, figure in column.items() if _known(figure["value"])}
    best = choose(known.values(), default=None)
    return [step for step, value in known.items() if value == best]


def _number(figure: Figure) -> str:
    value, se = figure["value"], figure["se"]
    number = f"{value:.4f}" if _known(value) else "not finite"
    return f"{number} ± {se:.4f}" if _known(se) else number


def _known(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


def standard(value: Any) -> Any:
    """The same with None for numbers that are not finite, which standard JSON cannot express."""
    if isinstance(value, dict):
        return {key: standard(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [standard(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_like(path: Path, report: dict[str, Any], names: Sequence[str]) -> bool:
    """Whether the report in a file was made of the same things: those of these names."""
    try:
        before = read_json(path)
    except ValueError:
        return False
    now = json.loads(json.dumps(standard(report)))
    return isinstance(before, dict) and all(before.get(name) == now.get(name) for name in names)
