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
