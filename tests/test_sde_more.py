"""The SDEs beside the paper's: closed forms, ends, training times, sampling, their rows."""

import itertools
import math

import pytest
import torch
from conftest import assert_close
from problems import ALL_SDES, SDES, Gaussian, Mixture
from scipy.integrate import solve_ivp

from configs.karras import digits as karras_digits
from score_sde.config import parts
from score_sde.config.build import build_objective, build_sampler, build_sde
from score_sde.likelihoods import log_likelihood
from score_sde.objectives import LogSNRTimes, make_objective
from score_sde.samplers import GridSampler
from score_sde.sde import SDE, CosineVPSDE, KarrasVESDE, PowerVESDE, StraightSDE
from score_sde.sde import SDES as TABLE
from score_sde.solvers.correctors import CORRECTORS
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import PREDICTORS

NEW = {kind: make for kind, make in ALL_SDES.items() if kind not in SDES}
DOUBLE = torch.float64


@pytest.fixture(params=NEW)
def sde(request):
    return NEW[request.param]()


def times(sde, n=60, dtype=DOUBLE):
    """From eps to T, even in the logarithm and, near T, in the time that is left."""
    low = torch.logspace(math.log10(sde.eps), math.log10(sde.T), n, dtype=DOUBLE)
    high = sde.T * (1 - torch.logspace(-1, -6, n, dtype=DOUBLE))
    return torch.cat([low[:-1], high, low[-1:]]).sort().values.to(dtype)


# ---- Closed forms ----


def test_moments_of_the_forward_equation_are_mean_scale_and_std(sde):
    # dm/dt = (α'/α) m and dV/dt = 2 (α'/α) V + g² from a point at t = 0.
    def rate(t, moments):
        t = torch.tensor([t], dtype=DOUBLE)
        kept, g2 = sde.mean_rate(t).item(), sde.diffusion_squared(t).item()
        return [kept * moments[0], 2 * kept * moments[1] + g2]

    t = times(sde, 10)
    options = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-13, "t_eval": t.numpy()}
    mean, variance = torch.from_numpy(solve_ivp(rate, (0, sde.T), [1.0, 0.0], **options).y)
    torch.testing.assert_close(mean, sde.mean_scale(t), rtol=1e-8, atol=0)
    torch.testing.assert_close(variance, sde.std(t) ** 2, rtol=1e-8, atol=0)


def test_closed_forms_are_what_differentiation_and_bisection_give(sde):
    t = times(sde)
    torch.testing.assert_close(sde.mean_rate(t), SDE.mean_rate(sde, t), rtol=1e-9, atol=0)
    g2 = SDE.diffusion_squared(sde, t)
    torch.testing.assert_close(sde.diffusion_squared(t), g2, rtol=1e-9, atol=0)
    level = sde.noise_level(t)
    by_bisection = SDE.time_of_noise_level(sde, level)
    torch.testing.assert_close(sde.time_of_noise_level(level), by_bisection, rtol=1e-11, atol=0)
    s = t * 0.9
    for mine, default in zip(sde.transition(t, s), SDE.transition(sde, t, s), strict=True):
        torch.testing.assert_close(mine, default, rtol=1e-9, atol=0)


def test_noise_levels_are_inverted_to_rounding(sde):
    for dtype in (torch.float32, DOUBLE):
        t = times(sde, dtype=dtype)
        level = sde.noise_level(t)
        there = sde.time_of_noise_level(level)
        # Near t = 1 a time that is off by its own rounding is the best that there can be.
        assert ((there - t).abs() <= 6 * torch.finfo(dtype).eps * t).all()
        # The level itself comes back as exactly as the time that stands for it can say.
        exact = sde.noise_level(t.double())
        slope = sde.diffusion_squared(t.double()) / sde.mean_scale(t.double()) ** 2 / exact / 2
        off = (sde.noise_level(there).double() - exact).abs()
        assert (off <= 10 * torch.finfo(dtype).eps * (exact + slope * t.double())).all()


