"""The house: imports point down, nothing foreign is imported, and the design page says so too."""

import ast
import functools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "score_sde"

GROUND = {"tensor_ops", "noise", "parallel", "atomic"}
# What each room may import besides the ground and itself.
ROOMS = {
    "sde": set(),
    "networks": set(),
    "data": set(),
    "pictures": set(),
    "logbook": set(),
    "score": {"sde"},
    "solvers": {"sde", "score"},
    "objectives": {"sde", "score"},
    "samplers": {"sde", "score", "solvers"},
    "posteriors": {"sde", "score", "solvers", "samplers"},
    "likelihoods": {"sde", "score", "solvers", "objectives"},
    "training": {"networks"},
    "checkpoints": {"networks"},
    "evaluation": {"data", "sde", "solvers", "likelihoods", "logbook"},
}
ROOMS["config"] = set(ROOMS)
ROOMS["commands"] = {*ROOMS, "config"}
# The one exception, inside its function: it takes a config.
EXCEPTION = ("checkpoints", "load_official", "config")
FRONT = {
    "main",
    "run_lib",
    "sde_lib",
    "losses",
    "sampling",
    "likelihood",
    "controllable_generation",
    "datasets",
    "utils",
    "models",
    "configs",
    "op",
    "evaluation",
}


def sources() -> list[Path]:
    return sorted(LIBRARY.rglob("*.py"))


def name_of(path: Path) -> str:
    """The file's place as an importer writes it: `score_sde.solvers.step`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    """`solvers` of `score_sde.solvers.step`; empty for the package itself."""
    return name.split(".")[1] if "." in name else ""


@functools.cache
def imports_of(path: Path) -> list[tuple[str, str | None]]:
    """Imported modules by their whole names, each with the function that it stands in."""
    found = []
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package.pop()

    def visit(node: ast.AST, function: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                up = package[: len(package) - child.level + 1] if child.level else []
                base = ".".join([*up, *([child.module] if child.module else [])])
                found.extend((f"{base}.{alias.name}", function) for alias in child.names)
            inside = isinstance(child, ast.FunctionDef) and function is None
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                visit(child, "TYPE_CHECKING")  # nothing is loaded
                continue
            visit(child, child.name if inside else function)

    visit(ast.parse(path.read_text()), None)
    return found


def test_every_file_has_a_room():
    rooms = {room_of(name_of(path)) for path in sources()}
    assert rooms - {""} == GROUND | ROOMS.keys()


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_imports_point_down(path):
    room = room_of(name_of(path))
    for name, function in imports_of(path):
        head = name.split(".")[0]
        assert head not in FRONT, f"{path.name} imports {name}, which is the front's"
        imported = room_of(name)
        if head != "score_sde" or imported == room or imported.startswith("__"):
            continue
        if room == "" and function:
            continue  # the package's own conveniences, loaded when they are called
        assert room not in GROUND, f"{room} is ground and imports {name}"
        if (room, function, imported) == EXCEPTION:
            continue
        assert imported in ROOMS.get(room, set()) | GROUND, f"{room} imports {name}"


def test_files_of_a_room_do_not_import_in_a_circle():
    names = {name_of(path): path for path in sources()}
    graph = {
        name: {
            target
            for imported, function in imports_of(path)
            if function is None
            for target in (imported, imported.rpartition(".")[0])
            if target in names and target != name and not name.startswith(f"{target}.")
        }
        for name, path in names.items()
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " imports ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for target in graph.get(name, ()):
            walk(target, (*path, name))
        done.add(name)

    for name in graph:
        walk(name, ())


def test_the_design_page_names_every_room():
    page = (ROOT / "docs" / "design.md").read_text()
    for name in ROOMS.keys() | GROUND:
        assert f"`{name}" in page, f"docs/design.md does not mention {name}"


def test_the_checkout_is_the_front_and_the_library():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    top = {Path(line).parts[0] for line in tracked.stdout.splitlines() if "/" in line}
    assert top <= {
        "score_sde",
        "models",
        "configs",
        "tests",
        "docs",
        "examples",
        "benchmarks",
        ".ci",
    }
    files = {line for line in tracked.stdout.splitlines() if "/" not in line and ".py" in line}
    assert {Path(name).stem for name in files if name.endswith(".py")} <= FRONT


def test_every_package_is_in_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    library = {name_of(path.parent / "__init__.py") for path in LIBRARY.rglob("__init__.py")}
    recipes = {
        ".".join(["score_sde", "recipes", *path.parent.relative_to(ROOT / "configs").parts])
        for path in (ROOT / "configs").rglob("__init__.py")
    }
    assert set(settings["packages"]) == library | recipes
    assert {path.parent for path in sources()} == {p.parent for p in LIBRARY.rglob("__init__.py")}


def test_nothing_needs_tensorflow_or_jax():
    names = "('tensorflow', 'jax', 'flax', 'ninja')"
    blocked = f"import sys\nfor name in {names}: sys.modules[name] = None\n"
    modules = [*map(name_of, sources()), *sorted(FRONT)]
    script = blocked + "\n".join(f"import {name}" for name in modules)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
