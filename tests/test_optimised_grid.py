"""Grids that are optimised for a score: what they gain, and where they are kept."""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, assert_close
from problems import Mixture

from configs.vp import digits
from score_sde.commands import cli, load, restore, sample, sampling_grid
from score_sde.config import subject
from score_sde.config.build import build_sampler, build_sde
from score_sde.noise import SampleNoise
from score_sde.samplers import GridSampler, optimised_grid
from score_sde.sde import VPSDE
from score_sde.solvers.few_step import DPMSolver2, DPMSolverPP2M, Heun, UniPC
from score_sde.solvers.grids import bent_grid, time_grid

SDE = VPSDE()
MEANS = torch.tensor([[1.0, 0.5, 0.0], [-1.0, 0.3, 1.0], [0.2, -1.1, 0.4]]).double()
DATA = Mixture(SDE, MEANS, torch.full((3,), 1 / 3).double(), variance=0.04)


def distance(step, times):
    """To where the ODE ends, as a root mean square, from noise that no grid was fitted to."""
    noise = SampleNoise(3, torch.arange(200), dtype=torch.float64)
    x = SDE.prior_sampling((200, 3), noise=noise)

    def end(step, times):
        return GridSampler(SDE, times, step, tweedie=True).run(x, DATA.score, None)[0]

    fine = time_grid(SDE, 100, "log_snr")
    return (end(step, times) - end(UniPC(SDE), fine)).square().mean(1).sqrt().mean().item()


def fitted(step, num_steps):
    return optimised_grid.optimised_grid(
        step, lambda index: DATA.score, num_steps, (3,), SDE.eps, dtype=torch.float64
    )


@pytest.mark.parametrize(("make", "num_steps"), [(DPMSolverPP2M, 9), (DPMSolver2, 4)])
def test_an_optimised_grid_brings_other_samples_nearer_to_the_converged_ode(make, num_steps):
    found = fitted(make(SDE), num_steps)
    assert found.better
    assert found.times.shape == (num_steps + 1,)
    assert (found.times.diff() < 0).all()
    even = distance(make(SDE), time_grid(SDE, num_steps, "log_snr"))
    assert distance(make(SDE), found.times) < 0.8 * even


def test_a_grid_that_is_worse_on_other_noise_is_not_taken(monkeypatch):
    worse = SimpleNamespace(x=(3.0, -4.0))
    monkeypatch.setattr(optimised_grid, "minimize", lambda *given, **options: worse)
    found = fitted(DPMSolverPP2M(SDE), 6)
    assert not found.better
    assert found.error > found.log_snr_error
    assert torch.equal(found.times, time_grid(SDE, 6, "log_snr"))


def test_methods_that_draw_noise_are_refused():
    with pytest.raises(ValueError, match=r"heun draws noise, .*set config.sampling.grid to auto"):
        fitted(Heun(SDE, s_churn=5.0), 6)


