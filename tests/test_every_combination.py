"""Every SDE x solver x grid x parameterisation has the right law, or is refused by name.

Names come from the tables and from the schema, so that a row that is added is tested here without
a change. The network is exact: it puts out the closed form for Gaussian data in the convention
that the config asks for, and reads the time from the label that it is given. Configs are checked
and built as those of the command line are.
"""

import functools
import itertools
import math
import re
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from score_sde.config import parts
from score_sde.config.build import build_sampler, build_score_for, build_sde
from score_sde.config.check import check_config
from score_sde.config.schema import FIELDS
from score_sde.networks.table import NETWORKS
from score_sde.samplers import GridSampler
from score_sde.sde import SDES
from score_sde.solvers.correctors import CORRECTORS
from score_sde.solvers.predictors import PREDICTORS
from score_sde.tensor_ops import expand_to

MEAN, STD = 0.3, 0.5
SCALES, STEPS = 48, 24  # of the chains; in continuous time


def names_of(field):
    return tuple(FIELDS[field].holds.allowed()) if field in FIELDS else ("auto",)


GRIDS, PREDICTIONS = names_of("sampling.grid"), names_of("model.prediction")
PAIRS = [pair for pair in itertools.product(PREDICTORS, CORRECTORS) if set(pair) != {"none"}]
METHODS = (*(name for name in names_of("sampling.method") if name != "pc"), *PAIRS)
"""Of `sampling.method`; for pc the pairs of a predictor and a corrector."""


@dataclass(frozen=True)
class Case:
    """Names of a combination.

    Attributes:
        method: of `METHODS`.
        num_steps: 0 for all those of the chain.
    """

    sde: str
    method: str | tuple[str, str]
    grid: str = "auto"
    prediction: str = "auto"
    continuous: bool = True
    num_steps: int = STEPS

    def __str__(self):
        method = self.method if isinstance(self.method, str) else "+".join(self.method)
        rest = (self.grid, self.prediction, "" if self.continuous else f"chain-{self.num_steps}")
        return "-".join([self.sde, method, *(word for word in rest if word not in ("", "auto"))])

    @functools.cached_property
    def config(self):
        """A recipe of digits, with every field of the schema."""
        fields = {name: row.default for name, row in FIELDS.items()}
        fields |= parts.DIGITS | parts.SMALL | {"device": "cpu", "model.name": "exact"}
        fields |= {"model.num_scales": SCALES, "model.sigma_max": 10.0, "sampling.snr": 0.1}
        fields |= {"training.sde": self.sde, "training.continuous": self.continuous}
        fields |= {"training.time_sampling": "uniform", "sampling.num_steps": self.num_steps}
        fields |= {"sampling.grid": self.grid, "sampling.corrector": "none"}
        tolerances = {"rtol": 1e-3, "atol": 1e-3, "sde_rtol": 0.1}
        fields |= {f"sampling.{name}": tolerance for name, tolerance in tolerances.items()}
        if "model.prediction" in FIELDS:
            fields["model.prediction"] = self.prediction
        if isinstance(self.method, str):
            fields["sampling.method"] = self.method
        else:
            fields["sampling.method"] = "pc"
            fields["sampling.predictor"], fields["sampling.corrector"] = self.method
        return parts.as_config(fields)


class ExactNetwork(nn.Module):
    """What a perfect network puts out where pixels are N(MEAN, STD²)."""

    def __init__(self, case, sde):
        super().__init__()
        self.case, self.sde = case, sde

    def forward(self, x, cond):
        t, alpha, sigma = self.time_and_scales(cond)
        alpha, sigma = expand_to(alpha, x), expand_to(sigma, x)
        total = alpha**2 * STD**2 + sigma**2
        prediction = self.case.prediction
        if prediction == "auto":
            prediction = self.sde.network_output
        if prediction == "edm":  # given the state in units of its std
            x = x * total.sqrt()
        score = -(x - alpha * MEAN) / total
        if prediction == "score":
            return score
        noise, denoised = -sigma * score, MEAN + alpha * STD**2 * (x - alpha * MEAN) / total
        if prediction == "velocity":  # the field of the probability-flow ODE
            drift, g = self.sde.sde(x, t)
            return drift - 0.5 * expand_to(g**2, x) * score
        if prediction == "edm":  # Karras et al. 2022, table 1, at y = x/α and the level σ/α
            level = sigma / alpha
            skip, out = STD**2 / (level**2 + STD**2), level * STD / (level**2 + STD**2).sqrt()
            return (denoised - skip * x / alpha) / out
        v = alpha * noise - sigma * denoised
        return {"noise": noise, "denoised": denoised, "v": v}[prediction]

    def time_and_scales(self, cond):
        """Where the label stands: t, α(t) and σ(t), each (B,)."""
        sde, puts_out_score = self.sde, self.sde.network_output == "score"
        if sde.has_chain and not self.case.continuous:
            k = (sde.N - 1 - cond if puts_out_score else cond).round().long()
            alpha, sigma = sde.chain_scales()
            return sde.chain_times()[k], alpha.double()[k], sigma.double()[k]
        if puts_out_score:
            t = sde.time_of_noise_level(cond)
        elif self.case.prediction == "edm":
            t = sde.time_of_noise_level((cond / 100).exp())
        else:
            t = cond * sde.T / 999
        return t, sde.mean_scale(t), sde.std(t)


