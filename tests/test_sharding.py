"""Networks divided among processes: the run of those that are not, however it is resumed."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator

import pytest
import torch
from conftest import vp
from forked import Processes
from test_train_processes import ENDLESS, MORE, Runs, assert_same_run, interrupted

from score_sde import checkpoints
from score_sde.config.check import check_config
from score_sde.networks.half_unet import HalfUNet
from score_sde.networks.mlp import MLP
from score_sde.networks.ncsnv2 import NCSN

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


@pytest.mark.parametrize("words", [(DIVIDED,), (DIVIDED, SHARDS), (SHARDS,)])
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
    began = time.monotonic()
    ends = interrupted(
        runs, "dead", 2, lambda started: os.kill(started[1], signal.SIGKILL), DIVIDED
    )
    assert ends == [1, -9], runs.said("dead")
    assert time.monotonic() - began < 60
    said = runs.said("dead")
    assert said.count("a process of this run has ended") == 1, said
    assert "Traceback" not in said
    step = max(checkpoints.steps(runs.folder / "dead/checkpoints"))
    runs.make("dead", 2, DIVIDED, f"--config.training.n_iters={step + 1}")


# ---- Without processes ----


def test_a_divided_network_is_not_compiled():
    config = vp(**{"training.sharding": "full", "training.compile": "on"})
    with pytest.raises(ValueError, match=re.escape("training.compile='on'")):
        check_config(config)


@pytest.mark.parametrize(
    ("network", "x"),
    [
        (
            HalfUNet(
                image_size=(8, 8),
                num_channels=1,
                num_classes=3,
                nf=4,
                ch_mult=(1, 2),
                num_res_blocks=1,
                attn_resolutions=(4,),
            ),
            torch.rand(2, 1, 8, 8),
        ),
        (MLP(num_features=2, width=8), torch.rand(2, 2)),
        (
            NCSN(image_size=8, num_channels=1, nf=4, num_scales=3, sigma_min=0.1, sigma_max=1.0),
            torch.rand(2, 1, 8, 8),
        ),
    ],
)
def test_pieces_are_called_once_each_as_modules(network, x):
    assert_pieces_called_once(network, x)


def assert_pieces_called_once(network, x):
    called = []
    for k, piece in enumerate(network.pieces()):
        piece.register_forward_pre_hook(lambda module, given, k=k: called.append(k))
    network(x, torch.ones(len(x)))
    assert called == list(range(len(network.pieces())))
