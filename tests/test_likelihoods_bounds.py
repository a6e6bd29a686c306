"""Bounds on −log p: against closed forms, quadrature, and the models that they bound."""

import math

import pytest
import torch
from conftest import assert_close
from problems import ALL_SDES, Gaussian, Mixture

from score_sde.likelihoods import (
    continuous_bound,
    discrete_bound,
    hutchinson_probes,
    log_likelihood,
)
from score_sde.objectives import elbo_weights
from score_sde.score import NetworkScore
from score_sde.sde import VESDE, VPSDE

EPS = 1e-5


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(t, x):
    return x.new_full((len(x),), t)


def bound_of(sde, score, x, **options):
    options = {"index": torch.arange(len(x)), "seed": 3, "n_draws": 1} | options
    return continuous_bound(sde, lambda row: score, x, **options)


def mean_and_error(values):
    return values.mean(), values.std() / math.sqrt(len(values))


def to_the_end(sde, x):
    """r and G of the step from eps to T, as floats."""
    return (float(number[0]) for number in sde.transition(at(sde.T, x), at(EPS, x)))


# ---- Continuous time ----


@pytest.mark.parametrize("dimensions", [2, 16, 64])
@pytest.mark.parametrize("kind", ALL_SDES)
def test_with_a_gaussians_score_the_bound_is_its_closed_form(kind, dimensions):
    sde = ALL_SDES[kind]()
    data = Gaussian(sde, 0.3, 0.25)
    x = (0.3 + 0.5 * normals(1, dimensions)).expand(1000, dimensions)
    mean, error = mean_and_error(bound_of(sde, data.score, x).nats)
    r, G = to_the_end(sde, x)
    m, v = data.moments(at(sde.T, x[:1]), x[:1])
    end = 0.5 * dimensions * torch.log(v / sde.prior_std**2)[0, 0]
    end += 0.5 * (((r * x[0] - m) ** 2 + G**2) / v).sum()
    end -= 0.5 * ((r * x[0]) ** 2 + G**2).sum() / sde.prior_std**2
    expected = -data.logp(x[:1], at(EPS, x[:1]))[0] - end
    assert abs(mean - expected) < 4 * error
    assert error < 0.1 * math.sqrt(dimensions)


@pytest.mark.parametrize("eps", [EPS, 0.3])
@pytest.mark.parametrize("kind", ALL_SDES)
def test_the_bound_is_tight_where_score_and_prior_are_exact(kind, eps):
    sde = ALL_SDES[kind]()
    data = Gaussian(sde, 0.0, 0.25)
    x = normals(1000, 4)
    x = x * data.moments(at(eps, x), x)[1].sqrt()  # data stand at eps, not at 0
    sde.prior_std = float(data.moments(at(sde.T, x), x)[1][0].sqrt())
    exact = data.logp(x, at(eps, x))
    mean, error = mean_and_error(bound_of(sde, data.score, x, eps=eps).nats + exact)
    assert abs(mean) < 4 * error
    assert error < 0.15
    options = {"probes": None, "eps": eps, "rtol": 1e-7, "atol": 1e-7}
    flow = log_likelihood(sde, lambda row: data.score, x[:5], **options)
    assert_close(flow.logp, exact[:5], 1e-5)


@pytest.mark.parametrize("dimensions", [2, 16, 64])
@pytest.mark.parametrize("kind", ALL_SDES)
def test_with_a_mixtures_score_the_gap_is_the_priors_alone(kind, dimensions):
    sde = ALL_SDES[kind]()
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    data = Mixture(sde, normals(3, dimensions), weights)
    x = data.sample(800, torch.Generator().manual_seed(1))
    excess = bound_of(sde, data.score, x).nats + data.logp(x, at(EPS, x))
    mean, error = mean_and_error(excess)
    assert mean > -4 * error
    r, G = to_the_end(sde, x)
    x_T = r * x + G * normals(*x.shape, seed=2)
    gap = data.logp(x_T, at(sde.T, x)) - sde.prior_logp(x_T)
    mean, error = mean_and_error(excess - gap)
    assert abs(mean) < 4 * error
    assert error < 0.14 * math.sqrt(dimensions)


