"""Scores from networks: labels, reference numbers, converters, exact scores through each route."""

import pytest
import torch
from conftest import assert_close
from problems import ALL_SDES, Gaussian, make_sde

import score_sde.sde
import sde_lib
from models.utils import get_model_fn, get_score_fn, get_sigmas
from score_sde.score import (
    NetworkScore,
    denoised_from_score,
    noise_from_score,
    parameterisation,
    score_from_denoised,
    score_from_noise,
)
from score_sde.sde import VESDE, VPSDE, subVPSDE
from score_sde.tensor_ops import expand_to

SHAPES = [(5, 4), (5, 3, 6), (5, 2, 4, 4)]


@pytest.fixture(params=ALL_SDES)
def sde(request):
    return ALL_SDES[request.param]()


@pytest.mark.parametrize("shape", SHAPES)
def test_converters_are_inverse_to_each_other(sde, shape):
    t = torch.linspace(0.05, 0.95, shape[0], dtype=torch.float64)
    x, score = torch.randn(2, *shape, dtype=torch.float64)
    noise = noise_from_score(sde, score, t)
    denoised = denoised_from_score(sde, x, score, t)
    torch.testing.assert_close(score_from_noise(sde, noise, t), score)
    torch.testing.assert_close(score_from_denoised(sde, x, denoised, t), score)
    # Noise and denoised data are the two parts of x.
    alpha, sigma = (expand_to(v, x) for v in (sde.mean_scale(t), sde.std(t)))
    torch.testing.assert_close(alpha * denoised + sigma * noise, x)