def built(case):
    """The sampler of a config that has been checked, its SDE, and the score by the config."""
    check_config(case.config)
    sde = build_sde(case.config)
    network = ExactNetwork(case, sde)
    return build_sampler(case.config, sde), sde, build_score_for(case.config, network, sde)


class OneForEachDraw:
    """Noise that is 0 but for one row at each draw, where it is 1: row 2 + k at draw k."""

    def __init__(self):
        self.draws = 0

    def __call__(self, shape):
        z = torch.zeros(*shape, dtype=torch.float64)
        z[2 + self.draws : 3 + self.draws] = 1
        self.draws += 1
        return z


def propagated(sampler, sde, score_for):
    """Mean and std of a pixel at the end, without any error of chance.

    With the exact score of Gaussian data steps are affine in x and in their noise, and do not mix
    pixels. So one row has no noise at all, one that of the prior alone, and each other row that of
    one draw alone.
    """
    rows, noise = 3 * sampler.num_steps + 8, OneForEachDraw()
    x = torch.zeros(rows, 1, dtype=torch.float64)
    x[1] = sde.prior_std
    x, _ = sampler.run(x, score_for(torch.arange(rows)), noise)
    assert noise.draws <= rows - 2
    return x[0].item(), (x[1:] - x[0]).square().sum().sqrt().item()


PIXELS = 8 * 64


def drawn(sampler, sde, score_for):
    """Mean and std of the pixels of 8 images, of samplers that choose their own times."""
    options = {"seed": 0, "batch_size": 8, "device": "cpu", "dtype": torch.float64}
    found = sampler.draw(score_for, torch.arange(8), (1, 8, 8), **options)
    x = torch.cat([part.x for part in found])
    return x.mean().item(), x.std().item()


def left_by_the_ends(sde, first, last):
    """How far mean and std are off, in units of STD, by the prior at one time and eps at another.

    The prior stands in for p_T, and whatever is left of the noise at the end is taken away.
    """
    at = torch.tensor([first, last]).double()
    (kept, shrunk), sigma = sde.mean_scale(at).tolist(), sde.std(at).tolist()
    std, last_std = math.hypot(kept * STD, sigma[0]), math.hypot(shrunk * STD, sigma[1])
    return kept * MEAN / std, abs(sde.prior_std / std - 1) + abs(shrunk * STD / last_std - 1)


@dataclass(frozen=True)
class Law:
    """Mean and std at the end of a case, the prior's std, and what is off beyond the ends."""

    mean: float
    std: float
    prior_std: float
    off: float
    steps: int
    order: int

    @property
    def bound(self):
        return 5 / self.steps if self.order == 1 else 40 / self.steps**2


@functools.cache
def law(case):
    sampler, sde, score_for = built(case)
    if isinstance(sampler, GridSampler):
        mean, std = propagated(sampler, sde, score_for)
        ends, steps = (sampler.times[0], sampler.times[-1]), sampler.num_steps
        order = sampler.predictor.order or sampler.predictor.weak_order or 0
    else:
        mean, std = drawn(sampler, sde, score_for)
        ends, steps, order = (sde.T, sampler.eps), 0, 0
    left = left_by_the_ends(sde, *ends)
    off = max(abs(mean - MEAN) / STD - left[0], abs(std / STD - 1) - left[1])
    return Law(mean, std, sde.prior_std, off, steps, order)