def test_transitions_keep_their_precision_in_float32_up_to_the_end(sde):
    t = times(sde, dtype=torch.float32)
    s = torch.nextafter(t, torch.zeros(()))
    for earlier in (s, t * 0.999, t * 0.5):
        exact = sde.transition(t.double(), earlier.double())
        for mine, double in zip(sde.transition(t, earlier), exact, strict=True):
            torch.testing.assert_close(mine.double(), double, rtol=1e-5, atol=0)


def test_the_tutorials_sde_has_its_own_std():
    # marginal_prob_std of the tutorial, σ = 25: √((σ^(2t) − 1)/(2 log σ)).
    sde, t = PowerVESDE(), torch.tensor([0.25, 0.5, 1.0], dtype=DOUBLE)
    expected = ((25 ** (2 * t) - 1) / 2 / math.log(25)).sqrt()
    torch.testing.assert_close(sde.std(t), expected)
    assert sde.prior_std == pytest.approx(expected[-1].item())
    assert_close(sde.sde(torch.ones(3, 2, dtype=DOUBLE), t)[1], 25**t, 1e-12)


def test_the_cosine_schedule_is_the_papers():
    # ᾱ(t) = f(t)/f(0), f(t) = cos²((t + s)/(1 + s) π/2) (Nichol & Dhariwal 2021, eq. 17).
    sde, t = CosineVPSDE(), torch.linspace(0, 0.999, 50, dtype=DOUBLE)

    def f(t):
        return torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    kept = f(t) / f(torch.zeros((), dtype=DOUBLE))
    torch.testing.assert_close(sde.mean_scale(t) ** 2, kept)
    torch.testing.assert_close(sde.std(t) ** 2, 1 - kept, rtol=1e-11, atol=1e-15)


def test_the_probability_flow_of_one_point_is_a_straight_line():
    # dx/dt = z − x_0 along x_t = (1 − t) x_0 + t z: rectified flow.
    sde, t = StraightSDE(), torch.linspace(0.001, StraightSDE.T, 30, dtype=DOUBLE)
    x_0, z = torch.randn(2, 30, 4, dtype=DOUBLE)
    x = (1 - t[:, None]) * x_0 + t[:, None] * z
    velocity = sde.reverse(Gaussian(sde, x_0, 0.0).score, probability_flow=True).sde(x, t)[0]
    torch.testing.assert_close(velocity, z - x_0, rtol=1e-8, atol=1e-8)


# ---- Where they end ----


@pytest.mark.parametrize(
    ("kind", "level", "nats"),
    [("straight", 999, 5.0e-7), ("cosine", 641.7, 1.21e-6), ("karras", 80, 7.8e-5)],
)
def test_the_prior_is_close_to_the_end_of_the_forward_process(kind, level, nats):
    sde = NEW[kind]()
    end = torch.tensor([sde.T], dtype=DOUBLE)
    assert sde.noise_level(end).item() == pytest.approx(level, rel=1e-3)
    assert sde.prior_std == pytest.approx(sde.std(end).item(), rel=1e-12)
    # KL of N(α x_0, σ² I) from the prior, per dimension of data with a mean square of 1.
    kl = (sde.mean_scale(end) / sde.std(end)).item() ** 2 / 2
    assert kl == pytest.approx(nats, rel=0.02)


@pytest.mark.parametrize("kind", ["straight", "cosine"])
def test_float32_still_tells_the_data_from_the_noise_at_the_end(kind):
    sde = NEW[kind]()
    end = torch.tensor([sde.T])
    for function in (sde.mean_scale, sde.noise_level, sde.mean_rate, sde.diffusion_squared):
        torch.testing.assert_close(
            function(end).double(), function(end.double()), rtol=1e-6, atol=0
        )
    torch.testing.assert_close(sde.time_of_noise_level(sde.noise_level(end)), end)


# ---- Training times ----


@pytest.mark.parametrize("kind", ALL_SDES)
def test_log_snr_times_are_even_in_the_logarithm_of_the_noise_level(kind):
    sde, n = ALL_SDES[kind](), 512
    t = LogSNRTimes(sde, 1e-3).draw(n, generator=torch.Generator().manual_seed(0)).double()
    first, last = sde.noise_level(torch.tensor([1e-3, sde.T], dtype=DOUBLE)).log()
    fraction = (sde.noise_level(t).log() - first) / (last - first)
    # One in each of n equal strata, but for the rounding of float32 times.
    middles = (torch.arange(n) + 0.5) / n
    assert ((fraction.sort().values - middles).abs() < 0.5 / n + 2e-5).all()