@pytest.mark.parametrize("dimensions", [2, 64])
@pytest.mark.parametrize("kind", ALL_SDES)
def test_with_the_exact_score_the_bound_is_not_below_the_flows_value(kind, dimensions):
    sde = ALL_SDES[kind]()
    data = Mixture(sde, normals(3, dimensions), torch.tensor([0.5, 0.3, 0.2]).double())
    x = data.sample(64, torch.Generator().manual_seed(1))
    probes = hutchinson_probes(
        "Rademacher", x.shape[1:], torch.arange(len(x)), seed=2, n_probes=4, dtype=x.dtype
    )
    options = {"probes": probes, "rtol": 1e-4, "atol": 1e-4, "eps": EPS}
    value = -log_likelihood(sde, lambda row: data.score, x, **options).logp
    bound = bound_of(sde, data.score, x, n_draws=8).nats
    mean, error = mean_and_error(bound - value)
    assert mean > -3 * error
    # It is no mere upper bound: what is left is the mismatch of the prior.
    assert mean < 0.05 * dimensions + 3 * error


@pytest.mark.parametrize("slope", [0.7, 1.0, 1.5])
def test_the_bound_is_one_of_the_reverse_sde_whatever_the_score(slope):
    # s = −slope x makes the reverse SDE linear: V' = −β ((2 slope − 1) V − 1), from V = 1 at T.
    sde = VPSDE()
    rate = 2 * slope - 1
    ends = sde.beta_integral(torch.tensor([sde.T, EPS], dtype=torch.float64))
    variance = 1 / rate + (1 - 1 / rate) * math.exp(-rate * float(ends[0] - ends[1]))
    x = normals(6, 3).repeat_interleave(600, 0)
    nats = bound_of(sde, lambda x, t: -slope * x, x).nats.reshape(6, 600)
    error = nats.std(1) / math.sqrt(600)
    exact = 0.5 * ((x[::600] ** 2).sum(1) / variance + 3 * math.log(2 * math.pi * variance))
    gap = nats.mean(1) - exact
    if slope == 1.0:
        assert (gap.abs() < 4 * error).all()
    else:
        assert (gap > 4 * error).all()


