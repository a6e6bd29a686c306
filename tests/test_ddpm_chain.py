"""Networks that know the noise levels of DDPM's chain only: every sampler asks them there."""

import itertools
import math

import pytest
import torch
from conftest import assert_close

from configs.vp.ddpm.cifar10 import get_config
from score_sde.config.build import autocast_dtype, build_sampler, build_sde, set_tf32
from score_sde.noise import SampleNoise, normal
from score_sde.objectives import make_objective
from score_sde.samplers import GridSampler
from score_sde.samplers.completion import Replacement, known_pixels
from score_sde.score import NetworkScore
from score_sde.sde import VESDE, VPSDE
from score_sde.solvers.correctors import AnnealedLangevinDynamics, LangevinCorrector
from score_sde.solvers.few_step import DDIM, FEW_STEP, Heun, UniPC
from score_sde.solvers.grids import chain_grid, paper_grid
from score_sde.solvers.predictors import PREDICTORS, AncestralSamplingPredictor

SDE = VPSDE(0.1, 20.0, 1000)
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
KEPT = (1 - BETAS).cumprod(0)  # ᾱ_k, by Ho et al.'s formula


class Predictor:
    """The chain's exact noise prediction for data N(0, s²), told the step k."""

    def __init__(self, s):
        self.s, self.steps = s, []

    def __call__(self, x, cond):
        assert torch.equal(cond, cond.round())
        k = cond.long()
        self.steps.append(int(k[0]))
        total = KEPT[k] * self.s**2 + 1 - KEPT[k]
        return ((1 - KEPT[k]).sqrt() / total)[:, None].to(x.dtype) * x


def no_noise(shape):
    return torch.zeros(shape, dtype=torch.float64)


def factor(sampler, s):
    """By what samples of the prior come out multiplied; every solver here is linear in them."""
    s = torch.as_tensor(s, dtype=torch.float64).reshape(-1)
    score = NetworkScore(Predictor(s), SDE, continuous=False)
    return sampler.run(torch.ones(len(s), 1, dtype=torch.float64), score, no_noise)[0][:, 0]


def exact_factor(s):
    """Of step 0: the flow keeps x_t/std(x_t)."""
    return ((KEPT[0] * s**2 + 1 - KEPT[0]) / (KEPT[-1] * s**2 + 1 - KEPT[-1])).sqrt()


def test_heun_over_the_whole_chain_ends_with_the_standard_deviation_of_step_0():
    # With σ(t) at t = k/(N − 1) data of s = 0.02 and 0.05 ended 1.096 and 1.039 times too wide.
    s = torch.tensor([0.02, 0.05, 0.5], dtype=torch.float64)
    times, stds = chain_grid(SDE, 999), (KEPT[0] * s**2 + 1 - KEPT[0]).sqrt()
    noisy = factor(GridSampler(SDE, times, Heun(SDE)), s)
    assert_close(noisy / s, [1.118, 1.020, 1.000], 5e-3)
    # Tweedie's formula at step 0 is the mean of p(x_0 | x), of a smaller spread than the data.
    mean = factor(GridSampler(SDE, times, Heun(SDE), tweedie=True), s)
    assert_close(mean / noisy, KEPT[0].sqrt() * s**2 / stds**2, 1e-5)
    assert_close(mean / s, [0.894, 0.981, 1.000], 5e-3)
    # The flow itself keeps x_t / std(x_t), and would end with s. Half of Tweedie's step is Euler's
    # for it in the squared noise level.
    assert_close(noisy / stds, torch.ones(3), 5e-3)
    half = (noisy / KEPT[0].sqrt() + mean) / 2
    assert_close(half / s, [1.006, 1.000, 1.000], 5e-3)


@pytest.mark.parametrize("name", [name for name, make in FEW_STEP.items() if make.order])
def test_fewer_steps_converge_to_the_flow(name):
    end, step = exact_factor(torch.tensor(0.5)), FEW_STEP[name](SDE)
    step.on_chain = True
    # Numbers that divide 999, as iPNDM's weights are for steps of one length.
    samplers = [GridSampler(SDE, chain_grid(SDE, n), step) for n in (27, 111, 999)]
    errors = [abs(factor(sampler, 0.5) - end).item() for sampler in samplers]
    assert errors[2] < 0.02 * 0.5
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_orders_that_fall_off_at_the_end_keep_the_last_step_from_overshooting():
    # The last step of 25 is four times as long in log-SNR as the one before it.
    times, end = chain_grid(SDE, 25), exact_factor(torch.tensor(0.5))

    def error(lower_order_final):
        sampler = GridSampler(SDE, times, UniPC(SDE, lower_order_final=lower_order_final))
        return abs(factor(sampler, 0.5) / end - 1).item()

    assert error(False) == pytest.approx(0.39, abs=0.005)
    assert error(True) == pytest.approx(0.02, abs=0.005)