def test_log_snr_times_let_every_level_count_alike(sde):
    objective = make_objective(sde, times="log_snr")
    t = times(sde)
    assert torch.equal(objective.weight(t), torch.ones_like(t))
    with pytest.raises(ValueError, match="log_snr times are a weighting of their own"):
        make_objective(sde, times="log_snr", likelihood_weighting=True)
    with pytest.raises(ValueError, match="which replace those"):
        make_objective(sde, times="log_snr", objective="likelihood")


def test_the_recipe_of_karras_sde_trains_all_levels_alike():
    # Even times up to 80 would hardly ever see the levels of the data, below 2.
    config = karras_digits.get_config()
    objective = build_objective(config, build_sde(config))
    t = objective.times(1000, torch.device("cpu"), torch.Generator().manual_seed(0))
    expected = math.log(2 / 0.002) / math.log(80 / 0.002)
    assert abs((t < 2).double().mean().item() - expected) < 0.02


def test_training_begins_where_the_sde_says():
    assert make_objective(KarrasVESDE()).time_sampler.eps == 0.002
    assert make_objective(StraightSDE()).time_sampler.eps == 1e-5
    assert make_objective(KarrasVESDE(), eps=0.5).time_sampler.eps == 0.5


# ---- Sampling and likelihood ----


def moments_reached(sde, data, step, num_steps):
    """Mean and variance that a step's draws end with: on Gaussian data it is affine in x and z."""
    x, ones = torch.tensor([[0.0], [1.0]], dtype=DOUBLE), torch.ones(2, 1, dtype=DOUBLE)
    mean, variance = 0.0, sde.prior_std**2
    grid = time_grid(sde, num_steps, sde.grid).double()
    for t, s in itertools.pairwise(grid):
        y, y_mean = step.step(x, t.expand(2), s.expand(2), data.score, lambda _: ones)
        shift, slope, noise = y_mean[0], y_mean[1] - y_mean[0], y[0] - y_mean[0]
        mean, variance = slope * mean + shift, slope**2 * variance + noise**2
    return mean.item(), variance.item()


@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion", "ancestral_sampling"])
def test_predictors_have_weak_order_one(sde, name):
    data, step = Gaussian(sde, 0.0, 0.09), PREDICTORS[name](sde)
    last = torch.tensor([sde.eps], dtype=DOUBLE)
    exact = data.moments(last, last[:, None])[1].item()
    few, many = (
        moments_reached(sde, data, step, num_steps)[1] / exact - 1 for num_steps in (200, 800)
    )
    assert math.log2(few / many) / 2 == pytest.approx(step.weak_order, abs=0.06)
    assert abs(many) < 0.02


def test_ancestral_sampling_reaches_the_mean(sde):
    # Its mean is E[x_s | x_t] itself: all that it loses is what the prior lacks of p_T's mean.
    data, step = Gaussian(sde, 0.7, 0.09), PREDICTORS["ancestral_sampling"](sde)
    end, last = (torch.tensor([t], dtype=DOUBLE) for t in (sde.T, sde.eps))
    lost = data.flow(torch.zeros(1, 1, dtype=DOUBLE), end, last)
    mean = moments_reached(sde, data, step, 400)[0]
    assert abs(mean - 0.7 * sde.mean_scale(last).item()) < 0.7 - lost.item() + 1e-9


@pytest.mark.parametrize("corrector", ["langevin", "ald"])
def test_correctors_keep_the_moments_right(sde, corrector):
    data, step = Gaussian(sde, 0.7, 0.09), PREDICTORS["reverse_diffusion"](sde)
    grid = time_grid(sde, 150, sde.grid)
    sampler = GridSampler(sde, grid, step, CORRECTORS[corrector](sde, 0.1))
    (drawn,) = sampler.draw(
        lambda row: data.score, torch.arange(8), (500,), seed=0, batch_size=8, device="cpu"
    )
    assert drawn.x.mean().item() == pytest.approx(0.7, abs=0.03)
    assert drawn.x.std().item() == pytest.approx(0.3, rel=0.04)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm_solver2", "dpm_solver++"])
