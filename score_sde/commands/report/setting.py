"""What a report says of the setting of a run: where it stands, its config, versions, files."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from score_sde import checkpoints
from score_sde.atomic import open_regular, read_json
from score_sde.commands.report.curves import Metrics
from score_sde.config import history
from score_sde.config.build import Config
from score_sde.config.parts import by_dotted_name
from score_sde.config.schema import FIELDS
from score_sde.logbook import OF_EVALUATION
from score_sde.pictures import page
from score_sde.pictures.page import Html

_LOG_BYTES = 6000
_MORE = ("origin", "changes")


def recorded(workdir: Path, refused: Callable[[Exception], None]) -> Mapping[str, Any]:
    """What `config.json` holds; nothing where it is not there or can't be read."""
    try:
        content = read_json(workdir / "config.json")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        refused(error)
        return {}
    return content if isinstance(content, dict) else {}


def leaves(written: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config that was recorded, by their dotted names."""
    config = written.get("config")
    return by_dotted_name(config) if isinstance(config, dict) else {}


def summary(workdir: Path, fields: Mapping[str, Any], metrics: Metrics) -> Html:
    """Where the run stands, in a line of facts."""
    trained = [
        max(steps)
        for name, (steps, _) in metrics.items()
        if not name.startswith(OF_EVALUATION) and steps
    ]
    saved = checkpoints.steps(workdir / "checkpoints")
    step, of = max([*trained, *saved], default=None), fields.get("training.n_iters")
    pairs: dict[str, object] = {}
    if step is not None:
        known = isinstance(of, int) and of > 0
        share = f" of {of:,}, {100 * step / of:.0f}\u00a0%" if known else ""  # type: ignore[operator]
        pairs["step"] = f"{step:,}{share}"
    for name, words in {
        "loss": "training loss",
        "held_out_loss": "held-out loss",
        "images_per_sec": "images per second",
    }.items():
        if metrics.get(name, ((), ()))[1]:
            pairs[words] = f"{metrics[name][1][-1]:.4g}"
    for name, words in {
        "data.dataset": "data set",
        "training.sde": "SDE",
        "model.name": "network",
        "sampling.method": "sampler",
    }.items():
        if name in fields:
            pairs[words] = fields[name]
    written = [_time(path) for path in (workdir / "metrics.jsonl", workdir / "log.txt")]
    if any(written):
        pairs["last written"] = max(written)
    return page.facts(pairs)


def config_tables(fields: Mapping[str, Any], recipe: Config | None) -> Html:
    """What differs from the recipe, or from the library's defaults, and every field by group."""
    if not fields:
        return Html()
    if recipe is None:
        defaults = {name: _as_json(field.default) for name, field in FIELDS.items()}
        than = "the library's default"
        advice = "Give --config as well to see what differs from a recipe."
    else:
        defaults = by_dotted_name(json.loads(history.to_json(recipe)))
        than, advice = "the recipe", ""
    other = [name for name, value in fields.items() if defaults.get(name, value) != value]
    rows = [[name, _shown(fields[name]), _shown(defaults[name])] for name in other]
    parts: list[object] = [
        page.table(f"{len(other)} fields differ from {than}", ["field", "here", than], rows)
        if other
        else page.tag("p", f"No field differs from {than}."),
        page.tag("p", advice) if advice else None,
    ]
    groups: dict[str, list[str]] = {}
    for name in fields:
        groups.setdefault(name.rpartition(".")[0] or "(no group)", []).append(name)
    tables = []
    for group, names in sorted(groups.items()):
        rows = [[name, _shown(fields[name])] for name in names]
        marked = [k for k, name in enumerate(names) if name in other]
        tables.append(page.table(group, ["field", "value"], rows, marked))
    parts.append(page.fold(f"all {len(fields)} fields", *tables))
    return page.joined(parts)


def versions(written: Mapping[str, Any]) -> Html:
    """Versions and commit that the run was made with, and what was changed on its way."""
    rows = [
        [name, _shown(value)]
        for name, value in written.items()
        if name not in ("config", *_MORE) and not isinstance(value, dict | list)
    ]
    parts = [page.table("Made with", ["of", "version"], rows)] if rows else []
    for name in _MORE:
        if written.get(name):
            words = "First weights" if name == "origin" else "Changed on the way"
            parts += [page.tag("h3", words), page.tag("p", _shown(written[name]))]
    return page.joined(parts)


def files(workdir: Path) -> Html:
    """The checkpoints and averages, and the end of the log."""
    rows = []
    for folder in ("checkpoints", "averages", "classifier/checkpoints"):
        found = [path for end in ("*.pt", "*.dcp") for path in (workdir / folder).glob(end)]
        for path in sorted(found):
            try:
                parts_of = path.iterdir() if checkpoints.is_sharded(path) else [path]
                size = sum(part.stat().st_size for part in parts_of)
            except OSError:
                continue
            rows.append([f"{folder}/{path.name}", f"{size / 1e6:.2f} MB", _time(path)])
    parts = [page.table("Checkpoints", ["file", "size", "written"], rows)] if rows else []
    if log := _end_of(workdir / "log.txt"):
        parts.append(page.fold("the end of log.txt", page.tag("pre", log, tabindex=0)))
    return page.joined(parts)


def _end_of(path: Path) -> str:
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_BYTES))
            text = file.read(_LOG_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""
    whole = text if size <= _LOG_BYTES else text.partition("\n")[2]
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in whole)


def _time(path: Path) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
    except (OSError, OverflowError, ValueError):
        return ""


def _as_json(value: object) -> object:
    return json.loads(json.dumps(value, default=str))


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
