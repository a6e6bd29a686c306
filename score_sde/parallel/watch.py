"""What processes tell one another beside their collective calls: that they live, fail, end.

A collective call waits until all have come to it, and one that has died never comes. Where a
connection breaks with it (gloo), the call fails at once; where a machine went away, or a device
waits for it (NCCL), nothing does. So a thread in each process says through the store, every
`BEAT_SEC`, that its process is alive, and looks after the next one. Once the run is lost, what its
process does by itself (a save, a sentence) has `GRACE_SEC`; then the thread ends it.

The store lies on one of the machines. Where that one vanishes, a call of the store waits for an
answer until the system gives the connection up, after a quarter of an hour: `Bounded` does not.
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

BEAT_SEC = 2.0
SILENCE_SEC = 30.0
"""After how long without a beat a process counts as dead."""
COMING_SEC = 300.0
"""How long a process may take until its first beat: it imports, perhaps from a slow disk."""
ANSWER_SEC = 20.0
"""How long an answer of the store may take, which comes within milliseconds."""
GRACE_SEC = 15.0
"""How long a process may take to end by itself, once another one has."""
TELLING_SEC = 5.0
"""How long the main process may take to tell what the others know too."""


class Asked(Protocol):
    """Whether somebody asked for the end: the number of the signal, or None."""

    signal: int | None


class Bounded:
    """A store whose calls end: where no answer comes in time, by a RuntimeError, as a lost one's.

    The calls are another thread's, one after the other. Once one has had no answer, none is asked
    for any more.

    Args:
        store: any of torch's.
    """

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]]] = (
            queue.SimpleQueue()
        )
        self._lost = False
        threading.Thread(target=self._answer, name="store", daemon=True).start()

    def set(self, key: str, value: str) -> None:
        """See torch's."""
        self._ask(lambda: self._store.set(key, value))

    def get(self, key: str) -> bytes:
        """See torch's; it waits for a key that nobody has set."""
        return self._ask(lambda: self._store.get(key))

    def check(self, key: str) -> bool:
        """Whether a key is set."""
        return self._ask(lambda: self._store.check([key]))

    def add(self, key: str, amount: int) -> int:
        """See torch's."""
        return self._ask(lambda: self._store.add(key, amount))

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        """See torch's."""
        return self._ask(lambda: self._store.compare_set(key, expected, value))

    def _ask(self, call: Callable[[], Any]) -> Any:
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._calls.put((call, answer))
        waits = 0 if self._lost else round(ANSWER_SEC / 0.5)
        for _ in range(waits):  # counted, as beats are: the process may be stopped meanwhile
            try:
                given = answer.get(timeout=0.5)
            except queue.Empty:
                continue
            if isinstance(given, Exception):
                raise given
            return given
        self._lost = True
        raise RuntimeError(f"the store has not answered for {ANSWER_SEC:g} s")

    def _answer(self) -> None:
        while True:
            call, answer = self._calls.get()
            try:
                answer.put(call())
            except Exception as error:  # whatever it is, it is the caller's
                answer.put(error)


