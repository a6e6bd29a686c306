"""Errors as they reach the terminal: a sentence each.

A user's mistake is what our own code raises about it, on purpose, with the remedy in its words;
what the machine refuses (a file, its memory) is as short. Any other error, such as one in a user's
own network, is told with its kind, file and line, and its trace goes to the log.
"""

import contextlib
import dis
import errno
import sys
import sysconfig
import threading
import time
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path

_RAISE = dis.opmap["RAISE_VARARGS"]
_OURS = str(Path(__file__).resolve().parent.parent)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def told(error: BaseException, folders: Iterable[Path]) -> str:
    """The sentence for an error; the trace of one that nobody expected goes to a log.

    Args:
        error: any.
        folders: where `log.txt` may lie; the first that can be written to is taken.
    """
    words, advice = _sentence(error), remedy(error)
    if is_expected(error):
        return words + advice
    log = keep_trace(error, folders)
    trace = f"its trace is in {log}" if log else "--debug shows its trace"
    words = f": {words}" if words_of(error) else ""
    return f"{type(error).__name__} in {where(error)}{words}{advice} ({trace})"


def is_expected(error: BaseException) -> bool:
    """Whether the error's own words are all that a user needs."""
    if isinstance(error, OSError) and error.strerror:
        return True
    # On purpose: what fails within a call, such as int("x"), fails in another instruction.
    return _places(error)[-1][0].startswith(_OURS) and _last_opcode(error) == _RAISE


def where(error: BaseException) -> str:
    """File and line of an error: the innermost that is not of Python, torch or the like."""
    places = _places(error)
    near = [
        place
        for place in places
        if place[0].startswith(_OURS) or not place[0].startswith((*_LIBRARIES, "<"))
    ]
    file, line = (near or places)[-1]
    return f"{file}, line {line}"


def remedy(error: BaseException) -> str:
    """What to do where the machine refused, to be set behind the error's own words."""
    cause: BaseException | None = error
    while cause is not None:
        number = getattr(cause, "errno", None)
        if isinstance(cause, MemoryError) or number == errno.ENOMEM:
            return "; memory ran out: free some, or take fewer or smaller images at a time"
        if number in (errno.EMFILE, errno.ENFILE):
            return "; allow more open files, such as ulimit -n 1024"
        cause = cause.__cause__
    return ""


def keep_trace(error: BaseException, folders: Iterable[Path]) -> Path | None:
    """Appends the whole trace to the `log.txt` of the first folder that takes it.

    Returns:
        The log, or None where no folder takes it.
    """
    text = "".join(traceback.format_exception(error))
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    for folder in folders:
        path = folder / "log.txt"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                continue  # a pipe would make the end wait for a reader
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as log:
                log.writelines(f"{stamp} {line}\n" for line in text.splitlines())
            return path
    return None


def leave_out_traces() -> None:
    """Keeps traces of threads and destructors off the terminal, and warnings to a line each."""
    sys.unraisablehook = lambda failed: None
    threading.excepthook = lambda failed: failed.exc_value and _tell(failed.exc_value)
    warnings.formatwarning = _warning


def words_of(error: BaseException) -> str:
    """What an error says; nothing where its own code for that fails."""
    try:
        return str(error)
    except Exception:
        return ""


def _sentence(error: BaseException) -> str:
    words = words_of(error)
    if isinstance(error, OSError) and error.strerror:
        words = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return _shortened(_on_one_line(words)) or type(error).__name__


def _on_one_line(text: str) -> str:
    """Words with one space between them, and what would steer a terminal spelt out."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _shortened(sentence: str, length: int = 700) -> str:
    """A sentence without its middle where it quotes something long; field and remedy stay."""
    if len(sentence) <= length:
        return sentence
    return f"{sentence[: length // 2]} ... {sentence[-length // 2 :]}"


def _tell(error: BaseException) -> None:
    sys.stderr.write(f"{type(error).__name__} in {where(error)}: {_sentence(error)}\n")


def _warning(message: Warning | str, kind: type[Warning], file: str, line: int, *_: object) -> str:
    place = "" if file.startswith(_OURS) else f" ({file}, line {line})"
    return f"warning: {_on_one_line(str(message))}{place}\n"


def _last_opcode(error: BaseException) -> int:
    """The instruction at which it came up, of a worker's error there; -1 where nobody knows.

    The source may have changed under a run that has been going on for days.
    """
    there = getattr(error.__cause__, "opcode", None)
    if there is not None:
        return there
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] if trace else -1


def _places(error: BaseException) -> list[tuple[str, int]]:
    """Files and lines of the trace, the innermost last; of a worker's error those there."""
    here = [(at.filename, at.lineno or 0) for at in traceback.extract_tb(error.__traceback__)]
    return [*here, *getattr(error.__cause__, "places", [])] or [("<unknown>", 0)]
