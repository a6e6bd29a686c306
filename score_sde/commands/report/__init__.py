"""`--mode report`: what a work directory holds, on one page that needs nothing beside it.

It shows the curves of training, the samples of its snapshots, evaluations, comparisons of
samplers, restored images, the config and the versions: whatever of these there is, so that a run
may be looked at while it goes on. Runs side by side are `--mode plot`'s.
"""

import time
from collections.abc import Callable
from pathlib import Path

from score_sde import __version__
from score_sde.atomic import cannot_write, open_regular, write
from score_sde.commands.report import curves, measures, samples, setting
from score_sde.commands.report.album import Album
from score_sde.commands.reported import reports
from score_sde.config.build import Config
from score_sde.pictures import page
from score_sde.pictures.page import Html
from score_sde.pictures.page.document import MADE_BY

_SIGNS = (
    "config.json",
    "metrics.jsonl",
    "checkpoints/step_*",
    "samples/step_*",
    "eval*/step_*.json",
    "compare/*.json",
)
"""What a work directory holds, any of it."""


def report(workdir: Path, recipe: Config | None = None, output: Path | None = None) -> str:
    """Writes the page of a work directory.

    What can't be read is said on the page, and the rest is there.

    Args:
        workdir: the work directory, which is only read.
        recipe: what the run's config is compared with; the library's defaults where there is none.
        output: the page, `NAME.html`; `report.html` in the work directory by default.

    Returns:
        What was written, in words.

    Raises:
        ValueError: the folder is no work directory, or the output has another suffix.
        OSError: the page can't be written, or stands in the place of another file.
    """
    output = output or workdir / "report.html"
    if output.suffix != ".html":
        raise ValueError(f"--output {output}: name a file that ends in .html")
    if not any(next(workdir.glob(sign), None) for sign in _SIGNS):
        raise ValueError(
            f"--workdir {workdir}: it holds no run (no config.json, no metrics.jsonl, no "
            "checkpoints, samples or evaluations); name a work directory, such as runs/vp/digits"
        )
    if output.exists() and not _is_ours(output):
        raise FileExistsError(
            f"{output} exists and is no report of this mode: give --output another name"
        )
    text = _page(workdir, recipe).encode("utf-8", "replace")
    try:
        write(output, lambda file: file.write(text), durable=False)  # it is soon made again
    except OSError as error:
        raise cannot_write(output, error, "--output") from error
    return f"{output}, {len(text) / 1e6:.1f} MB: open it in a browser"


def _page(workdir: Path, recipe: Config | None) -> str:
    """The page: the parts that there are, in their order."""
    refusals: list[str] = []

    def refused(error: Exception) -> None:
        refusals.append(str(error))

    album = Album(refused)
    written = setting.recorded(workdir, refused)
    fields, metrics = setting.leaves(written), curves.metrics_of(workdir, refused)
    evaluated = list(reports(workdir, refused))
    makers: dict[str, Callable[[], Html]] = {
        "Curves": lambda: curves.of_training(metrics),
        # In the order in which pictures take their room.
        "Samples over training": lambda: samples.of_training(workdir, album),
        "Evaluations": lambda: measures.evaluations(evaluated, album),
        "Figures over training": lambda: curves.of_figures(evaluated),
        "Comparisons of samplers": lambda: measures.comparisons(workdir, album, refused),
        "Restored and encoded": lambda: measures.restorations(workdir, refused),
        "Sheets and films": lambda: samples.sheets(workdir, album),
        "Config": lambda: setting.config_tables(fields, recipe),
        "Versions": lambda: setting.versions(written),
        "Files": lambda: setting.files(workdir),
    }
    sections = {name: _made(name, make, refused) for name, make in makers.items()}
    said = [*album.notes(), *refusals]
    if said:
        sections["Left out"] = page.notes(said)
    there = {name: part for name, part in sections.items() if part}
    head = _made("the summary", lambda: setting.summary(workdir, fields, metrics), refused)
    now = time.strftime("%Y-%m-%d %H:%M")
    foot = f"Made by {MADE_BY} {__version__}, {now}, of {workdir.absolute()}"
    return page.document("/".join(workdir.absolute().parts[-3:]), head, there, foot)


def _made(name: str, make: Callable[[], Html], refused: Callable[[Exception], None]) -> Html:
    """A part of the page; empty, and said, where a file has another form than ours."""
    try:
        return make()
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        words = f"{type(error).__name__}: {error}"
        refused(ValueError(f"{name}: a file has another form than this version writes ({words})"))
        return Html()


def _is_ours(path: Path) -> bool:
    """Whether a file is a page of this mode."""
    try:
        with open_regular(path) as file:
            return f'content="{MADE_BY}"'.encode() in file.read(4096)
    except (OSError, ValueError):
        return False
