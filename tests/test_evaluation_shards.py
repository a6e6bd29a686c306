"""Results by sample: resumed, shared between processes, and computed again where damaged."""

import itertools
import math

import numpy as np
import pytest
import torch
from spoilt import SPOILT, spoil

from score_sde.evaluation.shards import Shards, shard_size
from score_sde.logbook import Logbook
from score_sde.parallel import World


def squares(index):
    return {"square": index**2}


def shards(tmp_path, rank=0, size=1, **facts):
    log = Logbook(tmp_path / "log", tensorboard=False, quiet=True)
    return Shards(tmp_path / "shards", facts, World(rank, size), log)


def results(kept, index, batch=4, compute=squares, names=("square",), **more):
    """Results by sample that are whole numbers."""
    return kept.results("x", index, batch, compute, dict.fromkeys(names, np.int64), **more)


def test_shards_hold_every_sample_once_and_in_order(tmp_path):
    given = results(shards(tmp_path), torch.arange(10))
    assert given["square"].tolist() == [k**2 for k in range(10)]
    assert len(list(tmp_path.rglob("*.npz"))) == 3


def test_of_results_with_one_shard_each_processes_take_turns(tmp_path):
    computed = {0: [], 1: []}
    for rank, turn in itertools.product(computed, range(5)):

        def noted(index, rank=rank, turn=turn):
            computed[rank].append(turn)
            return squares(index)

        kept = shards(tmp_path, rank, 2)
        kept.fill(f"x{turn}", torch.arange(4), 4, noted, {"square": np.int64}, turn=turn)
    assert computed == {0: [0, 2, 4], 1: [1, 3]}


def test_only_what_is_missing_is_computed(tmp_path):
    seen = []

    def failing(index):
        if index[0] == 4:
            raise KeyboardInterrupt
        seen.extend(index.tolist())
        return squares(index)

    with pytest.raises(KeyboardInterrupt):
        results(shards(tmp_path), torch.arange(10), compute=failing)
    assert seen == [0, 1, 2, 3]
    again = []
    given = results(
        shards(tmp_path),
        torch.arange(10),
        compute=lambda index: again.extend(index.tolist()) or squares(index),
    )
    assert again == [4, 5, 6, 7, 8, 9]
    assert given["square"].tolist() == [k**2 for k in range(10)]


def test_nothing_stale_is_mixed_in(tmp_path):
    four = torch.arange(4)

    def square(compute, index=four, batch=2, weights="a", **facts):
        kept = shards(tmp_path, weights=weights)
        return results(kept, index, batch, compute, **facts)["square"].tolist()

    square(squares)
    assert square(lambda i: {"square": -i}, weights="b") == [0, -1, -2, -3]
    assert square(lambda i: {"square": i}, eps=1) == [0, 1, 2, 3]
    assert square(lambda i: {"square": i + 1}, batch=4) == [1, 2, 3, 4]
    assert square(lambda i: {"square": 2 * i}, index=four.flip(0)) == [6, 4, 2, 0]


def test_more_samples_take_what_fewer_left_and_take_nothing_away(tmp_path):
    few = results(shards(tmp_path), torch.arange(10))
    seen = []
    more = results(
        shards(tmp_path),
        torch.arange(12),
        compute=lambda index: seen.extend(index.tolist()) or squares(index),
    )
    assert seen == [8, 9, 10, 11]
    assert len(more["square"]) == 12
    again = results(shards(tmp_path), torch.arange(10), compute=None)
    assert np.array_equal(again["square"], few["square"])
    assert again["sec"] == few["sec"]


def test_a_shard_that_lacks_an_array_is_computed_again(tmp_path):
    def both(index):
        return {"square": index**2, "cube": index**3}

    ten = torch.arange(10)
    results(shards(tmp_path), ten)
    more = results(shards(tmp_path), ten, compute=both, names=("square", "cube"))
    assert more["cube"].tolist() == [k**3 for k in range(10)]
    # One with an array that is not asked for counts, also beside others that lack it.
    min(tmp_path.rglob("*.npz")).unlink()
    fewer = results(shards(tmp_path), ten)
    assert fewer["square"].tolist() == more["square"].tolist()
    assert "cube" not in fewer


