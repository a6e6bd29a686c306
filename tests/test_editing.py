"""SDEdit: the last part of a sampler's walk, and the law of edited images."""

import math

import pytest
import torch
from conftest import assert_close
from problems import ALL_SDES, SDES, Gaussian

from score_sde.noise import SampleNoise
from score_sde.samplers import AdaptiveSDESampler, GridSampler, ODESampler
from score_sde.samplers.editing import edit, noised
from score_sde.sde import VPSDE
from score_sde.solvers.correctors import LangevinCorrector
from score_sde.solvers.few_step import DDIM, DPMSolverPP2M, Heun
from score_sde.solvers.grids import chain_grid, paper_grid, time_at, time_grid
from score_sde.solvers.predictors import AncestralSamplingPredictor, ReverseDiffusionPredictor

MEAN, STD, IMAGE = 0.7, 0.5, -1.0
SHAPE = (40, 40)


def edited(sampler, score, strength, n=4, image=IMAGE, shape=SHAPE, batch_size=3):
    parts = list(
        edit(
            sampler,
            lambda row: score,
            lambda row: torch.full((len(row), *shape), image),
            strength,
            torch.arange(n),
            shape,
            seed=1,
            batch_size=batch_size,
            device="cpu",
        )
    )
    return torch.cat([part.x for part in parts]), torch.cat([part.nfe for part in parts])


def samplers(sde):
    """Name → sampler, whether it follows the ODE, and its own bias of the std, as a share."""
    few = time_grid(sde, 100, "log_snr")
    many = time_grid(sde, 400)
    return {
        "ancestral": (GridSampler(sde, many, AncestralSamplingPredictor(sde)), False, 0.02),
        "ddim": (GridSampler(sde, few, DDIM(sde), tweedie=True), True, 0.03),
        "dpm_solver++": (GridSampler(sde, few, DPMSolverPP2M(sde), tweedie=True), True, 0.01),
        "ode": (ODESampler(sde, 1e-4, 1e-4), True, 0.01),
        "adaptive_sde": (AdaptiveSDESampler(sde, 0.02, 0.01), False, 0.02),
    }


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpm_solver++", "ode", "adaptive_sde"])
@pytest.mark.parametrize("strength", [0.3, 0.7])
def test_edits_of_gaussian_data_have_the_law_in_closed_form(kind, name, strength):
    sde = SDES[kind]()
    data = Gaussian(sde, MEAN, STD**2)
    sampler, follows_flow, bias = samplers(sde)[name]
    t = torch.tensor([sampler.last(strength).start])
    alpha, sigma = sde.mean_scale(t).item(), sde.std(t).item()
    variance = alpha**2 * STD**2 + sigma**2
    if follows_flow:  # x_0 = mean + (x_t − α mean) s/√v
        gain, added = STD / math.sqrt(variance), 0.0
    else:  # a draw from p(x_0 | x_t)
        gain, added = alpha * STD**2 / variance, STD**2 * sigma**2 / variance
    mean = MEAN + gain * alpha * (IMAGE - MEAN)
    std = math.sqrt(gain**2 * sigma**2 + added)
    x, _ = edited(sampler, data.score, strength)
    errors = 4 / math.sqrt(x.numel())
    assert x.mean().item() == pytest.approx(mean, abs=std * errors + bias * abs(IMAGE - mean))
    assert x.std().item() == pytest.approx(std, rel=errors / math.sqrt(2) + bias)


def test_at_full_strength_images_have_the_noise_of_T_and_the_whole_grid_is_walked():
    sde = VPSDE()
    data = Gaussian(sde, MEAN, STD**2)
    pc = (ReverseDiffusionPredictor(sde), LangevinCorrector(sde, 0.1))
    sampler = GridSampler(sde, time_grid(sde, 20), *pc)
    x, nfe = edited(sampler, data.score, 1.0, n=3)
    noise = SampleNoise(1, torch.arange(3))
    end = torch.ones(3)
    start = sde.mean_scale(end)[:, None, None] * IMAGE + sde.std(end)[:, None, None] * noise(
        (3, *SHAPE)
    )
    whole, calls = sampler.run(start, data.score, noise)
    assert torch.equal(x, whole)
    assert (nfe == calls).all()
    assert calls == sampler.evaluations == 40
    # Of an image without contrast that is a draw from the prior but for σ(T).
    drawn = sampler.draw(
        lambda row: data.score, torch.arange(3), SHAPE, seed=1, batch_size=3, device="cpu"
    )
    grey, _ = edited(sampler, data.score, 1.0, n=3, image=0.0)
    assert_close(grey, next(iter(drawn)).x, 1e-4)


