"""Files of tensors, numbers and strings: written wholly or not at all, read without running them.

How they are read is `atomic.read_tensors`'s: what a feature network is read from goes there too.
"""

from pathlib import Path
from typing import Any

import torch

from score_sde import atomic

DIGITS = 16
"""Hex digits of a SHA-256 that tell in a result which file it came from."""


class CheckpointError(ValueError):
    """A file that is damaged, is not a checkpoint, or does not fit."""


def write(path: Path, content: object) -> None:
    """Writes under a temporary name, flushes to the disk, renames.

    Raises:
        OSError: the file can't be written, in one sentence; what lay under the name is untouched.
    """
    try:
        _write(path, content)
    except OSError as error:
        raise cannot_save(path, error) from error


def cannot_save(path: Path, error: OSError) -> OSError:
    """The sentence for a file or folder that can't be written."""
    return OSError(
        f"cannot save {path} ({error.strerror or error}): free some space or choose another "
        "work directory; what was saved before is untouched"
    )


def read(path: Path) -> tuple[Any, str]:
    """What a file holds, on the CPU, and its fingerprint: the first `DIGITS` of its SHA-256.

    Checksums are verified, and no code of the file is run. Both are of one file, though another
    process may put another one under its name meanwhile.

    Raises:
        OSError: the file can't be opened.
        CheckpointError: it is damaged, or holds more than tensors, numbers and strings.
    """
    try:
        content, digest = atomic.read_tensors(path)
    except atomic.RunsCodeError as error:
        raise CheckpointError(
            f"{path} is refused, as it {error}: use a checkpoint that this library or the 2021 "
            "release wrote"
        ) from error
    except atomic.UnreadableError as error:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint (it {error}): use another one"
        ) from error
    return content, digest[:DIGITS]


def _write(path: Path, content: object) -> None:
    try:
        atomic.write(path, lambda file: torch.save(content, file))
    except RuntimeError as error:
        # torch's writer turns a full disk into a broken assertion: give the system's own error.
        if isinstance(error.__context__, OSError):
            raise OSError(*error.__context__.args) from error
        raise
