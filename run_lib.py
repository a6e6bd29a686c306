"""Runs by the names of the 2021 release; all modes are in `score_sde.commands`."""

from pathlib import Path
from typing import Any

from models._release import complete
from score_sde.commands.evaluate import evaluate as _evaluate
from score_sde.commands.train import train as _train


def train(config: Any, workdir: str | Path) -> None:
    """Trains, from the newest checkpoint of the work directory if there is one.

    Args:
        config: of the release or ours; fields that it lacks have the library's defaults.
        workdir: made where missing.
    """
    _train(complete(config), Path(workdir))


def evaluate(config: Any, workdir: str | Path, eval_folder: str = "eval") -> None:
    """Evaluates the checkpoints of a work directory; reports go to `eval_folder` within it."""
    _evaluate(complete(config), Path(workdir), eval_folder=Path(workdir) / eval_folder)