@pytest.mark.parametrize("step", [DDIM, Heun, ReverseDiffusionPredictor])
def test_the_last_part_is_what_the_whole_walk_does_there(step):
    sde = VPSDE()
    data = Gaussian(sde, MEAN, STD**2)
    sampler = GridSampler(sde, time_grid(sde, 10), step(sde), LangevinCorrector(sde, 0.1))
    states, noise = [], SampleNoise(0, torch.arange(2))

    def keep(k, total, t, x, x_mean):
        states.append((t, x, noise.draw))

    whole, _ = sampler.run(noise((2, 5)), data.score, noise, on_step=keep)
    last = sampler.last(0.3)
    t, x, noise.draw = states[7]
    assert (last.start, last.num_steps, last.evaluations) == (
        t,
        3,
        3 * (sampler.evaluations // 10),
    )
    assert torch.equal(last.run(x, data.score, noise)[0], whole)
    assert (sampler.start, sampler.num_steps) == (1.0, 10)  # which is left as it was


def test_solvers_of_several_steps_begin_anew():
    sde = VPSDE()
    data = Gaussian(sde, MEAN, STD**2)
    times = time_grid(sde, 10, "log_snr")
    multistep = GridSampler(sde, times, DPMSolverPP2M(sde))
    edited(multistep, data.score, 1.0)  # whose memory is not to count
    # The first step of each is of the first order.
    one, other = (
        edited(sampler, data.score, 0.1)[0]
        for sampler in (multistep, GridSampler(sde, times, DDIM(sde)))
    )
    assert_close(one, other, 1e-5)
    assert torch.equal(
        edited(multistep, data.score, 0.5)[0], edited(multistep, data.score, 0.5)[0]
    )


@pytest.mark.parametrize("chain", [True, False])
def test_a_discrete_chain_is_walked_from_one_of_its_own_steps(chain):
    sde = VPSDE(N=40)
    times = paper_grid(sde, eps=0.0) if chain else chain_grid(sde, 10)
    step = AncestralSamplingPredictor(sde) if chain else DDIM(sde)
    last = GridSampler(sde, times, step, chain=chain).last(0.25)
    steps = 10 if chain else 2
    assert last.num_steps == steps
    assert last.times == times[-steps - (not chain) :].tolist()
    asked = []

    def score(x, t):
        asked.append(t[0].item())
        return -x

    start = noised(sde, lambda row: torch.zeros(2, 3), last.start)
    last.run(start(torch.arange(2), SampleNoise(0, torch.arange(2))), score, torch.randn)
    assert asked == last.times[:steps]


@pytest.mark.parametrize("kind", ALL_SDES)
def test_the_time_behind_which_a_share_of_a_grid_lies_is_that_of_the_grid(kind):
    sde = ALL_SDES[kind]()
    for grid in ("uniform", "log_snr", "edm"):
        times = time_grid(sde, 8, grid)
        again = [time_at(sde, k / 8, grid) for k in range(9)]
        assert_close(torch.tensor(again), times, 1e-6)
    assert ODESampler(sde).last(0.25).start == pytest.approx(time_at(sde, 0.75, sde.grid))
    assert ODESampler(sde).last(1).start == sde.T


def test_shares_that_are_none_are_refused_and_a_part_has_to_be_given_its_start():
    sde = VPSDE()
    grid = GridSampler(sde, time_grid(sde, 10), DDIM(sde))
    for sampler in (grid, ODESampler(sde)):
        for share in (0.0, -0.5, 1.1, math.nan):
            with pytest.raises(ValueError, match="the last part of a walk is above 0 and up to 1"):
                sampler.last(share)
        part = sampler.last(0.5)
        options = {"seed": 0, "batch_size": 2, "device": "cpu"}
        with pytest.raises(ValueError, match="has nothing to begin with: give start_for"):
            next(iter(part.draw(lambda row: torch.neg, torch.arange(2), (3,), **options)))
    with pytest.raises(ValueError, match=r"0\.04 of a grid of 10 steps holds none of them"):
        grid.last(0.04)