def test_few_steps_have_their_order_on_the_sde_of_the_tutorial(name):
    # Accurate start values matter more here than elsewhere: the order shows from 160 steps on.
    sde = PowerVESDE(10.0)
    data, solver = Gaussian(sde, 0.7, 0.25), FEW_STEP[name](sde)
    x = torch.linspace(-2, 2, 5, dtype=DOUBLE)[:, None] * sde.prior_std
    errors = []
    for num_steps in (160, 640):
        grid, y = time_grid(sde, num_steps, "edm", eps=0.05).double(), x
        solver.begin(num_steps)
        for t, s in itertools.pairwise(grid):
            y, _ = solver.step(y, t.expand(5), s.expand(5), data.score, None)
        errors.append((y - data.flow(x, grid[:1], grid[-1:])).abs().max().item())
    assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(solver.order, abs=0.3)


def test_a_mixtures_likelihood_is_its_closed_form_but_for_the_prior(sde):
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]).double()
    data, eps = Mixture(sde, means, weights), max(1e-4, sde.train_eps)
    x = data.sample(5, torch.Generator().manual_seed(1))
    start, end = (torch.full((5,), t, dtype=DOUBLE) for t in (eps, sde.T))
    result = log_likelihood(
        sde, lambda row: data.score, x, probes=None, rtol=1e-7, atol=1e-7, eps=eps
    )
    mismatch = sde.prior_logp(result.z) - data.logp(result.z, end)
    assert_close(result.logp - mismatch, data.logp(x, start), 1e-5)


# ---- Names, fields and recipes ----

RECIPES = {
    "powervesde": parts.POWER_VE,
    "karrasvesde": parts.KARRAS,
    "cosinevpsde": parts.COSINE,
    "straightsde": parts.STRAIGHT,
}


@pytest.mark.parametrize("name", RECIPES)
def test_rows_are_made_of_the_fields_of_their_parts(name):
    config = parts.recipe(parts.NCSNPP, parts.DIGITS, RECIPES[name], parts.SMALL)
    config.model.sigma, config.model.num_scales = 9.0, 37
    sde = build_sde(config)
    assert (sde.name, sde.N, sde.has_chain) == (name, 37, False)
    assert getattr(sde, "sigma", 9.0) == 9.0
    sampler = build_sampler(config, sde)
    assert sampler.times[0] == pytest.approx(sde.T)
    assert sampler.times[-1] == pytest.approx(sde.eps)
    config.training.continuous, config.training.time_sampling = False, "uniform"
    with pytest.raises(ValueError, match=f"{name}: discrete training is defined for"):
        build_objective(config, sde)
    config.training.continuous, config.training.objective = True, "elbo"
    with pytest.raises(ValueError, match="belongs to DDPM's chain"):
        build_objective(config, sde)


@pytest.mark.parametrize(("name", "grid"), [("karrasvesde", "edm"), ("straightsde", "log_snr")])
def test_the_grid_is_the_sdes_own_unless_one_is_asked_for(name, grid):
    config = parts.recipe(parts.NCSNPP, parts.DIGITS, RECIPES[name], parts.SMALL)
    sde, num_steps = build_sde(config), config.sampling.num_steps
    own = torch.tensor(build_sampler(config, sde).times)
    assert_close(own, time_grid(sde, num_steps, grid))
    config.sampling.grid = "uniform"
    asked = torch.tensor(build_sampler(config, sde).times)
    assert_close(asked, time_grid(sde, num_steps, "uniform"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PowerVESDE(1.0), "sigma=1.0: g.* must be above 1"),
        (lambda: KarrasVESDE(0.0), "0 < sigma_min < sigma_max"),
        (lambda: KarrasVESDE(2.0, 1.0), "sigma_min=2.0"),
        (lambda: StraightSDE(0), "at least one scale"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_recipe_has_the_fields_of_every_sde(name):
    config = parts.recipe(parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL)
    config.lock()  # as the command line does
    config.training.sde = name
    assert build_sde(config).name == name
    config.model.sigma = 9.0
