"""Restoration, likelihoods and adaptive loops on a device that is not here: where the host waits.

See `test_fake_device`. Waits that are there by design are in one table here.
"""

import pytest
import torch
from fake_device import (
    CONFIG,
    SHAPE,
    B,
    Refused,
    fake_device,
    images,
    index,
    measurement_of,
    no_noise,
    posterior,
    score,
    times,
)

from score_sde.config.build import build_sampler, build_sde
from score_sde.likelihoods import continuous_bound, discrete_bound
from score_sde.likelihoods.divergence import hutchinson_probes, value_and_divergence
from score_sde.posteriors import DDRM, POSTERIORS, TASKS, Replaced
from score_sde.posteriors.twisted import TwistedSMC
from score_sde.samplers import SAMPLERS, GridSampler
from score_sde.samplers.completion import Replacement
from score_sde.score import (
    GuidedScore,
)
from score_sde.score.exact import Classes, ExactScore
from score_sde.sde import VPSDE
from score_sde.solvers.adaptive_sde import SDEControl, solve_sde
from score_sde.solvers.grids import time_grid
from score_sde.solvers.ode import ODE_SOLVERS, solve, solve_scipy
from score_sde.solvers.predictors import PREDICTORS
from score_sde.training.record import StepRecord, check_finite, loss_by_level


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
        n_draws=1,
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
        x, given = images(cuda), {"index": index(cuda), "seed": 0, "n_times": 2, "n_draws": 1}
        return continuous_bound(VPSDE(), lambda row: score, x, **given).nats

    assert cuda.is_here(cuda.settled(bound))
