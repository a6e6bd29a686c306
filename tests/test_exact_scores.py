"""Exact scores of mixtures: against automatic differentiation, other code, and their own draws."""

import pytest
import torch
from problems import Mixture as Reference
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from score_sde.config import schema
from score_sde.samplers import GridSampler
from score_sde.score.exact import Classes, ExactScore, Points
from score_sde.sde import SDES, VPSDE
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import time_grid

DOUBLE = torch.float64
MEANS = torch.tensor([[-1.0, 0.5, 0.2], [0.8, -0.3, 0.0], [0.0, 1.0, -0.7]], dtype=DOUBLE)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)


def covariances():
    roots = torch.randn(3, 3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)) / 2
    return roots @ roots.mT


def mixtures():
    return {
        "points": Points(MEANS, 0.3, WEIGHTS),
        "classes": Classes(MEANS, covariances(), 0.2, WEIGHTS),
    }


@pytest.mark.parametrize("kind", mixtures())
@pytest.mark.parametrize("name", SDES)
def test_the_score_is_the_gradient_of_the_log_density(name, kind):
    sde = SDES[name](schema.defaults("model"))
    score = ExactScore(mixtures()[kind], sde)
    x = torch.randn(24, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    t = torch.linspace(sde.eps, 0.99 * sde.T, 24, dtype=DOUBLE)
    x = (x * (1 + sde.std(t)[:, None])).requires_grad_()
    (gradient,) = torch.autograd.grad(score.log_density(x, t).sum(), x)
    torch.testing.assert_close(score(x.detach(), t), gradient, rtol=1e-9, atol=1e-9)


def test_points_have_the_score_that_other_code_gives_them():
    sde, t = VPSDE(), torch.linspace(0.01, 1, 20, dtype=DOUBLE)
    x = torch.randn(20, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    other = Reference(sde, MEANS, WEIGHTS, variance=0.3**2)
    score = ExactScore(Points(MEANS, 0.3, WEIGHTS), sde)
    torch.testing.assert_close(score(x, t), other.score(x, t))
    torch.testing.assert_close(score.log_density(x, t), other.logp(x, t))


def test_classes_have_the_density_that_torch_gives_them():
    sde, t = VPSDE(), 0.3
    alpha, sigma = (f(torch.tensor([t], dtype=DOUBLE)) for f in (sde.mean_scale, sde.std))
    spread = alpha**2 * (covariances() + 0.2**2 * torch.eye(3)) + sigma**2 * torch.eye(3)
    law = MixtureSameFamily(
        Categorical(WEIGHTS), MultivariateNormal(alpha * MEANS, covariance_matrix=spread)
    )
    x = torch.randn(20, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    score = ExactScore(Classes(MEANS, covariances(), 0.2, WEIGHTS), sde)
    density = score.log_density(x, torch.full((20,), t, dtype=DOUBLE))
    torch.testing.assert_close(density, law.log_prob(x))


def test_the_score_has_the_shape_and_dtype_of_images():
    means = torch.rand(4, 1, 2, 3)
    score = ExactScore(Points(means, 0.1), VPSDE())
    x = torch.randn(5, 1, 2, 3)
    assert score(x, 0.5).shape == x.shape
    assert score(x, 0.5).dtype == torch.float32
    t = torch.full((5,), 0.5)
    torch.testing.assert_close(score(x, 0.5), score(x.double(), t.double()).float())


def assert_moments(x, mixture, terms):
    """Mean and covariance of draws, each entry within 4.5 standard errors."""
    n = len(x)
    mean = WEIGHTS @ MEANS
    centred = MEANS - mean
    covariance = (WEIGHTS[:, None, None] * (terms + centred[:, :, None] * centred[:, None])).sum(0)
    x = x.double()
    assert ((x.mean(0) - mean).abs() < 4.5 * (covariance.diagonal() / n).sqrt()).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None]
    assert ((products.mean(0) - covariance).abs() < 4.5 * products.std(0) / n**0.5).all()


def variances_of(kind):
    own = covariances() + 0.2**2 * torch.eye(3) if kind == "classes" else 0.3**2 * torch.eye(3)
    return own.to(DOUBLE).expand(3, 3, 3)


@pytest.mark.parametrize("kind", mixtures())
def test_exact_draws_have_the_moments_of_the_mixture_and_are_functions_of_the_index(kind):
    mixture = mixtures()[kind]
    x = mixture.sample(torch.arange(20_000), seed=0)
    assert_moments(x, mixture, variances_of(kind))
    few = torch.tensor([7, 3])
    torch.testing.assert_close(mixture.sample(few, seed=0), x[few])
    assert not torch.equal(mixture.sample(few, seed=1), x[few])


@pytest.mark.parametrize("kind", mixtures())
def test_a_sampler_draws_the_mixture_from_its_exact_score(kind):
    sde, mixture = VPSDE(), mixtures()[kind]
    times = time_grid(sde, 60, "log_snr")
    sampler = GridSampler(sde, times, FEW_STEP["dpm_solver++"](sde))
    (drawn,) = sampler.draw(
        lambda index: ExactScore(mixture, sde),
        torch.arange(8000),
        (3,),
        seed=0,
        batch_size=8000,
        device="cpu",
        dtype=DOUBLE,
    )
    assert_moments(drawn.x, mixture, variances_of(kind))


@pytest.mark.parametrize("kind", ["points", "classes"])
def test_within_is_one_for_exact_draws_and_shows_noise_that_is_left(kind):
    # Components far apart, so that the nearest is the right one.
    means = 20 * MEANS
    mixture = {
        "points": Points(means, 0.3),
        "classes": Classes(means, covariances(), 0.2),
    }[kind]
    x = mixture.sample(torch.arange(6000), seed=0)
    of_exact = mixture.within(x)
    assert abs(of_exact.mean() - 1) < 4.5 * of_exact.std() / 6000**0.5
    noise = 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    inverses = torch.linalg.inv(variances_of(kind)).diagonal(dim1=1, dim2=2)
    expected = 1 + 0.1**2 * inverses.mean()
    noisy = mixture.within(x + noise)
    assert abs(noisy.mean() - expected) < 4.5 * noisy.std() / 6000**0.5


def test_classes_of_labelled_samples_have_their_moments():
    g = torch.Generator().manual_seed(5)
    x = torch.randn(60, 1, 2, 2, generator=g)
    labels = torch.tensor([0, 0, 1] * 20)
    mixture = Classes.of(x, labels, 0.1)
    of_first = x[labels == 0].flatten(1).double()
    torch.testing.assert_close(mixture.means[0], of_first.mean(0))
    torch.testing.assert_close(mixture.weights, torch.tensor([2 / 3, 1 / 3], dtype=DOUBLE))
    covariance = mixture.axes[0] @ mixture.variances[0].diag() @ mixture.axes[0].T
    torch.testing.assert_close(covariance, of_first.T.cov() + 0.01 * torch.eye(4).double())


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Points(MEANS, 0.0), "std above 0"),
        (lambda: Points(MEANS[:0], 0.1), "K ≥ 1"),
        (lambda: Points(MEANS, 0.1, WEIGHTS[:2]), "a probability for each"),
        (lambda: Classes(MEANS, covariances()[:2], 0.1), r"give \(3, 3, 3\)"),
        (lambda: Classes.of(MEANS, torch.arange(3), 0.1), "no class has two samples"),
    ],
)
def test_what_is_no_mixture_is_refused(make, what):
    with pytest.raises(ValueError, match=what):
        make()
