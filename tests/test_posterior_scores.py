"""Posterior scores against the closed form of Gaussian data, and by every kind of sampler."""

import math

import pytest
import torch
from conftest import assert_close
from gaussian_posteriors import SHAPE, SIZE, drawn_moments, isotropic, matrix, smooth
from problems import ALL_SDES, SDES

from benchmarks.posterior_matrix import ARGUMENTS
from score_sde.noise import SampleNoise, normal
from score_sde.posteriors.conjugate_gradients import conjugate_gradients
from score_sde.posteriors.measurements import MEASUREMENTS, Grey, LinearFunction, Mask
from score_sde.posteriors.scores import DPS, POSTERIORS, DiffPIR, MomentMatching, PiGDM
from score_sde.samplers import GridSampler, ODESampler
from score_sde.samplers.thresholding import ThresholdedScore
from score_sde.score import GuidedScore, evaluations_at
from score_sde.sde import VPSDE, StraightSDE
from score_sde.solvers.correctors import LangevinCorrector
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import ReverseDiffusionPredictor
from score_sde.tensor_ops import expand_to

STD = math.sqrt(0.25 * 1.01)  # of a pixel of the smooth data
SEEN = torch.tensor([True, False]).expand(2, 2)
Y = torch.linspace(1, -1, SIZE, dtype=torch.float64).reshape(1, *SHAPE)
EXACT = {"tolerance": 1e-12}


def points(sde, n=12, batch_seed=0):
    """States all over the noise levels, and their times."""
    t = torch.linspace(0.02, 0.98, n, dtype=torch.float64) * sde.T
    x = normal(batch_seed, torch.arange(n), 0, SHAPE, dtype=torch.float64)
    scale = (sde.mean_scale(t) ** 2 + sde.std(t) ** 2).sqrt()
    return expand_to(scale, x) * x, t


def a_measurement_of(data, name, std):
    measurement = MEASUREMENTS[name](SHAPE, std, **ARGUMENTS[name])
    x = data.mean.reshape(1, *SHAPE) + 0.5 * normal(
        1, torch.arange(1), 0, SHAPE, dtype=torch.float64
    )
    return measurement, measurement.measure(x, SampleNoise(2, torch.arange(1), dtype=x.dtype))


# ---- Exactness, and bias ----


@pytest.mark.parametrize("std", [0.0, 0.2])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_moment_matching_is_exact_on_any_gaussian(name, std):
    data = smooth(StraightSDE())
    measurement, y = a_measurement_of(data, name, std)
    x, t = points(data.sde)
    posterior = MomentMatching(data.score, data.sde, measurement, y, **EXACT)
    assert_close(posterior(x, t), data.given(measurement, y).score(x, t), 1e-8)
    assert posterior.residual.max() <= 1e-12


@pytest.mark.parametrize("std", [0.0, 0.2])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_pigdm_is_exact_on_isotropic_gaussians(name, std):
    data = isotropic(StraightSDE(), 0.6)
    measurement, y = a_measurement_of(data, name, std)
    x, t = points(data.sde)
    posterior = PiGDM(data.score, data.sde, measurement, y, data_std=0.6)
    assert_close(posterior(x, t), data.given(measurement, y).score(x, t), 1e-8)


@pytest.mark.parametrize("name", ALL_SDES)
def test_both_are_exact_for_every_sde(name):
    sde = ALL_SDES[name]()
    x, t = points(sde)
    measurement = Mask(SHAPE, 0.2, SEEN)
    for data, kind, options in (
        (smooth(sde), MomentMatching, EXACT),
        (isotropic(sde, 0.6), PiGDM, {"data_std": 0.6}),
    ):
        expected = data.given(measurement, Y).score(x, t)
        assert_close(kind(data.score, sde, measurement, Y, **options)(x, t), expected, 1e-8)


@pytest.mark.parametrize(
    ("kind", "options", "mean", "variance"),
    [
        (MomentMatching, EXACT, 0.0, 0.0),
        (PiGDM, {"data_std": STD}, 0.085, 0.20),
        (PiGDM, {}, 0.53, 0.89),
        (DiffPIR, {}, 0.45, 0.72),
        (DPS, {}, 0.72, 0.75),
    ],
)
def test_moments_of_what_the_ode_draws_and_the_bias_that_docstrings_state(
    kind, options, mean, variance
):
    data, measurement = smooth(StraightSDE()), Mask(SHAPE, 0.2, SEEN)
    truth = data.given(measurement, Y)
    posterior = kind(data.score, data.sde, measurement, Y, **options)
    drawn_mean, drawn = drawn_moments(truth, posterior, 1e-3)
    true_mean, true = truth.moments(1e-3)
    off = (drawn_mean - true_mean).square().mean().sqrt().item() / STD
    ratio = drawn.diagonal() / true.diagonal() - 1
    allowed = 0.005 if mean else 1e-6
    assert off == pytest.approx(mean, abs=allowed)
    assert ratio.square().mean().sqrt().item() == pytest.approx(variance, abs=allowed)
    if not mean:
        assert_close(drawn, true, 1e-6)


