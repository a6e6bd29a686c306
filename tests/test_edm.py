"""EDM's objective: its law of noise levels, its loss written out by hand, and its recipes."""

import pytest
import torch
from problems import ALL_SDES
from torch import nn

from configs.edm import cifar10, digits, fashion_mnist
from configs.vp import digits as vp_digits
from configs.vp import fashion_mnist as vp_fashion_mnist
from score_sde.config.build import build_objective, build_sampler, build_sde, empty_network
from score_sde.config.check import check_config
from score_sde.objectives import EDMLoss, LogNormalTimes, make_objective
from score_sde.samplers import GridSampler
from score_sde.score import PREDICTIONS, NetworkScore, parameterisation
from score_sde.sde import VPSDE, KarrasVESDE
from score_sde.solvers.few_step import FEW_STEP
from score_sde.tensor_ops import expand_to

S = 0.5  # sigma_data


@pytest.fixture(params=ALL_SDES)
def sde(request):
    return ALL_SDES[request.param]()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- Noise levels ----


@pytest.mark.parametrize("stratified", [False, True])
def test_noise_levels_are_log_normal(stratified):
    n = 100_000
    levels = LogNormalTimes(KarrasVESDE(), 0.002, -1.2, 1.2, stratified).draw(
        n, generator=generator()
    )
    z = (levels.double().log() + 1.2) / 1.2
    error = n**-0.5 if not stratified else 1e-3  # of strata only the ends are uneven
    assert abs(z.mean()) < 4 * error
    assert abs(z.var() - 1) < 4 * error * 2**0.5
    assert abs((z**3).mean()) < 4 * error * 15**0.5
    assert abs((z**4).mean() - 3) < 4 * error * 96**0.5
    assert not torch.equal(z, z.sort().values)


def test_levels_that_an_sde_does_not_reach_are_its_ends(sde):
    for mean, end in ((-30.0, 1e-3), (30.0, sde.T)):
        times = LogNormalTimes(sde, 1e-3, mean, 0.5).draw(200, generator=generator())
        torch.testing.assert_close(times, torch.full((200,), end), rtol=1e-3, atol=0)
        assert times.min() >= 1e-3
        assert times.max() <= sde.T


def test_the_law_is_that_of_the_noise_level_whatever_an_sde_calls_time(sde):
    times = LogNormalTimes(sde, 1e-5, -0.7, 0.3).draw(20_000, generator=generator())
    logarithm = sde.noise_level(times.double()).log()
    assert abs(logarithm.mean() + 0.7) < 4 * 0.3 / 20_000**0.5
    assert abs(logarithm.std() - 0.3) < 4 * 0.3 / 40_000**0.5


# ---- The loss ----


class Odd(nn.Module):
    """Some function of image and label."""

    def forward(self, x, cond, label=None):
        return torch.sin(2 * x) * 0.3 + 0.1 + expand_to(torch.tanh(cond / 300), x) * x.flip(1)