def test_the_error_is_the_spread_of_the_estimates():
    sde = ALL_SDES["subvp"]()
    data = Gaussian(sde, 0.3, 0.25)
    x = normals(1, 4).expand(1000, 4)
    bound = bound_of(sde, data.score, x, n_draws=32, n_times=2)
    assert bound.nats.std() == pytest.approx(float(bound.error.pow(2).mean().sqrt()), rel=0.08)
    assert bound_of(sde, data.score, x[:2]).error.isnan().all()
    assert_close(sum(bound.terms.values()), bound.nats, 1e-12)
    assert set(bound.terms) == {"prior", "drift", "score"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_do_not_depend_on_batches_order_or_shape(dtype):
    sde = ALL_SDES["ve"]()
    data = Gaussian(sde, 0.3, 0.25)
    x, index = normals(7, 16).to(dtype), torch.arange(7) + 2**40
    whole = bound_of(sde, data.score, x, index=index, n_draws=3)
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    parts = bound_of(sde, data.score, x[order], index=index[order], n_draws=3, batch_size=2)
    assert_close(parts.nats, whole.nats[order], 1e-6 if dtype == torch.float32 else 1e-13)
    image = bound_of(sde, data.score, x.reshape(7, 1, 4, 4), index=index, n_draws=3)
    assert_close(image.nats, whole.nats, 1e-6 if dtype == torch.float32 else 1e-13)
    assert whole.nats.dtype == whole.error.dtype == torch.float64
    assert not torch.equal(bound_of(sde, data.score, x, seed=4).nats, whole.nats)


def test_labels_follow_their_samples():
    seen = []

    def score_for(row):
        seen.append(row.tolist())
        return lambda x, t: -x

    x = normals(5, 2)
    continuous_bound(VPSDE(), score_for, x, index=torch.arange(5), seed=0, batch_size=2)
    assert seen == [[0, 1], [2, 3], [4]]


# ---- DDPM's chain ----

LEVELS = 4
P = torch.tensor([0.4, 0.1, 0.2, 0.3], dtype=torch.float64)
PLACES = torch.linspace(-1, 1, LEVELS, dtype=torch.float64)


class Levels:
    """One dimension, four levels in [−1, 1] with probabilities P: exact noise at every step."""

    def __init__(self, N, beta_max, scale=1.0):
        self.sde, self.scale = VPSDE(0.1, beta_max, N), scale
        self.beta = self.sde.discrete_betas.double()
        kept = (1 - self.beta).cumprod(0)
        self.alpha, self.sigma = kept.sqrt(), (1 - kept).sqrt()

    def noise(self, x, i):
        """`scale` times E[z | x_i = x], with i a step or one for each x."""
        alpha, sigma = self.alpha[i][..., None], self.sigma[i][..., None]
        z = (x[..., None] - alpha * PLACES) / sigma
        share = (P.log() - 0.5 * z**2).softmax(-1)
        return self.scale * (share * z).sum(-1)

    def score(self, x, t):
        i = self.sde.index(t)
        i = i.reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)
        return -self.noise(x, i) / self.sigma[i]

    def bound(self, x, **options):
        options = {"index": torch.arange(len(x)), "seed": 5} | options
        options = {"inverse_scaler": lambda x: (x + 1) / 2, "levels": LEVELS} | options
        return discrete_bound(self.sde, lambda row: self.score, x, **options)

    def reverse(self, x, i):
        """Mean and variance of the reverse step i: β̃, and the chain's own for the decoder."""
        kept = self.alpha[i] ** 2
        before = self.alpha[i - 1] ** 2 if i else torch.tensor(1.0)
        mean = x - self.beta[i] / (1 - kept).sqrt() * self.noise(x, i)
        variance = self.beta[i] * ((1 - before) / (1 - kept) if i else 1)
        return mean / (1 - self.beta[i]).sqrt(), variance

    def decoder(self, x_1):
        """P(k | x_1), (..., 4), by the error function."""
        mean, variance = self.reverse(x_1, 0)
        edges = PLACES[:-1] + 1 / 3 - mean[..., None]
        below = 0.5 * (1 + torch.erf(edges / (2 * variance).sqrt()))
        one = torch.ones_like(below[..., :1])
        return torch.cat([below, one], -1) - torch.cat([0 * one, below], -1)

    def by_quadrature(self):
        """The three terms of the bound for each level, divergences from means and variances."""
        z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        weights = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
        kept = self.alpha[-1] ** 2
        prior = 0.5 * (kept * PLACES**2 + (1 - kept) - 1 - torch.log(1 - kept))
        x_0, steps = PLACES[:, None], torch.zeros(LEVELS, dtype=torch.float64)
        for i in range(1, self.sde.N):
            x = self.alpha[i] * x_0 + self.sigma[i] * z
            mean, variance = self.reverse(x, i)
            before, kept = self.alpha[i - 1] ** 2, self.alpha[i] ** 2
            posterior = before.sqrt() * self.beta[i] / (1 - kept) * x_0
            posterior = posterior + (1 - self.beta[i]).sqrt() * (1 - before) / (1 - kept) * x
            steps += ((posterior - mean) ** 2 / (2 * variance)) @ weights
        likely = self.decoder(self.alpha[0] * x_0 + self.sigma[0] * z)
        decoder = -torch.diagonal(likely, dim1=0, dim2=2).clamp_min(1e-30).log().T @ weights
        return prior, steps, decoder

    def probabilities(self):
        """P of each level under the model, carried through the chain on a grid."""
        grid = torch.linspace(-12, 12, 1201, dtype=torch.float64)
        density = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)
        for i in range(self.sde.N - 1, 0, -1):
            mean, variance = self.reverse(grid, i)
            kernel = torch.exp(-((grid[:, None] - mean) ** 2) / (2 * variance))
            density = kernel @ density * (grid[1] - grid[0]) / (2 * math.pi * variance).sqrt()
        return density @ self.decoder(grid) * (grid[1] - grid[0])


