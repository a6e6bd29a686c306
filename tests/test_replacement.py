"""Replacement of a measurement's coordinates: the same as of pixels, and kept for every row."""

import math

import pytest
import torch
from conftest import assert_close
from gaussian_posteriors import SHAPE, SIZE, affine_moments, isotropic, smooth
from problems import ALL_SDES

from score_sde.config import parts
from score_sde.config.build import build_sampler
from score_sde.noise import SampleNoise, normal
from score_sde.posteriors.measurements import (
    BoxDownsampling,
    FourierMask,
    Grey,
    LinearFunction,
    Mask,
    MotionBlur,
    RandomProjection,
    SoftMask,
)
from score_sde.posteriors.replacement import Replaced
from score_sde.samplers import GridSampler
from score_sde.samplers.completion import Replacement, complete, known_pixels
from score_sde.sde import VESDE, VPSDE, StraightSDE
from score_sde.solvers.correctors import LangevinCorrector
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import paper_grid, time_grid
from score_sde.solvers.predictors import AncestralSamplingPredictor, ReverseDiffusionPredictor
from score_sde.solvers.step import Step

SEEN = torch.tensor([True, False]).expand(2, 2)


def draw(sampler, score, known_for, n, shape=SHAPE):
    parts = complete(
        sampler,
        lambda _: score,
        known_for,
        torch.arange(n),
        shape,
        seed=0,
        batch_size=n,
        device="cpu",
    )
    return torch.cat([part.x for part in parts])


def a_sampler(sde, steps, n_steps=1):
    return GridSampler(
        sde,
        time_grid(sde, steps, "log_snr"),
        ReverseDiffusionPredictor(sde),
        LangevinCorrector(sde, 0.16, n_steps),
        tweedie=True,
    )


def images(n):
    return normal(0, torch.arange(n), 0, SHAPE)


def test_a_mask_gives_what_completion_of_pixels_gives_bit_for_bit():
    sde, x = VPSDE(), images(4)
    y = torch.where(SEEN, x, math.nan)
    sampler, score = a_sampler(sde, 8), smooth(sde).score
    ours = draw(sampler, score, lambda row: Replaced(Mask(SHAPE, 0.0, SEEN), y[row]), 4)
    assert torch.equal(ours, draw(sampler, score, lambda row: known_pixels(x[row], SEEN), 4))
    assert torch.equal(torch.where(SEEN, ours, 0.0), torch.where(SEEN, x, 0.0))


@pytest.mark.parametrize(
    "measurement",
    [
        Grey(SHAPE, 0.0),
        BoxDownsampling(SHAPE, 0.0, 2),
        MotionBlur(SHAPE, 0.0, 2.0, 20.0),
        RandomProjection(SHAPE, 0.0, 5),
        FourierMask(SHAPE, 0.0, torch.tensor([[1, 1], [0, 0]])),
    ],
    ids=lambda measurement: measurement.name,
)
def test_what_is_measured_ends_as_it_was(measurement):
    sde = VPSDE()
    y = measurement.forward(images(4))
    drawn = draw(
        a_sampler(sde, 8), smooth(sde).score, lambda row: Replaced(measurement, y[row]), 4
    )
    assert_close(measurement.forward(drawn), y, 1e-5)


def test_with_a_corrector_completions_follow_the_posterior():
    sde, n = StraightSDE(), 2000
    data, measurement = smooth(sde), RandomProjection(SHAPE, 0.0, 3)
    y = measurement.forward(torch.linspace(0.5, -0.5, SIZE).reshape(1, *SHAPE))
    sampler = a_sampler(sde, 60, n_steps=2)
    drawn = draw(sampler, data.score, lambda row: Replaced(measurement, y.repeat(len(row), 1)), n)
    truth = data.given(measurement, y)
    off = (drawn.flatten(1).mean(0) - truth.mean).abs().max() / data.covariance[0, 0].sqrt()
    prior = (data.mean - truth.mean).abs().max() / data.covariance[0, 0].sqrt()
    assert off < 0.1 * prior


# ---- Resampling ----


def exact_moments(sampler, score, y, seen):
    """Mean and covariance of what a sampler completes y to."""

    def draw(n, noise):
        keep = Replacement(sampler.sde, known_pixels(y.expand(n, *SHAPE), seen), noise)
        x = sampler.sde.prior_std * noise((n, *SHAPE))
        start = x.new_full((n,), sampler.times[0])
        return sampler.run(keep(x, x, start, start)[0], score, noise, constraint=keep)[0]

    return affine_moments(draw)


def ancestral(sde, steps, resample, **options):
    times = time_grid(sde, steps, "log_snr")
    step = AncestralSamplingPredictor(sde)
    return GridSampler(sde, times, step, resample=resample, **options)


