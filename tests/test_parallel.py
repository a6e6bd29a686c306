"""One process needs nothing; two of them, joined through gloo, agree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import free_port

from score_sde import parallel

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
