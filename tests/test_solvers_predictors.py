"""Predictors: exact propagation of Gaussian moments, the paper's chain, and what is refused."""

import itertools
import math

import pytest
import torch
from problems import SDES, Gaussian

from score_sde.sde import VESDE, VPSDE, subVPSDE
from score_sde.solvers.grids import paper_grid
from score_sde.solvers.predictors import PREDICTORS, AncestralSamplingPredictor, NonePredictor

MODERATE = {"ve": VESDE(0.1, 5.0), "vp": VPSDE(0.1, 5.0), "subvp": subVPSDE(0.1, 5.0)}
CASES = [
    (name, flow)
    for name in PREDICTORS
    for flow in (False, True)
    if name != "none" and not (flow and name == "ancestral_sampling")
]


def affine(step, t, t_next, score):
    """A step under a linear score as x → a x + b + c z: its exact (a, b, c)."""
    x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    z = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    t_next = None if t_next is None else t_next.expand(3)
    y, y_mean = step.step(x, t.expand(3), t_next, score, lambda shape: z)
    assert torch.equal(y[:2], y_mean[:2])  # no noise, so the state is its mean
    b = y[0, 0].item()
    return y[1, 0].item() - b, b, y[2, 0].item() - b


def moments_at_the_end(step, data, times):
    mean, variance = data.moments(times[:1], torch.zeros(1, 1, dtype=torch.float64))
    mean, variance = float(mean), float(variance)
    for t, s in itertools.pairwise(times):
        a, b, c = affine(step, t, s, data.score)
        mean, variance = a * mean + b, a * a * variance + c * c
    return mean, variance


@pytest.mark.parametrize("kind", MODERATE)
@pytest.mark.parametrize(("name", "flow"), CASES)
def test_measured_order_is_the_declared_one(kind, name, flow):
    sde = MODERATE[kind]
    data = Gaussian(sde, 0.7, 0.25)
    step = PREDICTORS[name](sde, flow)
    assert step.deterministic == flow
    assert (step.order is None) == (step.weak_order is not None)  # along the ODE there is one path
    end = torch.tensor([0.1], dtype=torch.float64)
    exact = [float(v) for v in data.moments(end, torch.zeros(1, 1, dtype=torch.float64))]
    errors = []
    for num_steps in (100, 200, 400):
        times = torch.linspace(1.0, 0.1, num_steps + 1, dtype=torch.float64)
        reached = moments_at_the_end(step, data, times)
        errors.append([abs(a - b) for a, b in zip(reached, exact, strict=True)])
    for moment in (0, 1):
        coarse, _, fine = (error[moment] for error in errors)
        if coarse < 1e-12:  # exact, as the mean of an ancestral step is
            assert fine < 1e-12
            continue
        order = math.log2(coarse / fine) / 2
        assert order == pytest.approx(step.order or step.weak_order, abs=0.12)


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("num_steps", [1, 7, 50])
def test_ancestral_means_are_exact_at_any_step_size(kind, num_steps):
    sde = SDES[kind]()
    data = Gaussian(sde, 0.7, 0.25)
    times = torch.linspace(1.0, 0.2, num_steps + 1, dtype=torch.float64)
    mean, _ = moments_at_the_end(AncestralSamplingPredictor(sde), data, times)
    exact, _ = data.moments(times[-1:], torch.zeros(1, 1, dtype=torch.float64))
    assert mean == pytest.approx(float(exact), abs=1e-9)


def test_vp_ancestral_steps_are_exact_for_data_of_unit_variance():
    sde = VPSDE()
    data = Gaussian(sde, 0.0, 1.0)
    times = torch.linspace(1.0, 0.01, 6, dtype=torch.float64)
    _, variance = moments_at_the_end(AncestralSamplingPredictor(sde), data, times)
    assert variance == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("kind", ["ve", "subvp"])
