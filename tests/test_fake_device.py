"""For a GPU the host waits where it reads by design alone, and what a step needs lies there.

Every row of the tables is stepped on a device that is not here (`fake_device`): first with tables
coming, as they do once in a run, then under the whole guard. What needs a gradient runs on "meta".
"""

import itertools

import pytest
import torch
from fake_device import Refused, fake_device
from torch import nn

from score_sde.config import parts
from score_sde.config.build import build_measurement, build_sampler, build_sde
from score_sde.config.schema import FIELDS
from score_sde.likelihoods import continuous_bound, discrete_bound
from score_sde.likelihoods.divergence import hutchinson_probes, value_and_divergence
from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.networks.low_resolution import LowResolution
from score_sde.networks.power_average import PowerAverage
from score_sde.networks.table import CLASSIFIERS, NETWORKS
from score_sde.noise import SampleNoise, normal
from score_sde.objectives import OBJECTIVES, TIME_SAMPLERS, Classification, make_objective
from score_sde.posteriors import DDRM, POSTERIORS, TASKS, Replaced
from score_sde.posteriors.twisted import TwistedSMC
from score_sde.samplers import SAMPLERS, GridSampler
from score_sde.samplers.completion import MASKS, Replacement, known_gray, known_pixels
from score_sde.samplers.thresholding import ThresholdedScore
from score_sde.score import (
    PREDICTIONS,
    ClassifierGuidedScore,
    GuidedScore,
    NetworkScore,
    parameterisation,
)
from score_sde.score.exact import Classes, ExactScore, Points
from score_sde.score.tiling import TiledScore, Tiling
from score_sde.sde import SDES, VPSDE
from score_sde.solvers.adaptive_sde import SDEControl, solve_sde
from score_sde.solvers.correctors import CORRECTORS
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import chain_grid, time_grid
from score_sde.solvers.ode import ODE_SOLVERS, solve, solve_scipy
from score_sde.solvers.predictors import PREDICTORS
from score_sde.solvers.step import make_step
from score_sde.tensor_ops import kept_on
from score_sde.training import Augmentation, TrainState, TrainStep, make_optimizer
from score_sde.training.record import StepRecord, check_finite, loss_by_level

B, SHAPE = 3, (3, 8, 8)
LARGER = (3, 16, 16)  # which all networks can halve as often as they do
STEPS = {**CORRECTORS, **PREDICTORS, **FEW_STEP}
CONFIG = parts.as_config(
    {name: row.default for name, row in FIELDS.items()}
    | parts.DDPMPP
    | parts.COLOUR_DIGITS
    | parts.VP
    | parts.SMALL
    | {"device": "cpu", "model.nf": 32, "model.ch_mult": (1, 1), "model.num_scales": 12}
    | {"model.beta_max": 5.0, "sampling.s_churn": 5.0, "sampling.eta": 0.5}
)
MODEL = CONFIG.model.to_dict() | {"centered": True, "augment_dim": 0}


def sde_of(name):
    return SDES[name](MODEL)


def images(device, *shape):
    return torch.zeros(B, *(shape or SHAPE), device=device.type)


def times(device, value=0.5):
    return torch.full((B,), value, device=device.type)


def index(device):
    return torch.arange(B, device=device.type)


def score(x, t):
    """Of a standard normal, kept so by the SDE."""
    assert t.device == x.device
    assert t.shape == x.shape[:1]
    return -x


def no_noise(x):
    return lambda shape: torch.zeros_like(x)


def network(device, name="ddpm", moved=False, **fields):
    """A network, made on the device or moved to it."""
    make, fields = NETWORKS[name], MODEL | fields
    if not moved:
        with device.tables_coming(), torch.device(device.type):
            return make(fields, LARGER)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with device.tables_coming():
            return make(fields, LARGER).to(device.type)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.fixture
def cuda():
    with fake_device("cuda") as device, torch.no_grad():
        yield device


@pytest.fixture
def meta():
    with fake_device("meta") as device:
        yield device


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


