"""Recipes: where they lie, what they are called, and which one a name means.

A recipe is a Python file with `get_config()`. Those that come with the library lie under
`configs/` of the checkout, and in an installed copy inside the package; both know them by the same
names: `vp/digits`, `vp/digits.py` and `configs/vp/digits.py` are one recipe.
"""

import ast
import difflib
import sys
from pathlib import Path

from score_sde.atomic import read_whole
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
    for recipe, title in titles.items():
        sys.stdout.write(f"{recipe:<{width}}  {title}\n")


def _title(recipe: Path) -> str:
    return (ast.get_docstring(ast.parse(read_whole(recipe))) or "").partition("\n")[0]
