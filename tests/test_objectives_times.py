"""Training times: their densities, and the weights that correct for them."""

import math

import pytest
import torch
from conftest import assert_close
from problems import ALL_SDES, Gaussian
from test_objectives import exact_network
from test_sde import CosineSDE

from score_sde.objectives import (
    TIME_SAMPLERS,
    ImportanceTimes,
    StratifiedTimes,
    UniformTimes,
    make_objective,
)
from score_sde.sde import VESDE, VPSDE, subVPSDE


@pytest.fixture(params=ALL_SDES)
def sde(request):
    return ALL_SDES[request.param]()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_times_lie_between_eps_and_T_and_follow_their_generator(sde, name):
    times = TIME_SAMPLERS[name](sde, 1e-3)
    t = times.draw(5000, generator=generator(1))
    assert t.dtype == torch.float32
    assert t.min() >= 1e-3
    assert t.max() <= sde.T
    assert torch.equal(t, times.draw(5000, generator=generator(1)))
    assert not torch.equal(t, times.draw(5000, generator=generator(2)))


def test_uniform_times_are_the_originals_formula():
    torch.manual_seed(3)
    t = UniformTimes(VPSDE(), 1e-5).draw(6)
    torch.manual_seed(3)
    assert torch.equal(t, torch.rand(6) * (1 - 1e-5) + 1e-5)


def test_stratified_times_have_one_in_each_stratum_in_any_order():
    times = StratifiedTimes(VPSDE(), 0.0)
    draws = torch.stack([times.draw(8, generator=generator(seed)) for seed in range(400)])
    strata = (draws * 8).long()
    assert torch.equal(strata.sort(1).values, torch.arange(8).expand(400, 8))
    # Each place in the batch meets all strata alike: the mean of 400 has an error of 0.014.
    assert (draws.mean(0) - 0.5).abs().max() < 0.06
    # The batch's mean varies as 1/n³ instead of 1/n.
    assert draws.mean(1).var() < 2 * (1 / 12) / 8**3


def test_importance_times_have_the_closed_form_of_vp():
    # ∫ β/(1 − e^{−B}) dt = log(e^B − 1)
    sde, eps = VPSDE(), 1e-5
    times = ImportanceTimes(sde, eps)

    def primitive(t):
        return torch.log(torch.expm1(sde.beta_integral(t.double())))

    low, high = primitive(torch.tensor(eps)), primitive(torch.tensor(1.0))
    assert times.mass == pytest.approx(float(high - low), rel=2e-6)
    table = (primitive(times.quantile.log_times.double().exp()) - low) / (high - low)
    assert (table - torch.linspace(0, 1, len(table)).double()).abs().max() < 2e-6
    t = times.draw(20_000, generator=generator())
    fractions = ((primitive(t) - low) / (high - low)).sort().values
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    assert (fractions - uniform).abs().max() < 1.95 / math.sqrt(20_000)  # Kolmogorov, p = 0.001


def test_importance_times_of_ve_are_uniform():
    # g²/σ² = 2 log(σ_max/σ_min) at every t
    times = ImportanceTimes(VESDE(), 1e-3)
    t = torch.linspace(1e-3, 1, len(times.quantile.log_times))
    assert_close(times.quantile.log_times.exp(), t, 2e-6)
    assert_close(times.weight(t), torch.ones_like(t), 1e-5)


@pytest.mark.parametrize("kind", [VESDE, VPSDE, subVPSDE, lambda: CosineSDE(100)])
def test_importance_weights_restore_the_uniform_mean(kind):
    sde, eps, n = kind(), 1e-3, 100_000
    times = ImportanceTimes(sde, eps)
    t = times.draw(n, generator=generator()).double()
    weight = times.weight(t)
    for function in (torch.ones_like, torch.square, lambda t: torch.sin(9 * t)):
        grid = torch.linspace(eps, sde.T, 100_001, dtype=torch.float64)
        expected = torch.trapezoid(function(grid), grid) / (sde.T - eps)
        weighted = weight * function(t)
        assert abs(weighted.mean() - expected) < 4 * weighted.std() / math.sqrt(n) + 1e-6


def test_importance_sampled_loss_has_the_same_mean_and_a_smaller_variance():
    sde, n, eps = VPSDE(), 60_000, 1e-3
    torch.manual_seed(1)
    x_0, z = 0.5 * torch.randn(n, 2), torch.randn(n, 2)
    net = exact_network(Gaussian(sde, variance=0.5))  # not the data's: a loss of some size
    results = {}
    for name in ("uniform", "importance"):
        objective = make_objective(sde, likelihood_weighting=True, times=name, eps=eps)
        loss = objective(net, x_0, objective.times(n), z)
        results[name] = loss.mean(), loss.var()
    (uniform, variance), (importance, smaller) = results["uniform"], results["importance"]
    error = math.sqrt((variance + smaller) / n)
    assert abs(uniform - importance) < 4 * error
    assert error < 0.05 * uniform
    assert smaller < 0.2 * variance


def test_importance_times_make_the_likelihood_weighting_constant(sde):
    objective = make_objective(sde, likelihood_weighting=True, times="importance")
    weight = objective.weight(torch.linspace(1e-5, sde.T, 50, dtype=torch.float64))
    torch.testing.assert_close(weight, weight[:1].expand(50))
