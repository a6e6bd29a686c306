"""What the README shows, run as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from problems import Gaussian

from configs.vp import digits
from score_sde.commands.train import train
from score_sde.samplers import GridSampler
from score_sde.sde import SDE, VPSDE
from score_sde.solvers.grids import time_grid

README = (ROOT / "README.md").read_text()


def example(name: str) -> dict:
    """Runs the Python block that defines `name` and gives back what it defines."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (code,) = [block for block in blocks if re.search(rf"^(class|def) {name}\b", block, re.M)]
    assert len(code.splitlines()) < 20
    defined: dict = {}
    exec(code, defined)
    return defined


def test_the_two_commands_come_first():
    first = re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)[0].splitlines()
    assert first[0].startswith("pip install -r requirements.txt && python main.py")
    assert first[1].startswith("pip install -r requirements-dev.txt && ")
    assert README.index("```") < 100


def test_pictures_and_files_that_it_names_exist():
    for path in re.findall(r"\]\((\S+?)\)", README) + re.findall(r"`(configs/\S+?\.py)`", README):
        assert (ROOT / path).is_file(), path


def test_an_added_sde_runs_through_sampler_and_exact_flow():
    sde: SDE = example("CosineSDE")["CosineSDE"](N=1000)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    rate = 0.495 * torch.pi
    torch.testing.assert_close(sde.mean_rate(t), -rate * torch.tan(rate * t))
    torch.testing.assert_close(sde.diffusion_squared(t), 2 * rate * torch.tan(rate * t))
    torch.testing.assert_close(sde.time_of_noise_level(sde.noise_level(t)), t)


def test_an_added_solver_converges_at_its_order():
    midpoint = example("Midpoint")["Midpoint"]
    sde = VPSDE()
    problem = Gaussian(sde, mean=0.3, variance=0.25)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def error(steps: int) -> float:
        times = torch.linspace(1.0, 0.1, steps + 1, dtype=torch.float64)
        sampler = GridSampler(sde, times, midpoint(sde))
        end, _ = sampler.run(x, problem.score, noise=lambda shape: torch.zeros(*shape))
        exact = problem.flow(x, torch.ones(9).double(), torch.full((9,), 0.1).double())
        return (end - exact).abs().max().item()

    orders = torch.log2(torch.tensor(error(40) / error(80)))
    assert abs(orders.item() - midpoint.order) < 0.15
    assert len(time_grid(sde, 50)) == 51


def test_an_added_data_set_trains(tmp_path):
    stripes = example("stripes")["stripes"]
    config = digits.get_config()
    config.model.nf = 8
    config.training.update(n_iters=2, batch_size=4, snapshot_images=2, time_sampling="uniform")
    train(config, tmp_path, sources=(stripes("train", 50), stripes("test", 5)), quiet=True)
    assert (tmp_path / "checkpoints" / "step_00000002.pt").is_file()
    assert (tmp_path / "samples" / "step_00000002.png").is_file()


def test_the_notebook_example_runs_on_a_trained_network(tmp_path, monkeypatch):
    (code,) = [b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "create_model" in b]
    config = digits.get_config()
    config.training.update(n_iters=1, batch_size=4, snapshot_sampling=False)
    monkeypatch.chdir(tmp_path)
    train(config, Path("runs/vp/digits"), quiet=True)
    saved = Path("runs/vp/digits/checkpoints/step_00000001.pt")
    saved.rename(saved.with_name("step_00002000.pt"))
    defined: dict = {}
    exec(code.replace("N=1000", "N=25"), defined)
    assert defined["images"].shape == defined["gradient"].shape == (16, 1, 8, 8)
    assert defined["evaluations"] == 25
    assert defined["gradient"].isfinite().all()


@pytest.mark.parametrize("mode", ["train", "sample"])
def test_commands_name_modes_that_exist(mode):
    from score_sde.commands import cli

    assert mode in cli.MODES
    assert f"--mode {mode}" in README
