"""How commands end: signals, workers that die, outputs that are lost, errors of any kind."""

import contextlib
import dataclasses
import errno
import io
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import torch
from forked import Processes, group
from test_train_command import TINY, assert_same_bits, final, train

from score_sde import checkpoints
from score_sde.commands import cli, errors
from score_sde.commands.cli import MODES
from score_sde.commands.signals import interruptible, stop_signals
from score_sde.commands.terminal import guarded
from score_sde.data import DatasetInfo, StreamingSource, opened, train_batches
from score_sde.data.sources import in_order
from score_sde.data.workers import AHEAD, Workers
from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.training import TrainStep

RECIPE = '''
import torch

from score_sde.config import parts
from score_sde.data import DATASETS, StreamingSource


class Drawn:
    def __init__(self, shape):
        self.shape = shape

    def __call__(self, index):
        return torch.full(self.shape, index % 256, dtype=torch.uint8)


def streamed(request):
    n = {"train": 100, "test": 20}[request.split]
    return StreamingSource(request.info(n, "drawn"), Drawn(request.shape), num_workers=2)


DATASETS["streamed"] = streamed


def get_config():
    """A recipe – with a dash."""
    changes = {"data.dataset": "streamed"}
    return parts.recipe(parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL, changes)
'''


@pytest.fixture(autouse=True)
def hang_ups() -> Iterator[None]:
    """SIGHUP is not ignored, as it is where the tests themselves were started with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with contextlib.closing(Processes()) as them:
        yield them


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "streamed.py"
    path.write_text(RECIPE)
    return path


class Training:
    """A training run over streamed images, in a process of its own."""

    def __init__(self, processes: Processes, recipe: Path, workdir: Path, *words: str, **to: str):
        self.processes, self.workdir = processes, workdir
        self.output = workdir.parent / f"{workdir.name}.txt"
        words = ("--mode=train", "--config", recipe, *TINY, f"--workdir={workdir}", *words)
        self.process = processes.start(*words, **{"out": self.output, **to})

    def wait_for(self, step: int) -> None:
        deadline = time.monotonic() + 60
        while self.last() < step:
            assert time.monotonic() < deadline, self.said()
            assert group(self.process), self.said()
            time.sleep(0.02)

    def wait_for_words(self, words: str) -> None:
        deadline = time.monotonic() + 60
        while words not in self.said():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def last(self) -> int:
        return max(checkpoints.steps(self.workdir / "checkpoints"), default=0)

    def said(self) -> str:
        log = self.workdir / "log.txt"
        texts = [path.read_text() for path in (self.output, log) if path.is_file()]
        return "\n".join(texts)

    def workers(self) -> list[int]:
        return [process for process in group(self.process) if process != self.process]

    def end(self) -> int | None:
        """The exit code; no process is left then."""
        code = self.processes.wait(self.process)
        deadline = time.monotonic() + 10
        while group(self.process) and time.monotonic() < deadline:
            time.sleep(0.02)
        left = group(self.process)
        for process in left:
            os.kill(process, signal.SIGKILL)
        assert not left
        if self.output.is_file():
            assert "Traceback" not in self.output.read_text()
        return code


@pytest.fixture
def training(processes, recipe, tmp_path):
    started = []

    def start(*words: str, name: str = "run", **to: str) -> Training:
        started.append(Training(processes, recipe, tmp_path / name, *words, **to))
        return started[-1]

    yield start
    for one in started:
        for process in group(one.process):
            os.kill(process, signal.SIGKILL)


LONG = "--config.training.n_iters=100000"
# The held-out loss reads its images through workers of its own.
HELD_OUT_LATE = "--config.training.eval_freq=100000"
SNAPSHOTS_OFF = "--config.training.snapshot_sampling=False"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signals_to_all_processes_lose_no_step_however_many_come(number, training):
    run = training(LONG, "--config.training.snapshot_freq_for_preemption=1")
    run.wait_for(1)
    os.killpg(run.process, number)
    run.wait_for_words(signal.Signals(number).name)
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.process, other)
    assert run.end() == 128 + number
    said = run.said()
    assert f"{signal.Signals(number).name}: the run ends after this step and its save" in said
    assert "SIGKILL ends it at once" in said
    assert f"step {run.last()} is saved, the same command resumes" in said
    assert final(run.workdir, run.last())["step"] == run.last()


@pytest.mark.parametrize("every", [1, 1000])  # saved just before, or not at all
def test_a_worker_that_dies_is_named_and_the_steps_made_are_saved(every, training):
    saves = f"--config.training.snapshot_freq={every}"
    run = training(LONG, HELD_OUT_LATE, saves, "--config.training.log_freq=1")
    run.wait_for_words("step 4: ")
    os.kill(run.workers()[0], signal.SIGKILL)
    assert run.end() == 1
    said = run.said()
    assert "data worker" in said
    assert "was ended by SIGKILL" in said
    assert f"step {run.last()} is saved, the same command resumes" in said
    assert run.last() >= 4


def test_workers_go_with_a_run_that_is_killed(training):
    run = training(LONG, HELD_OUT_LATE, "--config.training.snapshot_freq_for_preemption=1")
    run.wait_for(1)
    assert len(run.workers()) == 2
    os.kill(run.process, signal.SIGKILL)
    assert run.end() == -signal.SIGKILL


@pytest.mark.parametrize(("out", "err"), [("closed", "closed"), ("pipe", "/dev/full")])
def test_training_goes_on_without_an_output(out, err, training):
    run = training("--config.training.n_iters=6", out=out, err=err)
    assert run.end() == 0
    assert run.last() == 6
    assert "done: 6 steps" in (run.workdir / "log.txt").read_text()


USERS_CODE = """
import torch


