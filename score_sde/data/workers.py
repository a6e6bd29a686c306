"""Worker processes that decode batches of images ahead of their use.

Each worker has a pipe of its own and no lock: a worker that is killed takes nothing with it, and
nothing is needed of `/dev/shm`. Requests go round the workers in turn, `AHEAD` at a time to each,
and results come back in the order of the requests. A thread takes them in, so that a worker goes
on, and a large batch has come through its pipe, while the run makes a step.

**How they end.** `close` kills them: they only read. So does the end of the process, before
multiprocessing waits for its children. Where the process itself is killed, the pipes close, and
they end by that. Ctrl-C and a cluster's signals reach every process of a run, and the run wants
one more batch to stop at: workers go on after these, until nothing is asked of them any more.
"""

import contextlib
import errno
import itertools
import multiprocessing
import pickle
import queue
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

AHEAD = 2
"""Requests under way for each worker, whose results are kept until they are asked for."""

IDLE_SEC = 20
"""How long a worker that was asked to end by SIGTERM waits for one more request."""

_STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class WorkerDied(RuntimeError):  # noqa: N818, it says what happened
    """A worker ended that should not have: something killed it, or a library crashed in it."""


class InWorker(Exception):  # noqa: N818, it says where another error happened
    """The cause of an error that a worker sent; its text is the trace there.

    Attributes:
        places: files and lines of the trace, the innermost last.
        opcode: the instruction of Python at which the error came up.
    """

    def __init__(self, text: str, places: list[tuple[str, int]], opcode: int) -> None:
        super().__init__(text, places, opcode)
        self.places, self.opcode = places, opcode

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Workers:
    """Processes that answer requests in order; a context manager, which ends them.

    Args:
        answer: request → result; both and the function itself must pickle. What it raises reaches
            the caller of `map`.
        count: how many processes. Where the system refuses so many for want of open files, the
            caller's own answers instead, with a warning.
    """

    def __init__(self, answer: Callable[[Any], Any], count: int) -> None:
        self._answer = answer
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._receivers: list[_Receiver] = []
        # Called by `close`, or when the process ends: with this priority before multiprocessing
        # waits for its children. It does nothing in a process that was forked from this one.
        self._end = util.Finalize(
            self, _end, (self._pipes, self._processes, self._receivers), exitpriority=100
        )
        try:
            for number in range(count):
                self._start(number)
        except OSError as error:
            self.close()
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM):
                raise
            warnings.warn(
                f"no worker processes could be started ({error.strerror}): images are decoded in "
                "the run itself, which is slower; allow more open files or processes "
                "(ulimit -n, ulimit -u)",
                stacklevel=2,
            )
        except BaseException:
            self.close()
            raise

    def _start(self, number: int) -> None:
        here, there = multiprocessing.Pipe()
        with there:
            self._pipes.append(here)
            process = multiprocessing.Process(
                target=_serve,
                args=(there, here, self._answer),
                name=f"worker {number + 1}",
                daemon=True,
            )
            # A signal between the fork and the worker's own handlers would meet the run's.
            with _blocked(_STOPPING):
                process.start()
            self._processes.append(process)

    def map(self, requests: Iterable[Any]) -> Iterator[Any]:
        """The result of each request, in order; `AHEAD` are under way for each worker.

        Raises:
            WorkerDied: naming it, and what ended it.
        """
        if not self._processes:
            yield from map(self._answer, requests)
            return
        requests, turns = iter(requests), itertools.cycle(range(len(self._processes)))
        receiver = _Receiver(self._pipes)
        self._receivers.append(receiver)
        under_way = 0
        try:
            for request in itertools.islice(requests, AHEAD * len(self._processes)):
                self._send(next(turns), request, receiver)
                under_way += 1
            while under_way:
                number, reply = receiver.replies.get()
                if isinstance(reply, EOFError | OSError):
                    raise self._died(number) from reply
                if isinstance(reply, Exception):  # what was sent can't be unpickled
                    raise reply
                result, error, where = reply
                if error:
                    raise error from where
                under_way -= 1
                for request in itertools.islice(requests, 1):  # whose turn it is
                    self._send(next(turns), request, receiver)
                    under_way += 1
                yield result
        finally:
            receiver.asked.put(None)

    def _send(self, number: int, request: Any, receiver: "_Receiver") -> None:
        try:
            self._pipes[number].send(request)
        except OSError as error:
            raise self._died(number) from error
        receiver.asked.put(number)

    def _died(self, number: int) -> WorkerDied:
        process = self._processes[number]
        process.join(5)
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        reason = {
            -int(getattr(signal, "SIGKILL", 9)): "most often because memory ran out: free some, "
            "or lower the batch size",
            -signal.SIGSEGV: "a library that decodes images crashed: look for a damaged file",
        }.get(code, "look for what ended it in the system's log")
        return WorkerDied(
            f"data {process.name} of {len(self._processes)} (process {process.pid}) was ended by "
            f"{how}, {reason}"
        )

    def close(self) -> None:
        """Ends the workers; harmless when called twice."""
        self._end()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Receiver(threading.Thread):
    """Takes in replies while the run is busy.

    Attributes:
        asked: the number of a worker for each request that was sent to it; None ends the thread.
        replies: that number with the reply, or with the error where the worker has ended.
    """

    def __init__(self, pipes: list[Connection]) -> None:
        super().__init__(name="replies of workers", daemon=True)
        self.asked: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.replies: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._pipes = list(pipes)
        self.start()

    def run(self) -> None:
        """What the thread does."""
        while (number := self.asked.get()) is not None:
            try:
                self.replies.put((number, self._pipes[number].recv()))
            except Exception as error:  # whatever it is: the run waits for this reply
                self.replies.put((number, error))
                return


def _end(
    pipes: list[Connection], processes: list[BaseProcess], receivers: list[_Receiver]
) -> None:
    for process in processes:
        process.kill()
    for receiver in receivers:  # what it waits for has come to its end
        receiver.asked.put(None)
        receiver.join(10)
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join(10)  # one that waits for a dead disk can't be waited for
    pipes.clear()
    processes.clear()
    receivers.clear()


def _serve(pipe: Connection, callers: Connection, answer: Callable[[Any], Any]) -> None:
    """What a worker does, until its pipe closes."""
    callers.close()  # a fork's copy, which would keep the pipe open
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        # By SIGTERM multiprocessing ends its children, and then waits for them. An alarm ends a
        # process whatever it does; each request puts it off.
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(IDLE_SEC))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    torch.set_num_threads(1)  # the processes share the cores
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = pipe.recv()
            if hasattr(signal, "alarm") and signal.alarm(0):
                signal.alarm(IDLE_SEC)
            try:
                reply = answer(request), None, None
            except Exception as error:
                reply = None, _sendable(error), _where(error)
            pipe.send(reply)


def _where(error: Exception) -> InWorker:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    places = [
        (frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)
    ]
    text = "".join(traceback.format_exception(error))
    return InWorker(text, places, last.tb_frame.f_code.co_code[last.tb_lasti] if last else -1)


def _sendable(error: Exception) -> Exception:
    """The error, or one that says the same where it does not pickle."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # a class of the user's own: its pickling may do anything
        return RuntimeError(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _blocked(numbers: list[signal.Signals]) -> Iterator[None]:
    """Keeps signals back, where the system can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