def constraint(kind, device, sde, noise, shape=SHAPE):
    data = torch.zeros(B, *shape)
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
    net = NetworkScore(network(cuda, moved=True).eval(), sde)
    sampler = GridSampler(
        sde,
        time_grid(sde, 2),
        PREDICTORS["ancestral_sampling"](sde),
        CORRECTORS["langevin"](sde, snr=0.1, n_steps=1),
        tweedie=True,
        resample=2,
    )
    with cuda.tables_coming():
        keep = constraint("grey", cuda, sde, SampleNoise(0, index(cuda)), LARGER)
    x, nfe = cuda.settled(
        lambda: sampler.run(
            images(cuda, *LARGER), net, SampleNoise(0, index(cuda)), constraint=keep
        )
    )
    assert cuda.is_here(x)
    assert nfe == 2 * 2 * 2 + 1


# ---- Restoration ----


def measurement_of(task, noise=0.1):
    config = CONFIG.copy_and_resolve_references()
    config.restore.task, config.restore.noise = task, noise
    return build_measurement(config, SHAPE)


@pytest.mark.parametrize("task", TASKS)
def test_a_step_of_ddrm(task, cuda):
    measurement, sde, x = measurement_of(task), VPSDE(), images(cuda)
    if DDRM.measures(measurement) is not None:
        pytest.skip("has no decomposition")

    def walk():
        step = DDRM(sde, measurement, y)
        found = step.step(x, times(cuda), times(cuda, 0.4), score, no_noise(x))
        return *found, step.start(x, times(cuda, 1.0)), step.end(x, times(cuda), score)

    with cuda.tables_coming():
        y = measurement.measured(measurement.forward(x))
    assert all(map(cuda.is_here, cuda.settled(walk)))


@pytest.mark.parametrize("task", TASKS)
def test_a_replacement_of_what_was_measured(task, cuda):
    try:
        measurement = measurement_of(task, noise=0.0)
    except ValueError:
        pytest.skip("says all of an image without noise")
    if Replaced.accepts(measurement) is not None:
        pytest.skip("has no decomposition")
    x = images(cuda)
    with cuda.tables_coming():
        keep = Replacement(VPSDE(), Replaced(measurement, measurement.forward(x)), no_noise(x))
    assert all(map(cuda.is_here, cuda.settled(lambda: keep(x, x, times(cuda), times(cuda, 0.4)))))


def posterior(name, device, measurement):
    y = measurement.measured(measurement.forward(images(device)[:1]))
    made = POSTERIORS[name](lambda x, t: -x, VPSDE(), measurement, y)
    if hasattr(made, "max_iterations"):
        made.max_iterations = 2
    return made


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posterior_score(name, task, meta):
    """Conjugate gradients alone ask whether all samples are done, before each evaluation."""
    measurement = measurement_of(task)
    with meta.tables_coming():
        try:
            of = posterior(name, meta, measurement)
        except ValueError as refused:
            pytest.skip(str(refused))
        with meta.answering(1):
            of(images(meta), times(meta))
    with meta.answering(1):
        assert meta.is_here(of(images(meta), times(meta)))
    asked = {"posteriors/conjugate_gradients.py conjugate_gradients": 2}
    assert meta.reads == (asked if hasattr(of, "max_iterations") else {})


# ---- Losses and training ----


def objective_of(name, draw):
    """With the first SDE that it is defined for, the SDEs beginning in turn."""
    turn = list(itertools.product(OBJECTIVES, TIME_SAMPLERS)).index((name, draw))
    kinds = (*SDES, *SDES)[turn % len(SDES) :]
    for kind, continuous in itertools.product(kinds, (True, False)):
        for weighting in (False, True):
            given = {"objective": name, "times": draw, "continuous": continuous}
            try:
                return make_objective(
                    sde_of(kind), likelihood_weighting=weighting, eps=1e-3, **given
                )
            except ValueError:
                continue
    return None


