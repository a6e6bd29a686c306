"""Guided scores: identities on exact mixtures, what is evaluated and counted, samples."""

import math

import pytest
import torch
from conftest import assert_close
from problems import SDES, Gaussian, Mixture
from torch import nn

from score_sde.samplers import AdaptiveSDESampler, GridSampler, ODESampler
from score_sde.samplers.thresholding import ThresholdedScore
from score_sde.score import ClassifierGuidedScore, GuidedScore, evaluations_at
from score_sde.sde import VESDE, VPSDE, PowerVESDE, StraightSDE, subVPSDE
from score_sde.solvers.correctors import CORRECTORS
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import time_grid
from score_sde.solvers.predictors import PREDICTORS

DOUBLE = torch.float64
PATHS = SDES | {"power_ve": PowerVESDE}
MEANS = torch.tensor([[-1.0, 0.5, 0.2], [0.8, -0.3, 0.0], [0.0, 1.0, -0.7], [0.6, 0.6, 0.6]])
WEIGHTS = torch.tensor([0.2, 0.4, 0.3, 0.1], dtype=DOUBLE)
CLASSES = torch.tensor([0, 1, 0, 1])
"""Which class the components belong to."""


def mixture(sde, label=None):
    """Data of all classes, or of one."""
    rows = slice(None) if label is None else CLASSES == label
    return Mixture(sde, MEANS[rows].double(), WEIGHTS[rows] / WEIGHTS[rows].sum())


def classifier(sde):
    """The exact log p(c | x_t), up to a constant: of each class, the sum over its components."""

    def logits(x, t):
        terms = mixture(sde)._log_terms(x, t)[0]
        return torch.stack([terms[:, CLASSES == c].logsumexp(1) for c in (0, 1)], dim=1)

    return logits


def points(sde, n=200):
    """States of p_t at times all over the range, and these times."""
    generator = torch.Generator().manual_seed(0)
    t = torch.linspace(sde.eps, sde.T, n, dtype=DOUBLE)
    z = torch.randn(n, 3, dtype=DOUBLE, generator=generator)
    x_0 = mixture(sde).sample(n, generator)
    return sde.mean_scale(t)[:, None] * x_0 + sde.std(t)[:, None] * z, t


class Counting:
    def __init__(self, score):
        self.score, self.calls, self.rows = score, 0, []

    def __call__(self, x, t):
        self.calls += 1
        self.rows.append(len(x))
        return self.score(x, t)


# Identities


@pytest.mark.parametrize("kind", PATHS)
def test_with_an_exact_classifier_the_score_is_that_of_the_class(kind):
    sde = PATHS[kind]()
    x, t = points(sde)
    label = torch.arange(len(x)) % 2
    guided = ClassifierGuidedScore(mixture(sde).score, classifier(sde), label)
    one, other = (mixture(sde, c).score(x, t) for c in (0, 1))
    expected = torch.where(label[:, None] == 0, one, other)
    # Of the terms of which they are sums.
    size = 1 + expected.norm(dim=1) + mixture(sde).score(x, t).norm(dim=1)
    assert ((guided(x, t) - expected).norm(dim=1) / size).max() < 1e-12


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize(("w", "v"), [(3.0, 0.0), (0.5, 0.0), (0.0, 2.0), (2.0, 1.5), (1.0, 4.0)])
def test_the_guided_score_is_the_gradient_of_the_guided_density(kind, w, v):
    sde = PATHS[kind]()
    x, t = points(sde)
    label = torch.full((len(x),), 1)
    led = GuidedScore(mixture(sde, 1).score, mixture(sde).score, sde, w)
    guided = ClassifierGuidedScore(led, classifier(sde), label, v)
    at = x.clone().requires_grad_()
    log_u, log_c = mixture(sde).logp(at, t), mixture(sde, 1).logp(at, t)
    of_class = classifier(sde)(at, t).log_softmax(1)[:, 1]
    (expected,) = torch.autograd.grad((log_u + w * (log_c - log_u) + v * of_class).sum(), at)
    size = 1 + expected.norm(dim=1) + (1 + w + v) * mixture(sde).score(x, t).norm(dim=1)
    assert ((guided(x, t) - expected).norm(dim=1) / size).max() < 1e-12


