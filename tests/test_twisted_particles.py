"""Twisted sequential Monte Carlo against posteriors in closed form."""

import pytest
import torch
from conftest import assert_close
from gaussian_posteriors import SHAPE, Data, carried, isotropic

from benchmarks.twisted_particles import posterior_mean, run
from score_sde.noise import uniform
from score_sde.posteriors.measurements import Mask
from score_sde.posteriors.scores import DPS, PiGDM
from score_sde.posteriors.twisted import TwistedSMC, systematic
from score_sde.score import GuidedScore, denoised_from_score
from score_sde.sde import VPSDE
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import AncestralSamplingPredictor

SEEN = torch.tensor([[True, False], [False, False]])
Y = torch.full((1, *SHAPE), 0.4, dtype=torch.float64)


def draw(smc, posterior_for, index=(0,), batch_size=4096, dtype=torch.float64, seed=0):
    return list(
        smc.draw(
            posterior_for,
            torch.tensor(index),
            SHAPE,
            seed=seed,
            batch_size=batch_size,
            device="cpu",
            dtype=dtype,
        )
    )


def of_the_chain(data: Data, times: torch.Tensor) -> Data:
    """What ancestral sampling with few steps makes of Gaussian data, where x_0 is denoised."""
    sde, times = data.sde, times.double()
    mean = torch.zeros_like(data.mean)
    covariance = sde.prior_std**2 * torch.eye(len(mean), dtype=mean.dtype)
    for t, s in zip(times[:-1, None], times[1:, None], strict=True):
        step = AncestralSamplingPredictor(sde).step

        def go(x, z, t=t, s=s, step=step):
            return step(x, t, s, data.score, lambda _: z)[0]

        mean, covariance = carried(mean, covariance, go)

    def denoise(x, z):
        return denoised_from_score(sde, x, data.score(x, times[-1:]), times[-1:])

    return Data(sde, *carried(mean, covariance, denoise))


@pytest.mark.parametrize("kind", [PiGDM, DPS])
def test_many_particles_stand_for_the_posterior_of_the_chain(kind):
    """Even where steps are few, and the twist is wrong."""
    data, measurement = isotropic(VPSDE(), 0.6), Mask(SHAPE, 0.6, SEEN)
    times = time_grid(data.sde, 16, "log_snr", 0.02)
    posterior = kind(data.score, data.sde, measurement, Y)
    smc = TwistedSMC(data.sde, times, 512)
    drawn = draw(smc, lambda _: posterior, range(24), batch_size=12_288)
    truth = of_the_chain(data, times).given(measurement, Y)
    means = torch.stack([one.mean.flatten() for one in drawn])
    error = means.std(0) / len(drawn) ** 0.5
    assert ((means.mean(0) - truth.mean).abs() < 4 * error).all()
    # The steps are few indeed: the chain's posterior is told from the data's.
    exact = data.given(measurement, Y)
    assert (truth.mean - exact.mean)[0].abs() > 5 * error[0]
    squares = torch.stack(
        [(one.weights[:, None] * (one.x.flatten(1) - truth.mean) ** 2).sum(0) for one in drawn]
    )
    error = squares.std(0) / len(drawn) ** 0.5
    assert ((squares.mean(0) - truth.covariance.diagonal()).abs() < 4 * error).all()
    # Chosen particles have the same law.
    chosen = torch.stack([one.x[one.chosen].flatten() for one in drawn])
    error = (truth.covariance.diagonal() / len(drawn)).sqrt()
    assert ((chosen.mean(0) - truth.mean).abs() < 4 * error).all()


def test_the_error_on_a_mixture_falls_with_particles_and_steps():
    truth = posterior_mean()

    def bias(particles, steps, runs):
        return (run(PiGDM, particles, steps, runs).mean(0) - truth).norm().item()

    few, many = bias(1, 20, 400), bias(256, 20, 24)
    assert few > 0.2
    assert many < 0.12
    assert bias(256, 160, 12) < 0.05 < many


def test_the_evaluations_of_a_guide_are_counted():
    data, measurement = isotropic(VPSDE(), 0.6), Mask(SHAPE, 0.3, SEEN)
    led = GuidedScore(data.score, data.score, data.sde, 2.0)
    smc = TwistedSMC(data.sde, time_grid(data.sde, 4, "log_snr"), 2)
    (one,) = draw(smc, lambda _: PiGDM(led, data.sde, measurement, Y))
    assert one.nfe == 10