def assert_right(case):
    """The law is right to what the declared order of the steps leaves.

    That is 5/N or 40/N². Where steps are long (uniform ones of time, at the noisy end of VP), the
    error must at least fall to a third with three times as many, or for order 1 to a half. Of
    Langevin steps without a predictor, which do not keep up, the law is between the ends; and
    where samples are drawn four errors of chance are allowed.
    """
    found = law(case)
    if case.method[0] == "none":
        assert 0 < found.mean < MEAN
        assert STD < found.std < found.prior_std
    elif not found.steps:
        assert found.off < 4 / math.sqrt(PIXELS)
    elif found.off > found.bound and not case.num_steps:
        assert_falls(replace(case, num_steps=found.steps // 3), case)
    elif found.off > found.bound and not case.continuous:
        assert_falls(case, replace(case, num_steps=0))
    elif found.off > found.bound:
        cases = [replace(case, num_steps=k * found.steps) for k in (1, 3, 9)]
        assert_falls(*(cases[:2] if law(cases[1]).off < 0.05 else cases[1:]))


def assert_falls(few, many):
    share = 1 / 2 if law(many).order == 1 else 1 / 3
    assert law(many).off < max(law(many).bound, share * law(few).off)
    assert law(many).off < 0.1


def refusal(case):
    """The sentence by which a case is refused; empty where it runs."""
    try:
        built(case)
    except ValueError as error:
        return str(error)
    return ""


REMEDY = re.compile(r"\b(take|set|give|choose|leave|name|raise|lower)\b")


def assert_is_a_sentence(refused, *asked):
    """It names one of the rows that were asked for, and says what to do instead."""
    assert "\n" not in refused
    assert any(str(word) in refused for word in asked), refused
    assert REMEDY.search(refused), refused


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setitem(NETWORKS, "exact", lambda model, shape: nn.Identity())


@pytest.mark.parametrize("case", [Case(*p) for p in itertools.product(SDES, METHODS)], ids=str)
def test_every_method_has_the_right_law_on_every_sde(case):
    assert_right(case)


def in_turn():
    """Every method with every grid and prediction, while these and SDEs turn to meet one another.

    There are as many cases for a method as there are predictions, or grids.
    """
    sdes, turns = tuple(SDES), range(max(len(GRIDS), len(PREDICTIONS)))
    for (i, method), j in itertools.product(enumerate(METHODS), turns):
        grid, prediction = (i // len(sdes) + j) % len(GRIDS), (i + j) % len(PREDICTIONS)
        yield Case(sdes[i % len(sdes)], method, GRIDS[grid], PREDICTIONS[prediction])


IN_TURN = list(in_turn())


def test_the_turns_meet_every_pair_of_rows():
    rows = {"sde": SDES, "method": METHODS, "grid": GRIDS, "prediction": PREDICTIONS}
    for one, other in itertools.combinations(rows, 2):
        if (one, other) != ("sde", "method"):  # of which the test above has all
            met = {(getattr(case, one), getattr(case, other)) for case in IN_TURN}
            assert met == set(itertools.product(rows[one], rows[other])), (one, other)


@pytest.mark.parametrize("case", IN_TURN, ids=str)
def test_every_grid_has_the_right_law_and_every_parameterisation_the_same(case):
    if refused := refusal(case):
        assert_is_a_sentence(refused, case.grid, case.prediction)
        return
    usual = replace(case, prediction="auto")
    assert_right(usual)
    if not law(usual).steps:
        assert_right(case)
    elif case != usual:
        mine, others = (law(replace(one, num_steps=8)) for one in (case, usual))
        assert mine.mean == pytest.approx(others.mean, rel=1e-6)
        assert mine.std == pytest.approx(others.std, rel=1e-6)


def on_chains():
    """Every SDE with every method, on all steps of the chain and on some, predictions in turn."""
    for k, (sde, method) in enumerate(itertools.product(SDES, METHODS)):
        turn = PREDICTIONS[k % len(PREDICTIONS)]
        yield Case(sde, method, continuous=False, num_steps=0)
        yield Case(sde, method, prediction=turn, continuous=False, num_steps=16)


@pytest.mark.parametrize("case", list(on_chains()), ids=str)
def test_every_method_has_the_right_law_on_discrete_chains(case):
    refused = refusal(case)
    if not refused:
        assert_right(case)
        return
    assert_is_a_sentence(refused, case.sde, case.method, case.prediction)
    sampler, sde, _ = built(Case(case.sde, case.method))
    chooses_its_times = not isinstance(sampler, GridSampler)
    assert chooses_its_times or not sde.has_chain or case.prediction != "auto", refused
