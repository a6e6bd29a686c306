"""`--mode plot`: curves of runs side by side, losses as logged and figures as evaluated.

A run's curves are the metrics of its `metrics.jsonl` (`loss`, `held_out_loss`, `grad_norm`,
`loss_by_level/0`, ...) and the figures of the reports in `eval*/step_*.json`, over the steps of
the checkpoints (`eval/fd`, `eval/bits_per_dim`, ...), with their standard errors. A name without
`eval/` is a figure's where no run has a metric of that name, and one that others begin with
(`loss_by_level`) stands for all of these. Losses of runs with other objectives are other
quantities: where they share a panel, the legend and a sentence say so.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_sde.atomic import open_regular, read_json, write_whole
from score_sde.commands.reported import figures, measured, reports
from score_sde.logbook import OF_EVALUATION, curves
from score_sde.pictures.curves import FORMATS, Line, side_by_side
from score_sde.tensor_ops import check_name

DEFAULT = ("loss", "held_out_loss", "eval/fid", "eval/fd", "eval/bits_per_dim")
COLUMNS = ("curve", "run", "of", "from", "step", "value", "se")
"""Of the file of numbers. `of` says what a figure was measured on, `from` which folder of reports,
and whether the weights were the raw ones."""

_WEIGHTED = {
    "continuous": "of the chain",
    "reduce_mean": "mean over dimensions",
    "likelihood_weighting": "weighted by g²",
}
"""Words for fields of the group `training` that make another loss: where the first is False, and
the others True."""


@dataclass(frozen=True)
class Curve:
    """A curve of a run; `se` is None for a metric, which has no errors.

    `of` says what a figure measures, and of a loss what the run was trained for.
    """

    of: str
    source: str
    steps: Sequence[int]
    values: Sequence[float]
    se: Sequence[float] | None = None


Curves = dict[str, list[Curve]]
"""The curves of a run by name: several where its figures were measured in several ways."""


def plot(runs: Sequence[Path], names: Sequence[str], output: Path) -> str:
    """Draws curves of runs into a picture, and writes their numbers beside it as a CSV table.

    Args:
        runs: work directories.
        names: of curves; those of `DEFAULT` that any run has where there are none.
        output: the picture, `NAME.png`, `.pdf` or `.svg`; the numbers go to `NAME.csv`.

    Returns:
        What was drawn, in words.

    Raises:
        ValueError: a folder that holds no run, a curve that no run has, or another suffix.
        OSError: a file that can't be read or written.
    """
    if output.suffix not in FORMATS:
        raise ValueError(f"--output {output}: name a file that ends in {' or '.join(FORMATS)}")
    numbers = output.with_suffix(".csv")
    if not _is_ours(numbers) and (taken := [path for path in (output, numbers) if path.exists()]):
        raise FileExistsError(
            f"{taken[0]} exists and is no plot of this mode: give --output another name"
        )
    runs = list({run.absolute(): run for run in runs}.values())
    found = {run: read(run) for run in runs}
    known = list(dict.fromkeys(name for curves in found.values() for name in curves))
    chosen = list(dict.fromkeys(name for asked in names for name in _meant(asked, known)))
    chosen = chosen or [name for name in DEFAULT if name in known]
    if not chosen:
        raise ValueError(f"--curves: name some of those that there are, {', '.join(known)}")
    short = dict(zip(runs, distinguishing(runs), strict=True))
    panels: dict[str, list[Line]] = {}
    units: dict[str, str] = {}
    for name in chosen:
        panel = [(short[run], curve) for run in runs for curve in found[run].get(name, [])]
        panels[name], units[name] = _lines(panel)
    title = f"{runs[0]}" if len(runs) == 1 else ""
    side_by_side(output, panels, units, title)
    table = _table(chosen, found)
    write_whole(numbers, lambda file: file.write(table.encode()), "--output")
    lacking = "".join(
        f"\n{run} has no {name}" for name in chosen for run in runs if name not in found[run]
    )
    unlike = "".join(
        f"\n{name} is not the same quantity in all runs, as they were trained otherwise: "
        f"{'; '.join(sorted(trained))}"
        for name in chosen
        if len(trained := {c.of for run in runs for c in found[run].get(name, []) if _is_loss(c)})
        > 1
    )
    return f"{', '.join(chosen)}: drawn in {output}, the numbers in {numbers}{lacking}{unlike}"


def read(run: Path) -> Curves:
    """Every curve of a work directory.

    Raises:
        ValueError: it holds none.
        OSError: a file can't be read.
    """
    path, found = run / "metrics.jsonl", Curves()
    if path.is_file():
        objective = _objective(run)
        found = {
            name: [Curve(objective if "loss" in name else "", "", *curve)]
            for name, curve in curves(path).items()
        }
    found |= _of_reports(run)  # whose figures come with their errors
    if not found:
        raise ValueError(
            f"--runs {run}: it holds no run (no metrics.jsonl, no eval/step_*.json); name work "
            "directories that were trained or evaluated in, such as runs/vp/digits"
        )
    return found


def _objective(run: Path) -> str:
    """What a run's losses are, by the fields that decide it; empty where it does not say."""
    try:
        config = read_json(run / "config.json")["config"]
        training, prediction = config["training"], config["model"].get("prediction", "auto")
        words = [training["sde"], training.get("objective", "auto"), prediction]
        words = [str(word) for word in words if word != "auto"]
        for field, word in _WEIGHTED.items():
            words += [word] * (training.get(field) is (field != "continuous"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    return " ".join(words)


def _is_loss(curve: Curve) -> bool:
    """Whether it is a metric of which is known what it measures."""
    return curve.se is None and bool(curve.of)


def distinguishing(runs: Sequence[Path]) -> list[str]:
    """What tells paths apart: the shortest of their ends that differ from all the others'."""
    parts = [run.absolute().parts for run in runs]
    for length in range(1, max(map(len, parts))):
        ends = ["/".join(path[-length:]) for path in parts]
        if len(set(ends)) == len(runs):
            return ends
    return [str(run) for run in runs]


def _meant(asked: str, known: Sequence[str]) -> list[str]:
    """The curves that a name stands for."""
    for name in (asked, f"{OF_EVALUATION}{asked}"):
        if name in known:
            return [name]
        if group := [other for other in known if other.startswith(f"{name}/")]:
            return sorted(group, key=lambda other: (len(other), other))
    check_name(asked, known, "--curves")
    return []


def _of_reports(run: Path) -> Curves:
    """The figures of all reports of a run, over the steps of the checkpoints."""
    points: dict[str, dict[tuple[str, str], dict[int, tuple[float, float]]]] = {}
    for report in reports(run):
        for name, figure in figures(report.content):
            curves = points.setdefault(f"{OF_EVALUATION}{name}", {})
            curve = curves.setdefault((measured(name, figure), report.source), {})
            curve[report.step] = _number(figure["value"]), _number(figure["se"])
    return {
        name: [Curve(*how, *_columns(curve)) for how, curve in curves.items()]
        for name, curves in points.items()
    }


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _columns(
    points: Mapping[int, tuple[float, float]],
) -> tuple[list[int], list[float], list[float]]:
    steps = sorted(points)
    return steps, [points[k][0] for k in steps], [points[k][1] for k in steps]


def _lines(panel: Sequence[tuple[str, Curve]]) -> tuple[list[Line], str]:
    """The lines of a panel, and what they all are of; the legend says it where they differ."""
    curves = [curve for _, curve in panel]
    of, source = {curve.of for curve in curves}, {curve.source for curve in curves}
    lines = []
    for run, curve in panel:
        more = [curve.of] * (len(of) > 1) + [curve.source] * (len(source) > 1)
        lines.append(Line(run, curve.steps, curve.values, curve.se, ", ".join(more)))
    alike = len(of) == 1 and not any(map(_is_loss, curves))
    return lines, of.pop() if alike else ""


def _is_ours(numbers: Path) -> bool:
    """Whether the numbers beside a plot are those that this mode writes."""
    try:
        with open_regular(numbers) as file:
            return file.readline().decode().strip() == ",".join(COLUMNS)
    except (OSError, ValueError):  # not there, or no text
        return False


def _table(names: Sequence[str], found: Mapping[Path, Curves]) -> str:
    """The numbers, a line each; a cell is empty where a number is not finite or not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows = [
        (name, run, curve) for name in names for run in found for curve in found[run].get(name, [])
    ]
    for name, run, curve in rows:
        errors = [math.nan] * len(curve.steps) if curve.se is None else curve.se
        for step, *pair in zip(curve.steps, curve.values, errors, strict=True):
            numbers = [repr(x) if math.isfinite(x) else "" for x in pair]
            writer.writerow([name, run, curve.of, curve.source, step, *numbers])
    return text.getvalue()
