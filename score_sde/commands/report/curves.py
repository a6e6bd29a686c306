"""The curves of a report: the metrics of training, and figures over the checkpoints."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from score_sde.commands.reported import Report, figures, measured
from score_sde.logbook import OF_EVALUATION, Curve, curves
from score_sde.pictures import page
from score_sde.pictures.curves import Line
from score_sde.pictures.page import Html

Metrics = Mapping[str, Curve]

_LOSSES = {"loss": "training", "held_out_loss": "held out"}
_TITLES = {
    "loss_by_level": "Training loss by noise level",
    "grad_norm": "Gradient norm",
    "time": "Share of time, in %",
    "learning_rate": "Learning rate",
    "images_per_sec": "Images per second",
    "loss_per_dimension": "Training loss per dimension",
}
"""Of metrics, and of groups of them (`time/step`), in the order of the charts."""


def metrics_of(workdir: Path, refused: Callable[[Exception], None]) -> Metrics:
    """The metrics of a run; none where the file is not there or can't be read."""
    path = workdir / "metrics.jsonl"
    try:
        return curves(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        refused(error)
        return {}


def of_training(metrics: Metrics) -> Html:
    """A chart for each metric of training, and one for each group of them."""
    losses = [Line(words, *metrics[name]) for name, words in _LOSSES.items() if name in metrics]
    groups: dict[str, list[str]] = {name: [] for name in _TITLES}
    for name in metrics:
        if name not in _LOSSES and not name.startswith(OF_EVALUATION):
            groups.setdefault(name.partition("/")[0], []).append(name)
    charts = [page.chart("Loss", losses)]
    for group, names in groups.items():
        ordered = group == "loss_by_level"
        title = _TITLES.get(group, group.replace("_", " "))
        calls = _levels(names) if ordered else [name.partition("/")[2] or group for name in names]
        lines = [Line(call, *metrics[name]) for call, name in zip(calls, names, strict=True)]
        if group == "time":
            lines = [
                replace(line, values=[100 * share for share in line.values]) for line in lines
            ]
        charts.append(page.chart(title, lines, ordered=ordered))
    return _beside(charts)


def of_figures(reports: Sequence[Report]) -> Html:
    """A chart for each figure that more than one checkpoint has, with its standard errors."""
    found: dict[str, dict[tuple[str, str], dict[int, tuple[float, float]]]] = {}
    for report in reports:
        for name, figure in figures(report.content):
            if "_by_level/" not in name:
                line = found.setdefault(name, {}).setdefault(
                    (measured(name, figure), report.source), {}
                )
                line[report.step] = number(figure["value"]), number(figure["se"])
    charts = []
    for name, lines in found.items():
        drawn = [
            Line(f"{what}, {source}", sorted(at), *zip(*map(at.get, sorted(at)), strict=True))  # type: ignore[arg-type]
            for (what, source), at in lines.items()
            if len(at) > 1
        ]
        charts.append(page.chart(name.replace("_", " "), drawn, unit="± standard error"))
    return _beside(charts)


def number(value: object) -> float:
    """A number of a report; NaN where it is none."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known else math.nan  # type: ignore[arg-type]


def _levels(names: Sequence[str]) -> list[str]:
    """What the parts of the noise levels are called, from low to high."""
    calls = [f"part {k + 1} of {len(names)}" for k in range(len(names))]
    if len(calls) > 1:
        calls[0] += " (least noise)"
        calls[-1] += " (most noise)"
    return calls


def _beside(charts: Sequence[Html]) -> Html:
    made = [chart for chart in charts if chart]
    return page.tag("div", *made, class_="charts") if made else Html()