def test_denoising_a_gaussian_gives_its_posterior_mean(sde):
    t = torch.linspace(0.05, 0.95, 5, dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    problem = Gaussian(sde, mean=0.4, variance=0.25)
    alpha, variance = sde.mean_scale(t)[:, None], sde.std(t)[:, None] ** 2
    gain = 0.25 * alpha / (alpha**2 * 0.25 + variance)
    expected = 0.4 + gain * (x - alpha * 0.4)
    torch.testing.assert_close(denoised_from_score(sde, x, problem.score(x, t), t), expected)


# ---- An exact score, put out by a network in each convention ----


def exact_network(problem, continuous):
    """net(x, cond) whose score is that of a Gaussian, in the convention of its SDE."""
    sde = problem.sde

    def ve(x, cond):
        sigma = cond if continuous else sde.discrete_sigmas.to(x.dtype).flip(0)[cond]
        return -(x - problem.mean) / (problem.variance + expand_to(sigma, x) ** 2)

    def noise(x, cond):
        if continuous or not sde.has_chain:
            t = cond / 999 * sde.T
            alpha, sigma = sde.mean_scale(t), sde.std(t)
        else:
            step = (cond + 1e-4).long()
            alpha = sde.sqrt_alphas_cumprod.to(x.dtype)[step]
            sigma = sde.sqrt_1m_alphas_cumprod.to(x.dtype)[step]
        alpha, sigma = expand_to(alpha, x), expand_to(sigma, x)
        return sigma * (x - alpha * problem.mean) / (alpha**2 * problem.variance + sigma**2)

    return ve if sde.network_output == "score" else noise


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_networks_stand_for_their_score(sde, shape, dtype):
    problem = Gaussian(sde, mean=0.2)
    x = torch.randn(shape, dtype=dtype)
    t = torch.linspace(0.05, 1, shape[0], dtype=dtype) * sde.T
    score = NetworkScore(exact_network(problem, True), sde)(x, t)
    assert score.dtype == dtype
    assert_close(score, problem.score(x, t), 1e-5 if dtype == torch.float32 else 1e-12)


def test_discrete_ve_networks_stand_for_their_score_at_the_noise_levels():
    sde = VESDE(N=50)
    problem = Gaussian(sde, mean=0.2)
    t = torch.arange(50) / 49  # where the chain's levels are σ(t) itself
    x = torch.randn(50, 3)
    score = NetworkScore(exact_network(problem, False), sde, continuous=False)(x, t)
    assert_close(score, problem.score(x, t), 1e-4)


def test_discrete_vp_networks_stand_for_the_score_of_the_chain():
    sde = VPSDE(N=50)
    problem = Gaussian(sde, mean=0.2)
    t, x = sde.chain_times()[:-1].float(), torch.randn(49, 3)
    score = NetworkScore(exact_network(problem, False), sde, continuous=False)(x, t)
    assert_close(score, problem.score(x, t), 1e-4)
    tables = (sde.sqrt_alphas_cumprod, sde.sqrt_1m_alphas_cumprod)
    alpha, sigma = (table[:-1, None] for table in tables)
    assert_close(score, -(x - alpha * 0.2) / (alpha**2 * 0.25 + sigma**2), 1e-4)


@pytest.mark.parametrize("N", [10, 1000, 9876, 20_000])
def test_every_step_of_a_chain_has_its_own_label(N):
    for house in (sde_lib, score_sde.sde):
        sde = house.VESDE(N=N)
        label = parameterisation(sde, continuous=False).label(sde.chain_times().float())
        assert torch.equal(label, torch.arange(N).flip(0))
        sde = house.VPSDE(0.1, min(20.0, N), N)
        label = parameterisation(sde, continuous=False).label(sde.chain_times().float())
        assert label.dtype == torch.float32
        assert torch.equal(label.round().long(), torch.arange(N))


def test_the_label_of_continuous_time_does_not_depend_on_where_time_ends():
    sde = VPSDE()
    sde.T = 5.0
    assert parameterisation(sde).label(torch.tensor([0.0, 2.5, 5.0])).tolist() == [0, 499.5, 999]


def test_one_time_for_the_whole_batch_is_taken(sde):
    score = NetworkScore(exact_network(Gaussian(sde), True), sde)
    x, t = torch.randn(3, 2), torch.full((3,), 0.5)
    value = score(x, t)
    for one in (0.5, torch.tensor(0.5)):
        assert torch.equal(score(x, one), value)
        assert torch.equal(score.output(x, one), score.output(x, t))
        for convert in (noise_from_score, score_from_noise):
            assert torch.equal(convert(sde, value, one), convert(sde, value, t))
        for convert in (denoised_from_score, score_from_denoised):
            assert torch.equal(convert(sde, x, value, one), convert(sde, x, value, t))


def test_sub_vp_has_no_chain_and_ignores_the_choice():
    t = torch.linspace(0, 1, 5)
    for continuous in (True, False):
        assert torch.equal(parameterisation(subVPSDE(), continuous).label(t), t * 999)


def test_class_labels_reach_the_network():
    seen = {}

    def net(x, cond, label=None):
        seen["label"] = label
        return x

    x, t, label = torch.randn(3, 2), torch.full((3,), 0.5), torch.tensor([4, 0, 2])
    NetworkScore(net, VPSDE())(x, t)
    assert seen["label"] is None
    NetworkScore(net, VPSDE(), label=label)(x, t)
    assert seen["label"] is label


# ---- Reference numbers of the 2021 release ----


class Recorder(torch.nn.Module):
    """net(x, c) = 0.3 x + 0.01 c, which keeps the c that it was given."""

    def forward(self, x, cond):
        self.cond = cond
        return 0.3 * x + 0.01 * expand_to(cond, x)


@pytest.mark.parametrize("route", ["get_score_fn", "NetworkScore"])
@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_reference_scores(golden, name, continuous, grid, route):
    row, data = golden.json("score_fn")[name], golden.arrays("score_fn")
    sde, net = make_sde(row), Recorder()
    x, t = data["x"], data[f"{name}/grid_t"] if grid else data["t"]
    mode = "continuous" if continuous else "discrete"
    score_fn = (
        get_score_fn(sde, net, train=False, continuous=continuous)
        if route == "get_score_fn"
        else NetworkScore(net, sde, continuous)
    )
    score = score_fn(x, t)
    key = f"{name}/{mode}_{'grid' if grid else 't'}"
    assert str(net.cond.dtype) == row[f"{mode}_cond_dtype"]
    torch.testing.assert_close(net.cond, data[f"{key}_cond"], rtol=1e-5, atol=0)
    # Near 0 the reference's std is rounded off (quirk 9): double precision instead.
    exact = NetworkScore(Recorder(), sde, continuous)(x.double(), t.double())
    for mine, theirs, double, time in zip(score, data[f"{key}_score"], exact, t, strict=True):
        if time < 0.999e-3:
            assert_close(mine, double, 2e-5)
        else:
            assert_close(mine, theirs, 5e-4)


def test_model_fn_sets_the_mode_before_each_call():
    net = torch.nn.Sequential(torch.nn.Dropout())
    net.forward = lambda x, cond: x
    for train in (True, False):
        model_fn = get_model_fn(net, train)
        net.train(not train)
        model_fn(torch.zeros(1, 1), torch.zeros(1))
        assert net.training == net[0].training == train


def test_sigmas_run_from_the_largest_down_as_in_the_sde():
    from ml_collections import ConfigDict

    config = ConfigDict({"model": {"sigma_min": 0.01, "sigma_max": 50.0, "num_scales": 232}})
    sigmas = get_sigmas(config)
    expected = VESDE(0.01, 50.0, 232).discrete_sigmas.flip(0)
    torch.testing.assert_close(torch.from_numpy(sigmas).float(), expected, rtol=1e-5, atol=0)
