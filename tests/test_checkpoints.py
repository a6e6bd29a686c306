"""A checkpoint is whole or not there, holds exactly what was put in, and runs no code."""

import errno
import hashlib
import os
import pickle
import zipfile
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from score_sde import checkpoints
from score_sde.checkpoints import CheckpointError


def state_of(step: int = 1, **entries) -> dict:
    state = {
        "step": step,
        "network": {"weight": torch.arange(6.0).reshape(2, 3)},
        "ema": {},
        "optimizer": {},
        "rng": {},
        "data": {"epoch": 0, "position": step},
        "config": "{}",
        "versions": "torch 0",
    }
    return state | entries


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(path) -> None:
    """Cuts a file in half, as a copy that was broken off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_report(sentence: str) -> None:
    pytest.fail(f"reported {sentence!r}")


# What is in the file


def test_every_kind_of_content_comes_back_bit_for_bit(tmp_path):
    tensors = {
        "float32": torch.tensor([0.1, float("nan"), float("inf"), -0.0]),
        "bfloat16": torch.randn(3, 5).bfloat16(),
        "float64": torch.randn(2, dtype=torch.float64),
        "int64": torch.tensor([2**62, -1]),
        "uint8": torch.arange(4, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    nested = {"a": [1, 2.5, None, True, "text", (1, (2, [3]))], 0: {"lr": 1e-4}, "big": 2**80}
    path = checkpoints.save(tmp_path, state_of(12, network=tensors, optimizer=nested))
    assert path == tmp_path / "step_00000012.pt"
    state = torch.load(path, weights_only=True)
    assert list(state) == list(checkpoints.KEYS)
    assert state["optimizer"] == nested
    for name, tensor in tensors.items():
        got = state["network"][name]
        assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape)
        assert (
            got.contiguous()
            .view(torch.uint8 if got.ndim else got.dtype)
            .equal(tensor.contiguous().view(torch.uint8 if got.ndim else got.dtype))
        )


def test_a_training_state_goes_through_a_file(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            net(torch.randn(8, 3)).square().mean().backward()
            optimizer.step()

    train(3)
    entries = {"network": net.state_dict(), "optimizer": optimizer.state_dict()}
    path = checkpoints.save(tmp_path, state_of(**entries, rng=checkpoints.rng_state()))
    train(2)
    expected = {name: value.clone() for name, value in net.state_dict().items()}
    state = checkpoints.load(path)
    net.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    checkpoints.restore_rng(state["rng"])
    train(2)
    assert all(value.equal(expected[name]) for name, value in net.state_dict().items())


def test_a_view_does_not_drag_its_storage_along(tmp_path):
    whole = torch.arange(1_000_000.0)
    views = {"slice": whole[10:13], "strided": whole[::250_000], "expanded": whole[:1].expand(4)}
    path = checkpoints.save(tmp_path, state_of(network=views, ema={"p": nn.Parameter(whole[:2])}))
    assert path.stat().st_size < 10_000
    state = checkpoints.load(path)
    assert all(state["network"][name].equal(view) for name, view in views.items())
    assert state["ema"]["p"].tolist() == [0.0, 1.0]
    assert not state["ema"]["p"].requires_grad


def test_prefixes_of_wrappers_are_never_saved(tmp_path):
    network = OrderedDict(
        {
            "module._orig_mod.a.weight": torch.zeros(1),
            "_orig_mod.module.b.weight": torch.ones(1),
            "blocks.0._orig_mod.c": torch.ones(2),
            "submodule.d": torch.ones(3),
        }
    )
    ema = {"shadow": {"_orig_mod.a": torch.zeros(1)}}
    state = checkpoints.load(checkpoints.save(tmp_path, state_of(network=network, ema=ema)))
    assert list(state["network"]) == ["a.weight", "b.weight", "blocks.0.c", "submodule.d"]
    assert list(state["ema"]["shadow"]) == ["a"]


def test_two_names_that_become_one_are_refused(tmp_path):
    network = {"a": torch.zeros(1), "module.a": torch.ones(1)}
    with pytest.raises(ValueError, match="network has two entries a"):
        checkpoints.save(tmp_path, state_of(network=network))


class Pair(NamedTuple):
    first: int


@pytest.mark.parametrize(
    ("entries", "culprit"),
    [
        ({"optimizer": {"groups": [{"lr": np.float64(1)}]}}, r"groups\[0\]\.lr is a numpy"),
        ({"data": {"seen": {1, 2}}}, r"data\.seen is a builtins\.set"),
        ({"data": (0, Pair(1))}, r"data\[1\] is a .*Pair"),
        ({"network": {"w": torch.eye(2).to_sparse()}}, r"network\.w is a torch\.Tensor"),
        ({"rng": {"device": torch.device("cpu")}}, r"rng\.device is a torch\.device"),
        ({"ema": {1.5: 0}}, r"ema has the key 1\.5"),
        ({"config": {}}, "dict as config"),
        ({"step": True}, "bool as step"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_back_is_refused_by_its_path(tmp_path, entries, culprit):
    with pytest.raises(TypeError, match=culprit):
        checkpoints.save(tmp_path, state_of() | entries)
    assert not names(tmp_path)


def test_entries_are_exact(tmp_path):
    state = state_of(epoch=3)
    del state["ema"], state["rng"]
    with pytest.raises(ValueError, match=r"missing: ema, rng; left over: epoch"):
        checkpoints.save(tmp_path, state)


# Written wholly or not at all


def fail_halfway(monkeypatch, error: BaseException) -> None:
    def save(state, file):
        file.write(b"half of a checkpoint")
        raise error

    monkeypatch.setattr(torch, "save", save)


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    old = checkpoints.save(tmp_path, state_of(1)).read_bytes()
    with monkeypatch.context() as patch:
        fail_halfway(patch, no_space())
        for step in (1, 2):
            with pytest.raises(
                OSError, match=r"cannot save .* \(No space left on device\)"
            ) as caught:
                checkpoints.save(tmp_path, state_of(step), keep=1)
            assert "\n" not in str(caught.value)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(no_space()))
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(tmp_path, state_of(2), keep=1)
    assert names(tmp_path) == ["step_00000001.pt"]
    assert checkpoints.path_of(tmp_path, 1).read_bytes() == old


def test_a_real_limit_of_the_file_size_is_one_sentence(tmp_path):
    resource = pytest.importorskip("resource")
    checkpoints.save(tmp_path, state_of(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot save .* \(File too large\)"):
            checkpoints.save(tmp_path, state_of(2, network={"w": torch.zeros(100_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step_00000001.pt"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, state_of(1, data={"old": True}))
    with monkeypatch.context() as patch:
        fail_halfway(patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(tmp_path, state_of(1))
    assert names(tmp_path) == ["step_00000001.pt"]
    assert checkpoints.load(checkpoints.path_of(tmp_path, 1))["data"] == {"old": True}


def test_a_fault_of_ours_is_not_called_a_full_disk(tmp_path, monkeypatch):
    fail_halfway(monkeypatch, RuntimeError("a fault"))
    with pytest.raises(RuntimeError, match="a fault"):
        checkpoints.save(tmp_path, state_of())


def test_the_bytes_are_on_disk_before_the_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (events.append("fsync"), fsync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("rename"), replace(a, b)))
    checkpoints.save(tmp_path, state_of())
    assert events[:2] == ["fsync", "rename"]


def test_what_a_killed_save_left_is_cleaned_up(tmp_path):
    before = tmp_path / "step_00000003.pt.123.tmp"  # of an earlier version: on which host?
    before.write_bytes(b"half")
    os.utime(before, (0, 0))
    (tmp_path / "notes.tmp").touch()
    assert checkpoints.steps(tmp_path) == []
    checkpoints.save(tmp_path, state_of(4))
    assert names(tmp_path) == ["notes.tmp", "step_00000004.pt"]


def test_a_folder_that_can_not_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot save .*: free some space or choose another"):
        checkpoints.save(tmp_path / "file" / "checkpoints", state_of())


# Retention


def test_the_newest_and_the_milestones_are_kept(tmp_path):
    for step in range(10, 110, 10):
        checkpoints.save(tmp_path, state_of(step), keep=2, milestone_every=40)
    assert checkpoints.steps(tmp_path) == [40, 80, 90, 100]


def test_steps_beyond_eight_digits_are_in_order(tmp_path):
    for step in (99_999_999, 100_000_000):
        checkpoints.save(tmp_path, state_of(step))
    assert checkpoints.steps(tmp_path) == [99_999_999, 100_000_000]
    assert checkpoints.steps(tmp_path / "missing") == []


def test_the_one_just_written_is_kept_though_older_than_others(tmp_path):
    for step in (5, 6, 7):
        checkpoints.save(tmp_path, state_of(step))
    checkpoints.save(tmp_path, state_of(2), keep=1)
    assert checkpoints.steps(tmp_path) == [2, 7]


def test_damaged_and_foreign_files_are_neither_counted_nor_deleted(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, state_of(step))
    damage(checkpoints.path_of(tmp_path, 3))
    checkpoints.path_of(tmp_path, 0).write_text("a note of somebody else's")
    (tmp_path / "step_1.pt").touch()
    checkpoints.save(tmp_path, state_of(4), keep=2)
    assert checkpoints.steps(tmp_path) == [0, 2, 3, 4]
    assert (tmp_path / "step_1.pt").exists()


@pytest.mark.parametrize("options", [{"keep": 0}, {"milestone_every": -1}])
def test_keeping_nothing_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="at least"):
        checkpoints.save(tmp_path, state_of(), **options)


# Damage


def test_a_damaged_newest_is_reported_and_the_one_before_used(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, state_of(step))
    path, state = checkpoints.newest(tmp_path, no_report)
    assert (path.name, state["step"]) == ("step_00000003.pt", 3)
    damage(path)
    checkpoints.path_of(tmp_path, 4).write_bytes(os.urandom(5000))
    reports = []
    path, state = checkpoints.newest(tmp_path, reports.append)
    assert (path.name, state["step"]) == ("step_00000002.pt", 2)
    assert len(reports) == 2
    for report, name in zip(reports, ("step_00000004.pt", "step_00000003.pt"), strict=True):
        assert report.startswith(
            f"Using step_00000002.pt instead of a newer one: {tmp_path / name}"
        )
        assert "\n" not in report


def test_no_checkpoints_is_none_but_only_damaged_ones_is_an_error(tmp_path):
    assert checkpoints.newest(tmp_path / "missing", no_report) is None
    assert checkpoints.newest(tmp_path, no_report) is None
    for step in (1, 2):
        damage(checkpoints.save(tmp_path, state_of(step)))
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        checkpoints.newest(tmp_path, no_report)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = checkpoints.save(tmp_path, state_of(network={"w": torch.zeros(10_000)}))
    content = bytearray(path.read_bytes())
    content[20_000] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["network"]["w"].any()  # torch itself is content
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoints.load(path)


def test_no_damage_ends_in_another_error_or_in_other_content(tmp_path):
    path = checkpoints.save(tmp_path, state_of(network={"w": torch.arange(50.0)}))
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for position in generator.integers(len(content), size=150):
        broken = bytearray(content)
        broken[position] ^= int(generator.integers(1, 256))
        path.write_bytes(broken)
        try:
            state = checkpoints.load(path)
        except CheckpointError:
            refused += 1
        else:
            assert state["network"]["w"].equal(torch.arange(50.0))
    assert refused > 20


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"\x80\x02}q\x00.", b"garbage" * 999])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        checkpoints.load(tmp_path / "file.pt")


def test_archives_of_other_things_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.pt", "w") as archive:
        archive.writestr("a.txt", "a")
    torch.save({"model": {}, "step": 3}, tmp_path / "foreign.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(state_of(step=1.5), tmp_path / "half.pt")
    for name in ("photos.pt", "foreign.pt", "list.pt", "half.pt"):
        with pytest.raises(CheckpointError, match=name) as caught:
            checkpoints.load(tmp_path / name)
        assert "\n" not in str(caught.value)


class Attack:
    """An object whose unpickling makes a file."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_an_attackers_pickle_is_never_run(tmp_path):
    victim = tmp_path / "victim"
    torch.save(state_of(network={"w": Attack(victim)}), tmp_path / "archive.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Attack(victim)))
    with pytest.raises(CheckpointError, match=r"archive\.pt is refused") as caught:
        checkpoints.load(tmp_path / "archive.pt")
    assert "weights_only" not in str(caught.value)  # torch's advice is how to run it after all
    with pytest.raises(CheckpointError):
        checkpoints.load(tmp_path / "bare.pt")
    assert not victim.exists()
    torch.load(tmp_path / "archive.pt", weights_only=False)
    assert victim.exists()  # so the attack was a real one


def test_a_missing_checkpoint_lists_those_that_exist(tmp_path):
    checkpoints.save(tmp_path, state_of(7))
    with pytest.raises(FileNotFoundError, match=r"step_00000008\.pt.*step_00000007\.pt"):
        checkpoints.load(checkpoints.path_of(tmp_path, 8))


# Random numbers and provenance


def test_random_numbers_go_on_where_they_stopped(tmp_path):
    torch.manual_seed(3)
    torch.randn(5)
    path = checkpoints.save(tmp_path, state_of(rng=checkpoints.rng_state()))
    expected = torch.randn(5)
    torch.manual_seed(4)
    checkpoints.restore_rng(checkpoints.load(path)["rng"])
    assert torch.randn(5).equal(expected)


def test_gpus_that_are_gone_are_left_out():
    state = checkpoints.rng_state()
    present = torch.cuda.device_count()
    checkpoints.restore_rng(state | {"cuda": [*state["cuda"], *[torch.zeros(16)] * (8 - present)]})


def test_the_fingerprint_is_the_files_sha256(tmp_path):
    path = checkpoints.save(tmp_path, state_of())
    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoints.load_with_fingerprint(path)[1] == whole[:16]


# Beside a run that is training


def test_a_checkpoint_that_vanishes_is_passed_over_for_the_next(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, state_of(1))
    load, looks = checkpoints.load, []

    def vanishing(path):
        looks.append(path.name)
        if len(looks) < 4:  # the run saves the next one and deletes this one, three times over
            checkpoints.save(tmp_path, state_of(len(looks) + 1), keep=1)
        return load(path)

    monkeypatch.setattr("score_sde.checkpoints.state.load", vanishing)
    path, content = checkpoints.newest(tmp_path, no_report)
    assert (path.name, content["step"]) == ("step_00000004.pt", 4)
    assert looks == [f"step_0000000{k}.pt" for k in (1, 2, 3, 4)]


def test_a_checkpoint_too_many_is_deleted_and_the_one_in_use_kept(tmp_path):
    for step in (10, 15, 20, 25):
        checkpoints.save(tmp_path, state_of(step), keep=9)
    checkpoints.delete_old(tmp_path, 15, keep=1, milestone_every=20)
    assert checkpoints.steps(tmp_path) == [15, 20, 25]


@pytest.mark.parametrize(
    "rng",
    [
        {},
        {"cpu": None, "cuda": []},
        {"cpu": torch.zeros(8), "cuda": []},
        {"cpu": torch.zeros(8, dtype=torch.uint8), "cuda": []},
        {"cpu": torch.full((5056,), 255, dtype=torch.uint8), "cuda": []},
        {"cpu": torch.get_rng_state(), "cuda": 3},
        {"cpu": torch.get_rng_state(), "cuda": None},
        {"cpu": torch.get_rng_state()},
        [],
        "state",
        3.5,
    ],
    ids=range(11),
)
def test_states_of_generators_that_are_none_are_refused_in_a_sentence(rng):
    before = torch.get_rng_state()
    with pytest.raises(checkpoints.CheckpointError, match="random generators"):
        checkpoints.restore_rng(rng)
    torch.set_rng_state(before)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"step": -1}, "the step of .* is -1: a whole number from 0 up is needed"),
        ({"data": 3}, "has a int as data"),
        ({"data": None}, "has a NoneType as data"),
    ],
)
def test_entries_of_other_types_are_refused_where_they_are_read(tmp_path, entries, message):
    checkpoints.save_as(tmp_path / "step_00000001.pt", state_of() | entries)
    with pytest.raises(checkpoints.CheckpointError, match=message):
        checkpoints.load(tmp_path / "step_00000001.pt")