def test_shards_may_have_fewer_rows_of_what_is_only_shown(tmp_path):
    def shown(index):
        return {"square": index**2, "image": index[index < 5, None].expand(-1, 3)}

    types = {"square": np.int64, "image": (np.int64, (3,))}
    for made in (shown, None):  # computed, and read
        given = shards(tmp_path).results(
            "shown", torch.arange(10), 4, made, types, first={"image": 5}
        )
        assert given["image"][:, 0].tolist() == [0, 1, 2, 3, 4]
        assert len(given["square"]) == 10


def halves(index):
    return {"square": index**2, "half": index / 2}


HALVES = {"square": np.int64, "half": np.float32}


def test_a_damaged_shard_is_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)  # the damage is here, not on a disk

    def given():
        return shards(tmp_path).results("x", torch.arange(4), 4, halves, HALVES)

    first = given()
    (path,) = tmp_path.rglob("*.npz")
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        flipped = whole[at] ^ (1 if at % 2 else 64)
        path.write_bytes(whole[:at] + bytes([flipped]) + whole[at + 1 :])
        again = given()
        for name in HALVES:
            assert np.array_equal(again[name], first[name])


@pytest.mark.parametrize("kind", SPOILT)
def test_a_shard_that_is_none_is_computed_again_with_a_word(tmp_path, kind):
    eight = torch.arange(8)
    first = shards(tmp_path).results("x", eight, 4, halves, HALVES)
    path = min(tmp_path.rglob("*.npz"))
    spoil(path, kind)
    seen = []

    def compute(index):
        seen.extend(index.tolist())
        return halves(index)

    again = shards(tmp_path).results("x", eight, 4, compute, HALVES)
    assert seen == [0, 1, 2, 3]
    for name in HALVES:
        assert np.array_equal(again[name], first[name])
        assert again[name].dtype == first[name].dtype
    log = (tmp_path / "log" / "log.txt").read_text()
    assert log.count("computed again: 1 of 2 shards") == 1
    assert path.name in log
    shards(tmp_path).results("x", eight, 4, None, HALVES)  # what was written counts


def test_numbers_of_samples_that_were_given_up_need_not_be_finite(tmp_path):
    def compute(index):
        return {"bits": torch.where(index == 2, math.nan, index / 2), "status": (index == 2) * 1}

    types = {"bits": np.float32, "status": np.int64}
    for made in (compute, None):
        given = shards(tmp_path).results("x", torch.arange(4), 4, made, types)
        assert np.isnan(given["bits"]).tolist() == [False, False, True, False]


def test_processes_compute_their_own_share(tmp_path):
    seen = {0: [], 1: []}

    def noted(rank):
        return lambda index: seen[rank].extend(index.tolist()) or squares(index)

    ten = torch.arange(10)
    with pytest.raises(OSError, match="lacks shards"):  # without a barrier the first is too soon
        results(shards(tmp_path, rank=1, size=2), ten, 2, noted(1))
    given = results(shards(tmp_path, rank=0, size=2), ten, 2, noted(0))
    assert seen == {0: [0, 1, 4, 5, 8, 9], 1: [2, 3, 6, 7]}
    assert given["square"].tolist() == [k**2 for k in range(10)]


def test_shards_are_whole_batches_and_enough_to_share():
    assert shard_size(300, 50) == 50
    assert shard_size(10_000, 128) == 3 * 128
    assert shard_size(50_000, 64) == 4 * 64
    assert shard_size(5, 5) == 5


def test_results_of_one_shard_each_are_shared_by_turns(tmp_path):
    seen = {0: [], 1: []}
    for rank in (0, 1):
        kept = shards(tmp_path, rank=rank, size=2)
        for turn in range(4):
            kept.fill(
                "x",
                torch.arange(3),
                4,
                lambda i, rank=rank, turn=turn: seen[rank].append(turn) or squares(i),
                {"square": np.int64},
                turn=turn,
                row=turn,
            )
    assert seen == {0: [0, 2], 1: [1, 3]}
    given = results(shards(tmp_path), torch.arange(3), compute=None, row=1)
    assert given["square"].tolist() == [0, 1, 4]