def test_scale_1_is_the_score_itself_and_scale_0_the_guide():
    sde = VPSDE()
    x, t = points(sde)
    own, other = Counting(mixture(sde, 1).score), Counting(mixture(sde).score)
    assert torch.equal(GuidedScore(own, other, sde)(x, t), own.score(x, t))
    assert (own.calls, other.calls) == (1, 0)
    assert torch.equal(GuidedScore(own, other, sde, 0.0)(x, t), other.score(x, t))
    assert (own.calls, other.calls) == (1, 1)
    never = ClassifierGuidedScore(own, None, torch.zeros(len(x), dtype=torch.int64), 0.0)
    assert torch.equal(never(x, t), own.score(x, t))


@pytest.mark.parametrize("kind", PATHS)
def test_outside_of_the_interval_of_noise_levels_the_guide_has_no_say(kind):
    sde = PATHS[kind]()
    x, t = points(sde)
    level = sde.noise_level(t)
    low, high = level[50].item(), level[150].item()
    own, other = Counting(mixture(sde, 1).score), Counting(mixture(sde).score)
    led = GuidedScore(own, other, sde, 3.0, (low, high))
    everywhere = GuidedScore(own.score, other.score, sde, 3.0)(x, t)
    inside = torch.arange(len(t)).gt(50) & torch.arange(len(t)).le(150)
    assert torch.equal(led(x, t), torch.where(inside[:, None], everywhere, own.score(x, t)))
    assert other.rows == [len(x)]  # both see whole batches
    assert led.evaluations_at(t).tolist() == (1 + inside.long()).tolist()
    outside = x[~inside], t[~inside]
    assert torch.equal(led(*outside), own.score(*outside))
    assert other.calls == 1
    assert torch.equal(led(x[60:70], t[60:70]), everywhere[60:70])
    # Of the unconditional score inside, one evaluation everywhere.
    without = GuidedScore(own.score, other.score, sde, 0.0, (low, high))
    assert torch.equal(
        without(x, t), torch.where(inside[:, None], other.score(x, t), own.score(x, t))
    )
    assert without.evaluations_at(t).tolist() == [1] * len(t)


def test_a_level_without_end_is_inside_of_an_interval_without_end():
    sde = StraightSDE()
    led = GuidedScore(lambda x, t: x, lambda x, t: 0 * x, sde, 2.0, (1.0, math.inf))
    x = torch.ones(2, 1, dtype=DOUBLE)
    assert led(x, torch.tensor([1.0, 0.4], dtype=DOUBLE)).tolist() == [[2.0], [1.0]]


@pytest.mark.parametrize("interval", [(0.0, math.inf), (0.3, 2.0)])
def test_a_sample_is_the_same_whatever_the_times_of_its_mates(interval):
    sde = VPSDE()
    x, t = points(sde)
    led = GuidedScore(mixture(sde, 1).score, mixture(sde).score, sde, 3.0, interval)
    ours = led(x, t)
    alike = led(x, t[100].repeat(len(t)))  # one that is inside, with others at its own time
    assert torch.equal(ours[100], alike[100])


# Gradients


