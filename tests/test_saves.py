"""Saves behind the back of a run: what is written, when it is waited for, how it fails."""

import itertools
import json
import re
import threading
import time
from pathlib import Path

import pytest
import torch
from test_train_command import assert_same_bits, final, train

from score_sde import checkpoints
from score_sde.checkpoints.behind import HostCopy, Saves
from score_sde.commands import progress
from score_sde.commands.progress import PARTS, Clock

ENDLESS = float("inf")


class Disk:
    """Takes what is written, once it is let; fails where it is full."""

    def __init__(self) -> None:
        self.free, self.taken, self.error = threading.Event(), [], None

    def write(self, content: dict) -> None:
        assert self.free.wait(30)
        if self.error:
            raise self.error
        self.taken.append({name: value.tolist() for name, value in content.items()})


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_a_save_returns_before_it_is_written_and_later_updates_do_not_reach_it(disk):
    weights = torch.arange(3.0)
    with Saves(lambda: ENDLESS) as saves:
        saves.save("checkpoint", {"w": weights}, disk.write)
        weights.zero_()
        assert not disk.taken
        disk.free.set()
        saves.wait()
        assert disk.taken == [{"w": [0.0, 1.0, 2.0]}]


def test_the_next_save_waits_for_the_one_before_and_another_kind_does_not(disk):
    weights = torch.zeros(1)
    later = threading.Timer(0.2, disk.free.set)
    with Saves(lambda: ENDLESS) as saves:
        saves.save("averages", {"w": weights}, disk.write)
        saves.save("checkpoint", {"w": weights + 1}, disk.write)
        assert not disk.taken
        later.start()
        saves.save("checkpoint", {"w": weights + 2}, disk.write)
        assert disk.taken[:2] == [{"w": [0.0]}, {"w": [1.0]}]
    assert disk.taken[2:] == [{"w": [2.0]}]


def test_a_copy_takes_its_memory_once():
    copy, state = HostCopy(), {"a": [torch.ones(2, 3), 5], "b": (torch.zeros(4).double(),)}
    assert copy.missing_bytes(state) == 4 * 6 + 8 * 4
    first = copy.of(state)
    assert copy.missing_bytes(state) == 0
    state["a"][0].add_(1)
    second = copy.of(state)
    assert second["a"][0].data_ptr() == first["a"][0].data_ptr() != state["a"][0].data_ptr()
    assert torch.equal(second["a"][0], state["a"][0])
    assert torch.equal(second["b"][0], state["b"][0])
    assert second["a"][1] == 5
    assert copy.missing_bytes({"a": [torch.ones(3, 2)]}) == 4 * 6


def test_names_with_dots_have_copies_of_their_own():
    state = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, 0: torch.full((1,), 2.0)}
    state |= {"0": torch.full((1,), 3.0)}
    copied = HostCopy().of(state)
    found = [copied["a.b"], copied["a"]["b"], copied[0], copied["0"]]
    assert torch.cat(found).tolist() == [0, 1, 2, 3]


def test_without_memory_for_a_copy_the_run_waits_for_the_file(disk):
    disk.free.set()
    with Saves(lambda: 23.0) as saves:  # of which the copy would take 12
        saves.save("checkpoint", {"w": torch.ones(3)}, disk.write)
        assert disk.taken == [{"w": [1.0, 1.0, 1.0]}]
        disk.error = OSError("full")
        with pytest.raises(OSError, match="full"):
            saves.save("checkpoint", {"w": torch.ones(3)}, disk.write)
    disk.error, disk.taken = None, []
    disk.free.clear()
    with Saves(lambda: 24.0) as saves:
        saves.save("checkpoint", {"w": torch.ones(3)}, disk.write)
        assert not disk.taken
        disk.free.set()


@pytest.mark.parametrize("ask", ["check", "wait", "save", "end"])
def test_what_fails_in_the_thread_is_raised_by_the_next_call(ask, disk):
    disk.error = OSError("full")
    content = {"w": torch.ones(1)}
    saves = Saves(lambda: ENDLESS)
    saves.save("checkpoint", content, disk.write)
    saves.save("averages", content, disk.write)  # comes after, and is not written
    disk.free.set()
    while not saves._under_way["averages"].done():
        time.sleep(0.01)
    calls = {
        "check": saves.check,
        "wait": saves.wait,
        "save": lambda: saves.save("checkpoint", content, disk.write),
        "end": lambda: saves.__exit__(None),
    }
    with pytest.raises(OSError, match="full"):
        calls[ask]()
    saves.__exit__(None)
    assert not disk.taken


