"""The tables of a report: evaluations, comparisons of samplers, restored images."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from score_sde.atomic import read_json
from score_sde.commands.report.album import Album
from score_sde.commands.report.curves import number
from score_sde.commands.report.samples import beside
from score_sde.commands.reported import Report, measured
from score_sde.evaluation.report import is_figure
from score_sde.pictures import page
from score_sde.pictures.page import Html

_Refused = Callable[[Exception], None]


def evaluations(reports: Sequence[Report], album: Album) -> Html:
    """A table for each folder of reports: figures down, checkpoints across."""
    parts = []
    for source in dict.fromkeys(report.source for report in reports):
        of_source = [report for report in reports if report.source == source]
        names = dict.fromkeys(
            name for r in of_source for name, value in r.content.items() if is_figure(value)
        )
        rows = []
        for name in names:
            cells = [report.content.get(name) for report in of_source]
            known = [cell for cell in cells if cell is not None and is_figure(cell)]
            rows.append([measured(name, known[-1]), *(value(cell) for cell in cells)])
        columns = ["figure", *(f"step {report.step:,}" for report in of_source)]
        parts.append(page.table(f"{source}, ± standard error", columns, rows))
        parts.append(page.notes(_left_out(of_source), "what was left out, and why"))
        sheet = beside(of_source[-1].path, {".png": "Sheet of the evaluation"}, album)
        parts.append(page.fold("the sheet of the newest", sheet) if sheet else None)
    return page.joined(parts)


def comparisons(workdir: Path, album: Album, refused: _Refused) -> Html:
    """Each comparison of samplers: its plot, its sheet, and its table."""
    parts = []
    for path, content in _contents(sorted((workdir / "compare").glob("*.json")), refused):
        rows = [row for row in content.get("rows") or () if isinstance(row, dict)]
        if not rows:
            continue
        names = list(dict.fromkeys(k for row in rows for k, v in row.items() if is_figure(v)))
        calls = [next(r[n].get("name", n) for r in rows if is_figure(r.get(n))) for n in names]
        cells = [
            [
                f"{row.get('series', '')} {row.get('at', '')}".strip(),
                f"{number(row.get('nfe')):.4g}",
                f"{1000 * number(row.get('sec_per_image')):.3g}",
                *(value(row.get(name)) for name in names),
            ]
            for row in rows
        ]
        of = content.get("num_samples", "?")
        caption = f"{of} images a row, ± standard error"
        heads = ["method, budget", "evaluations", "ms an image", *map(_plain, calls)]
        parts += [
            page.tag("h3", path.stem),
            beside(path, {".png": "Quality against evaluations", "_sheet.png": "Samples"}, album),
            page.fold(f"table of {len(rows)} rows", page.table(caption, heads, cells)),
        ]
    return page.joined(parts)


def restorations(workdir: Path, refused: _Refused) -> Html:
    """How near restored images come, and how well encoded ones come back."""
    samples, parts = workdir / "samples", []
    restored = [
        (path, content)
        for path, content in _contents(sorted(samples.glob("*.json")), refused)
        if isinstance(content.get("figures"), dict)
    ]
    if restored:
        names = list(dict.fromkeys(name for _, content in restored for name in content["figures"]))
        rows = [
            [
                path.stem,
                *(content.get(key, "–") for key in ("noise", "images", "completions")),
                f"{number(content.get('nfe')):.4g}",
                *(value(content["figures"].get(name)) for name in names),
            ]
            for path, content in restored
        ]
        heads = ["task and posterior", "noise", "images", "of each", "evaluations"]
        heads += map(_plain, names)
        parts.append(page.table("Restored images, ± standard error", heads, rows))
    encoded = list(_contents(sorted(samples.glob("*/round_trip.json")), refused))
    if encoded:
        rows = [
            [path.parent.name, *(f"{number(c.get(k)):.3g}" for k in ("rms", "max", "nfe"))]
            for path, c in encoded
        ]
        heads = ["images", "root mean square", "largest", "evaluations"]
        parts.append(page.table("Encoded and decoded: off the images by", heads, rows))
    return page.joined(parts)


def value(figure: object) -> object:
    """A figure as a cell: its value, and its error in smaller letters."""
    if not (isinstance(figure, dict) and is_figure(figure)):
        return "–"
    mean, se = number(figure["value"]), number(figure["se"])
    if not math.isfinite(mean):
        return "not finite"
    error = page.tag("small", f" ± {se:.2g}") if math.isfinite(se) else None
    return page.tag("span", f"{mean:.4g}", error, class_="number")


def _contents(paths: Sequence[Path], refused: _Refused) -> list[tuple[Path, Mapping[str, Any]]]:
    """The JSON objects in files; those that can't be read are told."""
    found = []
    for path in paths:
        try:
            content = read_json(path)
        except (ValueError, OSError) as error:
            refused(error)
            continue
        if isinstance(content, dict):
            found.append((path, content))
    return found


def _left_out(reports: Sequence[Report]) -> list[str]:
    said = []
    for report in reports:
        left = report.content.get("left_out")
        for name, why in left.items() if isinstance(left, dict) else ():
            said.append(f"step {report.step:,}, {name}: {why}")
    return said


def _plain(name: object) -> str:
    return str(name).replace("_", " ")
