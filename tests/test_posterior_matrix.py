"""Every method on every measurement, against posteriors of a Gaussian and of a mixture."""

import pytest
import torch
from conftest import assert_close
from gaussian_posteriors import smooth

from benchmarks.posterior_matrix import (
    SHAPE,
    gaussian,
    matrix,
    measured,
    mixture,
    row,
)
from score_sde.noise import normal
from score_sde.posteriors import MEASUREMENTS, DiffPIR, MomentMatching
from score_sde.score import denoised_from_score
from score_sde.sde import VPSDE

rows = pytest.mark.parametrize("name", MEASUREMENTS)


# ---- The closed form itself ----


@rows
def test_the_posterior_of_a_mixture_is_bayes_rule(name):
    """log p(x) + log p(y | x) − log p(x | y) is log p(y), whatever x."""
    data = mixture()
    measurement, y = measured(data, name)
    posterior = data.given(measurement, y)
    x = normal(9, torch.arange(6), 0, SHAPE, dtype=torch.float64)
    noise = torch.linalg.pinv(matrix(measurement.covariance, tuple(y.shape[1:])), hermitian=True)
    off = measurement.measured(y - measurement.forward(x)).flatten(1)
    likelihood = -0.5 * ((off @ noise) * off).sum(1)
    log_y = data.score.log_density(x, 0.0) + likelihood - posterior.score.log_density(x, 0.0)
    assert_close(log_y, log_y[:1].expand(6), 1e-6)
    assert posterior.weights.sum().item() == pytest.approx(1)
    # Without noise the posterior fits what was measured, in each of its components.
    free, y = measured(data, name, 0.0)
    if name != "soft_mask":
        fitted = free.forward(data.given(free, y).means.reshape(-1, *SHAPE))
        assert_close(fitted, free.measured(y).expand(fitted.shape), 1e-8)


def test_one_component_is_the_gaussian_example():
    data, other = gaussian(), smooth(VPSDE())
    measurement, y = measured(data, "box_downsampling")
    ours, expected = data.given(measurement, y), other.given(measurement, y)
    assert_close(ours.means[0], expected.mean, 1e-10)
    assert_close(ours.covariances[0], expected.covariance, 1e-9)
    x = normal(9, torch.arange(4), 0, SHAPE, dtype=torch.float64)
    t = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)
    assert_close(ours.score(x, t), expected.score(x, t), 1e-6)


# ---- Without noise ----


@rows
@pytest.mark.parametrize("kind", [gaussian, mixture])
def test_denoised_images_fit_what_was_measured_without_noise(kind, name):
    """By moment matching and DiffPIR on any data, at every time, the last one included."""
    data = kind()
    measurement, y = measured(data, name, 0.0)
    if name == "soft_mask":
        return  # it always has some
    t = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)
    x = normal(9, torch.arange(3), 0, SHAPE, dtype=torch.float64)
    given = data.score, data.sde, measurement, y
    for score in (MomentMatching(*given, tolerance=1e-10), DiffPIR(*given)):
        seen = measurement.forward(denoised_from_score(data.sde, x, score(x, t), t))
        assert_close(seen, measurement.measured(y).expand(seen.shape), 1e-6)


# ---- What each method is off by ----


def off(kind, name):
    """What the mean of every method is off by, in units of the data's std."""
    return {method: errors[0] for method, errors in row(kind(), name)}


def slow_but(*quick):
    return pytest.mark.parametrize(
        "name",
        [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in STATED],
    )


# Of a Gaussian: ΠGDM with the data's std and with 1, DiffPIR, DPS, DDRM, replacement, particles.
STATED = {
    "mask": (0.032, 0.128, 0.119, 0.151, 0.016, 0.039, 0.012),
    "soft_mask": (0.049, 0.218, 0.720, 0.394, 0.669, None, 0.030),
    "grey": (0.120, 0.077, 0.110, 0.204, 0.091, 0.315, 0.040),
    "box_downsampling": (0.169, 0.030, 0.057, 0.312, 0.063, 0.052, 0.029),
    "bicubic_downsampling": (0.169, 0.030, 0.057, 0.312, 0.063, 0.052, 0.029),
    "gaussian_blur": (0.061, 0.079, 0.212, 0.154, 0.239, 0.0, 0.020),
    "motion_blur": (0.074, 0.101, 0.167, 0.184, 0.185, 0.0, 0.015),
    "random_projection": (0.104, 0.042, 0.037, 0.092, 0.024, 0.067, 0.028),
    "fourier_mask": (0.262, 0.270, 0.225, 0.162, 0.103, 0.213, 0.030),
    "function": (0.038, 0.098, 0.139, 0.251, None, None, 0.050),
}
METHODS = ("pigdm", "pigdm, s = 1", "diffpir", "dps", "ddrm", "replacement", "twisted")


@slow_but("grey")
def test_on_a_gaussian_moment_matching_alone_is_exact(name):
    found = off(gaussian, name)
    # The flow begins at the prior, not at p_T(x | y), from which that is off by α(T) = 0.007.
    assert found.pop("moment_matching") < 0.005
    stated = dict(zip(METHODS, STATED[name], strict=True))
    assert found == pytest.approx({m: e for m, e in stated.items() if e is not None}, abs=0.01)


@slow_but("mask")
def test_on_a_mixture_all_are_off_and_particles_come_nearest(name):
    found = off(mixture, name)
    assert found["exact"] < 0.02
    biased = ("pigdm", "pigdm, s = 1", "diffpir", "dps")
    assert min(found[method] for method in biased) > 0.05
    # Moment matching is nearer, and its mean right where all is seen with little noise.
    assert found["moment_matching"] > 0.005
    assert found["twisted"] < min(0.05, found["pigdm"] / 3)
