"""Reports of evaluations in a work directory: which there are, and what their figures are of."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_sde.atomic import read_json
from score_sde.evaluation.report import is_figure

_REPORT = re.compile(r"step_(\d{8,18})(_raw)?(?:_test_images|_base_[0-9a-f]{8})?\.json")


@dataclass(frozen=True)
class Report:
    """The report of a checkpoint.

    Attributes:
        path: of the file.
        step: of training.
        source: which folder of reports it is in, and which weights and images it is of.
        content: an object of JSON.
    """

    path: Path
    step: int
    source: str
    content: Mapping[str, Any]


def reports(run: Path, refused: Callable[[Exception], None] | None = None) -> Iterator[Report]:
    """Every report of a work directory, in the order of their names.

    Args:
        run: the work directory.
        refused: is given the error of a file that can't be read; by default it is raised.

    Raises:
        ValueError, OSError: a file can't be read, in one sentence.
    """
    for path in sorted(run.glob("eval*/step_*.json")):
        match = _REPORT.fullmatch(path.name)
        if match is None:
            continue
        try:
            content = read_json(path)
        except (ValueError, OSError) as error:
            if refused is None:
                raise
            refused(error)
            continue
        source = path.parent.name + (" of the raw weights" if match[2] else "")
        content = content if isinstance(content, dict) else {}
        if "low_resolution" in content:
            source += f" from {str(content['low_resolution']).replace('_', ' ')}"
        yield Report(path, int(match[1]), source, content)


def figures(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The figures of a report by name, and their parts by noise level."""
    for name, figure in report.items():
        if is_figure(figure):
            yield name, figure
            for k, part in enumerate(figure.get("by_level", [])):
                t = " to ".join(f"{end:g}" for end in part["t"])
                yield f"{name}_by_level/{k}", {**part, "name": f"{name}, t from {t}"}


def measured(name: str, figure: Mapping[str, Any]) -> str:
    """What a figure is called, of how many things, against which."""
    what = figure.get("name", name)
    if "against" not in figure:
        return what
    split = figure.get("split")
    return f"{what}, {figure['n']:,} against {f'{split} images' if split else 'a reference'}"
