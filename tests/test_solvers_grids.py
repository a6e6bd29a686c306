"""Grids: ends, spacing, and exact indices of a discrete chain."""

from typing import get_args

import pytest
import torch
from conftest import assert_close
from problems import SDES

from score_sde.sde import VESDE, VPSDE, KarrasVESDE
from score_sde.solvers.grids import GridKind, chain_grid, level_parts, paper_grid, time_grid


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("grid", get_args(GridKind))
@pytest.mark.parametrize("num_steps", [1, 2, 10, 1000])
def test_grids_decrease_from_T_to_eps(kind, grid, num_steps):
    sde = SDES[kind]()
    times = time_grid(sde, num_steps, grid)
    assert times.shape == (num_steps + 1,)
    assert times.dtype == torch.float32
    assert times[0] == sde.T
    assert times[-1] == torch.tensor(sde.eps)
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("kind", SDES)
def test_what_a_grid_is_named_after_is_spaced_evenly(kind):
    sde = SDES[kind]()
    spaced = {
        "uniform": lambda t: t,
        "log_snr": lambda t: sde.noise_level(t).log(),
        "edm": lambda t: sde.noise_level(t) ** (1 / 7),
    }
    for grid, of in spaced.items():
        gaps = of(time_grid(sde, 20, grid, eps=0.01).double()).diff()
        assert torch.allclose(gaps, gaps.mean(), rtol=1e-3)


def test_uniform_time_is_uniform_log_snr_for_ve():
    assert torch.allclose(time_grid(VESDE(), 30), time_grid(VESDE(), 30, "log_snr"), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_steps": 5, "eps": 0.0}, "eps=0.0"),
        ({"num_steps": 5, "eps": 1.0}, "eps=1.0"),
        ({"num_steps": 5, "kind": "cosine"}, "'cosine': it must be one of uniform, log_snr, edm"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        time_grid(VPSDE(), **arguments)


@pytest.mark.parametrize("N", [20, 100, 1000, 2000])
@pytest.mark.parametrize("kind", SDES)
def test_the_papers_chain_walks_every_index(kind, N):
    sde = SDES[kind](N=N)
    index = sde.index(paper_grid(sde, eps=0.0))
    assert torch.equal(index, torch.arange(N).flip(0))


@pytest.mark.parametrize("num_steps", [1, 10, 100, 999, 1000, 1999])
@pytest.mark.parametrize("N", [10, 11, 100, 1000, 2000])
def test_chain_grids_walk_whole_indices_without_repeats(N, num_steps):
    sde = VPSDE(0.1, 5.0, N=N)
    if num_steps > N - 1:
        with pytest.raises(ValueError, match=rf"num_steps={num_steps}: .* 1 to {N - 1} steps"):
            chain_grid(sde, num_steps)
        return
    times = chain_grid(sde, num_steps)
    index = sde.index(times)
    assert times.shape == (num_steps + 1,)
    assert index[0] == N - 1
    assert index[-1] == 0
    gaps = -index.diff()
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    assert torch.equal(times, sde.chain_times()[index].float())
    assert_close(sde.std(times), sde.sqrt_1m_alphas_cumprod[index], 1e-6)


def test_a_chain_that_ends_without_data_has_no_short_grids():
    with pytest.raises(ValueError, match=r"N=20: the last scale .* leaves nothing of the data"):
        chain_grid(VPSDE(0.1, 20.0, N=20), 5)


def test_the_papers_grid_is_evenly_spaced_with_both_ends():
    sde = VPSDE(N=1000)
    expected = torch.linspace(1, 1e-3, 1000)
    assert torch.allclose(paper_grid(sde), expected, atol=1e-7)
    assert paper_grid(sde)[0] == 1


def test_losses_are_told_apart_where_noise_levels_differ():
    assert_close(level_parts(VPSDE(), 4), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]), 1e-7)
    parts = level_parts(KarrasVESDE(0.01, 100.0), 4)  # σ = t: each part is a decade
    assert_close(parts, torch.tensor([0.0, 0.1, 1.0, 10.0, 100.0]), 1e-5)