def raising(kind):
    raise kind("of the user's own")


def in_a_library():
    torch.zeros(2, 3) @ torch.zeros(2, 3)


def without_end():
    without_end()


def without_memory():
    raise MemoryError
"""


@pytest.fixture
def users(tmp_path) -> dict:
    """The functions of a file of the user's own."""
    path = tmp_path / "own.py"
    path.write_text(USERS_CODE)
    names: dict = {}
    exec(compile(USERS_CODE, str(path), "exec"), names)
    return names | {"path": path}


def words_of(mode: str, workdir: Path) -> list[str]:
    recipe = ["--config=configs/vp/digits.py"] if MODES[mode].needs_recipe else []
    return ["main.py", f"--mode={mode}", f"--workdir={workdir}", *recipe]


@pytest.mark.parametrize(
    ("owner", "method", "saved"),
    [(TrainStep, "_backward", 3), (ExponentialMovingAverage, "update", 2)],
    ids=["in the network", "in the midst of the update"],
)
def test_an_error_within_a_step_loses_none_before_it(owner, method, saved, tmp_path, monkeypatch):
    words = ("--config.training.snapshot_freq_for_preemption=2", SNAPSHOTS_OFF)
    assert train(tmp_path / "whole", 4, *words) == 0
    calls, plain = itertools.count(1), getattr(owner, method)

    def failing(*rest: object) -> object:
        result = plain(*rest)  # which draws the network's dropout, or changes the average
        return result if next(calls) < 4 else {}["of the user's own"]

    with monkeypatch.context() as patches:
        patches.setattr(owner, method, failing)
        assert train(tmp_path / "run", 4, *words) == 1
    assert max(checkpoints.steps(tmp_path / "run" / "checkpoints")) == saved
    assert train(tmp_path / "run", 4, *words) == 0
    whole, resumed = final(tmp_path / "whole", 4), final(tmp_path / "run", 4)
    for entry in ("network", "ema", "optimizer", "rng"):
        assert_same_bits(resumed[entry], whole[entry])


