"""What a run writes beside its checkpoints, and the sentence where it can't."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import atomic


def write_whole(path: Path, write: Callable[[BinaryIO], object], option: str) -> None:
    """Lets `write` fill a file that appears under its name once it is whole (`atomic.write`).

    Args:
        path: where to; its folder is made where missing.
        write: is given the open file.
        option: that chooses another place, for the message.

    Raises:
        OSError: the file can't be written, in one sentence.
    """
    try:
        atomic.write(path, write)
    except OSError as error:
        raise cannot_write(path, error, option) from error


def cannot_write(path: Path, error: OSError, option: str) -> OSError:
    """The sentence for a file or folder that can't be written."""
    remedy = "free some space or choose" if error.errno == errno.ENOSPC else "choose"
    return OSError(f"cannot write {path} ({error.strerror or error}): {remedy} another {option}")
