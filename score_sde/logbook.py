"""The logbook of a run: log file, metrics, TensorBoard and progress bar.

In the work directory it writes `log.txt` (for people), `metrics.jsonl` (one JSON object a line:
the step, and values by name) and `tensorboard/`. After a resume, text is appended, and whatever
curves hold past the resumed step is dropped, so that no step is counted twice.
"""

import contextlib
import errno
import json
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import numpy as np
from torch import Tensor
from tqdm import tqdm

from score_sde import atomic

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class Logbook:
    """Where a run records what it does; only the main process has an active one.

    Args:
        workdir: the work directory; made where missing.
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
        tensorboard: bool = True,
        append: bool = True,
        quiet: bool = False,
        active: bool = True,
    ) -> None:
        self.workdir = Path(workdir)
        self.active = active
        self._on_screen = active and not quiet
        self._tensorboard = active and tensorboard
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None
        self._open = contextlib.ExitStack()
        if not active:
            return
        with self._writing():
            self.workdir.mkdir(parents=True, exist_ok=True)
            # Line buffered: after a crash the last line is there.
            self._log = open(self.workdir / "log.txt", "a" if append else "w", 1, encoding="utf-8")
            self._open.callback(_close, self._log)
            self._metrics = self._open_metrics()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in one sentence that something could not be written."""
        try:
            yield
        except OSError as error:
            self.close()
            raise OSError(
                f"cannot write to the work directory {self.workdir} "
                f"({error.strerror or error}): free some space or choose another one with "
                "--workdir; what was saved before is untouched"
            ) from error

    def _open_metrics(self) -> TextIO:
        file = open(self._metrics_path, "a", 1, encoding="utf-8")
        self._open.callback(_close, file)
        return file

    @property
    def _metrics_path(self) -> Path:
        return self.workdir / "metrics.jsonl"

    def begin(self, step: int) -> None:
        """Marks that training starts (`step` is 0) or resumes after a step that is already done.

        Metrics and TensorBoard curves past `step`, from a run that went on beyond its last
        checkpoint, are dropped; at a start, all are. So are lines of metrics that a crash left
        unreadable. Call it before anything is recorded.

        Raises:
            OSError: if another process is training here.
        """
        if not self.active:
            return
        self._claim()
        first_new = step + 1 if step else 0
        kept = [line for line, entry in self._lines() if entry and entry["step"] < first_new]
        with self._writing():
            self._metrics.close()
            atomic.write(self._metrics_path, lambda file: file.write("".join(kept).encode()))
            self._metrics = self._open_metrics()
        self._purge_step = first_new
        self.say(f"resumed at step {step}" if step else "started")

    def _claim(self) -> None:
        """Locks the log file against a second run, which would write the same checkpoints.

        The lock goes with the process, however it ends. Some file systems have none.
        """
        try:
            import fcntl

            fcntl.lockf(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise OSError(
                    f"another process is training in {self.workdir}: wait until it is done, or "
                    "choose another one with --workdir"
                ) from error

    def say(self, text: str) -> None:
        """Writes text to the log file, each line with its time, and above the progress bar."""
        if not self.active:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with self._writing():
            self._log.writelines(f"{stamp} {line}\n" for line in text.splitlines())
        if self._on_screen:
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
            self._metrics.write(json.dumps({"step": step, **finite}) + "\n")
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
        return tqdm(
            total=total,
            initial=initial,
            unit=unit,
            disable=not self._on_screen,
            dynamic_ncols=True,
            # A terminal is redrawn; in a file every update is a line more.
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
            miniters=0,  # shown after that time even where the count stands still
        )

    def history(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric so far, earlier runs included; empty where there are none.

        Values that were not finite come back as NaN.
        """
        steps: list[int] = []
        values: list[float] = []
        for _, entry in self._lines():
            if name in entry:
                steps.append(entry["step"])
                values.append(math.nan if entry[name] is None else entry[name])
        return steps, values

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

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each line of the metrics with its content, None where a crash cut the line short."""
        if not self._metrics_path.is_file():
            return
        # Bytes that a power cut left behind need not be text.
        with open(self._metrics_path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    entry = {}
                complete = line.endswith("\n") and isinstance(entry, dict) and "step" in entry
                yield line, (entry if complete else {})

    def _events(self) -> "SummaryWriter | None":
        if self._tensorboard and self._writer is None:
            # Here, not on top: this import takes seconds, and nothing else needs it.
            from torch.utils.tensorboard.writer import SummaryWriter

            self._open.callback(setattr, threading, "excepthook", threading.excepthook)
            threading.excepthook = _without_trace
            self._writer = SummaryWriter(
                str(self.workdir / "tensorboard"), purge_step=self._purge_step, flush_secs=30
            )
        return self._writer


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