@pytest.mark.parametrize("reduce_mean", [True, False])
def test_the_loss_is_the_papers_with_the_denoiser_written_out(sde, reduce_mean):
    # Karras et al. 2022: eq. 2 and 8, with D of eq. 7 and the functions of table 1.
    read = parameterisation(sde, prediction="edm", sigma_data=S)
    loss = EDMLoss(sde, read, reduce_mean, sigma_data=S)
    x_0 = torch.randn(7, 3, 4, generator=generator(), dtype=torch.float64)
    z = torch.randn(7, 3, 4, generator=generator(1), dtype=torch.float64)
    t = sde.time_of_noise_level(torch.logspace(-1.5, 0.8, 7, dtype=torch.float64))
    sigma = expand_to(sde.noise_level(t), x_0)
    c_skip, c_out = S**2 / (sigma**2 + S**2), sigma * S / (sigma**2 + S**2).sqrt()
    c_in, net = 1 / (sigma**2 + S**2).sqrt(), Odd()
    y = x_0 + sigma * z
    denoised = c_skip * y + c_out * net(c_in * y, read.label(t))
    weight = (sigma**2 + S**2) / (sigma * S) ** 2
    squares = (weight * (denoised - x_0) ** 2).flatten(1)
    expected = squares.mean(1) if reduce_mean else 0.5 * squares.sum(1)
    torch.testing.assert_close(loss(net, x_0, t, z), expected, rtol=1e-9, atol=0)
    # It is the plain error of the network's own output.
    target = (x_0 - c_skip * y) / c_out
    squares = ((net(c_in * y, read.label(t)) - target) ** 2).flatten(1)
    expected = squares.mean(1) if reduce_mean else 0.5 * squares.sum(1)
    torch.testing.assert_close(loss(net, x_0, t, z), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_that_of_the_denoised_image_for_any_output(sde, prediction):
    read = parameterisation(sde, prediction=prediction, sigma_data=0.7)
    loss = EDMLoss(sde, read, sigma_data=0.7)
    x_0 = torch.randn(5, 6, generator=generator(), dtype=torch.float64)
    z = torch.randn(5, 6, generator=generator(1), dtype=torch.float64)
    t = sde.time_of_noise_level(torch.logspace(-1, 0.5, 5, dtype=torch.float64))
    x_t = expand_to(sde.mean_scale(t), x_0) * x_0 + expand_to(sde.std(t), z) * z
    denoised = NetworkScore(Odd(), sde, parameterisation=read).denoised(x_t, t)
    sigma = sde.noise_level(t)
    weight = (sigma**2 + 0.7**2) / (0.7 * sigma) ** 2
    expected = 0.5 * weight * ((denoised - x_0) ** 2).sum(1)
    torch.testing.assert_close(loss(Odd(), x_0, t, z), expected, rtol=1e-9, atol=0)


def test_the_exact_denoiser_minimises_the_loss():
    # Data ±m with equal probability: D = m tanh(m y/σ²), and nothing is below its loss.
    m, sde = 0.8, KarrasVESDE()
    read = parameterisation(sde, prediction="edm", sigma_data=S)
    loss = EDMLoss(sde, read, True, sigma_data=S)
    n = 200_000
    sign = torch.randint(0, 2, (n, 1), generator=generator()).double() * 2 - 1
    z = torch.randn(n, 1, generator=generator(1), dtype=torch.float64)
    t = loss.times(n, generator=generator(2)).double()

    def network(change):
        def net(x, cond, label=None):
            sigma = t[:, None]
            total = (sigma**2 + S**2).sqrt()
            y = x * total
            denoised = m * torch.tanh(m * y / sigma**2) + change * sigma * y / total**2
            return (denoised - S**2 / total**2 * y) / (sigma * S / total)

        return net

    losses = {c: loss(network(c), m * sign, t, z).mean() for c in (-0.1, 0.0, 0.1)}
    assert losses[0.0] < losses[0.1]
    assert losses[0.0] < losses[-0.1]
    # A parabola whose lowest point is the exact denoiser, but for the error of the sample.
    slope = (losses[0.1] - losses[-0.1]) / 0.2
    curvature = (losses[0.1] + losses[-0.1] - 2 * losses[0.0]) / 0.01
    assert abs(slope / curvature) < 0.01


def test_at_the_start_all_levels_count_alike():
    # A network that puts out 0: of data with standard deviation s the loss is 1 at every level.
    sde = KarrasVESDE()
    loss = EDMLoss(sde, parameterisation(sde, prediction="edm", sigma_data=S), True, sigma_data=S)
    x_0 = S * torch.randn(6, 40_000, generator=generator(), dtype=torch.float64)
    z = torch.randn(6, 40_000, generator=generator(1), dtype=torch.float64)
    t = torch.tensor([0.002, 0.05, 0.3, 1.0, 10.0, 80.0], dtype=torch.float64)
    losses = loss(lambda x, cond: torch.zeros_like(x), x_0, t, z)
    torch.testing.assert_close(losses, torch.ones_like(losses), rtol=0, atol=4 * 5e-5**0.5)


# ---- Options ----


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"continuous": False}, "training.continuous=True"),
        ({"likelihood_weighting": True}, "training.likelihood_weighting=False"),
        ({"times": "importance"}, "'uniform' for independent levels, or 'stratified'"),
        ({"times": "log_snr"}, "training.time_sampling='log_snr'"),
    ],
)
def test_options_that_it_would_undo_are_refused(options, remedy):
    with pytest.raises(ValueError, match=r"training\.objective='edm'") as error:
        make_objective(VPSDE(), objective="edm", **options)
    assert remedy in str(error.value)
    assert "\n" not in str(error.value)


def test_fields_of_a_config_reach_the_objective():
    config = digits.get_config()
    config.training.p_mean, config.training.p_std, config.model.sigma_data = -0.4, 1.0, 0.6
    objective = build_objective(config, build_sde(config))
    assert isinstance(objective, EDMLoss)
    times = objective.time_sampler
    assert isinstance(times, LogNormalTimes)
    assert (times.mean, times.std, times.stratified, times.eps) == (-0.4, 1.0, True, 0.002)
    assert objective.sigma_data == objective.parameterisation.prediction.sigma_data == 0.6
    with pytest.raises(ValueError, match="above 0"):
        LogNormalTimes(VPSDE(), std=0.0)


# ---- Recipes ----


@pytest.mark.parametrize(
    ("ours", "theirs"), [(digits, vp_digits), (fashion_mnist, vp_fashion_mnist)]
)
def test_small_recipes_have_the_network_and_the_images_of_those_of_vp(ours, theirs):
    edm, vp = ours.get_config(), theirs.get_config()
    check_config(edm)
    shapes = [
        {name: value.shape for name, value in empty_network(config).state_dict().items()}
        for config in (edm, vp)
    ]
    assert shapes[0] == shapes[1]
    for name in ("batch_size", "n_iters"):
        assert edm.training[name] == vp.training[name]
    assert edm.optim == vp.optim


def test_the_recipe_for_cifar10_is_configuration_f():
    config = cifar10.get_config()
    check_config(config)
    network = empty_network(config)
    assert sum(weights.numel() for weights in network.parameters()) == 55_737_347
    assert config.training.n_iters * config.training.batch_size == 200_000_000
    assert config.model.ema_rate == pytest.approx(0.5 ** (512 / 0.5e6), abs=1e-6)
    assert network.inputs == ("augment",)


def test_the_sampler_is_the_papers_18_steps():
    # Karras et al. 2022, eq. 5: 18 levels, Heun's step between them and Euler's to 0, which is
    # Tweedie's formula: 35 evaluations.
    config = digits.get_config()
    sampler = build_sampler(config, build_sde(config))
    assert isinstance(sampler, GridSampler)
    assert isinstance(sampler.predictor, FEW_STEP["heun"])
    ramp = torch.arange(18, dtype=torch.float64) / 17
    levels = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = torch.tensor([float(t) for t in sampler.times], dtype=torch.float64)
    torch.testing.assert_close(times, levels, rtol=1e-6, atol=0)
    calls = []

    def score(x, t):
        calls.append(float(t[0]))
        return -x / (expand_to(t, x) ** 2 + 0.25)

    x = 80 * torch.randn(2, 3, generator=generator(), dtype=torch.float64)
    sampler.run(x, score, noise=lambda shape: torch.zeros(*shape))
    assert len(calls) == 35