@pytest.mark.parametrize("num_steps", [20, 50])
def test_ddim_is_diffusers_ddim(num_steps):
    diffusers = pytest.importorskip("diffusers")
    # Trailing steps are N − 1, N − 1 − N/n, …; the last goes to ᾱ = 1, by Tweedie's formula.
    scheduler = diffusers.DDIMScheduler(
        1000,
        trained_betas=BETAS.numpy(),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(num_steps)
    net, start = Predictor(0.3), normal(0, torch.arange(4), 0, (3,), dtype=torch.float64)
    theirs = start
    for k in scheduler.timesteps:
        theirs = scheduler.step(net(theirs, k.expand(4).double()), k, theirs).prev_sample
    asked, net.steps = net.steps, []
    times = SDE.chain_times()[scheduler.timesteps].float()
    sampler = GridSampler(SDE, times, DDIM(SDE), tweedie=True)
    ours, nfe = sampler.run(start, NetworkScore(net, SDE, continuous=False), no_noise)
    assert nfe == num_steps
    assert net.steps == asked
    assert_close(ours, theirs, 1e-5)


def test_ddim_is_the_papers_formula_on_any_steps_of_the_chain():
    net, x = Predictor(0.3), normal(0, torch.arange(4), 0, (3,), dtype=torch.float64)
    times = chain_grid(SDE, 37)
    sampler = GridSampler(SDE, times, DDIM(SDE), tweedie=True)
    ours, _ = sampler.run(x, NetworkScore(net, SDE, continuous=False), no_noise)
    steps = SDE.index(times).tolist()
    assert net.steps == steps
    for k, to in itertools.pairwise([*steps, None]):
        noise = net(x, torch.full((4,), float(k)))
        denoised = (x - (1 - KEPT[k]).sqrt() * noise) / KEPT[k].sqrt()
        kept = torch.ones(()) if to is None else KEPT[to]  # Song, J. et al. 2021, eq. 12
        x = kept.sqrt() * denoised + (1 - kept).sqrt() * noise
    assert_close(ours, x, 1e-5)


def variance_after(num_steps, s, corrector=None):
    """The exact variance that ancestral sampling leaves, from its coefficients at each step."""
    times = chain_grid(SDE, num_steps)
    k = SDE.index(times).tolist()
    variance = torch.ones((), dtype=torch.float64)
    for t, to in itertools.pairwise(k):
        r2 = KEPT[t] / KEPT[to]
        total = KEPT[t] * s**2 + 1 - KEPT[t]
        mean = (1 - (1 - r2) / total) / r2.sqrt()
        noise = 0 if to == 0 else 1 - r2
        variance = mean**2 * variance + noise
    return variance.sqrt().item()


@pytest.mark.parametrize("num_steps", [20, 200])
def test_short_ancestral_runs_are_those_of_the_shortened_chain(num_steps):
    s, index = 0.5, torch.arange(4000)
    sampler = GridSampler(SDE, chain_grid(SDE, num_steps), AncestralSamplingPredictor(SDE))
    score = NetworkScore(Predictor(s), SDE, continuous=False)
    (part,) = sampler.draw(
        lambda _: score, index, (2,), seed=0, batch_size=4000, device="cpu", dtype=torch.float64
    )
    assert part.x.std().item() == pytest.approx(variance_after(num_steps, s), rel=0.03)


@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion"])
def test_short_runs_of_other_predictors_come_close_to_the_data(name):
    sampler = GridSampler(SDE, chain_grid(SDE, 125), PREDICTORS[name](SDE))
    score = NetworkScore(Predictor(0.5), SDE, continuous=False)
    (part,) = sampler.draw(
        lambda _: score, torch.arange(2000), (2,), seed=0, batch_size=2000, device="cpu"
    )
    assert part.x.std().item() == pytest.approx(0.5, rel=0.05)


def test_the_whole_chain_takes_ddpms_own_steps():
    times = paper_grid(SDE, eps=0.0)
    assert torch.equal(SDE.index(times), torch.arange(1000).flip(0))
    net, step = Predictor(0.3), AncestralSamplingPredictor(SDE)
    score = NetworkScore(net, SDE, continuous=False)
    x = normal(0, torch.arange(1000), 0, (2,), dtype=torch.float64)
    z = normal(0, torch.arange(1000), 1, (2,), dtype=torch.float64)
    t = times.double()
    x_next, mean = step.step(x, t, None, score, lambda shape: z)
    k = SDE.index(t)
    beta, kept = BETAS[k][:, None], KEPT[k][:, None]
    expected = (x - beta / (1 - kept).sqrt() * net(x, k.double())) / (1 - beta).sqrt()
    assert_close(mean, expected, 1e-6)  # Ho et al. 2020, algorithm 2, with σ² = β
    assert_close(x_next, expected + beta.sqrt() * z, 1e-6)


def test_correctors_step_by_the_noise_of_the_chain():
    k = torch.tensor([0, 5, 500])
    t, x = SDE.chain_times()[k], torch.randn(3, 64, dtype=torch.float64)
    annealed = AnnealedLangevinDynamics(SDE, snr=0.1).step_size(x, x, t)
    expected = 2 * (1 - BETAS[k]) * 0.01 * (1 - KEPT[k])
    assert_close(annealed, expected, 1e-6)
    langevin = LangevinCorrector(SDE, snr=0.1).step_size(x, x, t)
    assert_close(langevin, 2 * (1 - BETAS[k]) * 0.01, 1e-6)


def test_what_is_known_is_noised_as_the_chain_is():
    data = torch.ones(3, 1, 2, 2, dtype=torch.float64)
    k = torch.tensor([0, 5, 998])
    noise = SampleNoise(3, torch.arange(3), dtype=torch.float64)
    constraint = Replacement(SDE, known_pixels(data, torch.ones_like(data)), noise)
    t, x = SDE.chain_times(), torch.zeros_like(data)
    noisy, mean = constraint(x, x, t[k + 1], t[k])
    z = SampleNoise(3, torch.arange(3), dtype=torch.float64)(data.shape)
    alpha, sigma = KEPT[k].sqrt(), (1 - KEPT[k]).sqrt()
    assert_close(mean[:, 0, 0, 0], alpha, 1e-6)
    assert_close(noisy, alpha[:, None, None, None] * data + sigma[:, None, None, None] * z, 1e-6)


@pytest.mark.parametrize("sde", [SDE, VESDE(0.01, 50.0, 1000)], ids=["vp", "ve"])
def test_chain_objectives_say_where_their_steps_stand(sde):
    objective = make_objective(sde, continuous=False)
    labels = torch.tensor([0, 10, 998])
    t = objective.time(labels)
    levels = sde.discrete_sigmas.flip(0) if sde is not SDE else sde.sqrt_1m_alphas_cumprod
    assert_close(sde.std(t), levels[labels], 1e-5 if sde is not SDE else 1e-4)
    assert (t <= sde.T).all()


def test_the_known_half_of_a_correlated_pair_draws_the_other_with_its_slope():
    slope, n = 0.8, 1000
    covariance = torch.tensor([[1, slope], [slope, 1]], dtype=torch.float64)

    def net(x, cond):
        k = int(cond[0])
        total = KEPT[k] * covariance + (1 - KEPT[k]) * torch.eye(2, dtype=torch.float64)
        a, b = total[0]
        inverse = torch.stack([a, -b, -b, a]).reshape(2, 2) / (a**2 - b**2)
        return (1 - KEPT[k]).sqrt() * x @ inverse

    u = normal(7, torch.arange(n), 0, (1,), dtype=torch.float64)
    data = torch.cat([u, torch.zeros_like(u)], 1)
    known = known_pixels(data, torch.tensor([[True, False]]))
    corrector = LangevinCorrector(SDE, 0.2, 1, "batch")
    predictor = AncestralSamplingPredictor(SDE)
    sampler = GridSampler(SDE, chain_grid(SDE, 300), predictor, corrector)
    (part,) = sampler.draw(
        lambda _: NetworkScore(net, SDE, continuous=False),
        torch.arange(n),
        (2,),
        seed=0,
        batch_size=n,
        device="cpu",
        dtype=torch.float64,
        constraint_for=lambda row, noise: Replacement(SDE, known, noise),
    )
    v = part.x[:, 1]
    measured = (u[:, 0] @ v / (u[:, 0] @ u[:, 0])).item()
    assert measured == pytest.approx(slope, abs=0.06)
    rest = (v - slope * u[:, 0]).std().item()
    assert rest == pytest.approx(math.sqrt(1 - slope**2), rel=0.06)


@pytest.mark.parametrize("method", ["pc", *FEW_STEP])
@pytest.mark.parametrize("num_steps", [0, 1, 40, 999, 1000])
def test_a_recipe_of_the_chain_samples_at_its_steps(method, num_steps):
    config = get_config()
    config.sampling.method, config.sampling.num_steps = method, num_steps
    sde, whole = build_sde(config), num_steps in (0, 1000) and method == "pc"
    if num_steps == 1000 and method != "pc":
        with pytest.raises(ValueError, match="1 to 999 steps"):
            build_sampler(config, sde)
        return
    sampler = build_sampler(config, sde)
    times = torch.tensor(sampler.times)
    k = sde.index(times)
    assert (k[0], k[-1]) == (999, 0)
    assert len(k) == (1000 if whole else (num_steps or 999) + 1)
    assert_close(sde.std(times.double()), (1 - KEPT[k]).sqrt(), 1e-6)
    assert sampler.chain == whole
    assert sampler.tweedie == (method != "pc")  # the last noise, of step 0, is taken away


def test_a_getter_changes_no_global_precision():
    config, matmul, cudnn = get_config(), torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        for allowed in (False, True):
            matmul.allow_tf32 = allowed
            config.training.precision = "float32" if allowed else "bf16"
            autocast_dtype(config)
            assert matmul.allow_tf32 == allowed
            set_tf32(config)
            assert matmul.allow_tf32 != allowed
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
