"""The adaptive SDE solver: paths that are kept, laws that are known, samples without mates."""

import math

import pytest
import torch
from conftest import assert_close
from problems import SDES, Gaussian

from score_sde.commands.sample import write_images
from score_sde.config import build, parts
from score_sde.logbook import Logbook
from score_sde.noise import normal
from score_sde.samplers import SAMPLERS, AdaptiveSDESampler, Samples
from score_sde.sde import VPSDE
from score_sde.solvers.adaptive_sde import SDEControl, solve_sde
from score_sde.solvers.kept_path import KeptPaths, PathSample
from score_sde.solvers.ode import Status
from score_sde.tensor_ops import UnknownName, expand_to


def draws_of(*shape, seed=5, dtype=torch.float64):
    return lambda index, number: normal(seed, index, number, shape, dtype=dtype)


def test_a_path_is_one_path():
    """Asked in any order of times it stays what it was, and the variance of a bridge is right."""
    n = 4000
    samples = [PathSample(k, 1.0) for k in range(n)]
    index, x = torch.arange(n), torch.zeros(n, 1, dtype=torch.float64)
    paths = KeptPaths(draws_of(1), x)

    def ask(t):
        return paths.ask(samples, index, [t] * n)[:, 0]

    far, near, middle = ask(0.5), ask(0.9), ask(0.6)
    assert ask(0.5).equal(far)
    assert ask(0.9).equal(near)
    assert ask(1.0).eq(0).all()
    assert samples[0].draws == 3
    moved = [k % 2 == 0 for k in range(n)]
    for sample, move in zip(samples, moved, strict=True):
        sample.t = 0.9 if move else 1.0
    paths.advance(samples, moved, near[:, None])
    again, even = ask(0.5), torch.tensor(moved)
    assert_close(again[even], (far - near)[even], 1e-14)
    assert again[~even].equal(far[~even])
    assert ask(0.2).shape == (n,)  # beyond what is known
    # Increments over what lies between are independent, of the variance of the time they take.
    points = torch.stack([near, middle - near, far - middle, ask(0.2) - again])
    covariance = torch.cov(points)
    expected = torch.diag(torch.tensor([0.1, 0.3, 0.1, 0.3], dtype=torch.float64))
    assert (covariance - expected).abs().max() < 4 * 0.3 * math.sqrt(2 / n)


def test_rejected_steps_do_not_bias_the_path():
    """dw = dv_1, dx = −4w dt + dv_2: x makes the errors, of the noise of w, and w is the path.

    With fresh noise after each rejected step the variance of w is 0.34, and not 1.
    """

    def equation(x, t, index):
        drift = torch.stack([torch.zeros_like(x[:, 0]), -4 * x[:, 0]], dim=1)
        return drift, torch.ones_like(t)

    n, control = 3000, SDEControl(rtol=1e-9, atol=0.05, first_step=0.3)
    x0 = torch.zeros(n, 2, dtype=torch.float64)
    result = solve_sde(equation, x0, 0.0, 1.0, draws_of(2), control, batch_size=1000)
    assert (result.status == Status.DONE).all()
    assert result.rejected.double().mean() > 5
    assert (result.nfe == 2 * (result.accepted + result.rejected)).all()
    w = result.y[:, 0]
    assert abs(w.var().item() - 1) < 3 * math.sqrt(2 / n)
    assert abs(w.mean().item()) < 3 / math.sqrt(n)
    # x = −4 ∫w + v_2, whose variance is 16/3 + 1, up to the error of the steps.
    assert abs(result.y[:, 1].var().item() / (16 / 3 + 1) - 1) < 3 * math.sqrt(2 / n) + 0.02


def test_without_noise_it_is_an_ode_solver():
    def equation(x, t, index):
        return 2 * expand_to(t, x) * x, torch.zeros_like(t)

    x0 = torch.linspace(0.5, 2, 12, dtype=torch.float64).reshape(4, 3)
    for tolerance, error in ((1e-2, 1e-2), (1e-4, 1e-4)):
        control = SDEControl(rtol=tolerance, atol=tolerance)
        result = solve_sde(equation, x0, 1.5, 0.25, draws_of(3), control, batch_size=3)
        assert (result.t == 0.25).all()
        assert_close(result.y, x0 * math.exp(0.0625 - 2.25), error)


