"""Opening files that users name.

A pipe under the name of a file would make a run wait for ever, and a device has no end: every file
is opened by `open_regular`, which refuses both.
"""

import io
import json
import os
import stat
from pathlib import Path
from typing import IO, Any, Literal, overload

LONGEST_SHOWN = 200
"""Characters of a path that a message quotes; a longer one is cut in its middle."""

MOST_READ_WHOLE = 2**26
"""Bytes of a file that is read at once, such as a text."""

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def shown(path: str | Path) -> str:
    """A path as a message quotes it: printable in every encoding, on one line and not too long."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = LONGEST_SHOWN // 2
    return text if len(text) <= LONGEST_SHOWN else f"{text[:half]} ... {text[-half:]}"


def expanded(path: str | Path) -> Path:
    """A path as its user means it: `~` is the home folder, and `~name` that of another user.

    Raises:
        ValueError: nobody is called so, or no name can be written so.
    """
    if "\0" in str(path):
        raise ValueError("no name of a file holds the character 0: take it out")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        first = Path(path).parts[0]
        raise ValueError(
            f"there is no home folder {first}: write the whole path, or ./{first} for what is "
            "called so"
        ) from error


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
    status = os.stat(path)
    _refuse_special(path, status)
    return status


def _refuse_special(path: str | Path, status: os.stat_result) -> None:
    if kind := special_kind(status):
        raise ValueError(f"{shown(path)} is a {kind}: a file is needed here, name one")


def special_kind(status: os.stat_result) -> str:
    """What it is, where it is no file that ends; else empty."""
    if stat.S_ISREG(status.st_mode):
        return ""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "special file")


@overload
def open_regular(path: str | Path, mode: Literal["rb"] = "rb") -> io.BufferedReader: ...
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
    # Without waiting, for a pipe that took the file's place in between.
    no_waiting = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(
        os.open(path, os.O_RDONLY | no_waiting), mode, encoding=None if mode == "rb" else "utf-8"
    )
    try:
        _refuse_special(path, os.fstat(file.fileno()))
    except ValueError:
        file.close()
        raise
    return file


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
