"""Replacement of a measurement's coordinates: the same as of pixels, and kept for every row."""

import math

import pytest
import torch
from conftest import assert_close
from gaussian_posteriors import SHAPE, SIZE, smooth

from score_sde.noise import normal
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
from score_sde.samplers.completion import complete, known_pixels
from score_sde.sde import VPSDE, StraightSDE
from score_sde.solvers.correctors import LangevinCorrector
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import ReverseDiffusionPredictor

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


def test_what_cannot_be_is_refused():
    y = torch.zeros(1, *SHAPE)
    with pytest.raises(ValueError, match="does not run on function"):
        Replaced(LinearFunction(SHAPE, 0.0, lambda x: x), y)
    for measurement in (Mask(SHAPE, 0.1, SEEN), SoftMask(SHAPE, 0.0, torch.full((2, 2), 0.5))):
        with pytest.raises(ValueError, match="this has noise"):
            Replaced(measurement, y)
    assert Replaced(SoftMask(SHAPE, 0.0, SEEN), y).value.shape == y.shape