@pytest.mark.parametrize("kind", SDES)
def test_a_gaussian_is_drawn_with_its_moments(kind):
    sde = SDES[kind]()
    data = Gaussian(sde, 0.4, 0.25)
    n, d = 150, 64
    sampler = AdaptiveSDESampler(sde, rtol=0.01, tweedie=True)
    (part,) = sampler.draw(
        lambda index: data.score, torch.arange(n), (d,), seed=0, batch_size=50, device="cpu"
    )
    assert (part.status == Status.DONE).all()
    assert (part.nfe % 2 == 1).all()  # two for each step, one for Tweedie's formula
    assert abs(part.x.mean().item() - 0.4) < 4 * 0.5 / math.sqrt(n * d)
    assert abs(part.x.var().item() / 0.25 - 1) < 4 * math.sqrt(2 / (n * d)) + 0.01


class Scores:
    """The score of a Gaussian whose width is each sample's own; counts and checks its calls."""

    def __init__(self, sde, variance, batch_size):
        self.sde, self.variance, self.batch_size, self.calls = sde, variance, batch_size, 0

    def __call__(self, index):
        def score(x, t):
            assert len(x) == len(t) == len(index) == self.batch_size
            self.calls += 1
            variance = expand_to(self.sde.mean_scale(t) ** 2 * self.variance[index], x)
            return -x / (variance + expand_to(self.sde.std(t) ** 2, x))

        return score


def drawn(scores, index, **options):
    sampler = AdaptiveSDESampler(scores.sde, rtol=0.05, atol=0.02, tweedie=True)
    options = {"seed": 3, "batch_size": scores.batch_size, "device": "cpu"} | options
    parts = list(sampler.draw(scores, index, (1, 4, 8), **options))
    return torch.cat([part.x for part in parts]), torch.cat([part.nfe for part in parts])


@pytest.mark.parametrize("batch_size", [3, 8])
def test_a_sample_is_the_same_bit_for_bit_whatever_its_mates(batch_size):
    variance, kept = torch.full((20,), 0.3), [0, 4, 9]
    alike, nfe = drawn(Scores(VPSDE(), variance, batch_size), torch.arange(10))
    others = variance.clone()
    others[[k for k in range(20) if k not in kept]] = 1e-2
    mixed, nfe_mixed = drawn(Scores(VPSDE(), others, batch_size), torch.arange(10))
    assert nfe_mixed[1] > 1.2 * nfe[1]
    assert mixed[kept].equal(alike[kept])
    assert nfe_mixed[kept].equal(nfe[kept])
    assert not mixed[1].equal(alike[1])
    # Nor does it know its place among others, or who else is drawn.
    order = torch.tensor([15, 9, 4, 13, 0])
    some, nfe_some = drawn(Scores(VPSDE(), others, batch_size), order)
    assert some[[4, 2, 1]].equal(alike[kept])
    assert nfe_some[[4, 2, 1]].equal(nfe[kept])


def test_batch_sizes_and_seeds():
    variance = torch.full((10,), 0.3)
    ten, nfe = drawn(Scores(VPSDE(), variance, 10), torch.arange(10))
    four, _ = drawn(Scores(VPSDE(), variance, 4), torch.arange(10))
    other, _ = drawn(Scores(VPSDE(), variance, 10), torch.arange(10), seed=4)
    assert_close(four, ten, 1e-5)
    assert (ten - other).abs().mean() > 0.1
    assert len(set(nfe.tolist())) > 1  # each sample has its own steps


def test_free_slots_are_filled():
    variance = torch.full((24,), 0.3)
    variance[::6] = 1e-2
    scores = Scores(VPSDE(), variance, 4)
    _, nfe = drawn(scores, torch.arange(24))
    ends = 6  # batches, for Tweedie's formula
    least = (nfe - 1).sum().item() / 4
    assert least <= scores.calls - ends < least + nfe.max().item()


def test_looser_tolerances_cost_less():
    variance = torch.full((8,), 1e-3)
    scores, calls = Scores(VPSDE(), variance, 8), []
    for rtol in (0.1, 0.03, 0.01):
        sampler = AdaptiveSDESampler(scores.sde, rtol=rtol)
        (part,) = sampler.draw(
            scores, torch.arange(8), (1, 4, 8), seed=0, batch_size=8, device="cpu"
        )
        calls.append(part.nfe.double().mean().item())
    assert calls[0] < 0.8 * calls[1] < 0.64 * calls[2]


