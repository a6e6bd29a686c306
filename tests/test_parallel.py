"""One process needs nothing; two of them, joined through gloo, agree."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forked import free_port

from configs.vp import digits
from score_sde import parallel
from score_sde.config.build import build_device
from score_sde.data import sources
from score_sde.parallel import watch

PROGRAM = """
import json, sys, time, torch
from pathlib import Path
from score_sde import parallel
world = parallel.init()
parallel.barrier()
shard = list(parallel.shard(5, world.rank, world.size))
with parallel.main_first(world):
    time.sleep(0.2 * (1 - world.rank))  # the other one would be faster
    made = Path(sys.argv[1]).with_name("made")
    found, _ = made.exists(), made.touch()
gathered = parallel.gather_objects({"rank": world.rank, "shard": shard})
place = [world.rank, world.size, world.device_index, world.is_main]
result = [*place, gathered, found]
open(sys.argv[1], "w").write(json.dumps(result))
parallel.leave()
assert not torch.distributed.is_initialized()
"""


def test_a_single_process_needs_no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    world = parallel.init()
    assert (world.rank, world.size, world.device_index, world.is_main) == (0, 1, 0, True)
    assert not torch.distributed.is_initialized()
    assert parallel.gather_objects("a") == ["a"]
    parallel.barrier()
    parallel.leave()


def test_one_process_under_torchrun_makes_no_group(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert parallel.init() == parallel.World()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    "given", [{"RANK": "1"}, {"RANK": "0", "WORLD_SIZE": "two", "LOCAL_RANK": "0"}]
)
def test_half_an_environment_is_refused(monkeypatch, given):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="torchrun"):
        parallel.init()


@pytest.mark.parametrize("given", ["2 2 0", "-1 2 0", "0 0 0", "0 2 -1", "0 10000000000 0"])
def test_processes_that_there_cannot_be_are_refused(monkeypatch, given):
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), given.split(), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="the rank from 0 to below the size: start several"):
        parallel.init()


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
def test_processes_without_a_meeting_place_are_refused(monkeypatch, missing):
    given = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    given |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(ValueError, match=rf"{missing} expected.*: start them with torchrun"):
        parallel.init()


def test_shards_cover_everything_once_and_evenly():
    for n in (0, 1, 2, 7, 16, 100):
        for size in (1, 2, 3, 8):
            shards = [parallel.shard(n, rank, size) for rank in range(size)]
            assert [i for part in shards for i in part] == list(range(n))
            lengths = [len(part) for part in shards]
            assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("n", "rank", "size"), [(-1, 0, 1), (4, 2, 2), (4, -1, 2), (4, 0, 0)])
def test_impossible_shards_are_refused(n, rank, size):
    with pytest.raises(ValueError, match="shard"):
        parallel.shard(n, rank, size)


def test_two_processes_agree(tmp_path):
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    # No GPU: two processes may have to share one, which NCCL refuses.
    common |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    common |= {"PYTHONPATH": str(Path(parallel.__file__).parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / f"{rank}.json")],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    gathered = [{"rank": 0, "shard": [0, 1, 2]}, {"rank": 1, "shard": [3, 4]}]
    for rank in range(2):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert result == [rank, 2, rank, rank == 0, gathered, rank == 1]


# ---- What processes tell one another ----


@pytest.fixture
def ended(monkeypatch):
    """What a watch would end its process with; its times are short."""
    times = {"BEAT_SEC": 0.05, "GRACE_SEC": 0.1, "TELLING_SEC": 0.2, "ANSWER_SEC": 0.5}
    for name, seconds in times.items():
        monkeypatch.setattr(watch, name, seconds)
    codes = queue.SimpleQueue()
    monkeypatch.setattr(watch.os, "_exit", codes.put)
    return codes


def test_a_store_that_does_not_answer_ends_the_run(ended, monkeypatch, capsys):
    """As that of a machine that went off the network: the call itself never comes back."""
    silent = SimpleNamespace(set=lambda *given: threading.Event().wait())
    silent.clone = lambda: silent
    monkeypatch.setattr(watch, "of_this_start", lambda store, name: store)
    found = watch.Watch(silent, 1, 2)
    assert ended.get(timeout=20) == 1
    said = capsys.readouterr().err
    assert said.startswith("the process through which all others meet has ended, or its machine")
    assert said.count("\n") == 1
    began = time.monotonic()
    assert found.fail("told by another") is True  # nothing is asked of the store any more
    found.end()
    assert time.monotonic() - began < watch.ANSWER_SEC


def test_a_process_that_dies_before_its_first_beat_is_missed(ended, monkeypatch, capsys):
    monkeypatch.setattr(watch, "COMING_SEC", 0.3)
    watch.Watch(torch.distributed.HashStore(), 0, 2)
    assert ended.get(timeout=20) == 1
    assert "process 1 of 2 has not come" in capsys.readouterr().err


def test_the_signal_of_one_run_does_not_end_the_next(ended):
    store = torch.distributed.HashStore()
    both = [watch.Watch(store, rank, 2) for rank in range(2)]

    def asked(signals):
        given = [SimpleNamespace(signal=number) for number in signals]
        for found, one in zip(both, given, strict=True):
            found.attend(one)
        deadline = time.monotonic() + 10
        while any(signals) and given[1].signal is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        return [one.signal for one in given]

    assert asked([15, None]) == [15, 15]
    assert asked([None, None]) == [None, None]
    for found in both:
        found.end()
    assert ended.empty()


# ---- What the processes of one machine share ----


def test_processes_of_one_machine_share_its_cores_and_memory(monkeypatch):
    monkeypatch.setattr(sources.os, "sched_getaffinity", lambda pid: range(16), raising=False)
    monkeypatch.setattr(sources, "free_bytes", lambda: 16 * 2**30)
    expected = {"": (8, 4), "1": (8, 4), "4": (4, 2), "8": (2, 1), "32": (1, 0.25)}
    for size, (workers, limit) in expected.items():
        monkeypatch.setenv("LOCAL_WORLD_SIZE", size)
        assert sources.default_workers() == workers
        assert sources.memory_limit() == limit * 2**30


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = digits.get_config()
    for rank, size, device in (("1", "4", "auto"), ("3", "1", "cuda"), ("3", "4", "cuda:1")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", size)
        config.device = device
        assert build_device(config).type == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "2")
    for config.device in ("auto", "cuda"):
        with pytest.raises(ValueError, match=r"process 2 of .* no GPU of its own, as there are 2"):
            build_device(config)
    config.device = "cpu"
    assert build_device(config).type == "cpu"


def test_processes_can_meet_for_as_long_as_the_first_one_watches():
    place = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = place.port
    first = watch.Watch(place, 0, 1)
    del place  # as whoever began it has gone on
    few = timedelta(seconds=5)
    later = torch.distributed.TCPStore("127.0.0.1", port, is_master=False, timeout=few)
    later.set("late", "yes")
    assert later.get("late") == b"yes"
    first.end()
