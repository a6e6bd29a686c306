"""Orders of the few-step solvers, given accurate start values and from their own start."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from conftest import assert_close
from problems import Gaussian, Mixture
from scipy.integrate import solve_ivp

from score_sde.score import noise_from_score
from score_sde.sde import SDE, VESDE, VPSDE
from score_sde.solvers.few_step import (
    DDIM,
    DEIS,
    IPNDM,
    DPMSolver2,
    DPMSolverPP2M,
    DPMSolverPP3M,
    Heun,
    UniPC,
    UniPC2,
)
from score_sde.solvers.grids import time_grid

GRIDS = ("log_snr", "edm")
STEPS = (256, 512)  # 1,024 give the same orders
GIVEN = 6  # states that a solver with accurate start values is given
SAMPLES = torch.tensor([[-1.1, 0.4], [0.6, 1.3], [0.1, -0.7]], dtype=torch.float64)
MIXTURE = (  # means and weights
    torch.tensor([[1.0, 0.5], [-1.0, 0.3], [0.2, -1.1]]).double(),
    torch.tensor([0.5, 0.25, 0.25]).double(),
)


class Power(SDE):
    """g(t) = s^t: its largest level is so low that the data are seen from the first step on."""

    name = "power"

    def __init__(self, s: float = 25.0) -> None:
        super().__init__(1000)
        self.rate = 2 * math.log(s)
        self.prior_std = math.sqrt(math.expm1(self.rate) / self.rate)

    def mean_scale(self, t):
        return torch.ones_like(t)

    def std(self, t):
        return (torch.expm1(self.rate * t) / self.rate).sqrt()

    def time_of_noise_level(self, level):
        return torch.log1p(self.rate * level**2) / self.rate


SDES = {"vp": VPSDE(0.1, 10.0), "ve": VESDE(0.05, 10.0), "power": Power()}
SOLVERS = {
    "ddim": DDIM,
    "heun": Heun,
    "dpm_solver2": DPMSolver2,
    "dpm_solver++": lambda sde: DPMSolverPP2M(sde, lower_order_final=False),
    "dpm_solver++3m": lambda sde: DPMSolverPP3M(sde, lower_order_final=False),
    "published 3m": lambda sde: DPMSolverPP3M(sde, lower_order_final=False, published=True),
    "unipc2": lambda sde: UniPC2(sde, lower_order_final=False),
    "unipc": lambda sde: UniPC(sde, lower_order_final=False),
    "deis": DEIS,
    "ipndm": IPNDM,
}


class Problem:
    """Flows of a Gaussian and of a mixture on two grids of num_steps, in one batch.

    The batch is (data, grid, start, sample): all have times of their own. Of `start` the first is
    given exact states at the first GIVEN times, the second none.
    """

    def __init__(self, sde: SDE) -> None:
        self.sde = sde
        self.gaussian = Gaussian(sde, 0.7, 0.25)
        self.mixture = Mixture(sde, *MIXTURE, variance=0.25)
        self.start = SAMPLES * sde.prior_std
        grids = {n: [time_grid(sde, n, grid, 0.02).double() for grid in GRIDS] for n in STEPS}
        self.times = {n: torch.stack(grids[n], 1) for n in STEPS}  # (n + 1, grid)
        known = torch.cat([self.known(n).flatten() for n in STEPS]).unique().flip(0)
        states = torch.stack([self.gaussian_flow(known), self.mixture_flow(known)])
        self.states = {
            n: states[:, torch.searchsorted(-known, -self.known(n))].transpose(0, 1) for n in STEPS
        }  # (GIVEN + 1, data, grid, sample, 2)

    def known(self, n):
        return torch.cat([self.times[n][:GIVEN], self.times[n][-1:]])

    def gaussian_flow(self, times):
        begin = torch.ones(1).double()
        return torch.stack([self.gaussian.flow(self.start, begin, t[None]) for t in times])

    def mixture_flow(self, times):
        """In λ = −log(σ/α), where dy/dλ = −ℓ n for y = x/α."""
        sde, shape = self.sde, self.start.shape

        def slope(at, y):
            level = torch.full(shape[:1], math.exp(-at), dtype=torch.float64)
            t = sde.time_of_noise_level(level)
            alpha, sigma = sde.mean_scale(t)[:, None], sde.std(t)[:, None]
            x = alpha * torch.from_numpy(y).view(shape)
            return (sigma**2 / alpha * self.mixture.score(x, t)).flatten().numpy()

        at = -sde.noise_level(times).log().numpy()
        y = (self.start / sde.mean_scale(torch.ones(1).double())).flatten().numpy()
        done = solve_ivp(slope, at[[0, -1]], y, "DOP853", at, rtol=1e-13, atol=1e-13)
        y = torch.from_numpy(np.ascontiguousarray(done.y.T)).view(len(times), *shape)
        return y * sde.mean_scale(times)[:, None, None]

    def score(self, x, t):
        half = len(x) // 2
        scores = self.gaussian.score(x[:half], t[:half]), self.mixture.score(x[half:], t[half:])
        return torch.cat(scores)

    def errors(self, solver, n):
        """(data, grid, 2): the largest error given accurate start values, and what the start adds.

        What it adds is the difference of the two runs.
        """
        shape = (2, len(GRIDS), 2, *self.start.shape)

        def batch(v):
            return v.expand(shape).reshape(-1, 2).clone()

        times = self.times[n][:, None, :, None, None].expand(-1, *shape[:-1]).flatten(1)
        given = torch.tensor([True, False])[:, None, None].expand(shape).reshape(-1, 2)
        x = batch(self.start)
        solver.begin(n)
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            if k < GIVEN:
                x = torch.where(given, batch(self.states[n][k][:, :, None]), x)
            x, _ = solver.step(x, t, s, self.score, None)
        accurate, own = x.view(shape).unbind(2)
        return torch.stack([accurate - self.states[n][-1], own - accurate], 2).abs().amax((-1, -2))


problem = functools.cache(lambda kind: Problem(SDES[kind]))


@functools.cache
def measured_orders(kind, name):
    """(data, grid, 2): of the method, and of its start."""
    few, many = (problem(kind).errors(SOLVERS[name](SDES[kind]), n) for n in STEPS)
    return (few / many).log2()


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("name", SOLVERS)
def test_the_order_given_accurate_start_values_is_the_declared_one(kind, name):
    declared = SOLVERS[name](SDES[kind]).order
    order = measured_orders(kind, name)[:, :, 0]
    assert order.min() > declared - 0.1, order
    assert order.max() < declared + 0.3, order


MULTISTEP = [name for name, make in SOLVERS.items() if make(SDES["ve"]).start_order]


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_start_by_lower_orders_adds_an_error_of_its_own_order(name):
    declared = SOLVERS[name](SDES["power"]).start_order
    order = measured_orders("power", name)[:, :, 1]
    assert order.min() > declared - 0.1, order
    assert order.max() < declared + 0.8, order


def test_the_third_order_is_what_the_published_3m_lacks():
    # Half of the term of the second derivative is missing from each step.
    solver = SOLVERS["dpm_solver++3m"](SDES["ve"])
    published = SOLVERS["published 3m"](SDES["ve"])
    assert (solver.order, published.order) == (3, 2)
    at = torch.tensor([[2.0], [1.0], [0.5]]).double()  # noise levels of the last three times
    t, *before = SDES["ve"].time_of_noise_level(at.flip(0)).unbind()
    s = SDES["ve"].time_of_noise_level(torch.tensor([0.2]).double())
    second = [-(at.log()[k] ** 2) for k in (2, 1, 0)]  # D = −λ², whose D'' is −2
    h = math.log(0.5 / 0.2)
    phi_3 = (0.5 - (h - 1 + math.exp(-h)) / h**2) / h
    lost = (
        solver._mean([t, *before], second, t, s) - published._mean([t, *before], second, t, s)
    ) * -math.expm1(-h)
    assert lost.item() == pytest.approx(-2 * h**3 * phi_3 / 2)


def test_ipndm_is_of_order_four_where_steps_are_even_in_the_noise_level():
    sde = SDES["ve"]
    data = Gaussian(sde, 0.7, 0.25)
    errors = []
    for n in (128, 256):
        levels = torch.linspace(5, 0.5, n + 1, dtype=torch.float64)
        times = sde.time_of_noise_level(levels)[:, None]
        exact = [data.flow(SAMPLES, times[0], t) for t in times]
        solver, x = IPNDM(sde), SAMPLES
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            x = exact[k] if k < GIVEN else x
            x, _ = solver.step(x, t.expand(3), s.expand(3), data.score, None)
        errors.append((x - exact[-1]).abs().max())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.1)


CHAIN = VPSDE(N=1000)
PUBLISHED = {
    "dpm_solver++": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 2},
        lambda few: DPMSolverPP2M(CHAIN, few),
    ),
    "dpm_solver++3m": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 3},
        lambda few: DPMSolverPP3M(CHAIN, few, published=True),
    ),
    "unipc2": ("UniPCMultistepScheduler", {"solver_order": 2}, lambda few: UniPC2(CHAIN, few)),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 3}, lambda few: UniPC(CHAIN, few)),
    "deis": (
        "DEISMultistepScheduler",
        {"solver_order": 3},
        lambda few: DEIS(CHAIN, few, space="log_rho", remembers=3),
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, within diffusers
@pytest.mark.parametrize("num_steps", [5, 20])
@pytest.mark.parametrize("name", PUBLISHED)
def test_samples_are_those_of_diffusers(name, num_steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler, options, make = PUBLISHED[name]
    few = num_steps < 15  # where its schedulers end with lower orders, or are told to
    options = options | {"trained_betas": CHAIN.discrete_betas.numpy(), "lower_order_final": few}
    to_zero = few and name != "deis"  # whose scheduler ends at the chain's smallest level
    if name != "deis":
        options["final_sigmas_type"] = "zero" if to_zero else "sigma_min"
    scheduler = getattr(diffusers, scheduler)(1000, **options)
    scheduler.set_timesteps(num_steps)
    last = CHAIN.chain_times()[:1] * (not to_zero)
    times = torch.cat([CHAIN.chain_times()[scheduler.timesteps], last])
    levels = CHAIN.noise_level(times)
    assert_close(scheduler.sigmas, levels, 1e-5)
    scheduler.sigmas = levels  # not rounded to float32, of which it takes close differences
    data = Mixture(CHAIN, *MIXTURE, variance=0.25)
    theirs = SAMPLES
    for k, t in zip(scheduler.timesteps, times[:, None].expand(-1, 3), strict=False):
        noise = noise_from_score(CHAIN, data.score(theirs, t), t)
        theirs = scheduler.step(noise, k, theirs).prev_sample
    solver, x = make(few), SAMPLES
    solver.begin(num_steps)
    for t, s in itertools.pairwise(times):
        x, _ = solver.step(x, t.expand(3), s.expand(3), data.score, None)
    assert_close(x, theirs, 1e-5)
