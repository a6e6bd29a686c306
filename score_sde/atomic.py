"""Files: written so that they appear whole or not at all, and read where they are files at all.

Each is written under a temporary name beside its own, and renamed. A process that is killed
meanwhile leaves the temporary file behind; the next one that writes into the folder takes it away,
where its writer is known to be dead.

Every file that a user names is opened by `open_regular`: a pipe would make the run wait for ever,
a device has no end, and either may sit under any name. Files of tensors are read by
`torch.load(weights_only=True)`, which runs no code of them, after what they claim to hold is
compared with what they are.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import re
import secrets
import shutil
import socket
import stat
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, overload

import numpy as np
import torch

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
# How files begin: archives, and what torch wrote before version 1.6 (the pickle of a long number).
_ARCHIVE = b"PK\x03\x04"
_BEFORE_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# How files begin that often lie where weights should be; in capitals, as some are written either
# way.
_OTHERS = (
    (b"VERSION HTTPS://GIT-LFS", "is a pointer of git-lfs instead of the file (git lfs pull)"),
    (b"<", "is a page of the web, as a download that went wrong leaves"),
    (b"{", "is a text of JSON"),
    (b"\x1f\x8b", "is compressed with gzip"),
    (b"\x93NUMPY", "is an array of numpy"),
    (b"\x89HDF", "is an HDF5 file"),
)
_MIB = 2**20


class UnreadableError(ValueError):
    """No file of tensors; the text goes on from "the file", as in "is empty"."""


class RunsCodeError(UnreadableError):
    """A file that holds, or may hold, more than tensors, numbers and strings."""


_DAY_SEC = 86400
_NAME_BYTES = 100  # of the final name within the temporary one, as names have 255 bytes at most
_TEMPORARY = re.compile(r".*\.(?P<host>[\w-]+)\.(?P<pid>\d{1,10})\.[0-9a-f]{8}\.tmp", re.DOTALL)
# Names of earlier versions hold no host, and so count by their age alone.
_TEMPORARY_BEFORE = re.compile(r".*\.(pt|pth|png|gif|json|jsonl|npz)\.\d+\.tmp", re.DOTALL)

_in_use = set[str]()  # names of temporary files that this process is writing
_swept = set[str]()  # folders that it wrote pictures into


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
    if durable or str(path.parent) not in _swept:  # once is enough for thousands of pictures
        _swept.add(str(path.parent))
        sweep(path.parent)
    with temporary(path) as other:
        with open(other, "xb") as file:
            fill(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(other, path)
    if durable:
        with contextlib.suppress(OSError):  # bring the name to disk; Windows can't open a folder
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` for a file or folder that is to be renamed to it.

    It holds host, process and a random part, so that machines can share a disk. Whatever still
    has the name in the end is deleted.
    """
    name = os.fsdecode(os.fsencode(path.name)[:_NAME_BYTES])
    other = path.with_name(f"{name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    _in_use.add(other.name)
    try:
        yield other
    finally:
        _delete(other)
        _in_use.discard(other.name)


def sweep(folder: Path) -> None:
    """Deletes what killed processes left of files that they were writing in a folder.

    A temporary file goes where its writer is known to be dead, which is a process of this host
    that runs no more, or where nobody wrote to it for a day.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".tmp") and _is_abandoned(entry):
                _delete(Path(entry.path))


def _is_abandoned(entry: "os.DirEntry[str]") -> bool:
    named = _TEMPORARY.fullmatch(entry.name)
    if not (named or _TEMPORARY_BEFORE.fullmatch(entry.name)) or entry.name in _in_use:
        return False
    with contextlib.suppress(OSError):  # it has just gone
        if time.time() - entry.stat(follow_symlinks=False).st_mtime > _DAY_SEC:
            return True
    return bool(named) and named["host"] == _host() and not _is_running(int(named["pid"]))


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False  # an earlier process of the same number: this one knows its own files
    if os.name == "nt":
        return True  # where the signal 0 ends a process; files count by their age
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        return True
    return True


def _host() -> str:
    """The name of this host, and which of its containers numbers the processes, if any does."""
    try:
        space = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        space = ""
    return re.sub(r"[^\w-]", "-", f"{socket.gethostname()[:60]}-{space}", flags=re.ASCII)


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuses a place that `write` could not write to, before hours of work end there.

    Args:
        path: where to; its folder is made where missing.

    Raises:
        OSError: the file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():  # which also refuses a name that is too long
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with temporary(path) as other:
        other.touch()


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
    _refuse_special(path, found)
    return found


def _refuse_special(path: str | Path, found: os.stat_result) -> None:
    if kind := _special(found):
        raise ValueError(f"{shown(path)} is a {kind}: a file is needed here, name one")


def _special(found: os.stat_result) -> str:
    """What it is, where it is no file that ends; else empty."""
    if stat.S_ISREG(found.st_mode):
        return ""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "special file")


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


def read_tensors(path: Path) -> tuple[Any, str]:
    """What a file of torch holds, on the CPU, and the SHA-256 of the file.

    Both are of one file, whole, though another process may replace it meanwhile.

    Raises:
        OSError: the file can't be opened.
        UnreadableError: it is damaged or something else.
        RunsCodeError: it could run code when read otherwise.
    """
    if kind := _special(os.stat(path)):
        raise UnreadableError(f"is a {kind}, not a file")
    with open_regular(path) as file:
        before = _stamp(file)
        content = _content(file)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _stamp(file) != before:
            raise UnreadableError("was written to while it was read")
    return content, digest


def _stamp(file: io.BufferedReader) -> tuple[int, int]:
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


def _content(file: io.BufferedReader) -> Any:
    try:
        _check_whole(file)
        file.seek(0)
        with (
            torch.serialization.safe_globals(_NUMPY_NUMBERS),  # type: ignore[arg-type]
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # on kinds of tensors that are refused anyway
            return torch.load(file, map_location="cpu", weights_only=True)
    except UnreadableError:
        raise
    except pickle.UnpicklingError as error:
        raise RunsCodeError(
            "holds more than tensors, numbers and strings, which could run code when read"
        ) from error
    except Exception as error:  # damaged bytes can end in an error of almost any type
        reason = (str(error).splitlines() or [""])[0].rstrip(".")[:200]
        # Advice of torch's is how to run the code after all.
        if not reason or "weights_only" in reason:
            reason = type(error).__name__
        raise UnreadableError(f"can't be read: {reason}") from error


def _check_whole(file: io.BufferedReader) -> None:
    """Refuses what is no file of torch, or a damaged one, before much of it is read.

    torch itself does not compare checksums: a flipped bit would quietly become a weight. The
    format before torch 1.6 has none.
    """
    beginning = file.read(1024)
    if beginning.startswith(_BEFORE_1_6):
        return
    if not beginning.startswith(_ARCHIVE):
        raise UnreadableError(_no_archive(beginning))
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [member.filename.partition("/")[2] for member in members]
        if "data.pkl" not in names:
            raise UnreadableError("is an archive of something else")
        if "constants.pkl" in names:
            raise RunsCodeError("is a TorchScript archive, which holds a program, too")
        # torch does not compress: what is a little larger was packed again by somebody.
        unpacked = sum(member.file_size for member in members)
        if unpacked > max(4 * size, 64 * _MIB):
            raise UnreadableError(
                f"would unpack from {size / _MIB:.3g} MiB to {unpacked / _MIB:.6g} MiB, which no "
                "file of torch does"
            )
        # What is no tensor: some hundred bytes for each. As objects it takes many times the room.
        if members[names.index("data.pkl")].file_size > 16 * _MIB:
            raise UnreadableError("holds little else than names and numbers")
        if len(set(names)) < len(names):
            raise UnreadableError("has two parts of one name")
        if (broken := archive.testzip()) is not None:
            raise UnreadableError(f"has in {broken} another checksum than when written")


def _no_archive(beginning: bytes) -> str:
    """What a file is that begins neither as an archive nor as old files of torch do."""
    if not beginning.strip():
        return "is empty"
    if beginning[8:9] == b"{" and not any(beginning[4:8]):
        return "is a file of safetensors"
    if beginning[257:262] == b"ustar":
        return "is an archive of tar"
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().upper()
    for start, what in _OTHERS:
        if text.startswith(start.upper()):
            return what
    return "does not begin as files of torch do"


class _Number:
    """Stands in for `numpy.dtype`: kinds of numbers only, so that nothing else can be made."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", code):
            raise pickle.UnpicklingError(f"a numpy {code!r} is no number")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Of what numpy keeps for a kind of number only the order of the bytes matters."""
        self.dtype = self.dtype.newbyteorder("=" if state[1] == "|" else state[1])


def _scalar(kind: _Number, content: bytes) -> int | float | bool:
    """Stands in for numpy's constructor of scalars.

    Old training scripts left numpy numbers in their files (a learning rate that went through
    `np.minimum`); those, and nothing else of numpy, are read as numbers of Python.
    """
    if type(kind) is not _Number or type(content) is not bytes:
        raise pickle.UnpicklingError("a numpy scalar is no number")
    (value,) = np.frombuffer(content, kind.dtype)
    return value.item()


_NUMPY_NUMBERS = [
    (_Number, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),  # numpy 1
    (_scalar, "numpy._core.multiarray.scalar"),  # numpy 2
]
