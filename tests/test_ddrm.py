"""DDRM: its marginals, its bias on Gaussian data, and measured coordinates at the end."""

import math

import pytest
import torch
from conftest import assert_close
from gaussian_posteriors import SHAPE, SIZE, carried, smooth

from score_sde.noise import SampleNoise, normal
from score_sde.posteriors.ddrm import DDRM, draw_ddrm
from score_sde.posteriors.measurements import (
    BoxDownsampling,
    LinearFunction,
    Mask,
    RandomProjection,
    SoftMask,
)
from score_sde.score import GuidedScore
from score_sde.sde import VESDE, VPSDE, StraightSDE
from score_sde.solvers.grids import time_grid
from score_sde.tensor_ops import expand_to

SEEN = torch.tensor([True, False]).expand(2, 2)
Y = torch.linspace(1, -1, SIZE, dtype=torch.float64).reshape(1, *SHAPE)


def draw(sde, score, measurement, y, n, steps=100, batch_size=None, **options):
    parts = draw_ddrm(
        sde,
        time_grid(sde, steps, "log_snr"),
        lambda _: score,
        lambda index: DDRM(sde, measurement, y[index] if len(y) > 1 else y, **options),
        torch.arange(n),
        SHAPE,
        seed=0,
        batch_size=batch_size or n,
        device="cpu",
        dtype=torch.float64,
    )
    return torch.cat([part.x for part in parts])


@pytest.mark.parametrize("options", [{}, {"eta": 0.3, "eta_b": 0.6}, {"eta": 1.0}])
@pytest.mark.parametrize("name", ["mask", "soft_mask", "box_downsampling", "random_projection"])
def test_every_step_keeps_the_marginals_for_the_right_denoised_image(name, options):
    """Over draws of y, x_t is distributed as p(x_t | x_0): Kawar et al. 2022, section 3."""
    sde = StraightSDE()
    measurement = {
        "mask": lambda: Mask(SHAPE, 0.3, SEEN),
        "soft_mask": lambda: SoftMask(SHAPE, 0.1, torch.tensor([[0.0, 0.3], [0.9, 1.0]])),
        "box_downsampling": lambda: BoxDownsampling(SHAPE, 0.3, 2),
        "random_projection": lambda: RandomProjection(SHAPE, 0.3, 5),
    }[name]()
    x_0, n = Y[0] - 0.3, 20_000

    def score(x, t):
        alpha, sigma = expand_to(sde.mean_scale(t), x), expand_to(sde.std(t), x)
        return (alpha * x_0 - x) / sigma**2

    index = torch.arange(n)
    y = measurement.measure(x_0.expand(n, *SHAPE), SampleNoise(1, index, dtype=x_0.dtype))
    step = DDRM(sde, measurement, y, **options)
    noise = SampleNoise(2, index, dtype=x_0.dtype)
    # Levels above, between and below those of the measurement's noise.
    times = sde.time_of_noise_level(torch.tensor([900.0, 0.9, 0.5, 0.2, 0.05], dtype=x_0.dtype))
    x = step.start(noise((n, *SHAPE)) * sde.prior_std, times[0].expand(n))
    for k, t in enumerate(times):
        if k:
            x, _ = step.step(x, times[k - 1].expand(n), t.expand(n), score, noise)
        alpha, sigma = sde.mean_scale(t[None]), sde.std(t[None])
        z = ((x - alpha * x_0) / sigma).flatten(1)
        assert z.mean(0).abs().max() < 4.5 / math.sqrt(n)
        off = z.mT @ z / n - torch.eye(SIZE)
        assert off.abs().max() < 5 * math.sqrt(2 / n)


def test_the_bias_on_gaussian_data_is_as_stated():
    sde, measurement = StraightSDE(), Mask(SHAPE, 0.2, SEEN)
    data, step = smooth(sde), DDRM(sde, measurement, Y)
    times = time_grid(sde, 100, "log_snr").double()
    eye = torch.eye(SIZE, dtype=times.dtype)
    first = times[:1]
    moments = carried(0 * eye[0], eye, lambda x, z: step.start(x, first.expand(len(x))))
    for t, s in zip(times[:-1, None], times[1:, None], strict=True):

        def go(x, z, t=t, s=s):
            n = len(x)
            return step.step(x, t.expand(n), s.expand(n), data.score, lambda _: z)[0]

        moments = carried(*moments, go)
    last = times[-1:]
    mean, drawn = carried(*moments, lambda x, z: step.end(x, last.expand(len(x)), data.score))
    truth = data.given(measurement, Y)
    off = (mean - truth.mean).square().mean().sqrt() / data.covariance[0, 0].sqrt()
    ratio = drawn.diagonal() / truth.covariance.diagonal() - 1
    assert off.item() == pytest.approx(0.12, abs=0.005)
    assert ratio.square().mean().sqrt().item() == pytest.approx(0.62, abs=0.005)
    assert ratio.max() < 0
    # The loop draws the same.
    x = draw(sde, data.score, measurement, Y, 2000).flatten(1)
    error = (drawn.diagonal() / len(x)).sqrt()
    assert ((x.mean(0) - mean).abs() < 4 * error).all()
    assert (x.var(0) / drawn.diagonal() - 1).abs().max() < 4.5 * math.sqrt(2 / len(x))


@pytest.mark.parametrize("kind", [VPSDE, VESDE, StraightSDE])
def test_pixels_without_noise_end_as_they_were_and_hidden_ones_never_count(kind):
    sde = kind()
    data, measurement = smooth(sde), Mask(SHAPE, 0.0, SEEN)
    y = Y + 0.1 * normal(0, torch.arange(6), 0, SHAPE, dtype=Y.dtype)
    x = draw(sde, data.score, measurement, y, 6, steps=10)
    assert torch.equal(torch.where(SEEN, x, 0.0), torch.where(SEEN, y, 0.0))
    assert (x - y)[:, ~SEEN.expand(SHAPE)].abs().min() > 1e-6
    spoilt = torch.where(SEEN, y, math.nan)
    assert torch.equal(draw(sde, data.score, measurement, spoilt, 6, steps=10), x)
    assert_close(draw(sde, data.score, measurement, y, 6, 10, batch_size=4), x, 1e-10)
    box = BoxDownsampling(SHAPE, 0.0, 2)
    means = box.forward(y)
    assert_close(box.forward(draw(sde, data.score, box, means, 6, steps=10)), means, 1e-10)


def test_evaluations_are_counted_to_the_last_those_of_a_guide_included():
    data, measurement = smooth(VPSDE()), Mask(SHAPE, 0.1, SEEN)
    led = GuidedScore(data.score, data.score, data.sde, 2.0)
    for score, each in ((data.score, 1), (led, 2)):
        (part,) = draw_ddrm(
            data.sde,
            time_grid(data.sde, 4, "log_snr"),
            lambda _, score=score: score,
            lambda index: DDRM(data.sde, measurement, Y),
            torch.arange(3),
            SHAPE,
            seed=0,
            batch_size=3,
            device="cpu",
            dtype=torch.float64,
        )
        assert part.nfe.tolist() == [5 * each] * 3


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="ddrm does not run on function"):
        DDRM(VPSDE(), LinearFunction(SHAPE, 0.0, lambda x: x), Y)
    with pytest.raises(ValueError, match=r"eta=1.5, eta_b=1"):
        DDRM(VPSDE(), Mask(SHAPE, 0.0, SEEN), Y, eta=1.5)
