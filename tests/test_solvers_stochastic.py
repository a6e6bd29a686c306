"""Stochastic solvers: weak and strong orders, the papers' equations, chains, and the path."""

import itertools
import math
from functools import cache

import pytest
import torch
from problems import Gaussian, Mixture

from score_sde.config import parts
from score_sde.config.build import build_sampler, build_sde
from score_sde.noise import BrownianPath, SampleNoise, torch_noise
from score_sde.samplers import GridSampler
from score_sde.score import denoised_from_score
from score_sde.sde import SDE, VESDE, VPSDE, subVPSDE
from score_sde.solvers.few_step import (
    DDIM,
    FEW_STEP,
    SRA1,
    SDEDPMSolverPP2M,
    ShARK,
    StochasticHeun,
)
from score_sde.solvers.few_step.stochastic import _shifts
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import (
    AncestralSamplingPredictor,
    EulerMaruyamaPredictor,
    MilsteinPredictor,
    ReverseDiffusionPredictor,
)
from score_sde.solvers.step import make_step

SDES = {"ve": VESDE(0.1, 5.0), "vp": VPSDE(0.1, 10.0), "subvp": subVPSDE(0.1, 10.0)}
TWO_STAGES = {"stochastic_heun": StochasticHeun, "sra1": SRA1, "shark": ShARK}
STEPS = {
    **TWO_STAGES,
    "sde_dpm_solver++": SDEDPMSolverPP2M,
    "ddim, η = 1": lambda sde: DDIM(sde, eta=1.0),
    "ddim, η = 0.5": lambda sde: DDIM(sde, eta=0.5),
}
DRAWS = {name: 2 if name in ("sra1", "shark") else 1 for name in STEPS}


def walk(step, x, times, score, noise):
    step.begin(len(times) - 1)
    for t, s in itertools.pairwise(times):
        x, _ = step.step(x, t.expand(len(x)), s.expand(len(x)), score, noise)
    return x


def one_hot_noise(draws, first=0):
    """Row `first + k` of a batch is given the draw k of `draws` alone."""
    drawn = itertools.count()

    def noise(shape):
        z = torch.zeros(first + draws, 1, dtype=torch.float64)
        z[first + next(drawn)] = 1
        return z

    return noise


def in_window(order, declared):
    return declared - 0.1 <= order <= declared + 0.3


# Weak order: under a linear score a run is affine in its start and its draws


def moment_errors(step, data, times, draws, score=None):
    """Errors of mean and variance at the end, without sampling."""
    zero = torch.zeros(1, 1, dtype=torch.float64)
    (mean, variance), exact = (
        [float(moment) for moment in data.moments(t, zero)] for t in (times[:1], times[-1:])
    )
    draws *= len(times) - 1
    x = torch.zeros(2 + draws, 1, dtype=torch.float64)
    x[1] = 1
    x = walk(step, x, times, score or data.score, one_hot_noise(draws, 2))[:, 0]
    factors = x[1:] - x[0]
    reached = (x[0] + factors[0] * mean, factors[0] ** 2 * variance + (factors[1:] ** 2).sum())
    return [abs(float(a) - b) for a, b in zip(reached, exact, strict=True)]


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("grid", ["log_snr", "edm"])
@pytest.mark.parametrize("name", STEPS)
def test_measured_weak_order_is_the_declared_one(kind, grid, name):
    sde = SDES[kind]
    data, step = Gaussian(sde, 0.7, 0.25), STEPS[name](sde)
    errors = []
    for num_steps in (64, 256):
        times = time_grid(sde, num_steps, grid, eps=0.05).double()
        errors.append(moment_errors(step, data, times, DRAWS[name]))
    (mean, coarse), (mean_fine, fine) = errors
    # The weights of x and of the denoised sample are those of its mean, at any step.
    assert max(mean, mean_fine) < 1e-12
    assert in_window(math.log2(coarse / fine) / 2, step.weak_order)


