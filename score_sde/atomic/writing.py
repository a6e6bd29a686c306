"""Files that appear under their names only once they are whole.

Each is written under a temporary name beside its own, and renamed. A process that is killed
meanwhile leaves the temporary file behind; the next one that writes into the folder takes it away,
where its writer is known to be dead.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

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
        flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk; Windows can't open one."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
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


def lock(file: IO[Any]) -> bool:
    """Locks a file that is open to write; whether no other process has it locked.

    The lock goes with the process, however it ends. Where the system or the disk has no locks,
    nobody has it.
    """
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows
        pass
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Within this no other process has the file locked, which is there that long.

    Args:
        path: of a file that nothing else is kept in; its folder is made where missing.

    Yields:
        Whether it is so; False where another process has it.

    Raises:
        OSError: the file can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        mine = lock(file) and os.fstat(file.fileno()).st_nlink > 0  # else one has just finished
        try:
            yield mine
        finally:
            if mine:
                path.unlink(missing_ok=True)


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
