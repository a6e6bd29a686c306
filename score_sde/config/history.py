"""How a config is written down, read again, and taken over from a checkpoint."""

import functools
import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from score_sde import __version__, atomic
from score_sde.config.parts import COMMON, REQUIRED, as_config, by_dotted_name
from score_sde.config.schema import FIELDS, Config

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "ml_collections")


def to_json(config: Config) -> str:
    """The config as JSON text; tuples become lists, and a `torch.device` its name."""
    tree = config.to_dict()
    return json.dumps(tree | {"device": str(tree["device"])}, indent=2, sort_keys=True)


def versions() -> dict[str, str]:
    """Versions of Python, of this library and what its numbers depend on, and its git commit."""
    return {
        "python": platform.python_version(),
        "score_sde": __version__,
        **{name: metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def record(config: Config, workdir: Path, **more: Any) -> None:
    """Writes the resolved config, the versions and the source's commit to WORKDIR/config.json.

    Args:
        config: of the run.
        workdir: its work directory.
        **more: what else is known of it, left out where it is empty: where its first weights came
            from (`origin`), what was changed on its way (`changes`).
    """
    known = {"config": json.loads(to_json(config)), **versions()}
    text = json.dumps(known | {name: fact for name, fact in more.items() if fact}, indent=2)
    path = workdir / "config.json"
    try:
        atomic.write(path, lambda file: file.write(f"{text}\n".encode()))
    except OSError as error:
        raise OSError(
            f"cannot write {path} ({error.strerror or error}): free some space or choose another "
            "--workdir"
        ) from error


def adopt(config: Config, written: str, overrides: dict[str, Any], checkpoint: Path) -> Config:
    """The config to use with a checkpoint: its own network, data and SDE, the rest as asked for.

    Args:
        config: the recipe with overrides.
        written: the checkpoint's config, as JSON.
        overrides: dotted names and values given on the command line.
        checkpoint: named in the message.

    Raises:
        ValueError: an override contradicts the checkpoint.
    """
    before, now = _leaves(written), _leaves(to_json(config))
    for name in overrides:
        if _from_checkpoint(name) == "yes" and now.get(name) != before.get(name):
            raise ValueError(
                f"--config.{name}={now.get(name)!r} contradicts {checkpoint}, which was trained "
                f"with {before.get(name)!r}; leave the override out"
            )

    def decided(name: str) -> bool:
        whose = _from_checkpoint(name)
        return whose == "yes" or (whose == "unless_given" and name not in overrides)

    taken = {name: value for name, value in before.items() if decided(name)}
    # What a recipe added after the run has no value in its checkpoint.
    kept = {
        name: value
        for name, value in now.items()
        if not decided(name) or (name not in FIELDS and name not in before)
    }
    return _as_config(kept | taken).lock()


def from_json(written: str) -> Config:
    """The config that a checkpoint holds, with what older runs did where it is silent."""
    return _as_config(_leaves(written))


def _as_config(plain: dict[str, Any]) -> Config:
    """A config of values by dotted names, whose tuples JSON has made lists."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    return as_config(values)


def of_checkpoint(config: Config) -> dict[str, Any]:
    """The fields that a checkpoint decides, by dotted name, for digests.

    Without those that were added later and stand at what older runs did, so that a digest of an
    older version stays the same.
    """
    leaves = _leaves(to_json(config))
    decided = {name: value for name, value in leaves.items() if _from_checkpoint(name) == "yes"}
    return _as_before_they_were_added(decided)


def of_group(config: Config, group: str) -> dict[str, Any]:
    """The fields of a group by their names within it, for digests; as `of_checkpoint` else."""
    leaves = _leaves(to_json(config))
    inside = {name: value for name, value in leaves.items() if name.startswith(f"{group}.")}
    plain = _as_before_they_were_added(inside)
    return {name.removeprefix(f"{group}."): value for name, value in plain.items()}


def _as_before_they_were_added(leaves: dict[str, Any]) -> dict[str, Any]:
    def added(name: str) -> bool:
        return name in FIELDS and FIELDS[name].older is not None

    return {
        name: value
        for name, value in leaves.items()
        if not (added(name) and value == _plain(FIELDS[name].older))
    }


def _from_checkpoint(name: str) -> str:
    """`Field.from_checkpoint`; fields unknown to the schema belong to what was trained."""
    if name in FIELDS:
        return FIELDS[name].from_checkpoint
    return "no" if name.startswith(("sampling.", "eval.")) else "yes"


def _leaves(written: str) -> dict[str, Any]:
    """A config that was written, by dotted names, with what older runs did where it is silent."""
    try:
        tree = json.loads(written)
    except (ValueError, RecursionError):
        tree = None
    leaves = by_dotted_name(tree) if isinstance(tree, dict) else {}
    groups = {name.rpartition(".")[0] for name in FIELDS}
    misplaced = [name for name in leaves if name in groups or name.rpartition(".")[0] in FIELDS]
    if misplaced or not leaves.keys() >= {*REQUIRED}:
        raise ValueError(
            "the config that the checkpoint holds is not the JSON text of one: use another "
            "checkpoint"
        )
    return {name: _plain(_older(name)) for name in COMMON} | leaves


def _older(name: str) -> Any:
    field = FIELDS[name]
    return field.default if field.older is None else field.older


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def leaves(config: Config) -> dict[str, Any]:
    """Every field of a config by its dotted name, in the order of the config."""
    return by_dotted_name(config.to_dict())


@functools.cache  # what runs is what was imported, and a save does not wait for git
def _commit() -> str:
    """The checkout's git commit, with + where files were changed since.

    "unknown" for an installed copy: a repository that happens to enclose it says nothing about it.
    """
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return "unknown"
    # Without optional locks, as describing refreshes the index: a user's own commit would find
    # its lock taken.
    git = ["git", "--no-optional-locks", "-C", str(here)]
    command = [*git, "describe", "--always", "--dirty=+", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