@pytest.mark.parametrize(
    ("steps", "resample", "mean", "variance"),
    [(50, 1, 0.446, 0.83), (50, 2, 0.234, 0.30), (50, 5, 0.098, 0.096), (12, 10, 0.088, 0.135)],
)
def test_resampling_brings_the_moments_to_the_posteriors(steps, resample, mean, variance):
    """Exact moments of what the loop draws; the bias falls as the number of times."""
    data = smooth(VPSDE())
    y = torch.linspace(1, -1, SIZE, dtype=torch.float64).reshape(1, *SHAPE)
    sampler = ancestral(data.sde, steps, resample, tweedie=True)
    drawn, covariance = exact_moments(sampler, data.score, y, SEEN)
    truth, hidden = data.given(Mask(SHAPE, 0.0, SEEN), y), (~SEEN.expand(SHAPE)).flatten()
    off = (drawn - truth.mean)[hidden].square().mean().sqrt() / data.covariance[0, 0].sqrt()
    ratio = (covariance.diagonal()[hidden] / truth.covariance.diagonal()[hidden]) - 1
    assert off.item() == pytest.approx(mean, abs=0.003)
    assert ratio.square().mean().sqrt().item() == pytest.approx(variance, abs=0.01)


class ExactStep(Step):
    """The law of x_s given x_t itself, of data N(m, 0.36 I)."""

    name = "exact"
    chain_steps = True

    def __init__(self, data):
        super().__init__(data.sde)
        self.data = data

    def law(self, t):
        alpha = self.sde.mean_scale(t)[0]
        return alpha * self.data.mean.reshape(SHAPE), 0.36 * alpha**2 + self.sde.std(t)[0] ** 2

    def step(self, x, t, t_next, score, noise):
        (mean_t, variance_t), (mean_s, variance_s) = self.law(t), self.law(t_next)
        r, _ = self.sde.transition(t[:1], t_next[:1])
        gain = r * variance_s / variance_t
        arrived = mean_s + gain * (x - mean_t)
        return arrived + (variance_s - gain**2 * variance_t).sqrt() * noise(x.shape), arrived


@pytest.mark.parametrize("name", ALL_SDES)
def test_what_is_noised_back_has_the_law_of_where_it_goes(name):
    """Steps that draw from the law itself keep it however often they are taken."""
    data = isotropic(ALL_SDES[name]())
    step, times = ExactStep(data), time_grid(data.sde, 4, "log_snr")
    sampler = GridSampler(data.sde, times, step, resample=3, denoise=False)

    def draw(n, noise):
        mean, variance = step.law(times[:1].double())
        x = mean + variance.sqrt() * noise((n, *SHAPE))
        return sampler.run(x, data.score, noise, constraint=lambda x, x_mean, *_: (x, x_mean))[0]

    mean, covariance = affine_moments(draw)
    true_mean, true = data.moments(sampler.times[-1])
    assert_close(mean, true_mean, 1e-9)
    assert_close(covariance, true, 1e-9)


def test_steps_taken_again_are_counted_and_once_is_as_ever():
    sde, y = VESDE(N=6), images(3)
    score, known = smooth(sde).score, known_pixels(y, SEEN)

    def run(sampler, constraint=True):
        noise, start = SampleNoise(0, torch.arange(3)), torch.ones(3)
        keep = Replacement(sde, known, noise) if constraint else None
        x = keep(y, y, start, start)[0] if keep else y
        return sampler.run(x, score, noise, constraint=keep)

    # A chain's last step, which leads to the image, is taken once.
    for chain, times, steps in (
        (False, time_grid(sde, 6, "log_snr"), 6 * 3),
        (True, paper_grid(sde, 0.0), 5 * 3 + 1),
    ):
        given = sde, times, ReverseDiffusionPredictor(sde), LangevinCorrector(sde, 0.1)
        plain = GridSampler(*given, chain=chain)
        once, often = (GridSampler(*given, chain=chain, resample=n) for n in (1, 3))
        assert torch.equal(run(once)[0], run(plain)[0])
        x, nfe = run(often)
        assert (nfe, run(once)[1]) == (2 * steps, 12)
        assert not torch.equal(x, run(once)[0])
        # Where nothing is known, nothing has to be brought together.
        assert torch.equal(run(often, constraint=False)[0], run(plain, constraint=False)[0])


def test_what_resampling_cannot_do_is_refused():
    sde = VPSDE()
    times = time_grid(sde, 4)
    for name in ("dpm_solver++", "unipc", "deis", "ipndm", "sde_dpm_solver++"):
        with pytest.raises(ValueError, match="remembers the steps before"):
            GridSampler(sde, times, FEW_STEP[name](sde), resample=2)
    for name in ("ddim", "heun", "sra1"):
        GridSampler(sde, times, FEW_STEP[name](sde), resample=2)
    with pytest.raises(ValueError, match="resample=0"):
        GridSampler(sde, times, FEW_STEP["ddim"](sde), resample=0)
    config = parts.recipe(parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL)
    config.sampling.resample = 3
    assert build_sampler(config, sde).resample == 3
    config.sampling.method = "ode"
    with pytest.raises(ValueError, match="resample=3 takes the steps of a grid again, and 'ode'"):
        build_sampler(config, sde)


def test_what_cannot_be_is_refused():
    y = torch.zeros(1, *SHAPE)
    with pytest.raises(ValueError, match="does not run on function"):
        Replaced(LinearFunction(SHAPE, 0.0, lambda x: x), y)
    for measurement in (Mask(SHAPE, 0.1, SEEN), SoftMask(SHAPE, 0.0, torch.full((2, 2), 0.5))):
        with pytest.raises(ValueError, match="this has noise"):
            Replaced(measurement, y)
    assert Replaced(SoftMask(SHAPE, 0.0, SEEN), y).value.shape == y.shape
