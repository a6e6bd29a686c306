"""The terminal: what all printed lines pass, the library's, torch's and those of a user's network.

Within `guarded` writing to standard output and error never fails. A terminal that was closed, a
pipe whose reader went away, a full disk: what was printed is lost from there on, and the run goes
on. A character that the output has no sign for is spelt out.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from score_sde.commands import signals

_READER_GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET}
"""Nobody reads any more: a closed pipe or terminal. Other errors are told."""


class Guarded:
    """A stream that takes whatever is written to it.

    Args:
        stream: the one behind it; None where the process was started without.
        name: in words.

    Attributes:
        full: whether something was lost that somebody waits for.
    """

    def __init__(self, stream: TextIO | None, name: str) -> None:
        self._stream = stream if stream is not None else open(os.devnull, "w", encoding="utf-8")
        self._name = name
        self.full = False

    def write(self, text: str) -> int:
        """Writes what can be written, and says that it wrote all."""
        with self._losing():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                code = self._stream.encoding or "ascii"
                self._stream.write(text.encode(code, "backslashreplace").decode(code))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Sends on what is kept."""
        with self._losing():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # a reader that is slow, behind a pipe that does not wait for it
            pass
        except ValueError:
            if not self._stream.closed:
                raise
        except OSError as error:
            self._let_go()
            if error.errno not in _READER_GONE:
                self.full = True
                if self._name != "standard error":
                    sys.stderr.write(
                        f"{self._name} cannot be written to ({error.strerror or error}): what "
                        "follows is left out\n"
                    )

    def _let_go(self) -> None:
        """Points the stream's file to nowhere: what is kept would fail again at each flush."""
        with contextlib.suppress(OSError, ValueError):
            signals.to_nowhere(self._stream.fileno())


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Within this standard output and error never fail; also a decorator."""
    _hold_numbers()
    before: tuple[Any, Any] = sys.stdout, sys.stderr
    if all(isinstance(stream, Guarded) for stream in before):
        yield
        return
    out, err = Guarded(before[0], "standard output"), Guarded(before[1], "standard error")
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def show(text: str) -> None:
    """Prints what a command was asked for.

    Raises:
        SystemExit: with 1, where it could not be printed, which was said then.
    """
    sys.stdout.write(text)
    sys.stdout.flush()
    if isinstance(sys.stdout, Guarded) and sys.stdout.full:
        raise SystemExit(1)


def _hold_numbers() -> None:
    """Keeps files from standard output's number, and the like, where the process has none.

    What C libraries print would go into the first file that is opened, such as a checkpoint.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