def test_a_perfect_twist_makes_equal_weights():
    data, measurement = isotropic(VPSDE(), 0.6), Mask(SHAPE, 0.3, SEEN)
    ess = []
    for steps in (50, 200):
        smc = TwistedSMC(data.sde, time_grid(data.sde, steps, "log_snr"), 64, threshold=0.0)
        perfect = PiGDM(data.score, data.sde, measurement, Y, data_std=0.6)
        (one,) = draw(smc, lambda _, posterior=perfect: posterior)
        assert one.ess.shape == (steps + 1,)
        assert one.ess.max() <= 64
        assert one.nfe == steps + 1
        assert one.weights.sum().item() == pytest.approx(1)
        assert one.ess[-1].item() == pytest.approx((1 / one.weights.square().sum()).item())
        ess.append(one.ess[-1].item())
    assert 40 < ess[0] < ess[1]
    assert ess[1] > 58


def test_systematic_resampling_keeps_counts_to_within_one():
    weights = torch.tensor([[0.5, 0.0, 0.3, 0.2], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    P = 1000
    weights = torch.cat([weights.repeat(1, P // 4) / (P // 4)])
    u = uniform(0, torch.arange(2), 0, (1,))
    for number in (u, torch.zeros(2, 1), torch.full((2, 1), 1 - 2**-24)):
        counts = torch.stack([row.bincount(minlength=P) for row in systematic(weights, number)])
        assert ((counts - P * weights).abs() <= 1).all()
        assert (counts[weights == 0] == 0).all()
    # On average they are P w.
    numbers = torch.linspace(0, 1, 501)[:-1, None]
    drawn = systematic(weights[:1, :4].expand(500, 4) * P / 4, numbers)
    share = torch.stack([(drawn == k).double().mean() for k in range(4)])
    assert_close(share, torch.tensor([0.5, 0.0, 0.3, 0.2]), 1e-2)


def test_samples_do_not_depend_on_their_mates_nor_on_what_is_hidden():
    data, measurement = isotropic(VPSDE(), 0.6), Mask(SHAPE, 0.3, SEEN)
    y = Y + torch.arange(5, dtype=Y.dtype)[:, None, None, None] / 5
    smc = TwistedSMC(data.sde, time_grid(data.sde, 12, "log_snr"), 16)

    def posterior_for(index, y=y):
        return PiGDM(data.score, data.sde, measurement, y[index])

    with torch.inference_mode():
        drawn = draw(smc, posterior_for, range(5))
    assert [one.index for one in drawn] == [0, 1, 2, 3, 4]
    assert min(one.ess.min().item() for one in drawn) < 8  # so that some were resampled
    spoilt = torch.where(SEEN, y, float("nan"))
    hidden = draw(smc, lambda index: posterior_for(index, spoilt), range(5))
    mates = draw(smc, posterior_for, (4, 0, 3, 1, 2))
    for one, other in zip(drawn, hidden, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.weights, other.weights)
    for one in drawn:
        (other,) = (mate for mate in mates if mate.index == one.index)
        assert torch.equal(one.x, other.x)
        assert one.chosen == other.chosen
    # In parts of a sample, and of several, it is the same but for rounding.
    for batch_size in (5, 16, 40):
        parts = draw(smc, posterior_for, range(5), batch_size)
        for one, other in zip(drawn, parts, strict=True):
            assert_close(other.x, one.x, 1e-9)
    # Where none is resampled, which rounding may decide, float32 gives the same as float64.
    smc = TwistedSMC(data.sde, time_grid(data.sde, 12, "log_snr"), 16, threshold=0.0)
    (double,) = draw(smc, posterior_for, (2,))
    (single,) = draw(smc, lambda index: posterior_for(index, y.float()), (2,), dtype=torch.float32)
    assert single.x.dtype == torch.float32
    assert_close(single.x, double.x, 1e-3)
    assert_close(single.mean, double.mean, 1e-3)


def test_without_noise_the_last_weight_is_the_twists():
    data, measurement = isotropic(VPSDE(), 0.6), Mask(SHAPE, 0.0, SEEN)
    smc = TwistedSMC(data.sde, time_grid(data.sde, 100, "log_snr"), 32)
    posterior = PiGDM(data.score, data.sde, measurement, Y, data_std=0.6)
    (one,) = draw(smc, lambda _: posterior)
    seen = one.x[SEEN.expand(one.x.shape)]
    # As far off as the noise that is left at the grid's end.
    assert (seen - 0.4).abs().max() < 5 * data.sde.noise_level(torch.tensor(1e-3)).item()


def test_what_cannot_be_is_refused():
    sde = VPSDE()
    times = time_grid(sde, 5)
    with pytest.raises(ValueError, match="decrease"):
        TwistedSMC(sde, times.flip(0), 4)
    with pytest.raises(ValueError, match="without noise"):
        TwistedSMC(sde, torch.tensor([1.0, 0.5, 0.0]), 4)
    with pytest.raises(ValueError, match="particles=0"):
        TwistedSMC(sde, times, 0)
    with pytest.raises(ValueError, match="threshold=2"):
        TwistedSMC(sde, times, 4, threshold=2)
    with pytest.raises(ValueError, match="batch_size=0"):
        draw(TwistedSMC(sde, times, 4), lambda _: None, batch_size=0)