def test_diffpir_is_exact_at_the_strength_that_a_noise_level_asks_for():
    data, measurement = isotropic(VPSDE(), 0.6), Mask(SHAPE, 0.2, SEEN)
    x, t = points(data.sde)
    expected = data.given(measurement, Y).score(x, t)
    level = data.sde.noise_level(t)
    for k in range(len(t)):
        strength = float(1 + level[k] ** 2 / 0.36)
        posterior = DiffPIR(data.score, data.sde, measurement, Y, strength=strength)
        assert_close(posterior(x[k : k + 1], t[k : k + 1]), expected[k : k + 1], 1e-10)


def test_dps_is_pigdm_of_data_that_hardly_vary():
    data, measurement = smooth(VPSDE()), Mask(SHAPE, 0.2, SEEN)
    x, t = points(data.sde)
    limit = PiGDM(data.score, data.sde, measurement, Y, data_std=1e-7)(x, t)
    assert_close(DPS(data.score, data.sde, measurement, Y)(x, t), limit, 1e-10)


@pytest.mark.parametrize("kind", [DPS, PiGDM])
def test_the_guidance_is_the_gradient_of_the_log_likelihood(kind):
    data = smooth(VPSDE())
    measurement, y = a_measurement_of(data, "box_downsampling", 0.2)
    posterior = kind(data.score, data.sde, measurement, y)
    x, t = points(data.sde, 3)
    at = posterior.evaluate(x, t)
    guidance, h = posterior.guidance(at), 1e-5
    for place in ((0, 0, 1), (1, 1, 0)):
        step = torch.zeros(1, *SHAPE, dtype=x.dtype)
        step[(0, *place)] = h
        ends = [posterior.log_likelihood(posterior.evaluate(x + s, t)) for s in (step, -step)]
        slope = (ends[0] - ends[1]) / (2 * h)
        assert_close(slope, guidance[(slice(None), *place)], 1e-6)


# ---- Samplers ----


def samplers(sde):
    times = time_grid(sde, 12, "log_snr")
    yield GridSampler(sde, times, FEW_STEP["dpm_solver++"](sde), tweedie=True)
    yield GridSampler(sde, times, FEW_STEP["heun"](sde))
    corrector = LangevinCorrector(sde, 0.16)
    yield GridSampler(sde, times, ReverseDiffusionPredictor(sde), corrector)
    yield ODESampler(sde, 1e-4, 1e-4)


@pytest.mark.parametrize("name", SDES)
def test_every_sampler_runs_on_a_posterior_score(name):
    sde = SDES[name]()
    data, measurement = smooth(sde), Mask(SHAPE, 0.2, SEEN)
    truth = data.given(measurement, Y).score
    ours = MomentMatching(data.score, sde, measurement, Y, **EXACT)
    for sampler in samplers(sde):
        drawn = []
        for score in (truth, ours):
            with torch.inference_mode():
                parts = sampler.draw(
                    lambda _, score=score: score,
                    torch.arange(4),
                    SHAPE,
                    seed=0,
                    batch_size=4,
                    device="cpu",
                    dtype=torch.float64,
                )
                drawn.append(torch.cat([part.x for part in parts]))
        assert_close(drawn[1], drawn[0], 1e-6)


# ---- Batches, hidden pixels ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", POSTERIORS.values())
def test_a_sample_does_not_depend_on_its_mates_nor_on_what_is_hidden(kind, dtype):
    data, measurement = smooth(VPSDE()), Mask(SHAPE, 0.2, SEEN)
    x, t = (v.to(dtype) for v in points(data.sde, 6))
    y = Y.repeat(6, 1, 1, 1).to(dtype) + torch.arange(6, dtype=dtype)[:, None, None, None] / 7
    value = kind(data.score, data.sde, measurement, y)(x, t)
    assert value.dtype == dtype
    assert not value.requires_grad
    x_other, t_other, y_other = x.flip(0).clone(), t.flip(0).clone(), y.flip(0).clone()
    for given, other in ((x, x_other), (t, t_other), (y, y_other)):
        other[2] = given[2]
    mates = kind(data.score, data.sde, measurement, y_other)(x_other, t_other)
    assert torch.equal(mates[2], value[2])
    for hidden in (math.nan, math.inf, 1e30):
        spoilt = torch.where(SEEN, y, hidden)
        assert torch.equal(kind(data.score, data.sde, measurement, spoilt)(x, t), value)


@pytest.mark.parametrize("kind", POSTERIORS.values())
def test_the_score_is_evaluated_once(kind):
    data, measurement = smooth(VPSDE()), Mask(SHAPE, 0.2, SEEN)
    calls = []

    def score(x, t):
        calls.append(len(x))
        return data.score(x, t)

    kind(score, data.sde, measurement, Y)(*points(data.sde, 5))
    assert calls == [5]
    led = GuidedScore(data.score, data.score, data.sde, 2.0)
    assert evaluations_at(kind(led, data.sde, measurement, Y), torch.ones(5)) == 2


