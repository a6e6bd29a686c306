"""`--mode figures`: what is drawn is what the SDEs and their scores say."""

import functools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm

from score_sde.commands import cli, figures
from score_sde.config.build import build_sampler, build_sde
from score_sde.config.presets import PRESETS, TEMPERATURES, as_row


@functools.cache
def walked(name):
    return figures.paths(figures.sdes()[name])


def test_the_chains_are_their_sdes_on_a_grid_up_to_the_order_of_a_step():
    smld, scale, variance = figures.kernels(1000)
    assert np.abs(smld.chain / smld.sde - 1).max() < 1e-6  # the same function; tables in float32
    assert (smld.sde[0], smld.sde[-1]) == pytest.approx((1e-4, 2500.0))
    assert np.abs(scale.chain**2 + variance.chain - 1).max() < 1e-6
    off = [np.abs(k.chain - k.sde).max() for k in (scale, variance)]
    assert off == pytest.approx([1e-3, 8e-4], rel=0.1)  # what the figure shows
    _, *finer = figures.kernels(2000)
    halved = [np.abs(k.chain - k.sde).max() for k in finer]
    assert halved == pytest.approx([x / 2 for x in off], rel=0.05)


@pytest.mark.parametrize("name", figures.sdes())
def test_paths_end_in_the_data_and_in_the_prior(name):
    sde, data = figures.sdes()[name], figures.mixture()
    forward, reverse = walked(name)
    assert forward.t[0] == pytest.approx(sde.eps)
    assert forward.t[-1] == reverse.t[0] == sde.T
    # A flow in one dimension keeps quantiles, and so its paths never cross.
    assert (np.diff(reverse.ode, axis=1) > 0).all()
    assert np.array_equal(forward.ode, reverse.ode[::-1])
    q = np.array(figures._ENDS)
    assert reverse.ode[0] == pytest.approx(sde.prior_std * norm.ppf(q))
    means, weights = data.means[:, 0].numpy(), data.weights.numpy()
    reached = (weights * norm.cdf((reverse.ode[-1][:, None] - means) / data.std)).sum(1)
    assert reached == pytest.approx(q, abs=0.02)  # the error of 500 steps of Euler
    for ends in (reverse.sde[-1], forward.sde[0]):
        assert np.abs(np.abs(ends) - 1).max() < 4 * data.std


@pytest.mark.parametrize("name", figures.sdes())
def test_the_density_beneath_is_that_of_the_mixture_at_each_time(name):
    sde, data = figures.sdes()[name], figures.mixture()
    _, reverse = walked(name)
    t = torch.from_numpy(reverse.t)
    for k in (0, 250, 480):
        alpha, sigma = sde.mean_scale(t[k]).item(), sde.std(t[k]).item()
        std = np.hypot(alpha * data.std, sigma)
        means, weights = alpha * data.means[:, 0].numpy(), data.weights.numpy()
        expected = (weights * norm.pdf(reverse.x[:, None], means, std)).sum(1)
        assert reverse.density[k] == pytest.approx(expected, rel=1e-5, abs=1e-12)
    steps = np.diff(reverse.sde, axis=0)[:5]
    assert steps.std() == pytest.approx(
        (sde.diffusion_squared(t[:5]) / 500).sqrt().mean().item(), rel=0.4
    )


def test_the_command_draws_every_figure(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figures, "STEPS", 20)
    assert cli.main(["main.py", "--mode=figures", f"--output={tmp_path / 'out'}"]) == 0
    files = capsys.readouterr().out.split()
    assert files == [str(tmp_path / "out" / f"{name}.png") for name in figures.PAPER_FIGURES]
    for file in files:
        with Image.open(file) as picture:
            assert len(picture.convert("RGB").getcolors(2**24)) > 50
    (tmp_path / "file").touch()
    assert cli.main(["main.py", "--mode=figures", f"--output={tmp_path / 'file'}"]) == 1
    assert "choose another --output" in capsys.readouterr().err


def test_figure_9_splits_the_same_computation(tmp_path):
    words = ["main.py", "--config=ve/digits", f"--workdir={tmp_path}", "--mode=compare"]
    config = cli.parse([*words, "--config.sampling.num_steps=64"]).config
    rows = PRESETS["figure9"](config)
    assert [row.series for row in rows[:4]] == [f"corrector {n} %" for n in (0, 50, 75, 100)]
    for row in rows:
        sampler = build_sampler(as_row(config, row), build_sde(config))
        assert sampler.evaluations == int(row.at)
        share = {"corrector 0 %": 0, "corrector 50 %": 1, "corrector 75 %": 3}.get(row.series)
        kinds = (sampler.predictor.name == "none", sampler.corrector.name == "none")
        assert kinds == (share is None, share == 0)
        if share:
            assert sampler.num_steps * (share + 1) == int(row.at)
    assert {row.at for row in rows} == {"8", "16", "32", "64"}


def test_temperatures_scale_the_latents_of_the_ode(tmp_path):
    config = cli.parse(
        ["main.py", "--config=vp/digits", f"--workdir={tmp_path}", "--mode=compare"]
    ).config
    rows = PRESETS["temperature"](config)
    samplers = [build_sampler(as_row(config, row), build_sde(config)) for row in rows]
    assert tuple(sampler.temperature for sampler in samplers) == TEMPERATURES
    assert {type(sampler).__name__ for sampler in samplers} == {"ODESampler"}