@pytest.mark.parametrize("mode", MODES)
def test_any_error_is_a_sentence_in_every_mode(mode, users, tmp_path, capsys, monkeypatch):
    faults = {
        "ValueError": (lambda: users["raising"](ValueError), "line 6: of the user's own"),
        "KeyError": (lambda: users["raising"](KeyError), "line 6"),
        "RuntimeError": (users["in_a_library"], "line 10: mat1 and mat2"),
        "RecursionError": (users["without_end"], "line 14: maximum recursion depth"),
        "MemoryError": (users["without_memory"], "line 18; memory ran out: free some"),
    }
    for kind, (fault, words) in faults.items():
        workdir = tmp_path / kind
        row = dataclasses.replace(MODES[mode], function=lambda command, fault=fault: fault())
        monkeypatch.setitem(MODES, mode, row)
        assert cli.main(words_of(mode, workdir)) == 1
        out, err = capsys.readouterr()
        assert not out
        assert err.startswith(f"{kind} in {users['path']}, {words}")
        assert err.endswith(f"(its trace is in {workdir / 'log.txt'})\n")
        assert err.count("\n") == 1
        log = (workdir / "log.txt").read_text()
        assert "Traceback" in log
        assert str(users["path"]) in log
        assert cli.main([*words_of(mode, workdir), "--debug"]) == 1
        assert "Traceback" in capsys.readouterr().err


def test_a_mistake_is_told_without_its_place_or_a_trace(tmp_path, capsys, monkeypatch):
    assert cli.main([*words_of("sample", tmp_path), "--config.model.nf=0"]) == 1
    said = capsys.readouterr().err
    assert "Error" not in said
    assert ", line" not in said
    assert not list(tmp_path.iterdir())


def test_what_the_machine_refuses_comes_with_the_remedy(tmp_path, capsys, monkeypatch):
    def too_many(command: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "images/a.png")

    monkeypatch.setitem(MODES, "stats", dataclasses.replace(MODES["stats"], function=too_many))
    assert cli.main(words_of("stats", tmp_path)) == 1
    said = capsys.readouterr().err
    assert (
        said
        == "images/a.png: Too many open files; allow more open files, such as ulimit -n 1024\n"
    )


# Outputs


LISTINGS = (
    ["main.py", "--help"],
    ["main.py", "--help_config"],
    ["main.py", "--mode=recipes"],
    ["main.py", "--config=configs/vp/digits.py", "--print_config"],
)


@pytest.fixture
def outputs():
    """Puts other streams in the place of the process's own."""
    before = sys.stdout, sys.stderr
    opened = []

    def put(out: int, err: TextIO, encoding: str = "utf-8") -> None:
        opened.append(open(out, "w", encoding=encoding))
        sys.stdout, sys.stderr = opened[-1], err

    yield put
    sys.stdout, sys.stderr = before
    for stream in opened:
        stream.close()  # nothing is left in it that could fail


@pytest.mark.parametrize("words", LISTINGS, ids=lambda words: words[-1])
def test_a_listing_ends_quietly_where_its_reader_went_away(words, outputs):
    reader, writer = os.pipe()
    os.close(reader)
    outputs(writer, err := io.StringIO())
    assert cli.main(words) == 0
    assert err.getvalue() == ""


@pytest.mark.parametrize("words", LISTINGS, ids=lambda words: words[-1])
def test_a_listing_that_fills_the_disk_says_so(words, outputs):
    outputs(os.open("/dev/full", os.O_WRONLY), err := io.StringIO())
    assert cli.main(words) == 1
    said = "standard output cannot be written to (No space left on device)"
    assert err.getvalue().startswith(said)
    assert err.getvalue().count("\n") == 1


@pytest.mark.parametrize("words", LISTINGS, ids=lambda words: words[-1])
def test_a_listing_is_spelt_out_where_the_output_has_no_sign_for_it(words, outputs, tmp_path):
    path = tmp_path / "listing.txt"
    outputs(os.open(path, os.O_WRONLY | os.O_CREAT), err := io.StringIO(), "ascii")
    assert cli.main(words) == 0
    assert err.getvalue() == ""
    assert path.read_bytes().isascii()


def test_a_listing_without_any_output_is_quiet(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it where the shell wrote >&-
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["main.py", "--mode=recipes"]) == 0


def test_what_is_printed_by_a_users_code_does_not_end_a_run(outputs):
    reader, writer = os.pipe()
    os.close(reader)
    outputs(writer, io.StringIO())
    with guarded():
        for _ in range(3):
            print("–" * 10_000)
            sys.stdout.flush()