class Classifier(nn.Module):
    """Two classes of three numbers, a smooth function of these and of time."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Linear(4, 2, dtype=DOUBLE)
        for weights in self.parameters():
            weights.data = torch.randn(weights.shape, generator=generator, dtype=DOUBLE)

    def forward(self, x, t):
        return self.layer(torch.cat([x.sin(), t[:, None]], dim=1))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_gradient_is_taken_whatever_the_caller_allows(mode):
    sde, network = VPSDE(), Classifier()
    x, t = points(sde)
    label = torch.zeros(len(x), dtype=torch.int64)
    expected = ClassifierGuidedScore(lambda x, t: 0 * x, network, label)(x, t)
    with mode():
        guided = ClassifierGuidedScore(lambda x, t: 0 * x, network, label.clone())
        found = guided(x.clone(), t.clone())  # in inference mode tensors without a gradient
        alike = guided(x.clone(), 0.25)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert alike.isfinite().all()
    assert all(weights.grad is None for weights in network.parameters())
    weight = network.layer.weight[0] - network.layer.weight[1]
    share = network(x, t).softmax(1)[:, 1:]
    assert_close(expected, share * weight[:3] * x.cos(), 1e-12)  # in closed form


def test_the_guided_score_has_the_derivative_of_the_conditional_one():
    sde = VPSDE()
    x, t = (v[::10] for v in points(sde))
    label = torch.ones(len(x), dtype=torch.int64)
    guided = ClassifierGuidedScore(mixture(sde).score, classifier(sde), label)

    def derivative(score):
        return torch.autograd.functional.jvp(lambda y: score(y, t), x, torch.ones_like(x))[1]

    assert_close(derivative(guided), derivative(mixture(sde, 1).score), 1e-10)


# Samples


def samplers(sde):
    """One of each kind, by name."""
    steps = {name: FEW_STEP[name](sde) for name in ("ddim", "heun", "dpm_solver++")}
    few = {
        name: GridSampler(sde, time_grid(sde, 12, step.grid), step, tweedie=True)
        for name, step in steps.items()
    }
    predictor = PREDICTORS["reverse_diffusion"](sde)
    corrector = CORRECTORS["langevin"](sde)
    return few | {
        "pc": GridSampler(sde, time_grid(sde, 25), predictor, corrector),
        "ode": ODESampler(sde, rtol=1e-3, atol=1e-3, tweedie=True),
        "sde": AdaptiveSDESampler(sde, rtol=0.2, tweedie=True),
    }


NAMES = (*("ddim", "heun", "dpm_solver++"), "pc", "ode", "sde")
PAPERS = {"ve": lambda: VESDE(0.01, 10.0), "vp": VPSDE, "subvp": subVPSDE}


def drawn(sampler, score_for, index=range(12), batch_size=5):
    given = {"seed": 0, "batch_size": batch_size, "device": "cpu", "dtype": DOUBLE}
    parts = list(sampler.draw(score_for, torch.tensor([*index]), (3,), **given))
    return torch.cat([part.x for part in parts]), torch.cat([part.nfe for part in parts])


@pytest.mark.parametrize("kind", PAPERS)
@pytest.mark.parametrize("name", NAMES)
def test_samples_led_by_a_classifier_are_those_of_the_conditional_score(kind, name):
    sde = PAPERS[kind]()
    sampler = samplers(sde)[name]

    def led(index):
        return ClassifierGuidedScore(mixture(sde).score, classifier(sde), index % 2)

    def conditional(index):
        label = (index % 2)[:, None]
        one, other = mixture(sde, 0).score, mixture(sde, 1).score
        return lambda x, t: torch.where(label == 0, one(x, t), other(x, t))

    found, nfe = drawn(sampler, led)
    expected, calls = drawn(sampler, conditional)
    assert_close(found, expected, 1e-9)
    assert torch.equal(nfe, 2 * calls)
    # They are of their class: no component of the other one is nearer.
    nearest = CLASSES[torch.cdist(found, MEANS.double()).argmin(1)]
    assert (nearest == torch.arange(len(found)) % 2).float().mean() > 0.85


def conditional_on(sde, label):
    """The score of one class for all samples, and one that the exact classifier leads to it."""

    def led(index):
        of = torch.full_like(index, label)
        return ClassifierGuidedScore(mixture(sde).score, classifier(sde), of)

    return (lambda index: mixture(sde, label).score), led


@pytest.mark.parametrize("kind", PAPERS)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "sde"])
def test_moments_are_those_of_the_class_but_for_the_samplers_own_bias(kind, name):
    sde, n = PAPERS[kind](), 1500
    sampler = samplers(sde)[name]
    own, led = conditional_on(sde, 0)
    weight = (WEIGHTS / WEIGHTS[CLASSES == 0].sum())[CLASSES == 0]
    means = MEANS[CLASSES == 0].double()
    true = weight @ means
    square = weight @ means**2 + 0.05
    error = ((square - true**2) / n).sqrt()

    def moments(score_for, seed):
        given = {"seed": seed, "batch_size": n, "device": "cpu", "dtype": DOUBLE}
        x = torch.cat([p.x for p in sampler.draw(score_for, torch.arange(n), (3,), **given)])
        return x.mean(0), x.square().mean(0)

    (mean, squares), (mean_own, squares_own) = moments(led, 0), moments(own, 1)
    # Noise is other noise: within Monte Carlo error of what the conditional score draws.
    assert ((mean - mean_own).abs() <= 4.5 * 2**0.5 * error).all()
    bias = (mean_own - true).abs(), (squares_own - square).abs()
    assert ((mean - true).abs() <= 4.5 * error + bias[0] + 4.5 * error).all()
    spread = (torch.tensor(2.0) ** 0.5 * square / n**0.5 + 2 * true.abs() * error) * 4.5
    assert ((squares - square).abs() <= 2 * spread + bias[1]).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("interval", [(0.0, math.inf), (0.2, 1.5)])
def test_evaluations_are_those_really_made(name, interval):
    sde = VPSDE()
    sampler = samplers(sde)[name]
    own, other = Counting(mixture(sde, 1).score), Counting(mixture(sde).score)
    led = GuidedScore(own, other, sde, 2.0, interval)
    _, nfe = drawn(sampler, lambda index: led, [0], batch_size=1)
    assert nfe.tolist() == [own.calls + other.calls]
    assert 0 < other.calls <= own.calls
    assert (other.calls < own.calls) == (interval != (0.0, math.inf))


@pytest.mark.parametrize("name", ["ode", "sde"])
def test_evaluations_of_a_sample_are_its_own_where_samples_have_their_own_times(name):
    sde = VPSDE()
    sampler = samplers(sde)[name]
    led = GuidedScore(mixture(sde, 1).score, mixture(sde).score, sde, 2.0, (0.2, 1.5))
    together, nfe = drawn(sampler, lambda index: led)
    for k in (0, 7, 11):
        alone, calls = drawn(sampler, lambda index: led, [k])
        assert torch.equal(alone[0], together[k])
        assert calls[0] == nfe[k]
    assert len(set(nfe.tolist())) > 1


def test_wrappers_count_what_they_stand_around():
    sde = VPSDE()
    led = GuidedScore(mixture(sde, 1).score, mixture(sde).score, sde, 2.0)
    both = ClassifierGuidedScore(led, classifier(sde), torch.ones(2, dtype=torch.int64))
    kept = ThresholdedScore(both, sde, "static", True)
    t = torch.full((2,), 0.5, dtype=DOUBLE)
    counts = [evaluations_at(score, t) for score in (led.score, led, both, kept)]
    assert counts == [1, 2, 3, 3]
    around = GuidedScore(kept, led, sde, 2.0, (1.0, 2.0))
    t = torch.tensor([0.1, 0.35], dtype=DOUBLE)  # levels of about 0.4 and 1.6
    assert evaluations_at(around, t).tolist() == [3, 5]


def test_autoguidance_sharpens_what_a_weaker_network_blurs():
    # The guide's data are N(0, a²), the score's N(0, s²) with s < a: guided the std at level σ
    # follows from w/(s² + σ²) − (w − 1)/(a² + σ²).
    sde = VESDE(0.01, 10.0)
    s, a, w = 0.5, 1.0, 2.0
    led = GuidedScore(Gaussian(sde, 0.0, s**2).score, Gaussian(sde, 0.0, a**2).score, sde, w)
    x, _ = drawn(ODESampler(sde, eps=1e-4), lambda index: led)
    prior, _ = drawn(ODESampler(sde, eps=sde.T * (1 - 1e-9)), lambda index: led)
    # d log x / d log σ² of the flow, integrated: half of −w ln(σ² + s²) + (w − 1) ln(σ² + a²).
    level = [sde.std(torch.tensor([t], dtype=DOUBLE)).item() ** 2 for t in (1e-4, sde.T)]
    low, high = (w * math.log(v + s**2) - (w - 1) * math.log(v + a**2) for v in level)
    assert_close(x, prior * math.exp((low - high) / 2), 1e-4)


def test_at_the_ends_of_an_interval_the_adaptive_ode_is_less_exact_but_converges():
    sde = VPSDE()
    led = GuidedScore(mixture(sde, 1).score, mixture(sde).score, sde, 3.0, (0.2, 1.5))
    exact, *found = (
        drawn(ODESampler(sde, rtol=tol, atol=tol), lambda index: led, range(3), 3)[0]
        for tol in (1e-8, 1e-6, 1e-4)
    )
    errors = [(x - exact).abs().max().item() for x in found]
    assert errors[0] < errors[1] / 10
    assert errors[0] < 1000 * 1e-6
    assert errors[1] < 1000 * 1e-4


@pytest.mark.parametrize("interval", [(2.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (math.nan, 1.0)])
def test_intervals_that_are_none_are_refused(interval):
    with pytest.raises(ValueError, match="the lower one first"):
        GuidedScore(lambda x, t: x, lambda x, t: x, VPSDE(), 2.0, interval)


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match="give a finite number"):
        GuidedScore(lambda x, t: x, lambda x, t: x, VPSDE(), math.nan)
    with pytest.raises(ValueError, match="give a finite number"):
        ClassifierGuidedScore(lambda x, t: x, None, torch.zeros(1), math.inf)
    one = ClassifierGuidedScore(lambda x, t: x, Classifier(), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels of shape \(1,\) for 2 samples"):
        one(torch.zeros(2, 3, dtype=DOUBLE), 0.5)
