"""Few-step solvers: orders against the closed-form flow, the papers' equations, and churn."""

import itertools
import math

import pytest
import torch
from problems import SDES, Gaussian

from score_sde.sde import SDE, VESDE, VPSDE, CosineVPSDE, KarrasVESDE, StraightSDE, subVPSDE
from score_sde.solvers.few_step import (
    DDIM,
    FEW_STEP,
    DPMSolver2,
    DPMSolverPP2M,
    Heun,
    UniPC,
    UniPC2,
)
from score_sde.solvers.grids import chain_grid, time_grid
from score_sde.solvers.predictors import PREDICTORS

DETERMINISTIC = [name for name, make in FEW_STEP.items() if make.order is not None]


def ending_at(T: float, sde: SDE) -> SDE:
    sde.T = T
    return sde


MODERATE = {
    "ve": VESDE(0.1, 5.0),
    "vp": VPSDE(0.1, 10.0),
    "subvp": subVPSDE(0.1, 10.0),
    "karras": KarrasVESDE(0.1, 5.0),
    "cosine": ending_at(0.9, CosineVPSDE()),
    "straight": ending_at(0.9, StraightSDE()),
}


def no_noise(shape):
    raise AssertionError("a deterministic solver drew noise")


def walk(solver, x, times, score, noise=no_noise):
    solver.begin(len(times) - 1)
    for t, s in itertools.pairwise(times):
        x, x_mean = solver.step(x, t.expand(len(x)), s.expand(len(x)), score, noise)
        assert x is x_mean
    return x


@pytest.mark.parametrize("kind", MODERATE)
@pytest.mark.parametrize("grid", ["uniform", "edm"])
@pytest.mark.parametrize(
    "make",
    [DDIM, Heun, lambda sde: DPMSolverPP2M(sde, lower_order_final=False)],
    ids=["ddim", "heun", "dpm_solver++"],
)
def test_measured_order_is_the_declared_one(kind, grid, make):
    sde = MODERATE[kind]
    data = Gaussian(sde, 0.7, 0.25)
    solver = make(sde)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None] * sde.prior_std
    errors = []
    for num_steps in (40, 80, 160):
        times = time_grid(sde, num_steps, grid, eps=0.05).double()
        exact = data.flow(x, times[:1], times[-1:])
        errors.append((walk(solver, x, times, data.score) - exact).abs().max().item())
    order = math.log2(errors[0] / errors[2]) / 2
    assert order == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("kind", SDES)