def test_after_an_error_was_told_saves_are_made_again(disk):
    disk.free.set()
    with Saves(lambda: ENDLESS) as saves:
        disk.error = OSError("full")
        saves.save("checkpoint", {"w": torch.ones(1)}, disk.write)
        with pytest.raises(OSError, match="full"):
            saves.wait()
        disk.error = None
        saves.save("checkpoint", {"w": torch.ones(1)}, disk.write)
    assert disk.taken == [{"w": [1.0]}]


def test_an_error_of_the_run_goes_before_that_of_a_save(disk):
    disk.free.set()
    disk.error = OSError("full")

    def fail(saves: Saves) -> None:
        saves.save("checkpoint", {"w": torch.ones(1)}, disk.write)
        raise KeyError("first")

    with pytest.raises(KeyError, match="first"), Saves(lambda: ENDLESS) as saves:
        fail(saves)


def test_what_a_file_cannot_hold_is_refused_by_its_path_from_the_thread(tmp_path):
    state = {key: {} for key in checkpoints.KEYS} | {"step": 1, "config": "{}", "versions": ""}
    state["network"] = {"w": object()}
    refused = pytest.raises(TypeError, match=r"network\.w is a builtins\.object")
    with refused, Saves(lambda: ENDLESS) as saves:
        saves.save("checkpoint", state, lambda content: checkpoints.save(tmp_path, content))


# Within a run

EVERY_STEP = "--config.training.snapshot_freq_for_preemption=1"
NO_DRAWING = "--config.training.snapshot_sampling=False"


def test_files_of_a_slow_disk_hold_their_own_step(tmp_path, monkeypatch):
    words = (EVERY_STEP, NO_DRAWING, "--config.training.keep_checkpoints=9")
    assert train(tmp_path / "quick", 4, *words) == 0
    write, threads = checkpoints.files._write, set()

    def slow(path: Path, content: object) -> None:
        threads.add(threading.current_thread())
        time.sleep(0.1)  # in which the run makes its next step
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.files, "_write", slow)
        assert train(tmp_path / "slow", 4, *words) == 0
    assert threading.main_thread() not in threads
    for step in range(1, 5):
        one, other = final(tmp_path / "quick", step), final(tmp_path / "slow", step)
        for entry in ("step", "network", "ema", "optimizer", "rng", "data"):
            assert_same_bits(one[entry], other[entry])


def test_a_disk_that_fills_up_during_a_run_ends_it_in_the_same_sentence(
    tmp_path, capsys, monkeypatch
):
    write, calls = checkpoints.files._write, itertools.count(1)

    def full(path: Path, content: object) -> None:
        if next(calls) > 2:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpoints.files, "_write", full)
    assert train(tmp_path, 50, EVERY_STEP, NO_DRAWING) == 1
    said = capsys.readouterr().err
    assert "cannot save" in said
    assert "No space left on device" in said
    assert "free some space or choose another work directory" in said
    assert checkpoints.steps(tmp_path / "checkpoints") == [1, 2]


# Where the time goes


def test_the_parts_of_the_time_are_those_that_were_spent(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    clock = Clock(8)
    for name, seconds in zip(PARTS, (1.0, 5.0, 1.5, 2.5), strict=True):
        with clock.part(name):
            now[0] += seconds
    assert clock.shares() == {"data": 0.1, "step": 0.5, "logging": 0.15, "saving": 0.25}
    with clock.part("step"):
        now[0] += 10
    assert clock.shares() == {"data": 0.0, "step": 1.0, "logging": 0.0, "saving": 0.0}
    assert clock.summary() == "data 5 %, step 75 %, logging 7.5 %, saving 12.5 %"


def test_a_run_logs_where_its_time_goes(tmp_path):
    assert train(tmp_path, 10, NO_DRAWING) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    shares = [[line[f"time/{name}"] for name in PARTS] for line in lines if "loss" in line]
    assert len(shares) == 2
    for each in shares:
        assert sum(each) == pytest.approx(1)
        assert min(each) >= 0
        assert each[PARTS.index("step")] > each[PARTS.index("data")]
    done = (tmp_path / "log.txt").read_text().splitlines()[-1]
    assert re.search(r"of training \(data .* %, step .* %, logging .* %, saving .* %\); see", done)
