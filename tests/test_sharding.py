"""Networks divided among processes: the run of those that are not, however it is resumed."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator

import pytest
import torch
from forked import Processes
from test_compiled import small
from test_train_processes import MORE, Runs, assert_same_run, interrupted

from score_sde import checkpoints
from score_sde.commands.weights import convert
from score_sde.config import parts
from score_sde.config.build import empty_network, fresh_network
from score_sde.config.check import check_config
from score_sde.networks.half_unet import HalfUNet
from score_sde.networks.mlp import MLP

pytestmark = pytest.mark.processes

DIVIDED = "--config.training.sharding=full"
SHARDS = "--config.training.checkpoint_format=shards"
AGAIN = "--config.training.activation_checkpointing=True"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[Runs]:
    with contextlib.closing(Processes()) as processes:
        yield Runs(processes, tmp_path_factory.mktemp("sharding"))


def whole(runs: Runs) -> str:
    """The name of a run by two processes that each have all of the weights; it is made once."""
    if not (runs.folder / "whole").exists():
        runs.make("whole", 2, *MORE, AGAIN)
    return "whole"


def test_weights_divided_among_two_make_the_run_of_whole_ones(runs):
    """With clipping, accumulation, blocks computed again and averages of several lengths."""
    runs.make("divided", 2, *MORE, AGAIN, DIVIDED)
    assert_same_run(runs.state(whole(runs)), runs.state("divided"))
    for here, there in zip(runs.metrics("whole"), runs.metrics("divided"), strict=True):
        assert here.keys() == there.keys()
        for key in ("loss", "grad_norm", "held_out_loss"):
            assert here.get(key, 0) == pytest.approx(there.get(key, 0), rel=1e-5), key
    snapshots = [runs.folder / name / "averages/step_00000020.pt" for name in ("whole", "divided")]
    one, other = (torch.load(path)["averages"]["0.1"] for path in snapshots)
    assert all((one[k].double() - other[k].double()).abs().max() <= 1e-5 for k in one)
    assert "(of each process: training.sharding)" in runs.said("divided")


def test_a_run_goes_on_whole_divided_alone_and_from_shards(runs):
    for size, steps, words in (
        (2, 4, ()),
        (2, 8, (DIVIDED, AGAIN)),
        (1, 12, (DIVIDED, SHARDS)),
        (3, 16, (DIVIDED, SHARDS)),
        (2, 20, (DIVIDED,)),
    ):
        runs.make("chain", size, *MORE, f"--config.training.n_iters={steps}", *words)
    assert_same_run(runs.state(whole(runs)), runs.state("chain"))
    folder = runs.folder / "chain/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "step_00000012.dcp",
        "step_00000016.dcp",
        "step_00000020.pt",
    ]


@pytest.mark.slow
def test_a_classifier_divided_among_two_is_that_of_one(runs):
    words = (
        "--mode=train_classifier",
        "--config.classifier.nf=8",
        "--config.classifier.dropout=0.0",
    )
    runs.make("classes1", 1, *words)
    runs.make("classes2", 2, *words, DIVIDED)
    assert_same_run(runs.state("classes1/classifier"), runs.state("classes2/classifier"))


@pytest.mark.parametrize(
    "words",
    [
        (DIVIDED, SHARDS),
        pytest.param((DIVIDED,), marks=pytest.mark.slow),
        pytest.param((SHARDS,), marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_all_after_the_same_step_which_is_saved(runs, words):
    name = f"signal{len(words)}{words[0] == SHARDS}"
    ends = interrupted(runs, name, 2, lambda started: os.kill(started[1], signal.SIGTERM), *words)
    assert ends == [143] * 2, runs.said(name)
    step = max(checkpoints.steps(runs.folder / name / "checkpoints"))
    assert f"stopped by SIGTERM; step {step} is saved" in runs.said(name)
    path = checkpoints.path_of(runs.folder / name / "checkpoints", step)
    assert path.suffix == (".dcp" if SHARDS in words else ".pt")
    assert checkpoints.load(path)["step"] == step


def test_a_process_that_dies_ends_a_divided_run_in_a_sentence(runs):
    killed = []

    def kill(started: list[int]) -> None:
        killed.append(time.monotonic())
        os.kill(started[1], signal.SIGKILL)

    assert interrupted(runs, "dead", 2, kill, DIVIDED) == [1, -9], runs.said("dead")
    assert time.monotonic() - killed[0] < 60
    said = runs.said("dead")
    assert said.count("a process of this run has ended") == 1, said
    assert "Traceback" not in said
    step = max(checkpoints.steps(runs.folder / "dead/checkpoints"))
    runs.make("dead", 2, DIVIDED, f"--config.training.n_iters={step + 1}")


# ---- Without processes ----


def test_a_divided_network_is_not_compiled():
    config = small(parts.VE, parts.NCSNPP, **{"training.compile": "on"})
    check_config(config)
    config.training.sharding = "full"
    with pytest.raises(ValueError, match=re.escape("training.compile='on': a network that is")):
        check_config(config)


def test_memory_is_asked_for_each_process_where_weights_are_divided(monkeypatch):
    config = small(parts.VE, parts.NCSNPP)
    weights = sum(p.numel() for p in empty_network(config).parameters())
    monkeypatch.setattr("score_sde.config.check.memory_of", lambda device: 4 * 5 * weights / 2)
    with pytest.raises(ValueError, match=re.escape("set config.training.sharding='full'")):
        check_config(config, copies=5, processes=2)
    config.training.sharding = "full"
    check_config(config, copies=5, processes=2)
    with pytest.raises(ValueError, match="take a smaller network"):
        check_config(config, copies=5)


PIECES = {
    "pyramids of residuals": (
        "ncsnpp",
        {"progressive": "residual", "progressive_input": "residual"},
    ),
    "skips": ("ncsnpp", {"progressive": "output_skip", "progressive_input": "input_skip"}),
    "ddpm": ("ddpm", {"nf": 32}),
    "ncsn": ("ncsn", {"nonlinearity": "elu"}),
}


@pytest.mark.parametrize("name", [*PIECES, "half_unet", "mlp"])
def test_pieces_are_called_as_modules_one_after_the_other(name):
    """What is divided is put together when its forward is called, and is dropped after it."""
    x = torch.rand(2, 3, 8, 8)
    if name == "half_unet":
        network = HalfUNet(
            image_size=(8, 8),
            num_channels=3,
            num_classes=3,
            nf=4,
            ch_mult=(1, 2),
            num_res_blocks=1,
        )
    elif name == "mlp":
        network = MLP(num_features=x[0].numel(), width=8)
    else:
        kind, fields = PIECES[name]
        of_model = {f"model.{leaf}": value for leaf, value in fields.items()}
        network = fresh_network(small(parts.VE, parts.NCSNPP, **of_model | {"model.name": kind}))
    called, pieces = [], network.pieces()
    for number, piece in enumerate(pieces):
        piece.register_forward_pre_hook(lambda *_, number=number: called.append(number))
    network(x, torch.ones(2))
    assert called == list(range(len(pieces)))
    names = {id(p) for piece in pieces for p in piece.parameters()}
    assert len(names) == sum(len(list(piece.parameters())) for piece in pieces)


def state_of(step: int = 1) -> dict:
    weights = {"a.weight": torch.rand(5, 3), "a.bias": torch.rand(3), "table": torch.arange(4)}
    moments = {"step": torch.tensor(7.0), "exp_avg": torch.rand(5, 3)}
    return {
        "step": step,
        "network": weights,
        "ema": {
            "decay": 0.5,
            "num_updates": None,
            "shadow": {k: v + 1 for k, v in weights.items()},
        },
        "optimizer": {"a.weight": moments, "a.bias": {}},
        "averages": {"0.1": {"num_updates": 3, "shadow": dict(weights)}},
        "rng": checkpoints.rng_state(),
        "data": {"images_seen": 3},
        "config": "{}",
        "versions": "text",
    }


def assert_equal(one: object, other: object) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
    elif isinstance(one, dict):
        assert {*one} == {*other}
        for key in one:
            assert_equal(one[key], other[key])
    else:
        assert one == other


def test_a_folder_of_shards_holds_what_a_file_does(tmp_path):
    state = state_of()
    path = checkpoints.save_shards(tmp_path, state)
    assert path.name == "step_00000001.dcp"
    assert checkpoints.steps(tmp_path) == [1]
    assert_equal(checkpoints.load(path), state)
    assert {one.name for one in path.iterdir()} == {".metadata", "__0_0.distcp", "rest.pt"}
    # Another one under the same name takes its place, and a file that of a folder.
    changed = {**state, "network": {k: v + 1 for k, v in state["network"].items()}}
    assert_equal(checkpoints.load(checkpoints.save_shards(tmp_path, changed)), changed)
    assert checkpoints.save(tmp_path, state).name == "step_00000001.pt"
    assert [one.name for one in tmp_path.iterdir()] == ["step_00000001.pt"]
    checkpoints.save_shards(tmp_path, state)
    assert [one.name for one in tmp_path.iterdir()] == ["step_00000001.dcp"]


def test_folders_and_files_are_kept_by_one_rule(tmp_path):
    for step in (10, 20, 30, 40, 50):
        save = checkpoints.save_shards if step in (10, 20, 40) else checkpoints.save
        save(tmp_path, state_of(step), keep=2, milestone_every=20)
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "step_00000020.dcp",
        "step_00000040.dcp",
        "step_00000050.pt",
    ]


def test_a_folder_whose_save_was_cut_off_is_not_there(tmp_path, monkeypatch):
    checkpoints.save_shards(tmp_path, state_of(1))
    monkeypatch.setattr("score_sde.checkpoints.sharded._rename", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoints.save_shards(tmp_path, state_of(2))
    assert [one.name for one in tmp_path.iterdir()] == ["step_00000001.dcp"]


def test_damaged_shards_are_passed_over(tmp_path):
    checkpoints.save(tmp_path, state_of(1))
    shards = checkpoints.save_shards(tmp_path, state_of(2)) / "__0_0.distcp"
    content = bytearray(shards.read_bytes())
    content[len(content) // 2] ^= 1
    shards.write_bytes(content)
    said = []
    path, state = checkpoints.newest(tmp_path, said.append)
    assert (path.name, state["step"]) == ("step_00000001.pt", 1)
    assert "__0_0.distcp has another checksum than when written" in said[0]
    (shards.parent / "rest.pt").unlink()
    with pytest.raises(checkpoints.CheckpointError, match=re.escape("it lacks rest.pt")):
        checkpoints.load(shards.parent)
    assert checkpoints.newest(tmp_path, said.append)[0].name == "step_00000001.pt"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rest, one: one["chunks"][0].update(file="../other"), "does not lie beside it"),
        (lambda rest, one: rest["files"].update({"/etc/passwd": "0"}), "does not lie beside it"),
        (lambda rest, one: one.update(shape=[10**9, 10**9]), "does not say where all"),
        (lambda rest, one: one.update(dtype="load"), "of another kind"),
        (lambda rest, one: one["chunks"][0].update(begin=1), "distcp does not begin as files"),
        (lambda rest, one: rest.pop("tensors"), "of another kind"),
    ],
)
def test_shards_that_somebody_changed_are_refused_in_a_sentence(tmp_path, change, words):
    path = checkpoints.save_shards(tmp_path, state_of())
    rest = torch.load(path / "rest.pt")
    change(rest, rest["tensors"]['["network", "a.weight"]'])
    torch.save(rest, path / "rest.pt")
    with pytest.raises(checkpoints.CheckpointError, match=words):
        checkpoints.load(path)


def test_convert_makes_the_one_file_of_a_folder(tmp_path):
    state = state_of(3)
    path = checkpoints.save_shards(tmp_path, state)
    assert "one file of the same" in convert(path, tmp_path / "one.pt", None)
    assert_equal(checkpoints.load(tmp_path / "one.pt"), state)
