"""Correctors: step sizes in closed form, stationarity, and independence of batch mates."""

import pytest
import torch
from problems import ALL_SDES, SDES, Gaussian

from score_sde.samplers import GridSampler
from score_sde.sde import VESDE, VPSDE, subVPSDE
from score_sde.solvers.correctors import (
    CORRECTORS,
    OWN_NORMS_FROM,
    AnnealedLangevinDynamics,
    LangevinCorrector,
    NoneCorrector,
)
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import AncestralSamplingPredictor
from score_sde.tensor_ops import norm_per_sample


def source(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def one_step(corrector, x, t, score):
    """The step size that was taken, read off from x_mean = x + ε ∇."""
    _, x_mean = corrector.step(x, t, None, score, source())
    ratio = (x_mean - x) / score(x, t)
    return ratio.flatten(1).mean(1)


@pytest.fixture
def batch():
    x = torch.randn(4, 8, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x * torch.tensor([0.1, 1.0, 2.0, 9.0], dtype=torch.float64)[:, None, None]


@pytest.mark.parametrize("kind", ALL_SDES)
def test_langevin_step_is_set_by_the_ratio_of_norms(kind, batch):
    sde = ALL_SDES[kind]()
    t = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    z = source()(batch.shape)
    noise_norm, grad_norm = norm_per_sample(z), norm_per_sample(batch)
    alpha = sde.chain_alpha(t)
    each = one_step(LangevinCorrector(sde, 0.1), batch, t, lambda x, t: -x)
    assert torch.allclose(each, 2 * alpha * (0.1 * noise_norm / grad_norm) ** 2)
    shared = one_step(LangevinCorrector(sde, 0.1, norms="batch"), batch, t, lambda x, t: -x)
    assert torch.allclose(shared, 2 * alpha * (0.1 * noise_norm.mean() / grad_norm.mean()) ** 2)


@pytest.mark.parametrize("kind", ALL_SDES)
def test_annealed_langevin_step_is_set_by_the_noise_level(kind, batch):
    sde = ALL_SDES[kind]()
    t = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    size = one_step(AnnealedLangevinDynamics(sde, 0.1), batch, t, lambda x, t: -x)
    assert torch.allclose(size, 2 * sde.chain_alpha(t) * (0.1 * sde.std(t)) ** 2)


def test_alpha_is_that_of_the_chain_for_subvp_too():
    t = torch.tensor([0.0, 0.5, 1.0])
    alpha = subVPSDE(0.1, 2.0, N=3).chain_alpha(t)
    assert torch.allclose(alpha, 1 - torch.linspace(0.1 / 3, 2.0 / 3, 3))


@pytest.mark.parametrize("name", ["langevin", "ald"])
def test_inner_steps_repeat_the_step(name):
    sde, x, t = VESDE(), torch.ones(2, 3, dtype=torch.float64), torch.full((2,), 0.5).double()
    noise, calls = source(), []

    def score(x, t):
        calls.append(x)
        return -x

    twice = CORRECTORS[name](sde, 0.1, 2).step(x, t, None, score, noise)
    noise = source()
    once = CORRECTORS[name](sde, 0.1)
    y, _ = once.step(x, t, None, score, noise)
    expected = once.step(y, t, None, score, noise)
    assert len(calls) == 4
    assert torch.equal(twice[0], expected[0])
    assert torch.equal(twice[1], expected[1])


def test_annealed_langevin_keeps_the_distribution_it_aims_at():
    sde = VPSDE()
    data = Gaussian(sde, 0.7, 0.25)
    t = torch.tensor([0.3], dtype=torch.float64)
    corrector = AnnealedLangevinDynamics(sde, 0.05)
    mean, variance = (float(v) for v in data.moments(t, torch.zeros(1, 1).double()))
    # The step is affine, so its stationary moments follow from a x + b + c z.
    x, z = torch.tensor([[0.0], [1.0], [0.0]]).double(), torch.tensor([[0.0], [0], [1]]).double()
    y, _ = corrector.step(x, t.expand(3), None, data.score, lambda _: z)
    b, a, c = y[0].item(), (y[1] - y[0]).item(), (y[2] - y[0]).item()
    assert b / (1 - a) == pytest.approx(mean, rel=1e-9)
    assert c**2 / (1 - a**2) == pytest.approx(variance, rel=0.01)


def test_a_sample_does_not_depend_on_its_mates_with_norms_of_its_own(batch):
    t = torch.full((4,), 0.5, dtype=torch.float64)
    z = source()(batch.shape)

    def run(norms, rows):
        corrector = LangevinCorrector(VESDE(), 0.16, norms=norms)
        return corrector.step(batch[rows], t[rows], None, lambda x, t: -x, lambda _: z[rows])[0]

    alone, all_rows = slice(1, 2), slice(0, 4)
    assert torch.equal(run("sample", alone), run("sample", all_rows)[alone])
    assert not torch.allclose(run("batch", alone), run("batch", all_rows)[alone])


def test_a_vanishing_score_moves_nothing():
    x = torch.randn(2, OWN_NORMS_FROM, dtype=torch.float64)
    for norms in ("sample", "batch"):
        corrector = LangevinCorrector(VESDE(), norms=norms)
        y, _ = corrector.step(x, torch.ones(2), None, lambda x, t: torch.zeros_like(x), source())
        assert torch.equal(y, x)


@pytest.mark.parametrize("kind", ALL_SDES)
def test_own_norms_are_those_expected_in_few_dimensions(kind, batch):
    sde, t = ALL_SDES[kind](), torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    langevin, annealed = LangevinCorrector(sde, 0.1), AnnealedLangevinDynamics(sde, 0.1)
    many, few = batch.flatten(1)[:, :OWN_NORMS_FROM], batch.flatten(1)[:, : OWN_NORMS_FROM - 1]
    z = source()(many.shape)
    assert torch.equal(langevin.step_size(few, z[:, 1:], t), annealed.step_size(few, z[:, 1:], t))
    own = 2 * sde.chain_alpha(t) * (0.1 * norm_per_sample(z) / norm_per_sample(many)) ** 2
    assert torch.equal(langevin.step_size(many, z, t), own)


@pytest.mark.parametrize("kind", ["ve", "vp"])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_samples_in_the_plane_have_the_covariance_of_the_data(kind, n_steps):
    sde, n = SDES[kind](), 4000
    covariance = torch.tensor([[0.25, 0.1], [0.1, 0.5]], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)

    def score(x, t):
        alpha, sigma = sde.mean_scale(t)[:, None], sde.std(t)[:, None]
        return -(x @ vectors / (alpha**2 * values + sigma**2)) @ vectors.T

    corrector = LangevinCorrector(sde, 0.16, n_steps)
    sampler = GridSampler(sde, time_grid(sde, 200), AncestralSamplingPredictor(sde), corrector)
    prior = sde.prior_sampling((n, 2), noise=source(1))
    x, _ = sampler.run(prior, score, source(2))
    # 4,000 samples leave an error of √(2/n) = 0.022 of a variance, of which four are allowed;
    # norms of their own left 5 to 24.
    off = vectors.T @ x.T.cov() @ vectors / values.sqrt() / values.sqrt()[:, None]
    assert (off - torch.eye(2)).abs().max() < 0.09


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"snr": 0.0}, "snr=0.0"),
        ({"n_steps": 0}, "n_steps=0"),
        ({"norms": "mean"}, "norms='mean': it must be 'sample' or 'batch'"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LangevinCorrector(VESDE(), **arguments)


def test_none_leaves_the_samples_alone():
    x = torch.randn(2, 3)
    y, y_mean = NoneCorrector(VPSDE(), 0.0, 0).step(x, torch.ones(2), None, None, None)
    assert y is x
    assert y_mean is x