def test_a_sample_that_cannot_go_on_leaves_the_others_alone():
    def equation(x, t, index):
        bad = torch.where(expand_to(t, x) < 0.5, -x, x * math.nan)
        return torch.where((index == 1)[:, None], bad, -x), torch.full_like(t, 0.1)

    x0 = torch.ones(3, 2, dtype=torch.float64)
    result = solve_sde(equation, x0, 0.0, 1.0, draws_of(2), SDEControl(), batch_size=2)
    assert result.status.tolist() == [Status.DONE, Status.NON_FINITE, Status.DONE]
    assert 0.4 < result.t[1].item() <= 0.5
    assert result.y.isfinite().all()
    few = SDEControl(max_steps=3)
    limited = solve_sde(equation, x0, 0.0, 1.0, draws_of(2), few)
    assert limited.status.tolist() == [Status.STEP_LIMIT] * 3
    assert (limited.nfe == 6).all()


@pytest.mark.parametrize(
    "change", [{"rtol": 0.0}, {"atol": -1.0}, {"first_step": 0.0}, {"max_steps": 0}]
)
def test_mistakes_are_named(change):
    with pytest.raises(ValueError, match="above 0"):
        solve_sde(None, torch.ones(1, 1), 0.0, 1.0, draws_of(1), SDEControl(**change))


def test_draws_may_be_numbered_by_sample():
    index, numbers = torch.tensor([7, 2, 9]), torch.tensor([0, 5, 3])
    together = normal(1, index, numbers, (2, 3))
    for k in range(3):
        alone = normal(1, index[k : k + 1], int(numbers[k]), (2, 3))
        assert_close(together[k : k + 1], alone, 1e-6)
    for wrong, message in (
        (torch.tensor([0, 1]), "int64"),
        (torch.tensor([0.0, 1.0, 2.0]), "float32"),
        (torch.tensor([0, 1, 2**24]), "outside"),
        (torch.tensor([0, -1, 2]), "outside"),
    ):
        with pytest.raises(ValueError, match=message):
            normal(1, index, wrong, (2,))


def config_of(**fields):
    return parts.recipe(parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL, fields)


def test_recipes_choose_it_by_name():
    fields = {"sampling.method": "adaptive_sde", "sampling.sde_rtol": 0.05, "sampling.eps": 0.01}
    config = config_of(**fields)
    sampler = build.build_sampler(config, build.build_sde(config))
    assert isinstance(sampler, AdaptiveSDESampler)
    # One grey level of the range that the network sees.
    assert (sampler.control.rtol, sampler.control.atol) == (0.05, 2 / 256)
    assert (sampler.eps, sampler.tweedie, sampler.num_steps) == (0.01, True, None)
    config.sampling.method = "adaptive_sd"
    with pytest.raises(UnknownName, match=r"pc, ode, adaptive_sde, ddim, .*mean 'adaptive_sde'"):
        build.build_sampler(config, build.build_sde(config))


@pytest.mark.parametrize("method", SAMPLERS)
def test_what_chooses_its_own_times_refuses_a_chain(method):
    config = config_of(**{"training.continuous": False, "sampling.method": method})
    with pytest.raises(ValueError, match=rf"{method}.*discrete chain only: take pc, ddim, heun"):
        build.build_sampler(config, build.build_sde(config))


@pytest.mark.parametrize(("method", "limit"), [("ode", "rtol"), ("adaptive_sde", "sde_rtol")])
def test_what_is_given_up_is_told_with_the_fields_of_its_own_method(
    method, limit, tmp_path, capsys
):
    part = Samples(
        torch.arange(2),
        torch.zeros(2, 1, 8, 8),
        torch.tensor([4, 4]),
        torch.tensor([Status.DONE, Status.STEP_LIMIT]),
    )
    with Logbook(tmp_path, tensorboard=False) as log:
        config = config_of(**{"sampling.method": method})
        write_images(log, config, [part], 2, tmp_path / "images")
    said = " ".join("".join(capsys.readouterr()).split())
    assert f"{method} gave up on images [1]: what it reached is saved; " in said
    assert f"raise sampling.max_steps or sampling.{limit}" in said
