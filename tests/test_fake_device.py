"""For a GPU the host waits where it reads by design alone, and what a step needs lies there.

Every row of the tables is stepped on a device that is not here (`fake_device`): first with tables
coming, as they do once in a run, then under the whole guard. What needs a gradient runs on "meta".
"""

import itertools
import weakref

import pytest
import torch
from fake_device import (
    CONFIG,
    LARGER,
    SHAPE,
    B,
    Refused,
    fake_device,
    images,
    index,
    network,
    no_noise,
    score,
    sde_of,
    times,
)

from score_sde.networks.low_resolution import LowResolution
from score_sde.networks.table import CLASSIFIERS, NETWORKS
from score_sde.noise import SampleNoise, normal
from score_sde.samplers import GridSampler
from score_sde.samplers.completion import MASKS, Replacement, known_gray, known_pixels
from score_sde.samplers.thresholding import ThresholdedScore
from score_sde.score import (
    PREDICTIONS,
    ClassifierGuidedScore,
    GuidedScore,
    NetworkScore,
    parameterisation,
)
from score_sde.score.exact import ExactScore, Points
from score_sde.score.tiling import TiledScore, Tiling
from score_sde.sde import SDES, VPSDE
from score_sde.solvers.correctors import CORRECTORS
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import chain_grid, time_grid
from score_sde.solvers.predictors import PREDICTORS
from score_sde.solvers.step import make_step
from score_sde.tensor_ops import kept_on

STEPS = {**CORRECTORS, **PREDICTORS, **FEW_STEP}


# ---- The guard ----


class Euler(PREDICTORS["euler_maruyama"]):
    """A step that is right, of which the broken ones are copies."""

    def step(self, x, t, t_next, score, noise):
        return super().step(x, t, t_next, score, noise)


class TableOnTheCPU(Euler):
    table = torch.linspace(0, 1, 5)

    def step(self, x, t, t_next, score, noise):
        size = self.table[(4 * t).long()]
        return x * size[:, None, None, None].to(x), x


class TableSentInEveryStep(Euler):
    def step(self, x, t, t_next, score, noise):
        betas = self.sde.discrete_betas.to(x.device, non_blocking=True)
        return x * betas[0], x


class HiddenItem(Euler):
    def step(self, x, t, t_next, score, noise):
        return x * t[0].item(), x


class HiddenCondition(Euler):
    def step(self, x, t, t_next, score, noise):
        return (x, x) if t.max() > 0.5 else (-x, -x)


class HiddenCopyToTheHost(Euler):
    def step(self, x, t, t_next, score, noise):
        return x + t.cpu().mean(), x


class ListInAStep(Euler):
    def step(self, x, t, t_next, score, noise):
        return x * torch.tensor([0.5, 0.5, 0.5], device=x.device).sum(), x


class NumberPutInAPlace(Euler):
    def step(self, x, t, t_next, score, noise):
        v = x.new_ones(4)
        v[0] = 0.5
        return x * v.sum(), x


class NumberInAStep(Euler):
    def step(self, x, t, t_next, score, noise):
        return x * x.new_tensor(0.5), x


class ListAsIndex(Euler):
    def step(self, x, t, t_next, score, noise):
        return x[[0, 2, 1]], x


class MaskedSelection(Euler):
    def step(self, x, t, t_next, score, noise):
        return x, x[x > 0].sum() + x


class MaskedAssignment(Euler):
    def step(self, x, t, t_next, score, noise):
        x = x.clone()
        x[t > 0.5] = torch.zeros_like(x[:1])
        return x, x


class CheckedSolution(Euler):
    def step(self, x, t, t_next, score, noise):
        return torch.linalg.solve(x @ x.mT, x), x


BROKEN = Euler.__subclasses__()
UNSEEN = [(NumberPutInAPlace, "meta")]  # torch makes the number there at once


@pytest.mark.parametrize(
    ("broken", "kind"),
    [pair for pair in itertools.product(BROKEN, ("cuda", "meta")) if pair not in UNSEEN],
)
def test_the_guard_refuses_a_step_that_is_broken(broken, kind):
    sde = VPSDE()
    with fake_device(kind) as device, torch.no_grad():
        x = images(device)
        run = (x, times(device), times(device, 0.4), score, no_noise(x))
        device.settled(lambda: Euler(sde).step(*run))
        with pytest.raises((Refused, NotImplementedError)):  # meta gives nothing away either
            device.settled(lambda: broken(sde).step(*run))


