"""Files that appear under their names only once they are whole."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object], option: str) -> None:
    """Lets `write` fill a temporary file beside `path`, which then takes its place.

    Args:
        path: where to; its folder is made where missing.
        write: is given the open file.
        option: that chooses another place, for the message.

    Raises:
        OSError: the file can't be written, in one sentence.
    """
    # Two processes may write the same thing at once: the last one wins.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error, option) from error


def cannot_write(path: Path, error: OSError, option: str) -> OSError:
    """The sentence for a file or folder that can't be written."""
    return OSError(
        f"cannot write {path} ({error.strerror or error}): free some space or choose another "
        f"{option}"
    )
