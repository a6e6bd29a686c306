"""Networks of classes: training that leaves labels out, and what is drawn of which class."""

import shutil

import pytest
import torch
from conftest import TINY

from score_sde import checkpoints
from score_sde.commands import cli

CLASSES = ("--config.model.num_classes=10", "--config.model.label_dropout=0.3")


def command(workdir, *words, steps=4, mode="train", classes=CLASSES):
    given = ("main.py", "--config=configs/vp/digits.py", *TINY, *classes)
    more = (f"--mode={mode}", f"--workdir={workdir}", f"--config.training.n_iters={steps}")
    return [*given, *more, *map(str, words)]


def saved(workdir, step):
    return checkpoints.load(checkpoints.path_of(workdir / "checkpoints", step))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The work directory of a run of four steps that leaves labels out."""
    workdir = tmp_path_factory.mktemp("labels") / "run"
    assert cli.main(command(workdir)) == 0
    return workdir


def test_a_run_that_leaves_labels_out_resumes_bit_for_bit(trained, tmp_path):
    assert cli.main(command(tmp_path, steps=2)) == 0
    assert cli.main(command(tmp_path)) == 0
    one, other = (saved(workdir, 4) for workdir in (trained, tmp_path))
    for entry in ("network", "ema", "optimizer", "rng"):
        assert_equal(one[entry], other[entry])


def assert_equal(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict | list):
        assert len(one) == len(other)
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_equal(one[key], other[key])
    else:
        assert one == other


def test_labels_are_left_out_by_noise_of_their_own_and_teach_the_null_class(trained, tmp_path):
    assert cli.main(command(tmp_path, classes=CLASSES[:1])) == 0
    left_out, given = (saved(workdir, 4) for workdir in (trained, tmp_path))
    # Times, noise and order of the images are drawn from the same generators as before.
    assert_equal(left_out["rng"], given["rng"])
    first = saved(tmp_path, 2)
    name = "conditioning.classes.weight"
    rows = [state["network"][name] for state in (left_out, given)]
    assert rows[0].shape == rows[1].shape == (11, 32)
    assert torch.equal(rows[1][10], first["network"][name][10])  # which training never meets
    assert not torch.equal(rows[0][10], rows[1][10])


def test_leaving_labels_out_is_refused_without_labels(tmp_path, capsys):
    assert cli.main(command(tmp_path, classes=CLASSES[1:])) == 1
    said = capsys.readouterr().err
    assert "config.model.label_dropout=0.3: this network is given no labels" in said
    assert "set config.model.num_classes" in said


def test_a_run_may_not_begin_to_leave_labels_out(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    assert cli.main(command(workdir, classes=CLASSES[:1], steps=6)) == 1
    assert "model.label_dropout is 0.3 there and 0.0 here" in capsys.readouterr().err