@pytest.mark.parametrize("kind", ["cuda", "meta"])
def test_the_guard_lets_numbers_go_into_operations(kind):
    with fake_device(kind) as device:
        x = images(device)
        x = torch.where(x > 0, x, 0.5) + torch.tensor(2.0) * x.new_full((1,), 3.0)
        x[x > 1] = 0.0
        x[:, 0] = 1.0
        x.masked_fill_(x > 0, 2.0).clamp_(0, 1).mul_(0.5)
        assert device.is_here(x)
        assert torch.arange(3).tolist() == [0, 1, 2]  # the CPU is here


def test_a_table_is_sent_once_and_again_when_it_has_changed():
    table = torch.linspace(0, 1, 5)
    with fake_device("cuda") as device:
        with device.tables_coming():
            there = kept_on("cuda", table)
            single = kept_on("cuda", table, torch.float64)
        assert kept_on("cuda", table) is there
        assert kept_on("cuda", table, torch.float64) is single
        table[0] = 3.0
        with pytest.raises(Refused):
            kept_on("cuda", table)
    assert kept_on("cpu", table) is table


def test_of_a_table_that_changes_one_copy_is_kept():
    table = torch.zeros(3)
    before = weakref.ref(kept_on("cpu", table, torch.float64))
    table[0] = 1.0
    assert kept_on("cpu", table, torch.float64).tolist() == [1.0, 0.0, 0.0]
    assert before() is None


def test_reads_that_are_allowed_are_noted_where_they_were_made(cuda):
    with cuda.answering():
        assert images(cuda).sum().item() == 0
        assert times(cuda).tolist() == [0, 0, 0]
    assert cuda.reads == {"outside": 2}


# ---- SDEs, scores ----


@pytest.mark.parametrize("name", SDES)
def test_scales_of_an_sde(name, meta):
    """On meta, as drift and diffusion may be derivatives."""
    sde = sde_of(name)
    t, s = times(meta, 0.6), times(meta, 0.3)

    def everything():
        scales = sde.mean_scale(t), sde.mean_rate(t), sde.diffusion_squared(t), sde.snr(t)
        chain = sde.nearest_step(t), sde.chain_alpha(t), sde.chain_position(t)
        steps = (*sde.ancestral_step(t), *sde.ancestral_step(t, s), *sde.transition(t, s))
        prior = sde.prior_logp(images(meta)), *sde.marginal_prob(images(meta), t)
        levels = sde.time_of_noise_level(sde.noise_level(t))
        return *scales, *chain, *steps, *prior, levels, *sde.discretize(images(meta), t)

    assert all(map(meta.is_here, meta.settled(everything)))


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("prediction", ["auto", *PREDICTIONS])
@pytest.mark.parametrize("name", SDES)
def test_an_evaluation(name, prediction, continuous, meta):
    sde = sde_of(name)
    try:
        read = parameterisation(sde, continuous, prediction)
    except ValueError:
        pytest.skip("has no such chain")
    of = NetworkScore(lambda x, cond: x, sde, parameterisation=read)
    x, t = images(meta), times(meta)
    found = meta.settled(lambda: (of(x, t), of.noise(x, t), of.denoised(x, t), of(x, 0.5)))
    assert all(map(meta.is_here, found))


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network(name, moved, cuda):
    net = network(cuda, name, moved).eval()
    cond = index(cuda) if name == "ncsn" else times(cuda)
    assert net(images(cuda, *LARGER), cond).device.type == "cuda"


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier(name, cuda):
    fields = CONFIG.classifier.to_dict() | {"num_classes": 10}
    with torch.device("cuda"):
        net = CLASSIFIERS[name](fields, SHAPE).eval()
    assert net(images(cuda), times(cuda)).shape == (B, 10)


def test_networks_that_are_given_more(cuda):
    net = network(cuda, num_classes=10, augment_dim=9, upsampling_factor=2).eval()
    x = images(cuda, *LARGER)
    more = {"augment": torch.zeros(B, 9, device="cuda"), **LowResolution(2, 0.5)(x)}
    assert net(x, times(cuda), index(cuda), **more).device.type == "cuda"


