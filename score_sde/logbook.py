"""The logbook of a run: log file, metrics, TensorBoard and progress bar.

In the work directory it writes `log.txt` (for people), `metrics.jsonl` (one JSON object a line:
the step, and values by name) and `tensorboard/`. After a resume, text is appended, and whatever
curves of the training hold past the resumed step is dropped, so that no step is counted twice.
Evaluations may write to the same files at the same time.
"""

import contextlib
import errno
import json
import math
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor
from tqdm import tqdm

from score_sde import atomic

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

Curve = tuple[list[int], list[float]]
"""Steps, and the values of a metric at them."""
OF_EVALUATION = "eval/"
"""How the names of an evaluation's metrics begin."""
_LINE_BYTES = 2**24
PATIENCE_SEC = 10.0
"""How long to wait for a process that holds the metrics, which it does for milliseconds."""


def progress_bar(total: int, unit: str, **options: Any) -> "tqdm[Any]":
    """A bar with time left, on the terminal or line by line in a file; `options` are tqdm's."""
    # A terminal is redrawn; in a file every update is a line more.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    # Without miniters it is shown after that time even where the count stands still.
    return tqdm(
        total=total, unit=unit, dynamic_ncols=True, mininterval=interval, miniters=0, **options
    )


class Logbook:
    """Where a run records what it does; only the main process has an active one.

    Args:
        workdir: the work directory; made where missing.
        beside: the folder of what is written elsewhere, to which the files go where the work
            directory can't be written to; None where it must be.
        tensorboard: whether to write event files.
        append: whether to go on with the `log.txt` of an earlier run, or to start it anew.
        quiet: whether to leave the terminal alone; files are written all the same.
        active: whether to do anything at all; False on all but the main process.

    Raises:
        OSError: if the work directory can't be written to, in one sentence; so do all methods.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        beside: Path | None = None,
        tensorboard: bool = True,
        append: bool = True,
        quiet: bool = False,
        active: bool = True,
    ) -> None:
        self.folder = Path(workdir)
        self.active = active
        self._on_screen = active and not quiet
        self._tensorboard = active and tensorboard
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None
        self._open = contextlib.ExitStack()
        if not active:
            return
        try:
            with self._writing():
                self._open_files(append)
        except OSError as error:
            if beside is None:
                raise
            self.folder = beside
            with self._writing():
                self._open_files(append)
            self.say(f"{error.__cause__}: the log goes to {beside}")

    def _open_files(self, append: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _refuse_pipe(path := self.folder / "log.txt")
        # Line buffered: after a crash the last line is there. Names need not be text.
        mode = "a" if append else "w"
        self._log = open(path, mode, 1, encoding="utf-8", errors="backslashreplace")
        self._open.callback(_close, self._log)
        self._metrics = Metrics(self.folder / "metrics.jsonl")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in one sentence that something could not be written."""
        try:
            yield
        except OSError as error:
            self.close()
            raise OSError(
                f"cannot write to the work directory {self.folder} "
                f"({error.strerror or error}): free some space or choose another one with "
                "--workdir; what was saved before is untouched"
            ) from error

    def begin(self, step: int) -> None:
        """Marks that training starts (`step` is 0) or resumes after a step that is already done.

        Metrics and TensorBoard curves past `step`, from a run that went on beyond its last
        checkpoint, are dropped; at a start, all are, but for those of evaluations. So are lines
        of metrics that a crash left unreadable. Call it before anything is recorded.

        Raises:
            OSError: if another process is training here.
        """
        if not self.active:
            return
        self._claim()
        self._purge_step = first_new = step + 1 if step else 0
        with self._writing():
            unreadable = self._metrics.trim(first_new)
        self.say(f"resumed at step {step}" if step else "started")
        if unreadable:
            self.say(f"{unreadable} lines of {self._metrics.path} were no metrics: left out")

    def _claim(self) -> None:
        """Locks the log file against a second run, which would write the same checkpoints."""
        if not atomic.lock(self._log):
            raise OSError(
                f"another process is training in {self.folder}: wait until it is done, or choose "
                "another one with --workdir"
            )

    def say(self, text: str, *, shown: bool = True) -> None:
        """Writes text to the log file, each line with its time, and above the progress bar.

        Args:
            text: one line or several.
            shown: False for an error that is raised next, whose words the terminal gets then.
        """
        if not self.active:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with self._writing():
            self._log.writelines(f"{stamp} {line}\n" for line in text.splitlines())
        if self._on_screen and shown:
            tqdm.write(text)

    def scalars(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Records numbers (or tensors of one element) by name at a step.

        Raises:
            ValueError: if a value is called `step`, which is the name of the step itself.
        """
        if not self.active:
            return
        if "step" in values:
            raise ValueError("a metric is called 'step', which is taken by the step: rename it")
        numbers = {name: float(value) for name, value in values.items()}
        # JSON has no NaN and no infinity: they are written as null, and read back as NaN.
        finite = {name: v if math.isfinite(v) else None for name, v in numbers.items()}
        with self._writing():
            self._metrics.append({"step": step, **finite})
            if writer := self._events():
                for name, value in numbers.items():
                    writer.add_scalar(name, value, step)

    def images(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows a picture in TensorBoard.

        Args:
            step: the step it belongs to.
            name: its title.
            image: (H, W, C) uint8.
        """
        with self._writing():
            if writer := self._events():
                writer.add_image(name, image, step, dataformats="HWC")

    def progress(self, total: int, initial: int = 0, unit: str = "step") -> "tqdm[Any]":
        """A progress bar with time left; close it, or use it as a context manager.

        Args:
            total: where it ends.
            initial: where it starts, such as the resumed step.
            unit: what it counts.
        """
        return progress_bar(total, unit, initial=initial, disable=not self._on_screen)

    def history(self, name: str) -> Curve:
        """Steps and values of a metric so far, earlier runs included; empty where there are none.

        Values that were not finite come back as NaN.
        """
        return self._metrics.of(name) if self.active else ([], [])

    def close(self) -> None:
        """Flushes and closes everything; harmless when called twice."""
        if self._writer is not None:
            _close(self._writer)
            self._writer = None
        self._open.close()

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _events(self) -> "SummaryWriter | None":
        if self._tensorboard and not _is_text(self.folder):
            self._tensorboard = False
            self.say("no files for TensorBoard, as the name of the folder is no text to it")
        if self._tensorboard and self._writer is None:
            # Here, not on top: this import takes seconds, and nothing else needs it.
            from torch.utils.tensorboard.writer import SummaryWriter

            self._open.callback(setattr, threading, "excepthook", threading.excepthook)
            threading.excepthook = _without_trace
            self._writer = SummaryWriter(
                str(self.folder / "tensorboard"), purge_step=self._purge_step, flush_secs=30
            )
        return self._writer


class Metrics:
    """`metrics.jsonl`: one JSON object a line, to which several processes write at once.

    Each opens the file for every line anew, and locks it meanwhile, so that no line goes to a file
    that a resumed run has just replaced, and none into the midst of another. Some file systems
    have no locks; there a line can be lost in the moment in which a run resumes.

    Args:
        path: of the file; made where missing.

    Raises:
        OSError: it can't be written to; so do all methods.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._locked():
            pass

    def append(self, entry: Mapping[str, object]) -> None:
        """Writes a line, or nothing of it where the disk is full."""
        line = json.dumps(entry).encode() + b"\n"
        with self._locked() as file:
            size = os.fstat(file).st_size
            # A process that was killed may have left half a line.
            os.lseek(file, max(size - 1, 0), os.SEEK_SET)
            torn = size > 0 and os.read(file, 1) != b"\n"
            line = b"\n" + line if torn else line
            try:
                while line:
                    line = line[os.write(file, line) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(file, size)
                raise

    def trim(self, end: int) -> int:
        """Drops what is no metrics, and of a training run the lines from a step on.

        Lines of evaluations stay: another process may be writing them.

        Returns:
            How many lines were no metrics.
        """
        # Windows, which has no locks either, puts no file in the place of an open one.
        with contextlib.nullcontext() if os.name == "nt" else self._locked():
            lines = list(_lines(self.path))
            kept = [
                line
                for line, entry in lines
                if entry and (entry["step"] < end or _is_of_evaluation(entry))
            ]
            if len(kept) < len(lines):
                atomic.write(self.path, lambda file: file.writelines(kept))
        return sum(not entry for _, entry in lines)

    def of(self, name: str) -> Curve:
        """Steps and values of a metric; what is null is NaN, what is no number is left out."""
        return curves(self.path).get(name, ([], []))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, open to append to, while no other process writes to it."""
        while True:
            _refuse_pipe(self.path)
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                _lock(file)
                if self._is(file):
                    yield file
                    return
            finally:
                os.close(file)

    def _is(self, file: int) -> bool:
        """Whether no other process has put a new file under the name meanwhile."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False


def curves(path: Path) -> dict[str, Curve]:
    """Every metric of a `metrics.jsonl` by its name; what is null is NaN, other words left out.

    It only reads, so that a run may be looked at while it goes on.

    Raises:
        OSError, ValueError: the file can't be read, or is none.
    """
    found: dict[str, Curve] = {}
    for _, entry in _lines(path):
        for name, value in entry.items():
            if name == "step" or not (value is None or type(value) in (int, float)):
                continue
            with contextlib.suppress(OverflowError):  # an integer beyond all floats
                number = math.nan if value is None else float(value)
                steps, values = found.setdefault(name, ([], []))
                steps.append(entry["step"])
                values.append(number)
    return found


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line with its content, which is empty where it was cut short or is no metrics.

    Raises:
        OSError, ValueError: as `curves`.
    """
    with atomic.open_regular(path) as file:
        while line := file.readline(_LINE_BYTES):
            if len(line) == _LINE_BYTES:  # which would take all memory, were it read to its end
                raise ValueError(
                    f"{atomic.shown(path)} has a line of {_LINE_BYTES / 2**20:.0f} MiB or more, "
                    "which no metrics are: repair it or remove it"
                )
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):  # not even text, or nested without end
                entry = None
            step = entry.get("step") if isinstance(entry, dict) else None
            whole = type(step) is int and 0 <= step < 2**63
            yield line, (entry if whole else {})  # type: ignore[misc]


def _is_of_evaluation(entry: Mapping[str, object]) -> bool:
    return all(name.startswith(OF_EVALUATION) for name in entry if name != "step")


def _lock(file: int) -> None:
    """Locks a file against others that do so; not for long, lest a stopped one stop all."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    deadline = time.monotonic() + PATIENCE_SEC
    while time.monotonic() < deadline:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return
        time.sleep(0.01)


def _refuse_pipe(path: Path) -> None:
    """To open a pipe would wait for its reader."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISFIFO(path.stat().st_mode):
            raise OSError(errno.EINVAL, f"{path.name} is a pipe")


def _is_text(path: Path) -> bool:
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:  # bytes of another encoding
        return False


class _Closes(Protocol):
    def close(self) -> None: ...


def _close(file: _Closes) -> None:
    # On a full disk closing fails once more, over what a write that was reported left behind.
    with contextlib.suppress(OSError):
        file.close()


def _without_trace(failed: threading.ExceptHookArgs) -> None:
    # TensorBoard's own thread writes, and `add_scalar` raises once more what it could not write.
    if not issubclass(failed.exc_type, OSError):
        threading.__excepthook__(failed)
