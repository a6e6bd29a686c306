"""Files appear whole, and what killed processes left goes where they are known to be dead."""

import ast
import errno
import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT

from score_sde import atomic

DAY_SEC = 86400


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left_over(folder, *, host: str | None = None, pid: int | None = None, age_sec: float = 0):
    """What a process would leave that was killed while it wrote a.json."""
    with atomic.temporary(folder / "a.json") as path:
        name = path.name
    before, _, random, suffix = name.rsplit(".", 3)
    stem, _, own = before.rpartition(".")
    path = folder / f"{stem}.{host or own}.{pid or os.getpid()}.{random}.{suffix}"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age_sec,) * 2)
    return path


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_temporary_names_hold_host_and_process_and_differ(tmp_path):
    with atomic.temporary(tmp_path / "a.pt") as one, atomic.temporary(tmp_path / "a.pt") as other:
        assert one != other
        assert one.parent == tmp_path
        host = re.sub(r"[^\w-]", "-", socket.gethostname()[:60])
        assert re.fullmatch(rf"a\.pt\.{host}-\d*\.{os.getpid()}\.[0-9a-f]{{8}}\.tmp", one.name)


def test_what_a_dead_process_left_is_swept_by_the_next_write(tmp_path, dead):
    left_over(tmp_path, pid=dead)
    left_over(tmp_path)  # this process has its number now, as in containers
    left_over(tmp_path, host="elsewhere", age_sec=DAY_SEC + 60)
    atomic.write(tmp_path / "b.json", lambda file: file.write(b"{}"))
    assert names(tmp_path) == ["b.json"]


def test_what_a_process_may_still_be_writing_stays(tmp_path, dead):
    left_over(tmp_path, pid=os.getppid())
    left_over(tmp_path, host="elsewhere", pid=dead)
    (tmp_path / "a.pt.123.tmp").touch()  # of an earlier version, on a host unknown
    for name in ("notes.tmp", "a.2024.tmp"):  # somebody else's, however old
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    with atomic.temporary(tmp_path / "c") as path:
        path.touch()
        before = names(tmp_path)
        atomic.sweep(tmp_path)
        assert names(tmp_path) == before
    assert len(before) == 6


def test_names_of_earlier_versions_are_swept_by_their_age(tmp_path):
    for name in ("step_00000003.pt.123.tmp", "metrics.jsonl.7.tmp", "000000.png.99999.tmp"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    atomic.sweep(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["x" * 251 + ".pt", "a name with spaces", os.fsdecode(b"\xff.pt")]
)
def test_names_in_odd_shapes_are_written(tmp_path, name):
    atomic.write(tmp_path / name, lambda file: file.write(b"whole"))
    assert (tmp_path / name).read_bytes() == b"whole"
    assert names(tmp_path) == [name]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    def fill(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="free some space"):
        atomic.write_whole(tmp_path / "new" / "a", fill, "--output")
    assert names(tmp_path / "new") == []


def test_places_that_cannot_be_written_to_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("file/a", "folder", "loop/a", "x" * 256):
        with pytest.raises(OSError, match=r"\w"):
            atomic.check_writable(tmp_path / name)
    atomic.check_writable(tmp_path / "new" / "a")
    assert names(tmp_path / "new") == []


def writes(node: ast.AST) -> bool:
    """Whether a call opens a file to write into it, or fills one by name."""
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func).rpartition(".")[2]
    texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
    return name in ("write_text", "write_bytes") or (
        name == "open" and any(isinstance(t, str) and re.fullmatch("[wxa]b?", t) for t in texts)
    )


def test_no_caller_sees_half_a_file():
    found = {
        path.relative_to(ROOT / "score_sde").as_posix()
        for path in (ROOT / "score_sde").rglob("*.py")
        if any(map(writes, ast.walk(ast.parse(Path(path).read_text()))))
    }
    # A folder of diffusers is filled under a temporary name, which is the folder's; to a log lines
    # are added.
    assert found <= {
        "atomic/writing.py",
        "checkpoints/hugging_face/folder.py",
        "commands/errors.py",
        "commands/terminal.py",
        "pictures/images.py",
    }