@pytest.mark.parametrize("draw", [4, torch.tensor([1, 5, 2])])
def test_noise(draw, cuda):
    with cuda.answering():  # draw numbers of their own are sent
        assert normal(0, index(cuda), draw, (2,)).device.type == "cuda"
    assert not cuda.reads


def guided(device, sde):
    return GuidedScore(score, lambda x, t: -2 * x, sde, 2.0)


def tiled(device, sde):
    return TiledScore(lambda part: score, index(device), Tiling((8, 8), (4, 6)), at_a_time=2 * B)


def exact(device, sde):
    means = torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)])
    return ExactScore(Points(means, 0.1).to(device.type), sde)


@pytest.mark.parametrize("make", [guided, tiled, exact])
def test_a_score_made_of_others(make, cuda):
    with cuda.tables_coming():
        of = make(cuda, VPSDE())
    assert cuda.settled(lambda: of(images(cuda), times(cuda))).device.type == "cuda"
    of.evaluations_at(times(cuda)) if hasattr(of, "evaluations_at") else None


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_thresholded_score(kind, cuda):
    of = ThresholdedScore(score, VPSDE(), kind, centered=True)
    assert of(images(cuda), times(cuda)).device.type == "cuda"


def test_a_score_that_a_classifier_guides(meta):
    of = ClassifierGuidedScore(score, lambda x, t: x.flatten(1), index(meta), 2.0)
    assert meta.is_here(of(images(meta), times(meta)))


# ---- Steps ----


def accepted(name, on_chain):
    """A step with the first SDE that it runs on, beginning with each in turn; None without one."""
    turn = list(STEPS).index(name)
    sampling = CONFIG.sampling.to_dict() | {"s_churn": 0.0 if on_chain else 5.0}
    for kind in (*SDES, *SDES)[turn % len(SDES) :]:
        try:
            return make_step(STEPS[name], sde_of(kind), sampling, on_chain=on_chain)
        except ValueError:
            continue
    return None


@pytest.mark.parametrize("on_chain", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_a_step(name, on_chain, cuda):
    step = accepted(name, on_chain)
    if step is None:
        pytest.skip("does not run on a chain")
    grid = chain_grid(step.sde, 2) if on_chain else time_grid(step.sde, 3)
    x = images(cuda, 1, 4, 4)

    def walk():
        at = x
        step.begin(3)
        for here, there in itertools.pairwise(grid.tolist()):
            t, s = times(cuda, here), times(cuda, there)
            on_the_grid = None if name in CORRECTORS else s
            at, mean = step.step(at, t, on_the_grid, score, no_noise(x))
        if step.chain_steps:
            at, mean = step.step(at, t, None, score, no_noise(x))
        return at, mean

    assert all(map(cuda.is_here, cuda.settled(walk)))


def constraint(kind, device, sde, noise):
    data = torch.zeros(B, *SHAPE)
    if kind == "grey":
        known = known_gray(data).to(device.type)
    else:
        known = known_pixels(data, MASKS[kind](8, 8, 0)).to(device.type)
    return Replacement(sde, known, noise)


@pytest.mark.parametrize("kind", [*MASKS, "grey"])
def test_a_constraint(kind, cuda):
    with cuda.tables_coming():
        keep = constraint(kind, cuda, VPSDE(), no_noise(images(cuda)))
    x = images(cuda)
    for t_next in (times(cuda, 0.4), None):
        assert all(map(cuda.is_here, keep(x, x, times(cuda), t_next)))


def test_a_walk_down_the_grid_with_its_noise_its_constraint_and_its_end(cuda):
    sde = VPSDE()
    net = NetworkScore(lambda x, cond: x, sde)
    sampler = GridSampler(
        sde,
        time_grid(sde, 1),
        PREDICTORS["ancestral_sampling"](sde),
        CORRECTORS["langevin"](sde, snr=0.1, n_steps=1),
        tweedie=True,
        resample=2,
    )
    with cuda.tables_coming():
        keep = constraint("grey", cuda, sde, SampleNoise(0, index(cuda)))
    x, nfe = cuda.settled(
        lambda: sampler.run(images(cuda), net, SampleNoise(0, index(cuda)), constraint=keep)
    )
    assert cuda.is_here(x)
    assert nfe == 2 * 2 + 1  # a step, taken twice, and the end