def test_ancestral_steps_are_exact_for_a_single_data_point(kind):
    sde = SDES[kind]()
    data = Gaussian(sde, 0.7, 0.0)
    times = torch.linspace(1.0, 0.1, 4, dtype=torch.float64)
    _, variance = moments_at_the_end(AncestralSamplingPredictor(sde), data, times)
    assert variance == pytest.approx(float(sde.std(times[-1])) ** 2, rel=1e-9)


def test_ve_chain_uses_neighbouring_levels_and_ends_at_zero_noise():
    sde = VESDE(0.01, 50.0, N=20)
    step = AncestralSamplingPredictor(sde)
    data = Gaussian(sde, 0.7, 0.25)
    levels = sde.discrete_sigmas.double()
    t = torch.tensor([7 / 19], dtype=torch.float64)
    above, below = levels[7].item(), levels[6].item()
    a, _, c = affine(step, t, None, data.score)
    assert a == pytest.approx(1 - (above**2 - below**2) / (0.25 + above**2), rel=1e-5)
    assert c == pytest.approx(below * math.sqrt(above**2 - below**2) / above, rel=1e-5)
    _, _, last = affine(step, torch.zeros(1, dtype=torch.float64), None, data.score)
    assert last == 0


def test_vp_chain_is_that_of_ddpm():
    sde = VPSDE(0.1, 10.0, N=20)
    t = torch.tensor([4 / 19], dtype=torch.float64)
    beta = sde.discrete_betas[4].item()
    a, b, c = affine(AncestralSamplingPredictor(sde), t, None, lambda x, t: 1 - 2 * x)
    assert a == pytest.approx((1 - 2 * beta) / math.sqrt(1 - beta), rel=1e-5)
    assert b == pytest.approx(beta / math.sqrt(1 - beta), rel=1e-5)
    assert c == pytest.approx(math.sqrt(beta), rel=1e-5)


def test_subvp_steps_its_own_transition_where_the_paper_has_no_chain():
    sde = subVPSDE(N=50)
    step = AncestralSamplingPredictor(sde)
    data = Gaussian(sde, 0.7, 0.25)
    t = torch.tensor([0.5], dtype=torch.float64)
    assert affine(step, t, None, data.score) == affine(step, t, t - 1 / 50, data.score)
    early = torch.tensor([1e-3], dtype=torch.float64)
    assert affine(step, early, None, data.score)[2] == 0  # clamped at time 0


def test_a_scale_that_forgets_everything_draws_afresh():
    sde = VPSDE(0.1, 20.0, N=20)
    assert sde.alphas[-1] == 0
    t = paper_grid(sde, eps=0.0)[:1].expand(3)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    z = torch.ones(3, 2)
    y, y_mean = AncestralSamplingPredictor(sde).step(x, t, None, lambda x, t: -x, lambda _: z)
    assert torch.equal(y_mean, torch.zeros(3, 2))
    assert torch.equal(y, z)


def test_probability_flow_draws_no_noise():
    def no_noise(shape):
        raise AssertionError("noise was drawn")

    x, t = torch.ones(2, 3), torch.full((2,), 0.5)
    for name, flow in CASES:
        if flow:
            step = PREDICTORS[name](VPSDE(), flow)
            y, y_mean = step.step(x, t, t - 0.1, lambda x, t: -x, no_noise)
            assert torch.equal(y, y_mean)


def test_ancestral_sampling_refuses_the_probability_flow():
    with pytest.raises(ValueError, match=r"for the ODE take euler_maruyama or .*milstein$"):
        AncestralSamplingPredictor(VPSDE(), probability_flow=True)


def test_none_leaves_the_samples_alone():
    x = torch.randn(2, 3)
    y, y_mean = NonePredictor(VPSDE()).step(x, torch.ones(2), None, None, None)
    assert y is x
    assert y_mean is x


def test_a_step_says_why_it_refuses_an_sde():
    class OnlyVE(NonePredictor):
        name = "only_ve"

        @classmethod
        def accepts(cls, sde):
            return None if sde.name == "vesde" else "it needs a constant mean"

    OnlyVE(VESDE())
    with pytest.raises(ValueError, match="only_ve does not run on vpsde: it needs a constant"):
        OnlyVE(VPSDE())
