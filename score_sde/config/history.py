"""How a config is written down, compared with an earlier one, and taken over from a checkpoint."""

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import ml_collections

from score_sde import __version__, atomic
from score_sde.config.build import Config
from score_sde.data import DatasetInfo

# What may differ when a run is resumed: lengths, logging, where things lie, and what only sampling
# and evaluation read. Everything else would silently make another experiment of it.
MAY_CHANGE = (
    "device",
    "sampling.",
    "eval.",
    "data.root",
    "data.download",
    "training.n_iters",
    "training.log_freq",
    "training.eval_freq",
    "training.snapshot_",
    "training.keep_checkpoints",
    "training.accumulation",
    "training.precision",
    "training.compile",
    "training.channels_last",
)

# What a checkpoint decides by itself when samples are drawn from it.
OF_CHECKPOINT = (
    "model.",
    "training.sde",
    "training.continuous",
    "training.objective",
    "training.likelihood_weighting",
    "training.reduce_mean",
    "training.time_sampling",
    "data.dataset",
    "data.category",
    "data.image_size",
    "data.image_width",
    "data.num_channels",
    "data.centered",
    "data.test_fraction",  # another share would make test images of training images
)

# What it decides unless the command says otherwise: a folder of images may have moved.
UNLESS_GIVEN = ("data.root",)

# Fields that configs written before them lack, with what those runs did.
ADDED = {"training.objective": "auto"}

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "ml_collections")


def to_json(config: Config) -> str:
    """The config as JSON text; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def versions() -> dict[str, str]:
    """Versions of Python, of this library and what its numbers depend on, and its git commit."""
    found = {name: metadata.version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "score_sde": __version__,
        **found,
        "commit": _commit(),
    }


def record(config: Config, workdir: Path, origin: str = "") -> None:
    """Writes the resolved config, the versions and the source's commit to WORKDIR/config.json.

    Also where the run's first weights came from, if it did not begin with fresh ones.
    """
    known = {"config": json.loads(to_json(config)), **versions()}
    text = json.dumps(known | ({"origin": origin} if origin else {}), indent=2)
    path = workdir / "config.json"
    try:
        atomic.write(path, lambda file: file.write(f"{text}\n".encode()))
    except OSError as error:
        raise OSError(
            f"cannot write {path} ({error.strerror or error}): free some space or choose another "
            "--workdir"
        ) from error


def refuse_other_run(written: str, config: Config, workdir: Path) -> None:
    """Raises where a work directory's checkpoints belong to another experiment.

    Args:
        written: the config of its checkpoint, as JSON.
        config: the config of this run.
        workdir: named in the message.

    Raises:
        ValueError: names up to three fields that differ and may not.
    """
    before, now = _leaves(written), _leaves(to_json(config))
    differing = [
        f"{name} is {before.get(name, 'absent')!r} there and {now.get(name, 'absent')!r} here"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(MAY_CHANGE)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(
            f"{workdir} holds checkpoints of another run: {', '.join(differing[:3])}{more}; "
            "repeat the first command to resume it, or choose another --workdir"
        )


def refuse_other_data(written: dict[str, Any], info: DatasetInfo, workdir: Path) -> None:
    """Raises where a work directory's checkpoints were trained on other images.

    Args:
        written: the entry `data` of its checkpoint; converted ones do not know their images.
        info: the training images of this run.
        workdir: named in the message.

    Raises:
        ValueError: the images differ.
    """
    if written.get("fingerprint", info.fingerprint) != info.fingerprint:
        raise ValueError(
            f"{workdir} holds checkpoints of other images than the {info.num_images:,} of "
            f"{info.name} here: set data.root to those it began with, or choose another --workdir"
        )


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
        if name.startswith(OF_CHECKPOINT) and now.get(name) != before.get(name):
            raise ValueError(
                f"--config.{name}={now.get(name)!r} contradicts {checkpoint}, which was trained "
                f"with {before.get(name)!r}; leave the override out"
            )
    decided = OF_CHECKPOINT + tuple(set(UNLESS_GIVEN) - overrides.keys())
    taken = {name: value for name, value in before.items() if name.startswith(decided)}
    kept = {name: value for name, value in now.items() if not name.startswith(decided)}
    result: Config = ml_collections.ConfigDict(type_safe=False)  # as `parts.recipe`
    for name, value in (kept | taken).items():
        group, _, leaf = name.rpartition(".")
        if group and group not in result:
            result[group] = ml_collections.ConfigDict()
        (result[group] if group else result)[leaf] = (
            tuple(value) if isinstance(value, list) else value
        )
    return result.lock()


def of_checkpoint(config: Config) -> dict[str, Any]:
    """The fields that a checkpoint decides by itself, by dotted name."""
    leaves = _leaves(to_json(config))
    return {name: value for name, value in leaves.items() if name.startswith(OF_CHECKPOINT)}


def _leaves(written: str) -> dict[str, Any]:
    return ADDED | _flat(json.loads(written))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return leaves


def _commit() -> str:
    """The checkout's git commit, with + where files were changed since.

    "unknown" for an installed copy: a repository that happens to enclose it says nothing about it.
    """
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