def test_a_bent_grid_has_the_steps_of_its_formula():
    assert_close(bent_grid(SDE, 7, (0, 0)), time_grid(SDE, 7, "log_snr"), 1e-6)
    times = bent_grid(SDE, 5, (-0.5, 0.7), eps=0.01).double()
    lengths = -SDE.noise_level(times).log().diff()
    u = torch.tensor([-0.8, -0.4, 0, 0.4, 0.8]).double()
    expected = torch.exp(-0.5 * u + 0.7 * u**2)
    assert_close(lengths / lengths.sum(), expected / expected.sum(), 1e-5)
    assert (times[0], times[-1]) == (1, torch.tensor(0.01).double().float())


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"method": "pc"}, "method='pc'"),
        ({"method": "heun", "s_churn": 5.0}, "method='heun'"),
        ({"method": "ddim", "eta": 0.5}, "method='ddim'"),
        ({"method": "unipc", "continuous": False}, "a network of a discrete chain"),
        ({"method": "unipc", "num_steps": 0}, "num_steps=0 takes as many steps as the chain has"),
    ],
)
def test_what_does_not_follow_the_ode_freely_is_refused_before_anything_is_drawn(fields, what):
    config = digits.get_config()
    config.training.continuous = fields.pop("continuous", True)
    config.sampling.update({"grid": "optimised", **fields})
    with pytest.raises(ValueError, match=rf"{what}.*grid='optimised'|grid='optimised'.*{what}"):
        build_sampler(config, build_sde(config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    command = ["--config=vp/digits", f"--workdir={workdir}", *TINY]
    assert cli.main(["main.py", "--mode=train", *command]) == 0
    return workdir


def drawn(workdir, output, capsys, *words):
    command = ["main.py", "--mode=sample", "--config=vp/digits", f"--workdir={workdir}"]
    command += [f"--output={output}", "--num_samples=4", "--config.sampling.grid=optimised"]
    command += ["--config.sampling.method=unipc", "--config.sampling.num_steps=4", *words]
    assert cli.main(command) == 0
    said = capsys.readouterr()
    return said.out + said.err


def test_a_grid_is_kept_beside_its_checkpoint(trained, tmp_path, monkeypatch, capsys):
    found = optimised_grid.OptimisedGrid(torch.tensor([1.0, 0.7, 0.4, 0.1, 1e-3]), 0.1, 0.2)
    monkeypatch.setattr(sampling_grid, "optimise_grid", lambda *given: found)
    walked = []
    built = sample.build_sampler

    def noted(config, sde, times=None):
        if times is not None:
            walked.append(times)
        return built(config, sde, times)

    monkeypatch.setattr(sample, "build_sampler", noted)

    write = sampling_grid.atomic.write

    def unwritable(path, fill, **options):
        if "grid_unipc_4" in path.name:
            raise PermissionError(13, "Permission denied")
        write(path, fill, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sampling_grid.atomic, "write", unwritable)
        said = drawn(trained, tmp_path / "a", capsys)
    assert "leads 0.1 from the converged ODE's images, and 0.2 with the grid log_snr" in said
    assert "could not be kept" in said
    assert not list(trained.glob("checkpoints/*grid*"))

    drawn(trained, tmp_path / "a", capsys)
    (kept,) = trained.glob("checkpoints/step_00000004.grid_unipc_4_*.json")
    assert json.loads(kept.read_text())["times"] == found.times.tolist()
    worse = optimised_grid.OptimisedGrid(time_grid(SDE, 4, "log_snr"), 0.3, 0.2)
    monkeypatch.setattr(sampling_grid, "optimise_grid", lambda *given: worse)
    said = drawn(trained, tmp_path / "b", capsys, "--config.seed=5")
    assert f"the grid is that of {kept}" in said
    assert len(walked) == 3
    assert all(torch.equal(times, found.times) for times in walked)

    drawn(trained, tmp_path / "b", capsys, "--config.seed=5", "--config.sampling.rtol=0.1")
    assert torch.equal(walked[-1], found.times)  # which no step of this method heeds

    before = kept.read_bytes()
    said = drawn(trained, tmp_path / "c", capsys, "--config.sampling.eps=0.01")
    assert "on other noise: log_snr is taken" in said
    assert torch.equal(walked[-1], worse.times)
    assert kept.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: [t[0], t[2], t[1], *t[3:]],
        lambda t: [0.9, *t[1:]],
        lambda t: [*t[:-1], 0.0],
        lambda t: [*t[:-1], float("nan")],
        lambda t: t[1:],
    ],
)
def test_a_kept_grid_that_is_none_is_found_again(damage, trained, tmp_path, monkeypatch, capsys):
    found = optimised_grid.OptimisedGrid(torch.tensor([1.0, 0.7, 0.4, 0.1, 1e-3]), 0.1, 0.2)
    monkeypatch.setattr(sampling_grid, "optimise_grid", lambda *given: found)
    drawn(trained, tmp_path / "a", capsys, "--config.sampling.threshold=static")
    kept = max(
        trained.glob("checkpoints/*grid_unipc_4_*.json"), key=lambda path: path.stat().st_mtime
    )
    whole = json.loads(kept.read_text())
    kept.write_text(json.dumps(whole | {"times": damage(whole["times"])}))
    said = drawn(trained, tmp_path / "a", capsys, "--config.sampling.threshold=static")
    assert "an optimised grid, found in" in said
    assert json.loads(kept.read_text()) == whole


def test_whatever_draws_from_a_checkpoint_draws_on_its_grid(
    trained, tmp_path, monkeypatch, capsys
):
    found = optimised_grid.OptimisedGrid(torch.tensor([1.0, 0.7, 0.4, 0.1, 1e-3]), 0.1, 0.2)
    monkeypatch.setattr(sampling_grid, "optimise_grid", lambda *given: found)
    walked = {}

    def noted(module):
        built = module.build_sampler

        def build(config, sde, times=None):
            if times is not None:
                walked[module.__name__] = times
            return built(config, sde, times)

        monkeypatch.setattr(module, "build_sampler", build)

    for module in (subject, restore, load):
        noted(module)
    fields = {"method": "unipc", "num_steps": 4, "grid": "optimised"}
    given = ["--config=vp/digits", f"--workdir={trained}"]
    given += [f"--config.sampling.{name}={value}" for name, value in fields.items()]
    off = ["--config.eval.enable_bpd=False", "--config.eval.enable_loss=False"]
    off += ["--config.eval.num_samples=4", f"--eval_folder={tmp_path / 'eval'}"]
    assert cli.main(["main.py", "--mode=eval", *given, *off]) == 0
    made = json.loads((tmp_path / "eval" / "step_00000004.json").read_text())
    assert made["config"]["sampling"]["grid"] == "optimised"
    few = ["--num_samples=1", "--completions=1", f"--output={tmp_path / 'inpaint'}"]
    assert cli.main(["main.py", "--mode=inpaint", *given, *few]) == 0
    config = digits.get_config()
    config.sampling.update(fields)
    load.load(trained, config)
    assert len(walked) == 3
    assert all(torch.equal(times, found.times) for times in walked.values())

    assert cli.main(["main.py", "--mode=compare", *given]) == 1
    assert "a grid for one method and one number of steps" in capsys.readouterr().err


def test_the_grid_of_a_network_is_found_in_a_moment(trained, tmp_path, capsys):
    said = drawn(trained, tmp_path / "a", capsys, "--config.sampling.num_steps=2")
    assert "optimised grid, found in" in said


def test_methods_that_choose_their_own_times_pass_over_the_grid(trained, tmp_path, capsys):
    loose = ["--config.sampling.rtol=0.1", "--config.sampling.atol=0.1"]
    said = drawn(trained, tmp_path / "ode", capsys, "--config.sampling.method=ode", *loose)
    assert "4 images" in said
    assert "optimised grid" not in said
    assert not list(trained.glob("checkpoints/*grid_ode*"))
