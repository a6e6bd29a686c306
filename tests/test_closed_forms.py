"""The SDEs and the exact scores against closed forms, written down once more and differently.

One Python float at a time, with integrals by quadrature; needs no reference numbers.
"""

import itertools
import math

import pytest
import torch
from conftest import assert_close
from problems import SDES, Gaussian, Mixture
from scipy import integrate

import sde_lib
from score_sde.likelihoods import log_likelihood
from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.objectives import make_objective
from score_sde.samplers import GridSampler, ODESampler
from score_sde.score import NetworkScore
from score_sde.sde import SDE, VESDE
from score_sde.solvers.few_step import Heun
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import AncestralSamplingPredictor
from score_sde.tensor_ops import expand_to
from score_sde.training import TrainState, TrainStep, make_optimizer

DOUBLE = torch.float64
TIMES = (1e-4, 0.02, 0.3, 0.77, 1.0)
SIGMA_MIN, SIGMA_MAX = 0.01, 10.0
BETA_MIN, BETA_MAX = 0.1, 15.0
N = 25


def integral(t: float) -> float:
    return integrate.quad(lambda u: BETA_MIN + u * (BETA_MAX - BETA_MIN), 0, t)[0]


def alpha(kind: str, t: float) -> float:
    return 1.0 if kind == "ve" else math.exp(-integral(t) / 2)


def sigma(kind: str, t: float) -> float:
    if kind == "ve":
        return SIGMA_MIN ** (1 - t) * SIGMA_MAX**t
    kept = -math.expm1(-integral(t))
    return math.sqrt(kept) if kind == "vp" else kept


def diffusion(kind: str, t: float) -> float:
    if kind == "ve":  # Song, eq. 30
        return sigma(kind, t) * math.sqrt(2 * math.log(SIGMA_MAX / SIGMA_MIN))
    beta = BETA_MIN + t * (BETA_MAX - BETA_MIN)
    if kind == "vp":  # eq. 32
        return math.sqrt(beta)
    return math.sqrt(-beta * math.expm1(-2 * integral(t)))  # eq. 12


def column(values) -> torch.Tensor:
    return torch.tensor(list(values), dtype=DOUBLE)


@pytest.fixture(params=SDES)
def kind(request) -> str:
    return request.param


@pytest.fixture
def sde(kind) -> SDE:
    return VESDE(SIGMA_MIN, SIGMA_MAX, N) if kind == "ve" else SDES[kind](BETA_MIN, BETA_MAX, N)


def mixture(sde: SDE) -> Mixture:
    means = column([1.0, 0.2, -1.0, 0.5, 0.1, -1.2]).reshape(3, 2)
    return Mixture(sde, means, column([0.5, 0.3, 0.2]))


def test_mean_scale_std_drift_and_diffusion(kind, sde):
    t, x = column(TIMES), torch.ones(len(TIMES), 1, dtype=DOUBLE)
    same = {"rtol": 1e-9, "atol": 0}
    torch.testing.assert_close(sde.mean_scale(t), column(alpha(kind, u) for u in TIMES), **same)
    torch.testing.assert_close(sde.std(t), column(sigma(kind, u) for u in TIMES), **same)
    drift, g = sde.sde(x, t)
    rate = [0.0 if kind == "ve" else -0.5 * (BETA_MIN + u * (BETA_MAX - BETA_MIN)) for u in TIMES]
    torch.testing.assert_close(drift[:, 0], column(rate), **same)
    torch.testing.assert_close(g, column(diffusion(kind, u) for u in TIMES), **same)


def test_transitions_solve_the_equation_of_the_variance(kind, sde):
    # dv/dt = −β v + g² from 0 at time s: what noise the SDE adds by itself on the way to t.
    def slope(t, v):
        decay = 0.0 if kind == "ve" else BETA_MIN + t * (BETA_MAX - BETA_MIN)
        return -decay * v + diffusion(kind, t) ** 2

    for s, t in ((0.02, 0.3), (0.3, 0.77), (0.5, 0.501), (0.1, 1.0)):
        r, G = sde.transition(column([t]), column([s]))
        assert r.item() == pytest.approx(alpha(kind, t) / alpha(kind, s), rel=1e-9)
        solved = integrate.solve_ivp(slope, (s, t), [0.0], rtol=1e-11, atol=1e-14)
        assert G.item() ** 2 == pytest.approx(solved.y[0, -1], rel=1e-8)


