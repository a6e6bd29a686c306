"""Our checkpoints: the whole state of a run in one file of tensors, numbers and strings.

A file is written under a temporary name, flushed to the disk and renamed. So a name
`step_00001000.pt` always stands for a complete checkpoint, whatever happens to the process or the
disk meanwhile. It is read with `torch.load(weights_only=True)`, which runs no code from the file,
after its checksums are verified.

Its entries are exactly `step` (int); `network`, `ema`, `optimizer` (state dicts by name); `rng`
(`generators`); `data` (position in the data); `config` (JSON text); `versions` (text); and
`averages`, where averages of several lengths are tracked. A folder `step_00001000.dcp` may stand
in the place of a file (`sharded`), and holds the same.
"""

import json
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde import parallel
from score_sde.atomic.weights import fit, listed
from score_sde.checkpoints import sharded
from score_sde.checkpoints.files import CheckpointError, read, write
from score_sde.checkpoints.generators import generator_states
from score_sde.networks.ema import bare_name
from score_sde.networks.saved import count, fit_average, fit_averages, fit_moments

KEYS = ("step", "network", "ema", "optimizer", "rng", "data", "config", "versions")
_OPTIONAL = "averages"
# What only training needs; a file that is read may lack it, as weights that were made smaller do.
_OF_TRAINING: dict[str, Any] = {"optimizer": {}, "rng": {}, "data": {}, "versions": ""}
_TYPES = {"step": int, "config": str, "versions": str}
_GROUPS = ("network", "ema", "optimizer", "rng", "data")
_NAME = re.compile(r"step_(\d{8,})\.(pt|dcp)")


