"""Runs by the names of the 2021 release; all modes are in `score_sde.commands`."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from models._release import complete
from models.utils import get_model
from score_sde.atomic import expanded
from score_sde.commands.evaluate import evaluate as _evaluate
from score_sde.commands.train import train as _train
from score_sde.networks.table import NETWORKS


def train(config: Any, workdir: str | Path, *, allow: Collection[str] = ()) -> None:
    """Trains, from the newest checkpoint of the work directory if there is one.

    Args:
        config: of the release or ours; fields that it lacks have the library's defaults, and
            `model.name` may be that of a registered network.
        workdir: made where missing; `~` is the home folder, as on the command line.
        allow: what a resumed run may change, as --allow of the command line.
    """
    with _registered(config):
        _train(complete(config), expanded(workdir), allow=allow)


def evaluate(config: Any, workdir: str | Path, eval_folder: str | Path = "eval") -> None:
    """Evaluates the checkpoints of a work directory; reports go to `eval_folder` within it."""
    workdir = expanded(workdir)
    with _registered(config):
        _evaluate(complete(config), workdir, eval_folder=workdir / expanded(eval_folder))


@contextmanager
def _registered(config: Any) -> Iterator[None]:
    """Within this the library's table has a network that `register_model` was given.

    Such a class is made of the whole config, and may read fields that only this one has.
    """
    name, table = config.model.name, cast(dict[str, Any], NETWORKS)
    if name in table:
        yield
        return
    kind = get_model(name)
    table[name] = lambda *_, **__: kind(config)
    try:
        yield
    finally:
        del table[name]
