"""Files: written so that they appear whole or not at all, and read where they are files at all.

Every file that a user names is opened by `open_regular`: a pipe would make the run wait for ever,
a device has no end, and either may sit under any name.
"""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, overload

LONGEST_SHOWN = 200
"""Characters of a path that a message quotes; a longer one is cut in its middle."""

MOST_READ_WHOLE = 2**26

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


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


def shown(path: str | Path) -> str:
    """A path as a message quotes it: printable in every encoding, on one line and not too long."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = LONGEST_SHOWN // 2
    return text if len(text) <= LONGEST_SHOWN else f"{text[:half]} ... {text[-half:]}"


def regular_file(path: str | Path) -> os.stat_result:
    """Sees, without opening it, that a path leads to a file that ends; links are followed.

    Returns:
        What the file system knows of it, such as `st_size`.

    Raises:
        ValueError: a folder, pipe, socket or device, in one sentence.
        OSError: nothing is there, or it cannot be reached.
    """
    if "\0" in str(path):
        raise ValueError(f"{shown(path)} is no path: no name holds the character 0")
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "special file")
        raise ValueError(f"{shown(path)} is a {kind}: a file is needed here, name one")
    return found


@overload
def open_regular(path: str | Path, mode: Literal["rb"] = "rb") -> BinaryIO: ...
@overload
def open_regular(path: str | Path, mode: Literal["r"]) -> IO[str]: ...
def open_regular(path: str | Path, mode: Literal["rb", "r"] = "rb") -> IO[Any]:
    """Opens a file to read it, and never a pipe, socket or device.

    Args:
        path: links are followed.
        mode: `rb` for bytes, `r` for text in UTF-8.

    Raises:
        ValueError, OSError: as by `regular_file`.
    """
    regular_file(path)
    return open(path, mode, encoding=None if mode == "rb" else "utf-8")


def read_whole(path: str | Path) -> bytes:
    """All of a file that is read at once, such as a text: no more than `MOST_READ_WHOLE` bytes.

    Raises:
        ValueError: it is larger, or no file, in one sentence.
        OSError: nothing is there, or it cannot be reached.
    """
    with open_regular(path) as file:
        content = file.read(MOST_READ_WHOLE + 1)
    if len(content) > MOST_READ_WHOLE:
        raise ValueError(
            f"{shown(path)} is larger than {MOST_READ_WHOLE / 2**20:.0f} MiB, which no file of "
            "its kind is: repair it or remove it"
        )
    return content


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: no JSON, other than UTF-8, nested too deep, or as by `read_whole`; in one
            sentence.
        OSError: nothing is there, or it cannot be reached.
    """
    content = read_whole(path)
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        reason = "it is nested too deep"
    except ValueError as error:  # of JSON, and of UTF-8
        reason = " ".join(str(error).split())
    raise ValueError(f"{shown(path)} cannot be read as JSON ({reason}): repair it or remove it")