class Watch:
    """The thread of one process.

    Args:
        store: where all of them meet; a connection of its own is made to it.
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, store: "Store", rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._place = store  # of the main process: all meet there for as long as somebody holds it
        self._store = Bounded(of_this_start(store.clone(), "watch"))
        self._attended: tuple[int, Asked | None] = (0, None)
        self._others_failed = ""
        self._over = threading.Event()  # this process ends by itself, well or not
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def attend(self, asked: Asked | None) -> None:
        """Passes on from here that somebody asked for the end, and sets it where others were.

        Of one run: every process calls it as often as the others do.
        """
        self._attended = self._attended[0] + 1, asked

    def end(self) -> None:
        """Nobody needs to look after this process any more."""
        self._over.set()
        self._quietly(self._store.set, f"beat/{self.rank}", "left")

    def fail(self, words: str) -> bool:
        """Lets the others know that this process fails; whether it is the one to tell it.

        The main process tells it where it fails too; any other one waits for that first. It stays
        until the others know, as the store may go with it.
        """
        self._over.set()
        try:
            self._others_failed = self._store.compare_set("failed", "", words).decode()
            mine = self.rank == 0 or not self._told_within(TELLING_SEC)
            return mine and self._store.add("told", 1) == 1
        except (RuntimeError, ValueError):  # the store has gone with the main process
            first_here = self.rank == 1 or os.environ.get("LOCAL_RANK") == "0"
            return first_here and not self._others_failed

    def wait_for_others(self, seconds: float) -> None:
        """Stays until all others have come to `fail` too, at most so long."""
        self._quietly(self._store.add, "ends", 1)
        waits = max(int(seconds / 0.1), 1)
        for _ in range(waits if self.rank == 0 else 0):
            found = self._quietly(self._store.add, "ends", 0)
            time.sleep(0.1)  # the last one's answer is on its way
            if found is None or found >= self.size:
                return

    def _told_within(self, seconds: float) -> bool:
        for _ in range(int(seconds / 0.1)):
            if self._store.add("told", 0):
                return True
            time.sleep(0.1)
        return False

    def _run(self) -> None:
        beats, before, silent = 0, b"", 0
        mate = (self.rank + 1) % self.size
        while True:
            beats += 1
            try:
                self._store.set(f"beat/{self.rank}", str(beats))
                if self._store.check("failed"):
                    self._others_failed = self._store.get("failed").decode()
                    self._end_if_needed(self._others_failed)
                    return
                self._pass_on()
                beat = self._beat_of(mate)
            except (RuntimeError, ValueError):
                self._end_if_needed(
                    "the process through which all others meet has ended, or its machine can't be "
                    "reached"
                )
                return
            # Beats are counted, not seconds: all may have been stopped, and go on.
            silent = silent + 1 if beat == before and beat != b"left" else 0
            before = beat
            if silent * BEAT_SEC >= (SILENCE_SEC if beat else COMING_SEC):
                how = "has ended, or stands still" if beat else "has not come"
                self._end_if_needed(f"process {mate} of {self.size} {how}")
                return
            if self._over.wait(BEAT_SEC):
                return

    def _beat_of(self, rank: int) -> bytes:
        key = f"beat/{rank}"
        return self._store.get(key) if self._store.check(key) else b""

    def _pass_on(self) -> None:
        run, asked = self._attended
        if asked is None:
            return
        key = f"signal/{run}"
        if asked.signal is not None:
            self._store.set(key, str(asked.signal))
        elif self._store.check(key):
            asked.signal = int(self._store.get(key))

    def _end_if_needed(self, words: str) -> None:
        """Ends this process, where it does not by itself."""
        if self._over.wait(GRACE_SEC):
            return
        if self.fail(words):
            sys.stderr.write(f"{words}: the same command goes on from what is saved\n")
        _flush()
        os._exit(1)

    def _quietly(self, call, *arguments):  # noqa: ANN001, ANN002, ANN202
        try:
            return call(*arguments)
        except (RuntimeError, ValueError):  # the store is gone
            return None


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


_watch: Watch | None = None
_left = False


def of_this_start(store: "Store", name: str) -> "Store":
    """A part of the store, without what was written before the launcher started all once more."""
    # Here: a torch that is built without processes has none.
    from torch.distributed.distributed_c10d import PrefixStore

    return PrefixStore(f"{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def begin(store: "Store", rank: int, size: int) -> Watch:
    """Starts the thread of this process."""
    global _watch
    _watch = _watch or Watch(store, rank, size)
    return _watch


def current() -> Watch | None:
    """That of this process; None in a single one."""
    return _watch


def has_left() -> bool:
    """Whether this process has parted from the others."""
    return _left


def attend(asked: Asked | None) -> None:
    """Lets all processes know of it within seconds where somebody asks one of them for the end."""
    if _watch is not None:
        _watch.attend(asked)


def end() -> None:
    """Ends the watch, as this process is done."""
    global _watch, _left
    if _watch is not None:
        _watch.end()
        _watch, _left = None, True