def test_a_lower_order_at_the_end_keeps_the_order(kind):
    sde = MODERATE[kind]
    data = Gaussian(sde, 0.7, 0.25)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None] * sde.prior_std
    errors = []
    for num_steps in (160, 640):
        times = time_grid(sde, num_steps, "log_snr", eps=0.05).double()
        reached = walk(DPMSolverPP2M(sde), x, times, data.score)
        errors.append((reached - data.flow(x, times[:1], times[-1:])).abs().max().item())
    assert math.log2(errors[0] / errors[1]) / 2 > 1.7


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_all_are_exact_for_a_single_data_point(kind, name):
    # The noise estimate is constant along the flow then, so one step of any size is exact.
    sde = SDES[kind]()
    data = Gaussian(sde, 0.7, 0.0)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None] * sde.prior_std
    times = torch.tensor([1.0, 0.7, 0.1], dtype=torch.float64)
    reached = walk(FEW_STEP[name](sde), x, times, data.score)
    assert torch.allclose(reached, data.flow(x, times[:1], times[-1:]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", SDES)
def test_steps_agree_with_the_papers_equations_in_the_noise_level(kind):
    sde = SDES[kind](N=1000)
    data = Gaussian(sde, 0.7, 0.25)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    t, m, s = (torch.full((5,), v, dtype=torch.float64) for v in (0.8, 0.5, 0.3))

    def level(t):
        return sde.noise_level(t)[0].item()

    def denoised(y, t):
        alpha, sigma = sde.mean_scale(t)[0], sde.std(t)[0]
        return (alpha * y + sigma**2 * data.score(alpha * y, t)) / alpha

    y = x / sde.mean_scale(t)[0]
    slope = (y - denoised(y, t)) / level(t)
    euler = y + (level(m) - level(t)) * slope
    ddim, _ = DDIM(sde).step(x, t, m, data.score, no_noise)
    assert torch.allclose(ddim / sde.mean_scale(m)[0], euler)
    slope_next = (euler - denoised(euler, m)) / level(m)
    heun, _ = Heun(sde).step(x, t, m, data.score, no_noise)
    expected = y + (level(m) - level(t)) * (slope + slope_next) / 2
    assert torch.allclose(heun / sde.mean_scale(m)[0], expected)

    solver = DPMSolverPP2M(sde)
    solver.begin(3)
    first, _ = solver.step(x, t, m, data.score, no_noise)
    second, _ = solver.step(first, m, s, data.score, no_noise)
    h_before, h = math.log(level(t) / level(m)), math.log(level(m) / level(s))
    ratio = h_before / h
    d_before, d = denoised(y, t), denoised(euler, m)
    mixed = (1 + 1 / (2 * ratio)) * d - d_before / (2 * ratio)
    expected = (level(s) / level(m)) * euler - math.expm1(-h) * mixed
    assert torch.allclose(second / sde.mean_scale(s)[0], expected)


@pytest.mark.parametrize("kind", SDES)
def test_churn_keeps_the_distribution(kind):
    sde = MODERATE[kind]
    data = Gaussian(sde, 0.0, 0.25)
    generator = torch.Generator().manual_seed(0)

    def noise(shape):
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)

    times = time_grid(sde, 40, "edm", eps=0.05).double()
    ends = [data.moments(t[None], torch.zeros(1, 1).double())[1].item() for t in times[[0, -1]]]
    x = noise((20_000, 1)) * math.sqrt(ends[0])
    reached = walk(Heun(sde, s_churn=20.0), x, times, data.score, noise)
    assert reached.var().item() == pytest.approx(ends[1], rel=0.05)


def test_churn_adds_the_noise_of_the_paper_inside_its_window():
    sde = VESDE(0.01, 50.0)
    t, x = torch.full((2,), 0.5), torch.zeros(2, 1)
    level = sde.std(t)[0].item()
    solver = Heun(sde, s_churn=2.0, s_noise=1.1)
    solver.begin(10)
    moved, later = solver._churn(x, t, torch.ones)
    assert sde.std(later)[0].item() == pytest.approx(1.2 * level, rel=1e-4)
    assert moved[0].item() == pytest.approx(1.1 * level * math.sqrt(1.2**2 - 1), rel=1e-3)
    solver = Heun(sde, s_churn=2.0, s_min=2 * level)
    solver.begin(10)
    moved, later = solver._churn(x, t, torch.ones)
    assert torch.equal(moved, x)
    assert torch.equal(later, t)


def test_churn_never_leaves_the_time_range():
    for make in SDES.values():
        sde = make()
        solver = Heun(sde, s_churn=100.0)
        solver.begin(10)
        _, later = solver._churn(torch.zeros(2, 1), torch.ones(2), torch.ones)
        assert torch.equal(later, torch.ones(2))


def test_a_new_run_forgets_the_old_one():
    sde = VPSDE()
    data = Gaussian(sde, 0.7, 0.25)
    solver = DPMSolverPP2M(sde)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    times = time_grid(sde, 6, "log_snr").double()
    first = walk(solver, x, times, data.score)
    assert torch.equal(walk(solver, x, times, data.score), first)


@pytest.mark.parametrize("kind", ["vp", "subvp"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_last_step_to_no_noise_at_all_gives_the_denoised_sample(kind, name):
    sde = SDES[kind]()
    data = Gaussian(sde, 0.7, 0.25)

    def score(x, t):
        return data.score(x, t) / (sde.std(t) > 0)[:, None]  # as a network's: infinite at 0

    x = torch.linspace(-2, 2, 5)[:, None]
    t, s = torch.full((5,), 0.3), torch.zeros(5)
    solver = FEW_STEP[name](sde)
    solver.begin(1)
    reached, _ = solver.step(x, t, s, score, no_noise)
    alpha, sigma = sde.mean_scale(t)[0], sde.std(t)[0]
    assert torch.allclose(reached, (x + sigma**2 * score(x, t)) / alpha, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FEW_STEP if name not in PREDICTORS])
def test_the_chains_own_scales_are_refused(name):
    with pytest.raises(ValueError, match=r"steps between the times of a grid"):
        FEW_STEP[name](VPSDE()).step(torch.ones(1, 1), torch.ones(1), None, None, no_noise)


def test_churn_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"s_churn=-1"):
        Heun(VPSDE(), s_churn=-1.0)
    with pytest.raises(ValueError, match=r"s_min=2.0, s_max=1.0"):
        Heun(VPSDE(), s_min=2.0, s_max=1.0)


@pytest.mark.parametrize("kind", ["ve", "vp"])
@pytest.mark.parametrize("name", FEW_STEP)
def test_a_network_of_a_chain_is_asked_at_its_times_only(kind, name):
    sde = SDES[kind](N=100)
    data = Gaussian(sde, 0.7, 0.25)
    asked = []

    def score(x, t):
        asked.append(t[0].item())
        return data.score(x, t)

    solver = FEW_STEP[name](sde)
    solver.on_chain = True
    for num_steps in (9, 40, 99):
        x = torch.ones(2, 1)
        solver.begin(num_steps)
        for t, s in itertools.pairwise(chain_grid(sde, num_steps)):
            x, _ = solver.step(x, t.expand(2), s.expand(2), score, torch.zeros)
    assert {*asked} <= {*sde.chain_times().float().tolist()}


def test_dpm_solver_2_has_the_coefficients_of_the_node_that_the_chain_gives():
    sde = VPSDE(N=100)
    data = Gaussian(sde, 0.7, 0.25)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    t, u, s = (sde.chain_times()[k].expand(5) for k in (60, 41, 22))
    solver = DPMSolver2(sde)
    solver.on_chain = True
    asked = []

    def score(x, t):
        asked.append(t)
        return data.score(x, t)

    stepped, _ = solver.step(x, t, s, score, no_noise)
    u = asked[1]
    level_t, level_u, level_s = (sde.noise_level(v)[0].item() for v in (t, u, s))
    r = math.log(level_t / level_u) / math.log(level_t / level_s)
    assert 0.45 < r < 0.55
    assert r != 0.5
    # Lu et al. 2022a, algorithm 4, in y = x/α.
    y = x / sde.mean_scale(t)[0]
    n = -sde.std(t)[0] * data.score(x, t)
    inner = sde.mean_scale(u)[0] * (y + (level_u - level_t) * n)
    n_u = -sde.std(u)[0] * data.score(inner, u)
    expected = y + (level_s - level_t) * (n + (n_u - n) / (2 * r))
    assert torch.allclose(stepped / sde.mean_scale(s)[0], expected)
    # Neighbours have no step between them: the end itself is the node, as in Heun's method.
    s = sde.chain_times()[59].expand(5)
    stepped, _ = solver.step(x, t, s, data.score, no_noise)
    assert torch.allclose(stepped, Heun(sde).step(x, t, s, data.score, no_noise)[0])


@pytest.mark.parametrize("make", [UniPC, UniPC2])
def test_a_correction_leaves_what_a_constraint_has_put_into_the_state(make):
    # Of a single data point the denoised sample is known: no correction is due, and a step from
    # whatever a constraint has made of x is DDIM's.
    sde = VPSDE()
    data = Gaussian(sde, 0.7, 0.0)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    solver = make(sde)
    solver.begin(5)
    for t, s in itertools.pairwise(time_grid(sde, 5, "log_snr").double()):
        t, s = t.expand(5), s.expand(5)
        put = x + 1
        ddim, _ = DDIM(sde).step(put, t, s, data.score, no_noise)
        x, _ = solver.step(put, t, s, data.score, no_noise)
        assert torch.allclose(x, ddim)