@pytest.mark.parametrize("kind", [PiGDM, MomentMatching])
def test_a_thresholded_score_is_differentiated_and_bounds_the_guidance(kind):
    """Where a network's denoised image is far off, as at the largest noise levels."""
    data, measurement = smooth(VPSDE()), Mask(SHAPE, 0.2, SEEN)
    x, t = points(data.sde, 4)
    near = ThresholdedScore(data.score, data.sde, "static", centered=True)
    x = expand_to(data.sde.mean_scale(t), x) * data.mean.reshape(1, *SHAPE)  # well inside
    expected = kind(data.score, data.sde, measurement, Y)(x, t)
    assert_close(kind(near, data.sde, measurement, Y)(x, t), expected, 1e-10)

    def wild(x, t):
        return data.score(x, t) + 1e5 * x

    bounded = ThresholdedScore(wild, data.sde, "static", centered=True)
    out = kind(bounded, data.sde, measurement, Y)
    x, t = points(data.sde, 4)
    # Clipped everywhere, so that J is 0 but for rounding.
    assert_close(out(x, t), bounded(x, t), 1e-8)
    assert not torch.allclose(kind(wild, data.sde, measurement, Y)(x, t), wild(x, t), rtol=1e-3)


# ---- Linear equations ----


def test_conjugate_gradients_solve_each_sample_by_itself():
    basis = torch.linalg.qr(normal(0, torch.arange(1), 0, (20, 20), dtype=torch.float64)[0])[0]
    M = (basis * torch.linspace(0.1, 3, 20, dtype=torch.float64)) @ basis.mT
    b = normal(1, torch.arange(3), 0, (20,), dtype=torch.float64)
    b[1] = 0
    calls = []

    def operator(v):
        calls.append(1)
        return (M[None] @ v[..., None])[..., 0]

    x, residual = conjugate_gradients(operator, b, tolerance=1e-11, max_iterations=60)
    assert_close(x, b @ torch.linalg.inv(M), 1e-9)
    assert residual.max() <= 1e-11
    assert len(calls) <= 25
    easy = b.clone()
    easy[0] = basis[:, 3]  # done in one step
    again, _ = conjugate_gradients(operator, easy, tolerance=1e-11, max_iterations=60)
    assert torch.equal(again[2], x[2])
    _, residual = conjugate_gradients(operator, b, tolerance=1e-11, max_iterations=3)
    assert residual[0] > 1e-3
    _, residual = conjugate_gradients(lambda v: -v, b, tolerance=1e-11, max_iterations=3)
    assert torch.equal(residual, torch.tensor([1.0, 0.0, 1.0], dtype=b.dtype))


# ---- What is refused ----


def test_what_cannot_be_is_refused():
    data = smooth(VPSDE())
    mask = Mask(SHAPE, 0.2, SEEN)
    x, t = points(data.sde, 2)
    with pytest.raises(ValueError, match=r"dps does not run on mask: .* take pigdm"):
        DPS(data.score, data.sde, Mask(SHAPE, 0.0, SEEN), Y)
    with pytest.raises(ValueError, match=r"\('B', 1, 2, 2\)"):
        PiGDM(data.score, data.sde, Grey(SHAPE, 0.2), Y)
    with pytest.raises(ValueError, match="data_std=0"):
        PiGDM(data.score, data.sde, mask, Y, data_std=0.0)
    with pytest.raises(ValueError, match="strength=-1"):
        DiffPIR(data.score, data.sde, mask, Y, strength=-1.0)
    with pytest.raises(ValueError, match="2 samples with measurements of 3"):
        PiGDM(data.score, data.sde, mask, Y.repeat(3, 1, 1, 1))(x, t)
    assert PiGDM(data.score, data.sde, mask, Y)(x.float(), t).dtype == torch.float32
    without = torch.no_grad()(data.score)
    with pytest.raises(ValueError, match="without gradients"):
        MomentMatching(without, data.sde, mask, Y)(x, t)
    assert DiffPIR(without, data.sde, mask, Y)(x, t).shape == x.shape


def test_a_users_function_gives_the_same_as_the_row_that_it_repeats():
    data = smooth(VPSDE())
    row = MEASUREMENTS["box_downsampling"](SHAPE, 0.2, factor=2)
    own = LinearFunction(SHAPE, 0.2, lambda x: x.mean((2, 3), keepdim=True))
    assert_close(matrix(own.forward), matrix(row.forward), 1e-12)
    y = Y[:, :, :1, :1]
    x, t = points(data.sde)
    for kind in POSTERIORS.values():
        expected = kind(data.score, data.sde, row, y)(x, t)
        assert_close(kind(data.score, data.sde, own, y)(x, t), expected, 1e-9)