@pytest.mark.parametrize("draw", TIME_SAMPLERS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss(name, draw):
    objective = objective_of(name, draw)
    if objective is None:
        pytest.skip("draws its own times")

    def loss(device, net):
        t = objective.times(B, torch.device(device.type))
        assert device.is_here(objective.time(t))
        return objective(net, images(device), t, images(device))

    with fake_device("cuda") as cuda, torch.no_grad():
        assert cuda.settled(lambda: loss(cuda, lambda x, cond: -x)).device.type == "cuda"
    with fake_device("meta") as meta:
        net = nn.Conv2d(SHAPE[0], SHAPE[0], 1, device="meta")
        meta.settled(lambda: loss(meta, lambda x, cond: net(x)).sum().backward())
        assert meta.is_here(net.weight.grad)


def test_the_loss_of_a_classifier(cuda):
    sde = VPSDE()
    objective = Classification(sde, make_objective(sde))
    t = objective.times(B, torch.device("cuda"))
    losses = objective(lambda x, cond: x.flatten(1), images(cuda), t, images(cuda), index(cuda))
    assert losses.device.type == "cuda"


def training(device):
    """A step with all that it may do, its state and a batch."""
    net = network(device, augment_dim=9, upsampling_factor=2, num_classes=10)
    state = TrainState(
        net,
        ExponentialMovingAverage(net, 0.999),
        make_optimizer(net.named_parameters()),
        averages=[PowerAverage(net, 0.1)],
    )
    step = TrainStep(
        make_objective(VPSDE(), times="importance", objective="likelihood"),
        lr=1e-3,
        warmup=5,
        grad_clip=1.0,
        accumulation=2,
        augmentation=Augmentation(0.5),
        low_resolution=LowResolution(2, 0.5),
    )
    return net, lambda: step(state, images(device, *LARGER), index(device))


def test_a_training_step_on_a_gpu(monkeypatch):
    """All of it, the fused optimiser too, but for the gradient."""

    def backward(loss):
        assert loss.device.type == "cuda"
        for weights in net.parameters():
            weights.grad = torch.zeros_like(weights)

    with fake_device("cuda") as cuda:
        monkeypatch.setattr(torch.Tensor, "backward", backward)
        net, step = training(cuda)
        record = cuda.settled(step)
        assert cuda.is_here(record.loss)
        assert cuda.is_here(record.grad_norm)


def test_the_gradient_of_a_training_step(meta):
    """Off CUDA no optimiser takes the flag of what is not finite, and the host reads it."""
    _, step = training(meta)
    with meta.tables_coming(), meta.answering(1):
        step()
    with meta.answering(1):
        assert meta.is_here(step().loss)
    assert meta.reads == {"training/step.py _step_if_finite": 1}


def test_divergence(meta):
    probes = hutchinson_probes("Rademacher", SHAPE, index(meta), seed=0)
    for given in (probes, None):
        found = value_and_divergence(lambda x: -x, images(meta), given)
        assert all(map(meta.is_here, found))


# ---- Waits that are there by design ----


def steps_of_the_ode(device, method="rk45", first_step=0.1, norm="sample"):
    calls = []

    def slope(y, t, row):
        calls.append(t)
        return -y

    solve(slope, images(device, 4), 1.0, 0.25, first_step=first_step, method=method, norm=norm)
    begun = 1 if first_step else 2
    return (len(calls) - begun) // ODE_SOLVERS[method].evaluations


def steps_of_the_sde(device):
    calls = []

    def equation(x, t, row):
        calls.append(t)
        return -x, torch.ones_like(t)

    control = SDEControl(first_step=0.25)
    solve_sde(equation, images(device, 4), 1.0, 0.25, lambda *_: images(device, 4), control)
    return len(calls) // 2


def evaluations_for_scipy(device):
    calls = []

    def slope(y, t, row):
        calls.append(t)
        return -y

    solve_scipy(slope, images(device, 4), 1.0, 0.25)
    return len(calls)


def runs_of_particles(device):
    measurement = measurement_of("denoise")
    smc = TwistedSMC(VPSDE(), time_grid(VPSDE(), 3, "log_snr", 0.02), 2)
    given = {"seed": 0, "batch_size": 2 * B, "device": device.type}
    list(
        smc.draw(
            lambda row: posterior("pigdm", device, measurement), index(device), SHAPE, **given
        )
    )
    return 1


def evaluations_led_in_an_interval(device):
    of = GuidedScore(score, lambda x, t: -2 * x, VPSDE(), 2.0, (0.1, 10.0))
    of(images(device), times(device))
    return 1


def runs_that_count_what_a_guide_evaluates(device):
    sde, x = VPSDE(), images(device)
    led = GuidedScore(score, lambda x, t: -2 * x, sde, 2.0, (0.1, 10.0))

    class Counted:
        __call__ = staticmethod(score)
        evaluations_at = staticmethod(led.evaluations_at)

    sampler = GridSampler(sde, time_grid(sde, 3), PREDICTORS["euler_maruyama"](sde))
    sampler.run(x, Counted(), no_noise(x))
    return 1


def lines_of_the_log(device):
    t = times(device)
    record = StepRecord(3, t.sum(), t, t, t.sum(), 1e-3)
    check_finite([record])
    loss_by_level(t, t, torch.linspace(0, 1, 4))
    return 1


def bounds_of_a_chain(device):
    discrete_bound(
        VPSDE(0.1, 5.0, 12),
        lambda row: score,
        images(device),
        index=index(device),
        seed=0,
        n_draws=2,
        inverse_scaler=lambda x: (x + 1) / 2,
        levels=3,
    )
    return 1


WAITS = {
    steps_of_the_ode: {"solvers/ode/adaptive.py step": 1},  # errors decide the next step
    steps_of_the_sde: {"solvers/adaptive_sde.py step": 1},
    evaluations_for_scipy: {"solvers/ode/through_scipy.py __call__": 2},  # scipy is on the host
    runs_of_particles: {"posteriors/twisted.py _draw": 2 + B},  # at the end
    evaluations_led_in_an_interval: {
        "score/guidance.py __call__": 1
    },  # saves one where none is led
    runs_that_count_what_a_guide_evaluates: {"samplers/grid.py calls": 1},
    lines_of_the_log: {
        "training/record.py check_finite": 1,
        "training/record.py loss_by_level": 2,
    },
    bounds_of_a_chain: {"likelihoods/chain_bound.py check": 1},  # that data lie on the levels
}
"""Where the host asks by design, and how often in what the function counts.

Others are told where they are tested: conjugate gradients ask before each evaluation whether they
are done, the update does off CUDA, and a `BrownianPath` looks each time up in its grid.
"""
ONCE = {
    steps_of_the_ode: {"solvers/ode/adaptive.py _first_steps": 1},
    evaluations_for_scipy: {"solvers/ode/through_scipy.py solve_scipy": 1},
}


@pytest.mark.parametrize("run", WAITS)
def test_waits_that_are_there_by_design(run):
    kind = "meta" if run is runs_of_particles else "cuda"
    with fake_device(kind) as device, torch.no_grad():
        answer = int(run in (evaluations_for_scipy, bounds_of_a_chain, lines_of_the_log))
        with device.tables_coming(), device.answering(answer):
            count = run(device)
    assert count > 0
    once = ONCE.get(run, {})
    assert device.reads == {place: n * count for place, n in WAITS[run].items()} | once


def test_an_exact_score_of_classes_asks_which_of_them_are_in_reach(cuda):
    """It is a measure of samplers, and most classes then cost nothing."""
    samples = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0))
    with cuda.tables_coming():
        of = ExactScore(Classes.of(samples, torch.arange(8) % 2, 0.1).to("cuda"), VPSDE())
        with pytest.raises(Refused, match="where a mask is true"):
            of(images(cuda), times(cuda))


