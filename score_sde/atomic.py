"""Files that appear under their names only once they are whole."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write(path: Path, fill: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Lets `fill` write a temporary file beside `path`, which then takes its place.

    Whatever happens to process or machine meanwhile, `path` holds the old content or the new one.
    Several processes may write one path at once: the last one wins.

    Args:
        path: where to; its folder is made where missing.
        fill: is given the open file.
        durable: bring the content to the disk first, so that a power cut leaves no empty file
            under the name. It takes milliseconds: too long for thousands of pictures.

    Raises:
        OSError: the file can't be written; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            fill(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        with contextlib.suppress(OSError):  # bring the name to disk; Windows can't open a folder
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def write_whole(path: Path, fill: Callable[[BinaryIO], object], option: str) -> None:
    """`write`, and one sentence where it can't.

    Args:
        path: where to; its folder is made where missing.
        fill: is given the open file.
        option: that chooses another place, for the message.

    Raises:
        OSError: the file can't be written, in one sentence.
    """
    try:
        write(path, fill)
    except OSError as error:
        raise cannot_write(path, error, option) from error


def cannot_write(path: Path, error: OSError, option: str) -> OSError:
    """The sentence for a file or folder that can't be written."""
    remedy = "free some space or choose" if error.errno == errno.ENOSPC else "choose"
    return OSError(f"cannot write {path} ({error.strerror or error}): {remedy} another {option}")