@pytest.mark.parametrize("all_steps", [True, False])
@pytest.mark.parametrize(("N", "beta_max"), [(1, 0.6), (2, 1.2), (5, 3.0)])
def test_the_discrete_bound_is_its_terms_by_quadrature(N, beta_max, all_steps):
    problem, copies = Levels(N, beta_max), 20_000
    x = PLACES[:, None].repeat_interleave(copies, 0)
    bound = problem.bound(x, all_steps=all_steps)
    expected = problem.by_quadrature()
    for name, term in zip(("prior", "steps", "decoder"), expected, strict=True):
        values = bound.terms[name].reshape(LEVELS, copies)
        error = values.std(1) / math.sqrt(copies)
        assert ((values.mean(1) - term).abs() <= 4 * error + 1e-7).all(), name
    values = bound.nats.reshape(LEVELS, copies)
    assert (values.std(1) / math.sqrt(copies) < 0.07).all()
    assert_close(sum(bound.terms.values()), bound.nats, 1e-12)
    assert (N == 1) == bool((bound.terms["steps"] == 0).all())


@pytest.mark.parametrize("scale", [1.0, 0.75])
@pytest.mark.parametrize(("N", "beta_max"), [(1, 0.6), (2, 1.2), (6, 4.0)])
def test_the_discrete_bound_is_above_what_the_chain_gives_each_level(N, beta_max, scale):
    problem = Levels(N, beta_max, scale)
    model = problem.probabilities()
    assert model.sum() == pytest.approx(1, abs=1e-6)  # the cells' edges are open
    x = PLACES[:, None].repeat_interleave(5000, 0)
    nats = problem.bound(x).nats.reshape(LEVELS, 5000)
    error = nats.std(1) / math.sqrt(5000)
    assert (nats.mean(1) > -model.log() - 4 * error).all()
    entropy = -(P * P.log()).sum()
    assert (P * nats.mean(1)).sum() > entropy - 4 * (P * error).norm()


def test_a_fine_chain_comes_close_to_the_datas_entropy():
    # 16 independent dimensions, so that the entropy is 16 times that of one.
    problem = Levels(400, 20.0)
    generator = torch.Generator().manual_seed(0)
    which = torch.multinomial(P, 16 * 200, replacement=True, generator=generator)
    x = PLACES[which].reshape(200, 16)
    entropy = -16 * float((P * P.log()).sum())
    drawn = -P.log()[which].reshape(200, 16).sum(1)
    every = problem.bound(x).nats
    mean, error = mean_and_error(every - drawn)
    assert -4 * error < mean < 0.05 * entropy
    assert error < 0.01 * entropy
    some = problem.bound(x, n_draws=80, all_steps=False).nats
    mean, error = mean_and_error(some - every)
    assert abs(mean) < 4 * error
    assert error < 0.02 * entropy


def test_a_continuously_trained_score_is_asked_at_the_chains_noise_levels():
    problem = Levels(100, 20.0)
    sde = problem.sde

    def score(x, t):
        alpha, sigma = sde.mean_scale(t)[:, None, None], sde.std(t)[:, None, None]
        z = (x[..., None] - alpha * PLACES) / sigma
        return -((P.log() - 0.5 * z**2).softmax(-1) * z).sum(-1) / sigma[..., 0]

    x = PLACES[:, None]
    options = {"inverse_scaler": lambda x: (x + 1) / 2, "levels": LEVELS, "seed": 5}
    options["index"] = torch.arange(LEVELS)
    of_chain = problem.bound(x)
    continuous = discrete_bound(sde, lambda row: score, x, continuous=True, **options)
    assert_close(continuous.nats, of_chain.nats, 1e-4)