@pytest.mark.parametrize("first_step", [0.1, None])
@pytest.mark.parametrize("norm", ["sample", "joint"])
@pytest.mark.parametrize("method", ODE_SOLVERS)
def test_a_step_of_the_adaptive_ode_reads_its_errors_alone(method, norm, first_step, cuda):
    with cuda.answering():
        count = steps_of_the_ode(cuda, method, first_step, norm)
    begun = {"solvers/ode/adaptive.py _first_steps": 1 if first_step else 2}
    assert cuda.reads == {"solvers/ode/adaptive.py step": count} | begun


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_adaptive_sampler_reads_its_errors_alone(name, cuda):
    config = CONFIG.copy_and_resolve_references()
    config.sampling.method = name
    sampler = build_sampler(config, build_sde(config))
    given = {"seed": 0, "batch_size": B, "device": "cuda"}
    with cuda.tables_coming(), cuda.answering():
        found = list(sampler.draw(lambda part: score, torch.arange(B), (1, 4, 4), **given))
    assert cuda.is_here(found[0].x)
    assert {place.split()[0] for place in cuda.reads} <= {
        "solvers/ode/adaptive.py",
        "solvers/adaptive_sde.py",
    }


def test_a_continuous_bound(cuda):
    def bound():
        x, given = images(cuda), {"index": index(cuda), "seed": 0, "n_times": 2}
        return continuous_bound(VPSDE(), lambda row: score, x, **given).nats

    assert cuda.is_here(cuda.settled(bound))
