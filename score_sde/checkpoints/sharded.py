"""Checkpoints as folders `step_00001000.dcp`, into which each process writes its part.

Tensors lie in files of torch's distributed checkpoint (torch.distributed.checkpoint), one for each
process. All else of the state is in `rest.pt`, a file as our others are: numbers and text, where
each part of a tensor lies, and the checksum of each file. So a folder is read without torch's own
index, which would have to be unpickled; other tools find that one in `.metadata`.

A folder is written under a temporary name and renamed by the main process once all have written.
"""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_sde import atomic, parallel
from score_sde.checkpoints.files import CheckpointError, cannot_save
from score_sde.checkpoints.files import read as read_file
from score_sde.checkpoints.files import write as write_file

SUFFIX = ".dcp"
REST = "rest.pt"
_OF_TENSORS = ("network", "ema", "optimizer", "averages")  # entries, of which each has its part


def is_folder(path: Path) -> bool:
    """Whether a checkpoint of this kind lies there."""
    return path.suffix == SUFFIX and path.is_dir()


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a folder, which then takes the place of what lay under its name.

    Every process must call it, with its part of the same tensors.

    Args:
        path: of the folder.
        state: as `state.save` takes it; nested dicts, in which tensors may be divided.

    Raises:
        OSError: a file can't be written, in one sentence; what lay there is untouched.
    """
    try:
        _write(path, state)
    except OSError as error:
        if error.errno is None:  # it is a sentence
            raise
        raise cannot_save(path, error) from error


def _write(path: Path, state: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    rest = _parted(state, (), tensors)
    with _common_name(path) as other:
        stored = _write_tensors(other, tensors, path)
        parts: Any = parallel.gather_objects(_digests(other))
        digests = {name: digest for part in parts for name, digest in part}
        if parallel.rank() == 0:
            write_file(other / REST, {"state": rest, "tensors": stored, "files": digests})
            _rename(other, path)
    parallel.barrier()


def delete(path: Path) -> None:
    """Deletes a folder, which is gone at once for whoever looks for it."""
    with atomic.temporary(path) as other:
        if path.exists():
            os.replace(path, other)


def is_whole(path: Path) -> bool:
    """Whether it is a folder of ours, as far as its names say."""
    return is_folder(path) and (path / REST).is_file()


def read(path: Path) -> tuple[dict[str, Any], str]:
    """The state in a folder, its tensors whole and on the CPU, and a fingerprint of all of it.

    It takes no other processes, nor as many as have written it.

    Raises:
        OSError: a file can't be opened, or the folder has gone.
        CheckpointError: a file is damaged, missing, or no part of such a folder.
    """
    try:
        rest, digest = read_file(path / REST)
        state, index, files = rest["state"], rest["tensors"], rest["files"]
        for name, wanted in files.items():
            if _digest(path / _plain_name(name)) != wanted:
                raise ValueError(f"{name} has another checksum than when written")
        for key, entry in index.items():
            *groups, name = json.loads(key)
            place = state
            for group in groups:
                place = place.setdefault(group, {})
            place[name] = _read_tensor(path, entry)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        if not path.is_dir():  # it has just been deleted
            raise
        missing = Path(error.filename).name
        raise CheckpointError(
            f"{path} is damaged (it lacks {missing}): use another one"
        ) from error
    except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
        reason = error.args[0] if isinstance(error, ValueError) else f"{REST} is of another kind"
        raise CheckpointError(f"{path} is damaged ({reason}): use another one") from error
    return state, digest


def _parted(value: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    """What is left where tensors with axes are taken out of dicts; they go by their path."""
    if isinstance(value, dict):
        left: dict[Any, Any] = {}
        for key, item in value.items():
            if isinstance(item, Tensor) and item.ndim and path:
                tensors[json.dumps([*path, key])] = item.detach()
            elif path or key in _OF_TENSORS:
                left[key] = _parted(item, (*path, key), tensors)
            else:
                left[key] = item  # states of generators stay together, the main process's
        return left
    return value.detach().cpu() if isinstance(value, Tensor) else value


@contextmanager
def _common_name(path: Path) -> Iterator[Path]:
    """A temporary name that all processes write under, and that the main one takes away."""
    if parallel.rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.sweep(path.parent)
        with atomic.temporary(path) as other:
            yield Path(str(parallel.gather_objects(str(other))[0]))
    else:
        yield Path(str(parallel.gather_objects("")[0]))


def _write_tensors(folder: Path, tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """Where each tensor lies now: `dtype`, `shape`, and `chunks` of rows."""
    # Here: a torch that is built without processes has none.
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer, alone = FileSystemWriter(folder), parallel.count() == 1
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it should be
            metadata: Any = save(tensors, storage_writer=writer, no_dist=alone)
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        if isinstance(first, OSError):
            raise cannot_save(path, first) from error
        raise RuntimeError(f"cannot save {path}: {first}") from error
    places = {(one.fqn, tuple(one.offset or ())): at for one, at in metadata.storage_data.items()}
    index: dict[str, Any] = {}
    for key, entry in metadata.state_dict_metadata.items():
        chunks = []
        for chunk in entry.chunks:
            at = places[key, tuple(chunk.offsets)]
            chunks.append(
                {
                    "offsets": list(chunk.offsets),
                    "sizes": list(chunk.sizes),
                    "file": at.relative_path,
                    "begin": at.offset,
                    "bytes": at.length,
                }
            )
        dtype = str(entry.properties.dtype).removeprefix("torch.")
        index[key] = {"dtype": dtype, "shape": list(entry.size), "chunks": chunks}
    return index


def _digests(folder: Path) -> list[tuple[str, str]]:
    """Checksums of the files that this process has written."""
    own = sorted(folder.glob(f"__{parallel.rank()}_*.distcp"))
    return [(path.name, _digest(path)) for path in own]


def _digest(path: Path) -> str:
    with atomic.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rename(other: Path, path: Path) -> None:
    with atomic.temporary(path) as old:
        if path.exists():
            os.replace(path, old)
        os.replace(other, path)
    atomic.flush_folder(path.parent)


def _plain_name(name: Any) -> str:
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"{REST} names a file that does not lie beside it")
    return name


def _read_tensor(path: Path, entry: Mapping[str, Any]) -> Tensor:
    shape, dtype = [int(n) for n in entry["shape"]], getattr(torch, entry["dtype"])
    chunks = entry["chunks"]
    # What is claimed must be there, before memory is taken for it.
    if sum(math.prod(chunk["sizes"]) for chunk in chunks) != math.prod(shape) or any(
        math.prod(chunk["sizes"]) * dtype.itemsize > chunk["bytes"] for chunk in chunks
    ):
        raise ValueError(f"{REST} does not say where all of a tensor lies")
    whole = torch.empty(shape, dtype=dtype)
    for chunk in chunks:
        with atomic.open_regular(path / _plain_name(chunk["file"])) as file:
            file.seek(chunk["begin"])
            try:
                content = atomic.tensor_of(file.read(chunk["bytes"]))
            except atomic.UnreadableError as error:
                raise ValueError(f"a part of {chunk['file']} {error}") from error
        place = whole
        for axis, (start, size) in enumerate(zip(chunk["offsets"], chunk["sizes"], strict=True)):
            place = place.narrow(axis, start, size)
        if content.shape != place.shape or content.dtype != dtype:
            raise ValueError(f"{chunk['file']} holds another part of a tensor than {REST} says")
        place.copy_(content)
    return whole