def test_a_discrete_network_is_labelled_with_its_steps():
    sde, seen = VPSDE(0.1, 5.0, 7), []

    def net(x, cond):
        seen.append(cond)
        return torch.zeros_like(x)

    x = PLACES.float().reshape(1, 1, 2, 2)
    score = NetworkScore(net, sde, continuous=False)
    options = {"inverse_scaler": lambda x: (x + 1) / 2, "levels": LEVELS, "seed": 5}
    bound = discrete_bound(sde, lambda row: score, x, index=torch.tensor([9]), **options)
    labels = torch.cat(seen)
    assert_close(labels.sort().values, torch.arange(7.0), 1e-6)
    # A network that sees no noise pays its whole square, D on average.
    draws = discrete_bound(
        sde, lambda row: score, x.expand(4000, 1, 2, 2), index=torch.arange(4000), **options
    )
    mean, error = mean_and_error(draws.terms["steps"])
    assert abs(mean - 4 * elbo_weights(sde)[1:].sum()) < 4 * error
    assert bound.nats.dtype == torch.float64


@pytest.mark.parametrize("all_steps", [True, False])
def test_discrete_bounds_do_not_depend_on_batches_or_order(all_steps):
    problem = Levels(6, 4.0)
    x, index = PLACES[torch.arange(12).reshape(6, 2) % 4], torch.arange(6) + 2**35
    whole = problem.bound(x, index=index, n_draws=3, all_steps=all_steps)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    options = {"n_draws": 3, "all_steps": all_steps, "batch_size": 4}
    parts = problem.bound(x[order], index=index[order], **options)
    assert_close(parts.nats, whole.nats[order], 1e-13)
    assert_close(parts.error, whole.error[order], 1e-11)
    assert (whole.error > 0).all()


def test_the_decoder_stays_finite_far_from_the_mean():
    problem = Levels(3, 0.2)
    far = Levels(3, 0.2, scale=-400.0)
    x = PLACES[:, None]
    bound = far.bound(x)
    assert bound.nats.isfinite().all()
    assert (bound.terms["decoder"] > 100 * problem.bound(x).terms["decoder"].max()).any()


# ---- Mistakes ----

X = torch.zeros(3, 2)
SCALED = {"inverse_scaler": lambda x: (x + 1) / 2, "levels": 5, "seed": 0}
SCALED["index"] = torch.arange(3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bound_of(VESDE(), None, X, eps=0.0), "eps=0.0: data stand between 0 and T"),
        (lambda: bound_of(VESDE(), None, X, n_draws=0), "at least one draw"),
        (lambda: bound_of(VESDE(), None, X, n_times=0), "at least one time"),
        (lambda: bound_of(VESDE(), None, X, batch_size=0), "batch_size=0"),
        (lambda: bound_of(VESDE(), None, X[0]), "rank 2"),
        (lambda: bound_of(VESDE(), None, X.long()), "int64: a bound"),
        (lambda: bound_of(VESDE(), None, X, index=torch.arange(2)), "3 samples"),
        (lambda: discrete_bound(VESDE(), None, X, **SCALED), "DDPM's chain; use vpsde"),
        (lambda: discrete_bound(VPSDE(N=10), None, X, **SCALED), "more scales than beta_max"),
        (
            lambda: discrete_bound(VPSDE(), None, X + 0.2, **SCALED),
            "do not lie on 5 levels.*uniform_dequantization=False",
        ),
        (lambda: discrete_bound(VPSDE(), None, X + 2, **SCALED), "do not lie on 5 levels"),
        (lambda: discrete_bound(VPSDE(), None, X * math.nan, **SCALED), "do not lie"),
        (lambda: discrete_bound(VPSDE(), None, X, **SCALED | {"levels": 1}), "levels=1"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