@contextlib.contextmanager
def stalled_outputs() -> Iterator[threading.Timer]:
    """Standard output and error are a full pipe whose reader stands still, for 10 s at most."""
    before = os.dup(1), os.dup(2)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    late = threading.Timer(10, os.read, (reader, 2**20))
    late.start()
    try:
        yield late
    finally:
        late.cancel()
        for number, file in enumerate(before, start=1):
            os.dup2(file, number)
            os.close(file)
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_output_whose_reader_stands_still_holds_no_training_that_is_to_stop(number):
    with stalled_outputs() as reader, stop_signals() as stop:
        write_while_interrupted(number)
        assert stop.signal == number
        assert reader.is_alive()  # nobody has read


def test_an_output_whose_reader_stands_still_holds_no_mode_after_ctrl_c():
    with stalled_outputs() as reader, interruptible():
        with pytest.raises(KeyboardInterrupt):
            write_while_interrupted(signal.SIGINT)
        os.write(2, bytes(10_000))
        assert reader.is_alive()


def write_while_interrupted(number: signal.Signals) -> None:
    main = threading.main_thread().ident
    soon = threading.Timer(0.1, signal.pthread_kill, (main, number))
    soon.start()
    os.write(1, bytes(10_000))
    soon.join()


# Workers


def doubled(number: int) -> int:
    return 2 * number


def refusing(number: int) -> int:
    raise KeyError(f"no image {number}")


class Unsendable(Exception):  # noqa: N818
    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def unsendable(number: int) -> int:
    raise Unsendable(1, 2)


def test_workers_answer_in_order_and_are_gone_after():
    with Workers(doubled, 3) as workers:
        assert list(workers.map(range(10))) == list(range(0, 20, 2))
        assert len(multiprocessing.active_children()) == 3
    assert not multiprocessing.active_children()


def test_an_error_in_a_worker_keeps_its_kind_its_words_and_its_place():
    with Workers(refusing, 1) as workers, pytest.raises(KeyError, match="no image 5") as caught:
        list(workers.map([5]))
    line = refusing.__code__.co_firstlineno + 1
    assert errors.where(caught.value) == f"{__file__}, line {line}"
    with Workers(unsendable, 1) as workers, pytest.raises(RuntimeError, match="1 and 2"):
        list(workers.map([5]))


def large(number: int) -> bytes:
    return bytes([number]) * 2**22


class Unreadable:
    def __reduce__(self):
        return refusing, (7,)


def unreadable(number: int) -> Unreadable:
    return Unreadable()


def test_large_replies_are_taken_in_while_the_caller_is_busy():
    with Workers(large, 2) as workers:
        replies = workers.map(range(9))
        assert next(replies)[0] == 0
        deadline = time.monotonic() + 60
        while workers._receivers[0].replies.qsize() < 2 * AHEAD:  # a pipe holds none of them
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert [reply[0] for reply in replies] == list(range(1, 9))
    assert not [one for one in threading.enumerate() if "replies" in one.name]


def test_a_reply_that_cannot_be_read_is_an_error_and_holds_nothing_up():
    with Workers(unreadable, 1) as workers, pytest.raises(KeyError, match="no image 7"):
        list(workers.map([1, 2]))


def test_a_closed_stream_takes_its_workers_along(recipe):
    images = torch.zeros(9, 1, 8, 8, dtype=torch.uint8)
    info = DatasetInfo("drawn", "train", 9, (1, 8, 8), 256, 0, (), "", "")
    source = StreamingSource(info, images.__getitem__, num_workers=2)
    with contextlib.closing(train_batches(source, batch_size=2, seed=0)) as batches:
        next(batches)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()
    with opened(source, in_order(9, 1)) as stream:
        next(stream)
    assert not multiprocessing.active_children()


def test_without_files_for_workers_images_are_decoded_in_the_run(monkeypatch):
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(multiprocessing, "Pipe", none_left)
    with pytest.warns(UserWarning, match=r"Too many open files.*ulimit -n"):
        workers = Workers(doubled, 2)
    assert list(workers.map([1, 2])) == [2, 4]


def test_workers_need_no_shared_memory(monkeypatch):
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no /dev/shm")

    monkeypatch.setattr("_multiprocessing.SemLock", none)
    with Workers(doubled, 2) as workers:
        assert list(workers.map([1, 2, 3])) == [2, 4, 6]