def test_steps_of_the_papers_chain(kind, sde):
    i = range(N)
    if kind == "vp":  # the release's, whose steps are evenly spaced in time
        sde = sde_lib.VPSDE(BETA_MIN, BETA_MAX, N)
    t = column(k / (N - 1) for k in i)
    assert sde.index(t).tolist() == list(i)
    assert sde.index(t + 0.4 / (N - 1)).tolist() == list(i)
    f, G = sde.discretize(torch.ones(N, 1, dtype=DOUBLE), t)
    if kind == "ve":  # eq. 9: G² = σ_i² − σ_{i−1}²
        levels = [0.0, *(sigma("ve", k / (N - 1)) for k in i)]
        expected = [
            (0.0, math.sqrt(above**2 - below**2)) for below, above in itertools.pairwise(levels)
        ]
    elif kind == "vp":  # eq. 11: √(1 − β_i) x + √β_i z
        betas = [(BETA_MIN + k / (N - 1) * (BETA_MAX - BETA_MIN)) / N for k in i]
        expected = [(math.sqrt(1 - beta) - 1, math.sqrt(beta)) for beta in betas]
    else:  # none in the paper: Euler–Maruyama with a step of 1/N
        expected = [
            (
                -0.5 * (BETA_MIN + k / (N - 1) * (BETA_MAX - BETA_MIN)) / N,
                diffusion("subvp", k / (N - 1)) / math.sqrt(N),
            )
            for k in i
        ]
    assert_close(f[:, 0], column(pair[0] for pair in expected), 1e-6)
    assert_close(G, column(pair[1] for pair in expected), 1e-6)


@pytest.mark.parametrize("problem", ["gaussian", "mixture"])
def test_scores_are_the_slopes_of_the_log_density(sde, problem):
    data = Gaussian(sde, 0.7, 0.25) if problem == "gaussian" else mixture(sde)
    t = column(TIMES[1:])
    x = torch.linspace(-1.5, 1.5, 8, dtype=DOUBLE).reshape(4, 2)
    score, h = data.score(x, t), 1e-5
    for axis in (0, 1):
        step = torch.zeros(2, dtype=DOUBLE)
        step[axis] = h
        slope = (data.logp(x + step, t) - data.logp(x - step, t)) / (2 * h)
        assert_close(score[:, axis], slope, 1e-6)


def test_densities_integrate_to_one(sde):
    # So that the log density above is one, and not off by a function of x.
    data, t = mixture(sde), 0.3
    width = 3 + 6 * sde.std(column([t])).item()
    axis = torch.linspace(-width, width, 401, dtype=DOUBLE)
    x = torch.cartesian_prod(axis, axis)
    density = data.logp(x, torch.full((len(x),), t, dtype=DOUBLE)).exp()
    assert density.sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=1e-5)


# ---- An SDE that does not end at T = 1 ----


class Steady(SDE):
    """dx = −x/2 dt + dw up to T = 5: an Ornstein–Uhlenbeck process."""

    name, T = "steady", 5.0
    mean_scale = staticmethod(lambda t: torch.exp(-t / 2))
    std = staticmethod(lambda t: torch.sqrt(-torch.expm1(-t)))


class ExactNetwork(torch.nn.Module):
    """The exact noise prediction for N(0.7, 0.25 I) by the label 999 t/T, times 1."""

    def __init__(self, sde):
        super().__init__()
        self.sde, self.data = sde, Gaussian(sde, 0.7, 0.25)
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, cond):
        assert cond.max() <= 999 + 1e-3
        t = cond * (self.sde.T / 999)
        return -self.factor * expand_to(self.sde.std(t), x) * self.data.score(x, t)


@pytest.mark.parametrize("sampler", ["ancestral", "heun", "ode"])
def test_an_sde_that_ends_at_five_samples_the_data(sampler):
    sde = Steady(100)
    predictor, times = AncestralSamplingPredictor(sde), time_grid(sde, 100, "log_snr")
    draw = {
        "ancestral": GridSampler(sde, times, predictor),
        "heun": GridSampler(sde, time_grid(sde, 20, "edm"), Heun(sde)),
        "ode": ODESampler(sde, 1e-4, 1e-4),
    }[sampler].draw
    score, index = NetworkScore(ExactNetwork(sde), sde), torch.arange(4000)
    parts = draw(lambda _: score, index, (2,), seed=0, batch_size=4000, device="cpu")
    x = torch.cat([part.x for part in parts])
    assert x.mean().item() == pytest.approx(0.7, abs=0.05)
    assert x.std().item() == pytest.approx(0.5, rel=0.05)


def test_an_sde_that_ends_at_five_trains_and_has_the_likelihood_of_the_data():
    sde = Steady(100)
    net = ExactNetwork(sde)
    state = TrainState(
        net, ExponentialMovingAverage(net, 0.9), make_optimizer(net.named_parameters())
    )
    torch.manual_seed(0)
    x_0 = 0.7 + 0.5 * torch.randn(4000, 2)
    record = TrainStep(make_objective(sde), lr=1e-3)(state, x_0)
    assert record.t.max() > 4.9
    # E (E[z | x_t] − z)² is α²s²/(α²s² + σ²), averaged over [0, 5], and half of it in each of two.
    error = integrate.quad(lambda t: 0.25 / (0.25 + math.exp(t) - 1), 0, 5)[0] / 5
    assert record.loss.item() == pytest.approx(error, rel=0.1)
    x = x_0[:16].double()
    result = log_likelihood(
        sde, lambda row: NetworkScore(ExactNetwork(sde), sde), x, probes=None, eps=1e-4
    )
    # At T = 5 the prior differs from p_T by a mean of 0.7 exp(−5/2).
    expected = net.data.logp(x, torch.full((16,), 1e-4, dtype=DOUBLE))
    assert_close(result.logp, expected, 0.1)
