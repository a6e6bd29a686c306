"""What the command line asks for, and what a mode of it is."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_collections

from score_sde.commands import signals


@dataclass(frozen=True)
class Command:
    """What the command line asks for.

    Attributes:
        config: the resolved recipe, locked; None where the mode needs none.
        overrides: dotted names and values of the fields given on the command line.
        workdir: where the run keeps everything.
        mode: a name of `MODES`.
        options: every option of `options.define` by name, None or False where it was not given;
            those that name a file or a folder as `Path`.
    """

    config: ml_collections.ConfigDict | None
    overrides: dict[str, object]
    workdir: Path
    mode: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Mode:
    """A row of `MODES`.

    Attributes:
        function: takes the `Command`; or where it is, as "module:function", which is imported
            when the mode runs, so that `--help` needs no torch.
        help: one line.
        options: those that it heeds, beside those that every mode has.
        short: those of them that are short for a field in this mode, with its dotted name.
        heeds: the fields of the group `sampling` that have an effect in it; others are refused
            where the command line gives them. None: they are not looked at.
        method: what `sampling.method` is in it where the command line names none; by default the
            recipe's.
        needs_recipe: whether --config must be given.
        several_processes: whether those that torchrun starts share its work.
        by_main: whether, of several, the main one does it while the others wait.
        goes_on: whether it takes up what an interrupted run of it has finished.
    """

    function: str | Callable[[Command], None]
    help: str
    options: tuple[str, ...] = ()
    needs_recipe: bool = True
    several_processes: bool = False
    by_main: bool = False
    goes_on: bool = False
    short: Mapping[str, str] = field(default_factory=dict)
    heeds: frozenset[str] | None = None
    method: str = ""

    def run(self, command: Command) -> None:
        """Calls the function."""
        function = self.function
        if isinstance(function, str):
            module, _, name = function.partition(":")
            function = getattr(importlib.import_module(module), name)
        with signals.interruptible():
            function(command)
