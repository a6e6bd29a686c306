"""Recipes: where they lie, what they are called, and which one a name means.

A recipe is a Python file with `get_config()`. Those that come with the library lie under
`configs/` of the checkout, and in an installed copy inside the package; both know them by the same
names: `vp/digits`, `vp/digits.py` and `configs/vp/digits.py` are one recipe.
"""

import ast
import difflib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from score_sde.atomic import read_whole
from score_sde.commands.errors import words_of
from score_sde.commands.terminal import show
from score_sde.config import parts
from score_sde.config.holds import expanded

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = _PACKAGE / "recipes"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"
"""Where the library's own recipes lie."""


def catalogue() -> dict[str, str]:
    """Every recipe of the library (`configs/vp/digits.py`), with the first line of its text."""
    return {
        f"configs/{path.relative_to(FOLDER).as_posix()}": _title(path)
        for path in sorted(FOLDER.glob("*/**/*.py"))
        if path.name != "__init__.py"
    }


def find(name: str) -> Path:
    """The file of the recipe that a name means: a file, or one of the library's own.

    Raises:
        ValueError: there is none; names the nearest.
    """
    short = name.removeprefix("configs/").removesuffix(".py")
    for path in (
        expanded(name),
        expanded(f"{name}.py"),
        Path("configs", f"{short}.py"),
        FOLDER / f"{short}.py",
    ):
        if path.is_file():
            return path
    near = difflib.get_close_matches(f"configs/{short}.py", catalogue(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "--mode recipes lists them"
    raise ValueError(f"--config {name}: there is no such recipe; {hint}")


def fields(recipe: Path, read: Callable[[Sequence[str]], Any]) -> dict[str, object]:
    """What a recipe holds, by long dotted names.

    Args:
        recipe: its file, which is run.
        read: the words of a command line → the config of --config.

    Raises:
        ValueError: the file gives no recipe. It is the user's code, so any error may come of it.
    """
    bare = ["main.py", f"--config={recipe}"]
    # ml_collections runs every recipe under this module's name: one without get_config() would
    # find that of the recipe before it.
    sys.modules.pop("config_config", None)
    try:
        given = read(bare)
        if not isinstance(given, ml_collections.ConfigDict):
            raise TypeError(f"it gives {type(given).__name__}, not a ConfigDict")
        by_name = parts.by_dotted_name(given.to_dict(), "config.")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an exit, and what a library derives from no Exception
        raise ValueError(
            f"--config {recipe}: its get_config() gives no recipe "
            f"({_cause(error, recipe)}); compose it "
            "with recipe() of score_sde.config.parts"
        ) from error
    wanted = (*parts.COMMON, *parts.REQUIRED)
    missing = [name for name in wanted if f"config.{name}" not in by_name]
    if missing:
        raise ValueError(
            f"--config {recipe}: the recipe lacks {missing[0]} and {len(missing) - 1} more "
            "fields; compose it with recipe() of score_sde.config.parts"
        )
    return by_name


def _cause(error: BaseException, recipe: Path) -> str:
    """The error that began it, and its line in the recipe: absl and ml_collections wrap it."""
    while error.__context__ is not None:
        error = error.__context__
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(recipe)
    ]
    where = f" in line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}{where}: {words_of(error)}"


def default_workdir(recipe: Path) -> Path:
    """`runs/` and the recipe's path: where a run of it is resumed."""
    resolved = recipe.resolve()
    for folder in (FOLDER, Path("configs").resolve()):
        if resolved.is_relative_to(folder):
            return Path("runs") / resolved.relative_to(folder).with_suffix("")
    return Path("runs") / resolved.stem


def list_recipes(command: object = None) -> None:
    """`--mode recipes`: prints each recipe with its title, a line each, whatever the command."""
    titles = catalogue()
    width = max(map(len, titles))
    lines = [f"{recipe:<{width}}  {title}\n" for recipe, title in titles.items()]
    show("".join(lines))


def _title(recipe: Path) -> str:
    return (ast.get_docstring(ast.parse(read_whole(recipe))) or "").partition("\n")[0]
