"""Averages of weights with the profile of a power of time, and those made of them afterwards."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from torch import nn

import score_sde
from score_sde import checkpoints
from score_sde.commands import cli
from score_sde.commands import train as training_run
from score_sde.commands.first_screen import first_screen
from score_sde.config import build, parts
from score_sde.networks.power_average import (
    LONGEST,
    PowerAverage,
    combination,
    exponent_of,
    length_of,
)

LENGTHS = (0.055, 0.0625, 0.075, 0.09)  # between 0.05 and 0.1


# ---- Lengths and profiles ----


def test_lengths_and_exponents_are_those_of_the_paper():
    # Karras et al. 2024, section 3.1: σ_rel = 0.05 and 0.10 are γ = 16.97 and 6.94.
    assert exponent_of(0.05) == pytest.approx(16.97, abs=5e-3)
    assert exponent_of(0.10) == pytest.approx(6.94, abs=5e-3)
    assert exponent_of(LONGEST) == pytest.approx(0, abs=1e-9)
    for length in (0.001, 0.02, 0.1, 0.25, LONGEST):
        assert length_of(exponent_of(length)) == pytest.approx(length, rel=1e-9)
    for length in (0.0, -0.1, 0.3, float("nan")):
        with pytest.raises(ValueError, match=r"at most at 0\.2887"):
            exponent_of(length)


def test_a_length_is_the_standard_deviation_of_the_profile():
    gamma = exponent_of(0.07)
    t = np.linspace(0, 1, 200_001)
    p = (gamma + 1) * t**gamma
    mean = np.trapezoid(p * t, t)
    assert np.trapezoid(p * (t - mean) ** 2, t) ** 0.5 == pytest.approx(0.07, rel=1e-6)


class Weights(nn.Module):
    """Weights that move, and a buffer that counts."""

    def __init__(self, size):
        super().__init__()
        self.theta = nn.Parameter(torch.randn(size, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))


def walk(steps, size=40):
    """A trajectory (steps, size): a drift that slows down, and steps of changing direction."""
    torch.manual_seed(1)
    noise = torch.randn(steps, size, dtype=torch.float64).cumsum(0) / steps**0.5
    t = torch.arange(1, steps + 1, dtype=torch.float64)[:, None] / steps
    return torch.randn(size, dtype=torch.float64) * t.sqrt() + noise + torch.randn(1, size)


def test_an_average_weighs_updates_by_the_integral_of_its_profile():
    trajectory, net = walk(30), Weights(40)
    average = PowerAverage(net, 0.12)
    for theta in trajectory:
        net.theta.data, net.count = theta, net.count + 1
        average.update(net)
    k = torch.arange(31, dtype=torch.float64) ** (exponent_of(0.12) + 1)
    weights = k.diff() / k[-1]
    torch.testing.assert_close(average.shadow["theta"], weights @ trajectory, rtol=0, atol=1e-12)
    assert average.shadow["count"] == 30
    assert average.shadow["count"].data_ptr() != net.count.data_ptr()


def test_a_saved_average_goes_on_as_it_would_have():
    trajectory, net = walk(20), Weights(40)
    one, other = PowerAverage(net, 0.08), PowerAverage(Weights(40), 0.08)
    for k, theta in enumerate(trajectory):
        net.theta.data = theta
        one.update(net)
        if k == 9:
            other.load_state_dict(one.state_dict())
        if k > 9:
            other.update(net)
    assert other.num_updates == 20
    assert torch.equal(other.shadow["theta"], one.shadow["theta"])
    with pytest.raises(ValueError, match="num_updates"):
        other.load_state_dict({"num_updates": -1, "shadow": one.shadow})


def test_the_nearest_sum_has_the_least_distance_among_all_of_sum_1():
    # The closed form against quadrature: no change that keeps the sum comes nearer.
    parts = [(4, 0.05), (4, 0.1), (7, 0.05), (7, 0.1), (10, 0.05), (10, 0.1)]
    t = np.linspace(0, 10, 400_001)

    def profile(step, length):
        gamma = exponent_of(length)
        return np.where(t <= step, (gamma + 1) / step * (t / step) ** gamma, 0)

    rows, wanted = np.stack([profile(*part) for part in parts]), profile(10, 0.075)
    mixed = combination(parts, 10, 0.075)
    weights = mixed.weights.numpy()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    left = weights @ rows - wanted
    error = np.trapezoid(left**2, t) ** 0.5 / np.trapezoid(wanted**2, t) ** 0.5
    assert mixed.error == pytest.approx(error, rel=1e-3)
    gradient = np.trapezoid(left * rows, t, axis=1)
    assert np.ptp(gradient) < 1e-4 * np.trapezoid(wanted**2, t)


def test_a_tracked_length_is_its_own_average():
    parts = [(step, length) for step in (5, 10, 15, 20) for length in (0.05, 0.1)]
    mixed = combination(parts, 20, 0.1)
    torch.testing.assert_close(
        mixed.weights, torch.eye(8, dtype=torch.float64)[7], rtol=0, atol=1e-9
    )
    assert mixed.error < 1e-6


def test_more_snapshots_come_nearer():
    errors = []
    for number in (5, 10, 20, 40):
        steps = range(1000 // number, 1001, 1000 // number)
        parts = [(step, length) for step in steps for length in (0.05, 0.1)]
        errors.append(combination(parts, 1000, 0.075).error)
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert errors[2] < 2.5e-3
    assert (orders > 1.5).all()  # two profiles match value and slope between snapshots
    assert (np.diff(orders) > 0).all()


@pytest.mark.parametrize("length", LENGTHS)
def test_an_average_made_afterwards_is_the_tracked_one(length):
    trajectory, net = walk(400), Weights(40)
    tracked = [PowerAverage(net, one) for one in (0.05, 0.1, length)]
    kept = {}
    for step, theta in enumerate(trajectory, start=1):
        net.theta.data = theta
        for average in tracked:
            average.update(net)
        if step % 20 == 0:
            for average in tracked[:2]:
                kept[step, average.length] = average.shadow["theta"].clone()
    mixed = combination(list(kept), 400, length)
    made = sum(w * theta for w, theta in zip(mixed.weights, kept.values(), strict=True))
    direct = tracked[2].shadow["theta"]
    assert (made - direct).norm() < 1e-3 * (direct - trajectory[-1]).norm()


# ---- Runs ----

TRACKED = "--config.model.ema_lengths=(0.05,0.1)"
STEPS = 40


def command(mode: str, workdir: Path, *words: object) -> int:
    given = (f"--mode={mode}", f"--workdir={workdir}", *map(str, words))
    return cli.main(["main.py", "--config=configs/vp/digits.py", *TINY, *given])


def train(workdir: Path, steps: int = STEPS, *words: str) -> int:
    every = ("--config.training.average_freq=2", "--config.training.snapshot_freq=20")
    return command("train", workdir, f"--config.training.n_iters={steps}", *every, *words)


def final(workdir: Path, step: int = STEPS) -> dict:
    return checkpoints.load(checkpoints.path_of(workdir / "checkpoints", step))


def flat(weights: dict) -> torch.Tensor:
    return torch.cat([v.double().flatten() for v in weights.values() if v.is_floating_point()])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run") / "work"
    assert train(workdir, STEPS, TRACKED) == 0
    return workdir


@pytest.fixture(scope="module")
def directly(tmp_path_factory) -> dict:
    """The last checkpoint of the same run, which tracks all lengths."""
    workdir = tmp_path_factory.mktemp("run") / "work"
    assert (
        train(workdir, STEPS, f"--config.model.ema_lengths=(0.05,{str(LENGTHS)[1:-1]},0.1)") == 0
    )
    return final(workdir)


def test_tracking_changes_nothing_of_a_run_without(trained, tmp_path):
    assert train(tmp_path, 20) == 0
    with_, without = final(trained, 20), final(tmp_path, 20)
    assert without.keys() == set(checkpoints.KEYS)
    assert with_.keys() == {*checkpoints.KEYS, "averages"}
    assert not (tmp_path / "averages").exists()
    for entry in ("network", "ema"):
        assert torch.equal(
            flat(with_[entry].get("shadow", with_[entry])),
            flat(without[entry].get("shadow", without[entry])),
        )


def test_snapshots_of_every_length_are_kept(trained):
    assert checkpoints.steps(trained / "averages") == list(range(2, STEPS + 1, 2))
    file = checkpoints.path_of(trained / "averages", STEPS)
    kept = torch.load(file, weights_only=True)
    assert kept["step"] == STEPS
    saved = final(trained)["averages"]
    assert kept["averages"].keys() == saved.keys() == {"0.05", "0.1"}
    for length, shadow in kept["averages"].items():
        assert torch.equal(flat(shadow), flat(saved[length]["shadow"]))
        assert saved[length]["num_updates"] == STEPS


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_chosen_after_training_is_the_tracked_one(length, trained, directly, capsys):
    assert command("ema", trained, f"--config.model.ema_length={length}") == 0
    said = capsys.readouterr().out
    path = trained / "averages" / f"length_{length:g}_step_{STEPS:08d}.pt"
    assert str(path) in said
    made = checkpoints.load(path)
    tracked, raw = flat(directly["averages"][str(length)]["shadow"]), flat(made["network"])
    assert torch.equal(raw, flat(directly["network"]))
    error = (flat(made["ema"]["shadow"]) - tracked).norm() / (tracked - raw).norm()
    assert error < 1e-2
    # What it is made of is recorded.
    line = made["versions"].splitlines()[-1].removeprefix("averaged_from ")
    record = json.loads(line)
    assert record["length"] == length
    assert record["profile_error"] < 1e-2
    assert len(record["weights"]) == STEPS
    assert sum(weight for _, weight in record["weights"]) == pytest.approx(1)
    assert json.loads(made["config"])["model"]["ema_length"] == length
    # The averages of a run stay as they are.
    assert checkpoints.steps(trained / "averages")[-1] == STEPS


def test_the_ends_of_the_tracked_lengths_are_the_tracked_averages(trained, tmp_path):
    path = tmp_path / "mine.pt"
    assert command("ema", trained, "--config.model.ema_length=0.1", f"--output={path}") == 0
    made, saved = checkpoints.load(path), final(trained)
    torch.testing.assert_close(made["ema"]["shadow"], saved["averages"]["0.1"]["shadow"])


def test_what_is_made_is_drawn_from_evaluated_and_begun_with(trained, tmp_path):
    assert command("ema", trained, "--config.model.ema_length=0.07") == 0
    path = trained / "averages" / f"length_0.07_step_{STEPS:08d}.pt"
    drawn = (f"--output={tmp_path / 'images'}", "--num_samples=2", "--config.sampling.num_steps=2")
    assert command("sample", trained, f"--checkpoint={path}", *drawn) == 0
    off = [f"--config.eval.enable_{name}=False" for name in ("bpd", "sampling")]
    where = (f"--checkpoint={path}", f"--eval_folder={tmp_path / 'eval'}")
    assert command("eval", trained, *where, *off) == 0
    report = json.loads((tmp_path / "eval" / f"step_{STEPS:08d}.json").read_text())
    assert 0 < report["held_out_loss"]["value"] < 10
    weights = score_sde.load(path).network.state_dict()
    torch.testing.assert_close(weights, checkpoints.load(path)["ema"]["shadow"])
    assert train(tmp_path / "next", 2, TRACKED, f"--init_from={path}") == 0


def test_a_run_that_is_killed_and_resumed_has_the_same_averages(trained, tmp_path, monkeypatch):
    save, made = checkpoints.save_snapshot, []

    def killed(folder, step, averages):
        made.append(save(folder, step, averages))
        if step == 26:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_run.checkpoints, "save_snapshot", killed)
        assert train(tmp_path, STEPS, TRACKED) == 130
    newest = checkpoints.steps(tmp_path / "checkpoints")[-1]
    assert newest < 26 == checkpoints.steps(tmp_path / "averages")[-1]
    assert train(tmp_path, STEPS, TRACKED) == 0
    assert f"the averages after step {newest}, up to 26, are" in (tmp_path / "log.txt").read_text()
    one, other = final(trained), final(tmp_path)
    for length, state in one["averages"].items():
        assert torch.equal(flat(state["shadow"]), flat(other["averages"][length]["shadow"]))
    for step in checkpoints.steps(trained / "averages"):
        kept = [
            torch.load(checkpoints.path_of(folder / "averages", step), weights_only=True)
            for folder in (trained, tmp_path)
        ]
        for length, shadow in kept[0]["averages"].items():
            assert torch.equal(flat(shadow), flat(kept[1]["averages"][length]))


# ---- Refusals ----


def refused(capsys, workdir: Path, *words: object, mode: str = "ema") -> str:
    capsys.readouterr()
    assert command(mode, workdir, *words) == 1
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


def test_lengths_that_are_not_between_the_tracked_ones_are_refused(trained, capsys):
    for word in (0.04, 0.11, 0.2):
        said = refused(capsys, trained, f"--config.model.ema_length={word}")
        assert f"config.model.ema_length={word}: give a length from 0.05 to 0.1" in said
    assert "give a length from 0.05 to 0.1" in refused(capsys, trained)
    assert "from 0 to below 1" in refused(capsys, trained, "--config.model.ema_length=1.5")


def test_a_run_without_averages_is_told_to_track_some(tmp_path, capsys):
    assert "holds no checkpoint" in refused(capsys, tmp_path, "--config.model.ema_length=0.07")
    assert train(tmp_path, 2) == 0
    said = refused(capsys, tmp_path, "--config.model.ema_length=0.07")
    assert "--config.model.ema_lengths=(0.05,0.1)" in said
    said = refused(capsys, tmp_path, TRACKED, "--config.training.n_iters=4", mode="train")
    assert "no run changes model.ema_lengths on its way" in said


def test_missing_damaged_and_foreign_snapshots_are_refused(trained, tmp_path, capsys):
    workdir = Path(shutil.copytree(trained, tmp_path / "work"))
    wanted = "--config.model.ema_length=0.07"
    path = checkpoints.path_of(workdir / "averages", 20)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2000])
    said = refused(capsys, workdir, wanted)
    assert f"{path} is damaged" in said
    assert "move the file away, to do without it" in said
    shutil.copyfile(checkpoints.path_of(trained / "averages", 10), path)
    assert "a snapshot of step 10, and its name says another" in refused(capsys, workdir, wanted)
    content = torch.load(checkpoints.path_of(trained / "averages", 20), weights_only=True)
    del content["averages"]["0.1"]["conv_in.bias"]
    torch.save(content, path)
    said = refused(capsys, workdir, wanted)
    assert re.search(r"length 0\.1 in \S+ does not fit \(missing: conv_in\.bias\)", said)
    assert "move the file away" in said
    torch.save([1], path)
    assert "a list instead of a snapshot" in refused(capsys, workdir, wanted)
    path.unlink()
    assert command("ema", workdir, wanted) == 0
    shutil.rmtree(workdir / "averages")
    assert "has no snapshots of the averages" in refused(capsys, workdir, wanted)


def test_an_output_that_is_there_or_no_checkpoint_is_refused(trained, tmp_path, capsys):
    wanted = "--config.model.ema_length=0.07"
    (tmp_path / "there.pt").touch()
    said = refused(capsys, trained, wanted, f"--output={tmp_path / 'there.pt'}")
    assert "exists: give the name of a new file in .pt" in said
    assert "no name in .pt" in refused(capsys, trained, wanted, f"--output={tmp_path / 'a.npz'}")


def test_a_checkpoint_without_its_averages_is_not_gone_on_with(trained, tmp_path, capsys):
    workdir = Path(shutil.copytree(trained, tmp_path / "work"))
    path = checkpoints.path_of(workdir / "checkpoints", STEPS)
    content = torch.load(path, weights_only=True)
    averages = content.pop("averages")
    torch.save(content, path)
    longer = (TRACKED, f"--config.training.n_iters={STEPS + 2}")
    said = refused(capsys, workdir, *longer, mode="train")
    assert "lengths none where 0.05, 0.1 are tracked" in said
    averages["0.1"]["num_updates"] = -1
    torch.save({**content, "averages": averages}, path)
    assert "num_updates of the average" in refused(capsys, workdir, *longer, mode="train")
    torch.save({**content, "averages": [1]}, path)
    said = refused(capsys, workdir, "--checkpoint", path, "--num_samples=1", mode="sample")
    assert "has a list as averages" in said


@pytest.mark.parametrize("value", ["(0.1,0.05)", "(0.05,0.05)", "(0.0,0.1)", "(0.1,0.3)"])
def test_lengths_in_no_order_or_beyond_the_mean_are_refused(value, tmp_path, capsys):
    said = refused(capsys, tmp_path, f"--config.model.ema_lengths={value}", mode="train")
    assert "up to 0.2886, in ascending order, as (0.05, 0.1)" in said


def test_the_first_screen_counts_the_averages_and_names_fields_of_no_row():
    fields = {"training.n_iters": 1000, "training.average_freq": 100, "model.nff": 16}
    config = parts.recipe(parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL, fields)
    info = build.open_split(config, "test").info

    def sizes(*tracked):
        config.model.ema_lengths = tracked
        state, sde = build.build_state(config), build.build_sde(config)
        device, run = torch.device("cpu"), Path("run")
        screen = first_screen(
            config,
            state,
            sde,
            device,
            info,
            info,
            run,
            network="ddpm",
            activations=0,
            snapshots="none",
        )
        assert "\nfields      of this recipe alone: model.nff (did you mean model.nf?)\n" in screen
        return [int(n) for n in re.findall(r"(\d+) MB (?:for w|of c|of a)", screen)]

    memory, checkpoints = sizes()
    more_memory, more_checkpoints, averages = sizes(0.05, 0.1)
    assert more_memory == pytest.approx(7 / 5 * memory, abs=2)
    assert more_checkpoints == pytest.approx(6 / 4 * checkpoints, abs=2)
    # Two at each of the steps 100, …, 1,000.
    assert averages == pytest.approx(2 * 10 * memory / 5, abs=3)
