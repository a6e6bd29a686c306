"""Command lines as processes of their own, forked from one that has imported everything.

`python tests/forked.py` reads a JSON object a line and answers with one: `{"argv": [...], "out":
PATH, "err": PATH}` starts a command and gives its process, `{"wait": PROCESS, "seconds": S}` waits
for its end and gives the exit code (minus the signal's number, where a signal ended it; null after
so long). A path "closed" stands for a stream that the process is started without, "pipe" for a
pipe without a reader. `Processes` is the other end. What is forked ends as a program does: it runs
to the end of this file.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Processes:
    """Starts command lines without the seconds that each import of torch takes."""

    def __init__(self) -> None:
        self._driver = subprocess.Popen(
            [sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def start(
        self,
        *words: object,
        out: object,
        err: object = "",
        encoding: str = "utf-8",
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """The process that runs `score-sde WORDS`, a leader of its own group."""
        err = err or out
        job = {"argv": ["main.py", *map(str, words)], "out": str(out), "err": str(err)}
        return self._ask(job | {"encoding": encoding, "environment": dict(environment or {})})

    def start_several(
        self, size: int, *words: object, out: Path, each: Callable[[int], list[str]] | None = None
    ) -> list[int]:
        """As torchrun starts them, `out` with the rank added to its name for each.

        `each` gives further words by rank.
        """
        common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
        common |= {"MASTER_PORT": str(free_port())}
        # No GPU: two processes may have to share one, which NCCL refuses.
        common |= {"CUDA_VISIBLE_DEVICES": ""}
        return [
            self.start(
                *words,
                *(each(rank) if each else []),
                out=out.with_name(f"{out.name}.{rank}"),
                environment=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(size)
        ]

    def wait(self, process: int, seconds: float = 60) -> int | None:
        """Its exit code, or None where it has none after so long."""
        return self._ask({"wait": process, "seconds": seconds})

    def close(self) -> None:
        """Ends the driver."""
        self._driver.communicate()

    def _ask(self, job: dict) -> int:
        self._driver.stdin.write(json.dumps(job).encode() + b"\n")  # type: ignore[union-attr]
        self._driver.stdin.flush()  # type: ignore[union-attr]
        return json.loads(self._driver.stdout.readline())  # type: ignore[union-attr]


def free_port() -> int:
    """A port that nobody listens to, and that the system gives to no connection meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


def group(leader: int) -> list[int]:
    """The processes of a group that are alive, its workers among them."""
    alive = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == leader and state != "Z":
            alive.append(int(entry.parent.name))
    return sorted(alive)


def _waited(process: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def _redirect(number: int, where: str) -> None:
    """Lets a number of a file stand for what the job names."""
    if where == "closed":
        os.close(number)
        return
    if where == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(writer, number)
    os.close(writer)


def _become(job: dict) -> None:
    """Makes this process what the system would have started."""
    os.setpgid(0, 0)
    # Not ignored, as it is where the tests themselves were started with nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.close(0)
    os.open(os.devnull, os.O_RDONLY)
    for number, name in ((1, "out"), (2, "err")):
        _redirect(number, job[name])
        stream = None
        if job[name] != "closed":
            errors = "strict" if number == 1 else "backslashreplace"
            stream = open(number, "w", encoding=job["encoding"], errors=errors, closefd=False)
        setattr(sys, {1: "stdout", 2: "stderr"}[number], stream)
    sys.argv = job["argv"]
    os.environ.update(job["environment"])


def _serve() -> bool:
    """Answers jobs; True in a process that is to run one."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in iter(sys.stdin.buffer.readline, b""):
        job = json.loads(line)
        if "wait" in job:
            answer = _waited(job["wait"], job["seconds"])
        elif not (answer := os.fork()):
            answers.close()
            _become(job)
            return True
        else:  # here too: who asks for the group may ask before the process has run
            with contextlib.suppress(OSError):
                os.setpgid(answer, answer)
        answers.write(f"{json.dumps(answer)}\n")
    return False


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    import torch
    import torch._dynamo  # what a training run would import on its way
    import torch.utils.tensorboard.writer

    from score_sde.commands import entry, modes  # noqa: F401

    torch.set_num_threads(1)
    if _serve():
        sys.exit(entry.script())