@pytest.mark.parametrize("name", TWO_STAGES)
@pytest.mark.parametrize("kind", ["ve", "vp"])
def test_nodes_on_a_chain_keep_the_weak_order(kind, name):
    sde = VESDE(0.1, 5.0, N=16001) if kind == "ve" else VPSDE(0.1, 5.0, N=16001)
    data, known = Gaussian(sde, 0.7, 0.25), sde.chain_times().float()

    def score(x, t):
        assert t[0].float() in known
        return data.score(x, t)

    step = make_step(FEW_STEP[name], sde, {}, on_chain=True)
    errors = []
    for stride in (240, 60):
        times = known.flip(0)[:14401:stride]
        errors.append(moment_errors(step, data, times, DRAWS[name], score)[1])
    assert in_window(math.log2(errors[0] / errors[1]) / 2, step.weak_order)


# Strong order: one path, seen by steps of every size


class Paths:
    """The reverse VP SDE of a mixture from 200 starts, each along a path of its own."""

    def __init__(self, times):
        self.sde, self.times = SDES["vp"], times.double()
        means = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        self.data = Mixture(self.sde, means, torch.full((2,), 0.5).double(), 0.02)
        noise = torch_noise(dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self.start = noise((200, 1))
        self.path = BrownianPath(noise, (200, 1), self.times)
        self.exact = self.reached(ShARK(self.sde), len(times) - 1)

    def reached(self, step, num_steps, path=None):
        times = self.times[:: (len(self.times) - 1) // num_steps]
        return walk(step, self.start, times, self.data.score, path or self.path)

    def order(self, step, path=None):
        """By steps of 16 and 128, in the root mean square over the paths."""
        coarse, fine = (
            (self.reached(step, n, path) - self.exact).pow(2).mean().sqrt() for n in (16, 128)
        )
        return math.log2(coarse / fine) / 3


@cache
def mixture_paths():
    return Paths(time_grid(SDES["vp"], 512, "log_snr", eps=0.3))


@pytest.mark.parametrize(
    "make",
    [
        EulerMaruyamaPredictor,
        ReverseDiffusionPredictor,
        AncestralSamplingPredictor,
        StochasticHeun,
        SRA1,
        ShARK,
        SDEDPMSolverPP2M,
        STEPS["ddim, η = 1"],
    ],
)
def test_measured_strong_order_is_the_declared_one(make):
    step = make(SDES["vp"])
    assert in_window(mixture_paths().order(step), step.strong_order)


@pytest.mark.parametrize("make", [SRA1, ShARK])
def test_the_strong_order_needs_the_second_gaussian(make):
    class WithoutAreas:
        def between(self, *times):
            z, area = mixture_paths().path.between(*times)
            return z, torch.zeros_like(area)

    assert in_window(mixture_paths().order(make(SDES["vp"]), WithoutAreas()), 1.0)


@pytest.mark.parametrize("name", ["sra1", "shark"])
def test_nodes_on_a_chain_keep_the_strong_order(name):
    sde = VPSDE(0.1, 10.0, N=5121)
    paths = Paths(sde.chain_times().flip(0)[:3585:7])
    step = make_step(FEW_STEP[name], sde, {}, on_chain=True)
    assert in_window(paths.order(step), step.strong_order)


@pytest.mark.parametrize("theta", [0.6, 0.7, 3 / 4, 0.8, 5 / 6, 0.9, 1.0])
def test_shifts_of_a_node_meet_the_conditions_of_additive_noise(theta):
    b = 0.5 / theta
    a, c = (float(v) for v in _shifts(torch.tensor([theta], dtype=torch.float64)))
    assert (1 - b) * a**2 + b * c**2 == pytest.approx(6 * (1 - theta))
    if theta <= 5 / 6:
        assert (1 - b) * a + b * c == pytest.approx(1)


# The papers' equations


def scalars(sde, *times):
    """α, σ and w = α²/σ² at each time."""
    for t in times:
        t = torch.tensor([t], dtype=torch.float64)
        alpha, sigma = float(sde.mean_scale(t)), float(sde.std(t))
        yield alpha, sigma, (alpha / sigma) ** 2


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize(
    ("name", "start", "node", "weights"),
    [
        ("stochastic_heun", (0, 0), (1, 1, 0, 0), (1 / 2, 1 / 2)),
        # Rößler 2010: A = 3/4 and B = 3/2 of the integral over h, α = (1/3, 2/3).
        ("sra1", (0, 0), (3 / 4, 0, 3 / 4, 3 / 2), (1 / 3, 2 / 3)),
        # Foster et al. 2024: both stages shifted by the area H, weights 2/5 and 3/5.
        ("shark", (0, 1), (5 / 6, 5 / 6, 0, 1), (2 / 5, 3 / 5)),
    ],
)
def test_two_stages_are_the_published_ones_in_the_signal_to_noise_ratio(
    kind, name, start, node, weights
):
    """Of `node`: θ, then the multiples of ΔB, of ΔB by half the integral, and of the area H."""
    sde, data = SDES[kind], Gaussian(SDES[kind], 0.7, 0.25)
    (alpha_t, sigma_t, w_t), (alpha_s, sigma_s, w_s) = scalars(sde, 0.6, 0.4)
    h, z, zeta = w_s - w_t, 0.8, -1.3
    rise, area = math.sqrt(h) * z, math.sqrt(h / 12) * zeta

    def D(u, w):  # E[x_0 | x] of a Gaussian, from the precisions of data and noise
        return (0.7 / 0.25 + u) / (1 / 0.25 + w)

    x = 0.9
    u = alpha_t * x / sigma_t**2
    theta, whole, half, shift = node
    first = D(u + start[1] * area, w_t)
    # The integral of the path over h is ΔB/2 + H.
    stage = u + theta * h * first + whole * rise + 2 * half * rise / 2 + shift * area
    second = D(stage, w_t + theta * h)
    expected = u + h * (weights[0] * first + weights[1] * second) + rise

    draws = iter((z, zeta))
    x_B, t, s = (torch.tensor([[v]], dtype=torch.float64) for v in (x, 0.6, 0.4))
    step = FEW_STEP[name](sde)
    reached, mean = step.step(
        x_B,
        t[0],
        s[0],
        data.score,
        lambda shape: torch.full(shape, next(draws), dtype=torch.float64),
    )
    assert float(reached) == pytest.approx(expected * sigma_s**2 / alpha_s, rel=1e-9)
    drift = expected - rise
    assert float(mean) == pytest.approx(drift * sigma_s**2 / alpha_s, rel=1e-9)


@pytest.mark.parametrize("kind", SDES)
def test_sde_dpm_solver_is_that_of_lu_et_al(kind):
    sde, data = SDES[kind], Gaussian(SDES[kind], 0.7, 0.25)
    levels = list(scalars(sde, 0.8, 0.5, 0.3))
    times = torch.tensor([0.8, 0.5, 0.3], dtype=torch.float64)
    x, before, noise = 0.9, None, (0.8, -1.3)
    for k, z in enumerate(noise):
        (alpha_t, sigma_t, _), (alpha_s, sigma_s, _) = levels[k : k + 2]
        lambdas = [math.log(alpha / sigma) for alpha, sigma, _ in levels]
        h = lambdas[k + 1] - lambdas[k]
        D = (0.7 / 0.25 + alpha_t * x / sigma_t**2) / (1 / 0.25 + (alpha_t / sigma_t) ** 2)
        mixed = D
        if before is not None:
            r = (lambdas[k] - lambdas[k - 1]) / h
            mixed = D + (D - before) / (2 * r)
        kept = math.exp(-2 * h)
        x = sigma_s / sigma_t * math.exp(-h) * x + alpha_s * (1 - kept) * mixed
        x, before = x + sigma_s * math.sqrt(1 - kept) * z, D
    draws = iter(noise)
    start = torch.full((1, 1), 0.9, dtype=torch.float64)
    reached = walk(
        SDEDPMSolverPP2M(sde),
        start,
        times,
        data.score,
        lambda shape: torch.full(shape, next(draws), dtype=torch.float64),
    )
    assert float(reached) == pytest.approx(x, rel=1e-9)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_adds_the_noise_of_song_j_et_al(eta):
    sde, data = VPSDE(), Gaussian(VPSDE(), 0.7, 0.25)
    (alpha_t, sigma_t, _), (alpha_s, _, _) = scalars(sde, 0.6, 0.4)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    t, s = torch.full((5,), 0.6).double(), torch.full((5,), 0.4).double()
    std = eta * math.sqrt((1 - alpha_s**2) / (1 - alpha_t**2) * (1 - alpha_t**2 / alpha_s**2))
    denoised = denoised_from_score(sde, x, data.score(x, t), t)
    n = (x - alpha_t * denoised) / sigma_t
    mean = alpha_s * denoised + math.sqrt(1 - alpha_s**2 - std**2) * n
    reached, x_mean = DDIM(sde, eta).step(x, t, s, data.score, lambda shape: torch.ones(shape))
    torch.testing.assert_close(x_mean, mean)
    torch.testing.assert_close(reached, mean + std)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_ddim_refuses_other_noise(eta):
    with pytest.raises(ValueError, match=rf"eta={eta}: .* between 0, none, and 1"):
        DDIM(VPSDE(), eta)


# Milstein's method


@pytest.mark.parametrize("kind", SDES)
def test_milstein_is_euler_maruyama_where_noise_does_not_depend_on_x(kind):
    sde = SDES[kind]
    data, index = Gaussian(sde, 0.7, 0.25), torch.arange(3)
    found = []
    for make in (EulerMaruyamaPredictor, MilsteinPredictor):
        sampler = GridSampler(sde, time_grid(sde, 20), make(sde))
        found += sampler.draw(
            lambda _: data.score, index, (2, 2), seed=0, batch_size=3, device="cpu"
        )
    assert torch.equal(found[0].x, found[1].x)


class GeometricBrownianMotion(SDE):
    """dX = μ X dτ + s X dW along τ = 1 − t: a process whose noise depends on its state."""

    name, noise_depends_on_x, mu, s = "geometric", True, 0.5, 0.8

    def mean_scale(self, t):
        return torch.ones_like(t)

    std = mean_scale

    def sde(self, x, t):
        return -self.mu * x, self.s * x

    def reverse(self, score_fn, probability_flow=False):
        return self


@pytest.mark.parametrize(
    ("make", "order"), [(EulerMaruyamaPredictor, 0.5), (MilsteinPredictor, 1)]
)
def test_strong_orders_on_geometric_brownian_motion(make, order):
    sde, n = GeometricBrownianMotion(1), 4000
    assert make(sde).strong_order == order
    times = torch.linspace(1, 0, 257, dtype=torch.float64)
    noise = torch_noise(dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    path = BrownianPath(noise, (n, 1), times)
    ends = torch.ones(n).double(), torch.zeros(n).double()
    exact = torch.exp(sde.mu - sde.s**2 / 2 + sde.s * path.between(*ends)[0])
    errors = []
    for num_steps in (16, 256):
        x = torch.ones(n, 1, dtype=torch.float64)
        with torch.inference_mode():
            x = walk(make(sde), x, times[:: 256 // num_steps], None, path)
        errors.append((x - exact).pow(2).mean().sqrt())
    assert in_window(math.log2(errors[0] / errors[1]) / 4, order)


def test_noise_that_depends_on_x_is_not_reversed_as_that_of_a_linear_sde():
    class Mine(VPSDE):
        noise_depends_on_x = True

    with pytest.raises(ValueError, match=r"vpsde has noise that depends on x.*reverse"):
        Mine().reverse(lambda x, t: -x)


# The path


def test_a_path_has_the_law_of_brownian_motion_at_every_step_size():
    times, K = torch.tensor([1.0, 0.9, 0.6, 0.5, 0.1, 0.0]).double(), 5
    path = BrownianPath(one_hot_noise(2 * K), (2 * K, 1), times)
    for clock in (None, VPSDE().mean_scale):
        at = times if clock is None else clock(times)

        def vectors(i, j, clock=clock):  # of the increment and the integral, in the fine normals
            z, zeta = path.between(times[i].expand(2), times[j].expand(2), clock)
            h = abs(float(at[j] - at[i]))  # noqa: B023
            return h, math.sqrt(h) * z[:, 0], h**1.5 * (z / 2 + zeta / math.sqrt(12))[:, 0]

        for i, m, j in ((0, 2, 5), (1, 2, 4), (0, 1, 3)):
            h, rise, integral = vectors(i, j)
            # Var ΔB = h, Var ∫B = h³/3, their covariance h²/2.
            assert float(rise @ rise) == pytest.approx(h)
            assert float(integral @ integral) == pytest.approx(h**3 / 3)
            assert float(rise @ integral) == pytest.approx(h**2 / 2)
            (_, first, before), (rest, second, after) = vectors(i, m), vectors(m, j)
            torch.testing.assert_close(rise, first + second)
            torch.testing.assert_close(integral, before + rest * first + after)


def test_what_a_path_cannot_give_is_refused():
    noise = SampleNoise(0, torch.arange(2))
    with pytest.raises(ValueError, match="needs a decreasing grid"):
        BrownianPath(noise, (2, 1), torch.tensor([0.0, 1.0]))
    path = BrownianPath(noise, (2, 1), torch.tensor([1.0, 0.5, 0.0]))
    sde, t, x = VPSDE(), torch.ones(2), torch.ones(2, 1)
    step = EulerMaruyamaPredictor(sde)
    with pytest.raises(ValueError, match=r"asked at time 0\.7"):
        step.step(x, t, t * 0.7, lambda x, t: -x, path)
    with pytest.raises(ValueError, match="own chain names one"):
        step.step(x, t, None, lambda x, t: -x, path)
    with pytest.raises(ValueError, match="noise that belongs to none"):
        sde.prior_sampling((2, 1), noise=path)
    with pytest.raises(ValueError, match=r"down to time 0, where its clock is infinite"):
        StochasticHeun(sde).step(x, t, t * 0, lambda x, t: -x, path)


# How they are used


@pytest.mark.parametrize("kind", ["vp", "subvp"])
@pytest.mark.parametrize("name", STEPS)
def test_a_last_step_to_no_noise_at_all_gives_the_denoised_sample(kind, name):
    sde = SDES[kind]
    data = Gaussian(sde, 0.7, 0.25)
    x = torch.linspace(-2, 2, 5)[:, None]
    t, s = torch.full((5,), 0.3), torch.zeros(5)
    step = STEPS[name](sde)
    step.begin(1)
    reached, _ = step.step(x, t, s, data.score, lambda shape: torch.ones(shape))
    expected = denoised_from_score(sde, x, data.score(x, t), t)
    torch.testing.assert_close(reached, expected)


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("name", STEPS)
def test_a_single_data_point_is_reached_exactly(kind, name):
    sde = SDES[kind]
    data = Gaussian(sde, 0.7, 0.0)
    sampler = GridSampler(sde, time_grid(sde, 3, "edm"), STEPS[name](sde), tweedie=True)
    (drawn,) = sampler.draw(
        lambda _: data.score, torch.arange(4), (2,), seed=0, batch_size=4, device="cpu"
    )
    torch.testing.assert_close(drawn.x, torch.full((4, 2), 0.7))


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("on_chain", [False, True])
def test_a_step_draws_the_same_number_of_times_wherever_it_is(name, on_chain):
    sde = VPSDE(N=30)
    step = STEPS[name](sde)
    step.on_chain = on_chain
    noise, times = SampleNoise(0, torch.arange(2)), sde.chain_times().flip(0).float()
    x = noise((2, 1))
    step.begin(3)
    for k, (first, last) in enumerate(((0, 1), (1, 20), (20, 29)), start=1):
        t, s = times[first].expand(2), times[last].expand(2)
        x, _ = step.step(x, t, s, lambda x, t: -x, noise)
        assert noise.draw == 1 + k * DRAWS[name]


def config_with(sde, continuous, **sampling):
    model = {"model.num_scales": 40, "model.beta_max": 10.0, "device": "cpu"}
    config = parts.recipe(parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL, model)
    config.training.sde, config.training.continuous = sde, continuous
    config.model.sigma_min, config.model.sigma_max = 0.01, 50.0
    config.sampling.update(num_steps=9, eta=0.5, **sampling)
    return config


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("kind", ["vesde", "vpsde", "subvpsde"])
@pytest.mark.parametrize(
    "method", ["stochastic_heun", "sra1", "shark", "sde_dpm_solver++", "ddim", "milstein"]
)
def test_methods_of_a_config_draw_samples_that_do_not_know_their_batch(kind, method, continuous):
    config = config_with(kind, continuous, method=method)
    sde = build_sde(config)
    data, known = Gaussian(sde, 0.7, 0.25), sde.chain_times().float()

    def score(x, t):
        assert continuous or not sde.has_chain or (known - t[0]).abs().min() < 1e-6
        return data.score(x, t)

    def drawn(batch_size):
        sampler = build_sampler(config, sde)
        assert sampler.evaluations == 9 * FEW_STEP[method].evaluations + sampler.tweedie
        parts = sampler.draw(
            lambda _: score, torch.arange(5), (2,), seed=0, batch_size=batch_size, device="cpu"
        )
        return torch.cat([part.x for part in parts])

    together = drawn(5)
    torch.testing.assert_close(drawn(2), together)
    assert not torch.allclose(together[0], together[1])