def path_of(folder: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies: `folder/step_00001000.pt`, or `….dcp`, if it is."""
    path = _file_of(folder, step)
    divided = path.with_suffix(sharded.SUFFIX)
    return divided if divided.is_dir() and not path.exists() else path


def _file_of(folder: str | Path, step: int) -> Path:
    return Path(folder) / f"step_{step:08d}.pt"


def steps(folder: str | Path) -> list[int]:
    """The steps that a folder holds checkpoints of, ascending; none if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted(
        {int(m[1]) for m, path in named if m and (path.is_file() or sharded.is_folder(path))}
    )


def save(
    folder: str | Path, state: Mapping[str, Any], *, keep: int = 3, milestone_every: int = 0
) -> Path:
    """Writes one checkpoint, then deletes those that are no longer wanted.

    Tensors are saved detached, on the CPU and without the rest of a storage that they are a view
    of; names lose the prefixes of wrappers (`bare_name`). Returns the path of the new file.

    Args:
        folder: where the checkpoints lie; made where missing.
        state: the entries listed on top, made of tensors, numbers, strings, bools, None, dicts,
            lists and tuples.
        keep: how many of the newest to keep.
        milestone_every: steps divisible by it are kept for ever; 0 for no milestones.

    Raises:
        ValueError: if entries are missing or left over, or `keep` is below 1.
        TypeError: if the state holds anything else; names the path to it.
        OSError: if the file can't be written. What was saved before is then untouched.
    """
    if keep < 1 or milestone_every < 0:
        raise ValueError(
            f"got keep={keep} and milestone_every={milestone_every}: give at least 1 and 0"
        )
    _check_entries(state, "the state to save")
    path = _file_of(folder, state["step"])
    save_as(path, state)
    sharded.delete(path.with_suffix(sharded.SUFFIX))
    delete_old(folder, state["step"], keep=keep, milestone_every=milestone_every)
    return path


def save_shards(
    folder: str | Path, state: Mapping[str, Any], *, keep: int = 3, milestone_every: int = 0
) -> Path:
    """As `save`, a folder into which each process writes its part; every process must call it.

    Tensors may be divided among the processes, and have the names that they are to have.
    """
    _check_entries(state, "the state to save")
    path = _file_of(folder, state["step"]).with_suffix(sharded.SUFFIX)
    sharded.write(path, state)
    if parallel.rank() == 0:
        _file_of(folder, state["step"]).unlink(missing_ok=True)
        delete_old(folder, state["step"], keep=keep, milestone_every=milestone_every)
    return path


def delete_old(
    folder: str | Path, current: int, *, keep: int = 3, milestone_every: int = 0
) -> None:
    """Deletes the checkpoints that `save` would, as a kill may have come between its two acts.

    What is no archive is neither counted nor deleted: it is damaged, or somebody else's.

    Args:
        folder: where the checkpoints lie.
        current: step of the one just written or read, which is kept in any case.
        keep: as `save`.
        milestone_every: as `save`.
    """
    paths = {step: path_of(folder, step) for step in steps(folder)}
    ours = [
        step
        for step, path in paths.items()
        if sharded.is_whole(path) or (path.is_file() and zipfile.is_zipfile(path))
    ]
    kept = {current, *ours[-keep:]}
    for step in ours:
        if step not in kept and not (milestone_every and step % milestone_every == 0):
            if sharded.is_folder(paths[step]):
                sharded.delete(paths[step])
            else:
                paths[step].unlink(missing_ok=True)


def save_as(path: Path, state: Mapping[str, Any]) -> None:
    """Writes one checkpoint under a name of its own; see `save`."""
    _check_entries(state, "the state to save")
    write(path, {key: _plain(value, key) for key, value in state.items()})


def load(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, without running any code that the file may hold.

    Raises:
        FileNotFoundError: if there is no such file; the message lists those that are there.
        CheckpointError: if the file is damaged or is not a checkpoint of this library.
    """
    return checked(load_any(path), path)


def load_any(path: str | Path) -> Any:
    """The content of a checkpoint of any format, onto the CPU, without running code of the file.

    Raises:
        FileNotFoundError, CheckpointError: as `load`.
    """
    return load_with_fingerprint(path)[0]


def load_with_fingerprint(path: str | Path) -> tuple[Any, str]:
    """As `load_any`, with the fingerprint of the file (see `files.read`)."""
    path = Path(path)
    if sharded.is_folder(path):
        return sharded.read(path)
    if not path.is_file():
        there = [path_of(path.parent, step).name for step in steps(path.parent)]
        raise FileNotFoundError(
            f"there is no checkpoint {path}: name one that exists "
            f"(its folder has {', '.join(there[-5:]) or 'none'})"
        )
    return read(path)


def checked(content: Any, path: str | Path) -> dict[str, Any]:
    """The content of one of our files, if it has the right entries, and each its kind.

    What only training needs may be missing, and is empty then.

    Raises:
        CheckpointError: if it has not.
    """
    try:
        if isinstance(content, Mapping) and content.keys() >= set(KEYS) - _OF_TRAINING.keys():
            content = {**_OF_TRAINING, **content}
        _check_entries(content, str(path))
        count(content["step"], f"the step of {path}")
        for key in (*_GROUPS, _OPTIONAL):
            if not isinstance(content.get(key, {}), Mapping):
                raise TypeError(f"{path} has a {type(content[key]).__name__} as {key}")
        if not isinstance(json.loads(content["config"]), dict):
            raise TypeError(f"{path} has a config that holds no fields")
    except (RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{_with_path(error, path)}: use a checkpoint that this library wrote"
        ) from error
    return dict(content)


def fitted(state: Mapping[str, Any], network: nn.Module, path: str | Path) -> dict[str, Any]:
    """The entries of a checkpoint as those of a network: by its names, in its dtypes, all finite.

    Args:
        state: `network`, `ema`, `optimizer` and more; the optimizer may be empty.
        network: that they belong to; it may be on the meta device.
        path: named in errors.

    Raises:
        CheckpointError: a tensor is missing, left over, of another shape, or none.
    """
    weights = network.state_dict()
    trained = {name: weights[name] for name, _ in network.named_parameters() if name in weights}
    try:
        moments = state["optimizer"]
        tracked = state.get(_OPTIONAL, {})
        averages = fit_averages(weights, tracked, f"the average in {path}")
        return {
            **state,
            **({_OPTIONAL: averages} if averages else {}),
            "network": fit(weights, state["network"], f"the saved network in {path}"),
            "ema": fit_average(weights, state["ema"], f"the average in {path}"),
            "optimizer": moments
            and fit_moments(trained, moments, f"the saved optimizer in {path}"),
        }
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def check_complete(
    state: Mapping[str, Any],
    path: str | Path,
    keys: tuple[str, ...] = ("optimizer", "rng", "data"),
) -> None:
    """Refuses to train on from weights alone, without the entries `keys`, or with odd ones.

    Raises:
        CheckpointError: it lacks what only training needs.
    """
    missing = [key for key in keys if not state[key]]
    if missing:
        raise CheckpointError(
            f"{path} holds weights, but of what training needs to go on it lacks the entry "
            f"{' and '.join(missing)}: begin a new run from it (--init_from {path} and another "
            "--workdir), or use a checkpoint with all entries"
        )
    if "rng" in keys:
        generator_states(state["rng"], str(path))


def _with_path(error: Exception, path: str | Path) -> str:
    text = (str(error).splitlines() or [type(error).__name__])[0][:500]
    return text if str(path) in text else f"{path}: its config is damaged ({text})"


def newest(
    folder: str | Path, report: Callable[[str], None]
) -> tuple[Path, dict[str, Any]] | None:
    """Path and content of the newest checkpoint that can be read; None where there are none.

    `report` is called with one sentence for each damaged one that is passed over.

    Raises:
        CheckpointError: if every one is damaged; starting from nothing would hide that.
    """
    damaged: dict[Path, CheckpointError] = {}
    vanished = True
    while vanished:  # a training run deletes the last one as soon as the next one is there
        vanished = False
        for step in reversed(steps(folder)):
            path = path_of(folder, step)
            if path in damaged:
                continue
            try:
                state = load(path)
            except FileNotFoundError:
                vanished = True
                continue
            except CheckpointError as error:
                damaged[path] = error
                continue
            for error in damaged.values():
                report(f"Using {path.name} instead of a newer one: {error}.")
            return path, state
    if damaged:
        raise CheckpointError(
            f"none of the {len(damaged)} checkpoints in {folder} can be read: restore one from a "
            "copy, or move them away to start anew; of the newest, "
            f"{next(iter(damaged.values()))}"
        )
    return None


def _check_entries(state: Any, what: str) -> None:
    if not isinstance(state, Mapping):
        raise TypeError(f"{what} holds a {type(state).__name__}, not a dict of {', '.join(KEYS)}")
    missing = [key for key in KEYS if key not in state]
    left_over = [str(key) for key in state if key not in (*KEYS, _OPTIONAL)]
    if missing or left_over:
        raise ValueError(
            f"{what} has not exactly the entries {', '.join(KEYS)} "
            f"(missing: {listed(missing, 8) or 'none'}; left over: {listed(left_over) or 'none'})"
        )
    for key, kind in _TYPES.items():
        if type(state[key]) is not kind:
            got = type(state[key]).__name__
            raise TypeError(f"{what} has a {got} as {key}, where {kind.__name__} is needed")


def _plain(value: object, where: str) -> object:
    """A copy made of what may be in a file.

    Types must be exact: a numpy.float64, say, is a float, but one that can't be read back.
    """
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        if type(tensor) is Tensor and tensor.layout == torch.strided:
            is_view = tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()
            return tensor.clone(memory_format=torch.contiguous_format) if is_view else tensor
    if type(value) in (int, float, str, bool, type(None)):
        return value
    if type(value) is list or type(value) is tuple:
        return type(value)(_plain(item, f"{where}[{i}]") for i, item in enumerate(value))
    if type(value) is dict or type(value) is OrderedDict:
        return _plain_dict(value, where)
    raise TypeError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}: a checkpoint holds "
        "plain tensors, numbers, strings, bools, None, dicts, lists and tuples"
    )


def _plain_dict(value: Mapping[Any, object], where: str) -> dict[str | int, object]:
    result: dict[str | int, object] = {}
    for key, item in value.items():
        if type(key) is not str and type(key) is not int:
            raise TypeError(f"{where} has the key {key!r}: names are strings or integers")
        name = bare_name(key) if isinstance(key, str) else key
        if name in result:
            raise ValueError(f"{where} has two entries {name}, prefixes of wrappers aside")
        result[name] = _plain(item, f"{where}.{key}")
    return result
