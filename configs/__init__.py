"""Recipes: each module has `get_config()`, which gives a locked config composed of `parts`."""

import ast
from pathlib import Path


def catalogue() -> dict[str, str]:
    """Every recipe's path from the project's folder, with the first line of its docstring."""
    here = Path(__file__).resolve().parent
    return {
        path.relative_to(here.parent).as_posix(): _title(path)
        for path in sorted(here.glob("*/**/*.py"))
        if path.name != "__init__.py"
    }


def _title(recipe: Path) -> str:
    return (ast.get_docstring(ast.parse(recipe.read_text("utf-8"))) or "").partition("\n")[0]
