"""The house: imports point down, nothing foreign is imported, and the design page says so too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = {
    "atomic": 0,
    "tensor_ops": 0,
    "noise": 0,
    "parallel": 0,
    "sde_lib": 1,
    "models": 1,
    "score": 2,
    "losses": 3,
    "solvers": 3,
    "models.utils": 3,
    "sampling": 4,
    "likelihood": 4,
    "controllable_generation": 5,
    "assembly": 6,
    "run_lib": 7,
    "main": 8,
}
SIDE = {"datasets", "training", "checkpoints", "evaluation", "logbook", "pictures"}
# Entry points of the 2021 release that take a config: inside these functions only.
ENTRY_POINTS = {
    ("models.utils", "create_model"): {"assembly"},
    ("checkpoints", "load_official"): {"assembly"},
    ("losses", "get_optimizer"): {"training", "assembly"},
    ("losses", "optimization_manager"): {"training", "assembly"},
    ("losses", "get_step_fn"): {"training", "assembly"},
    ("sampling", "get_sampling_fn"): {"assembly"},
}


def sources() -> list[Path]:
    skipped = {"tests", "benchmarks", "examples", "docs", "configs"}
    return [
        path
        for path in ROOT.rglob("*.py")
        if not any(
            part in skipped or part.startswith(".") for part in path.relative_to(ROOT).parts
        )
        and "venv" not in path.parts
    ]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return "models.utils" if name == "models.utils" else name.split(".")[0]


def imports_of(path: Path) -> list[tuple[str, str | None]]:
    """Imported modules, each with the function that it stands in (None at the top)."""
    found = []

    def visit(node: ast.AST, function: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                whole = [f"{child.module}.{alias.name}" for alias in child.names]
                found.extend((name, function) for name in whole)
            inside = isinstance(child, ast.FunctionDef) and function is None
            visit(child, child.name if inside else function)

    visit(ast.parse(path.read_text()), None)
    return found


def ours(name: str) -> str | None:
    if name.startswith("models.utils"):
        return "models.utils"
    head = name.split(".")[0]
    return head if head in LAYERS or head in SIDE else None


def may_import(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if imported in SIDE:
        return LAYERS.get(importer, 0) >= 6
    if importer in SIDE:
        return LAYERS[imported] <= 1
    return LAYERS[imported] < LAYERS[importer]


def test_every_module_has_a_place_in_the_house():
    assert {module_of(path) for path in sources()} <= LAYERS.keys() | SIDE


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    importer = module_of(path)
    for name, function in imports_of(path):
        imported = ours(name)
        if imported is None or may_import(importer, imported):
            continue
        allowed = ENTRY_POINTS.get((importer, function), set())
        assert imported in allowed, f"{importer} ({function or 'top'}) imports {imported}"


def test_the_design_page_names_every_module():
    page = (ROOT / "docs" / "design.md").read_text()
    for name in LAYERS.keys() | SIDE:
        assert f"`{name.replace('.', '/')}" in page, f"docs/design.md does not mention {name}"


def test_nothing_needs_tensorflow_or_jax():
    names = "('tensorflow', 'jax', 'flax', 'ninja')"
    blocked = f"import sys\nfor name in {names}: sys.modules[name] = None\n"
    modules = sorted({module_of(path) for path in sources()})
    script = blocked + "\n".join(f"import {name}" for name in modules)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
