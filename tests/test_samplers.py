"""The sampling loop and our samplers: exact answers, counts, batches, and every combination."""

import itertools
import math

import pytest
import torch
from conftest import assert_close
from problems import ALL_SDES, SDES, Gaussian, Mixture
from torch import nn

from score_sde.noise import SampleNoise
from score_sde.samplers import GridSampler, ODESampler
from score_sde.score import NetworkScore
from score_sde.sde import SDE, VESDE, VPSDE, subVPSDE
from score_sde.solvers.correctors import CORRECTORS, AnnealedLangevinDynamics, LangevinCorrector
from score_sde.solvers.few_step import DDIM, FEW_STEP, DPMSolverPP2M, Heun
from score_sde.solvers.grids import chain_grid, paper_grid, time_grid
from score_sde.solvers.ode import Status
from score_sde.solvers.predictors import (
    PREDICTORS,
    AncestralSamplingPredictor,
    ReverseDiffusionPredictor,
)

DATA_STD = 0.5
STEPS = {**PREDICTORS, **FEW_STEP}


def draw(sampler, score, n=4, shape=(3, 4), *, seed=0, batch_size=64, **options):
    """All samples of a draw under one score, in one piece: (x, nfe)."""
    parts = list(
        sampler.draw(
            lambda index: score,
            torch.arange(n),
            shape,
            seed=seed,
            batch_size=batch_size,
            device="cpu",
            **options,
        )
    )
    return torch.cat([part.x for part in parts]), torch.cat([part.nfe for part in parts])


class Counting:
    def __init__(self, score):
        self.score, self.calls = score, 0

    def __call__(self, x, t):
        self.calls += 1
        return self.score(x, t)


class TinyNet(nn.Module):
    """A smooth network on images that mixes neighbouring pixels, with labels."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x, cond, label=None):
        shift = 0 if label is None else label.to(x.dtype)[:, None, None, None]
        hidden = torch.tanh(self.conv1(x) + 0.1 * shift)
        return self.conv2(hidden) + x / (1 + cond[:, None, None, None] / 1000)


# Exact answers


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("name", [name for name in STEPS if name != "none"])
def test_final_moments_with_an_exact_score_are_those_of_the_data(kind, name):
    sde = SDES[kind]()
    data = Gaussian(sde, 0.7, DATA_STD**2)
    step = STEPS[name](sde)
    sampler = GridSampler(sde, time_grid(sde, 250, step.grid), step)
    x, _ = draw(sampler, data.score, 16, (1000,))
    assert x.mean().item() == pytest.approx(0.7, abs=0.05)
    assert x.std().item() == pytest.approx(DATA_STD, rel=0.03)


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("corrector", ["langevin", "ald"])
def test_correctors_keep_the_moments_right(kind, corrector):
    sde = SDES[kind]()
    data = Gaussian(sde, 0.7, DATA_STD**2)
    sampler = GridSampler(
        sde, time_grid(sde, 200), AncestralSamplingPredictor(sde), CORRECTORS[corrector](sde, 0.1)
    )
    x, _ = draw(sampler, data.score, 8, (600,))
    assert x.mean().item() == pytest.approx(0.7, abs=0.05)
    assert x.std().item() == pytest.approx(DATA_STD, rel=0.04)


def test_last_step_noise_is_left_out_unless_asked_for():
    # The data are one point, so whatever spread is left is the noise of the last step.
    sde = VESDE(0.01, 5.0)
    data = Gaussian(sde, 0.7, 0.0)
    step = AncestralSamplingPredictor(sde)
    times = time_grid(sde, 50, eps=0.3)
    clean, _ = draw(GridSampler(sde, times, step), data.score, 4, (500,))
    noisy, _ = draw(GridSampler(sde, times, step, denoise=False), data.score, 4, (500,))
    level = sde.std(times)
    assert noisy.std().item() == pytest.approx(level[-1].item(), rel=0.05)
    # E[x_s | x_t] keeps (σ_s/σ_t)² of the noise at t, and Tweedie's formula none.
    kept = (level[-1] / level[-2]).item() ** 2 * level[-2].item()
    assert clean.std().item() == pytest.approx(kept, rel=0.05)
    none, nfe = draw(GridSampler(sde, times, step, tweedie=True), data.score, 4, (500,))
    assert torch.allclose(none, torch.full_like(none, 0.7), atol=1e-5)
    assert (nfe == 51).all()


@pytest.mark.parametrize("kind", ["vp", "subvp"])
@pytest.mark.parametrize("make", FEW_STEP.values(), ids=FEW_STEP)
def test_a_grid_down_to_no_noise_ends_clean_and_finite(kind, make):
    sde, net = SDES[kind](N=50), TinyNet()  # its score is infinite at t = 0
    sampler = GridSampler(sde, torch.linspace(1, 0, 11), make(sde), tweedie=True)
    score = Counting(NetworkScore(net, sde))
    x, nfe = draw(sampler, score, 2, (1, 6, 6))
    assert x.isfinite().all()
    assert sampler.evaluations == 10 * make.evaluations == score.calls == nfe[0]


@pytest.mark.parametrize("name", {**STEPS, **CORRECTORS})
def test_steps_leave_what_they_are_given_as_it_was(name):
    """They work in place, on tensors of their own: a caller may have kept the others."""
    given = []

    def remembered(x):
        given.append((x, x.clone()))
        return x

    def score(x, t):
        return remembered(-x)

    def noise(shape):
        return remembered(torch.randn(shape, generator=generator))

    generator, sde = torch.Generator().manual_seed(0), VPSDE()
    step, x = {**STEPS, **CORRECTORS}[name](sde), noise((2, 3, 4, 4))
    step.begin(4)
    times = time_grid(sde, 4)
    for t, s in itertools.pairwise(times):
        t, s = remembered(t.repeat(2)), remembered(s.repeat(2))
        x, x_mean = step.step(x, t, None if name in CORRECTORS else s, score, noise)
        remembered(x), remembered(x_mean)
    assert all(torch.equal(x, before) for x, before in given)


@pytest.mark.parametrize("name", {**STEPS, **CORRECTORS})
def test_a_state_in_float64_is_not_rounded_to_a_float32_score(name):
    """Where the score is 0 and there is no noise, a VE step keeps the state."""
    step, x = {**STEPS, **CORRECTORS}[name](VESDE(N=4)), torch.full((2, 3, 4), 1 / 3).double() / 3
    step.begin(1)
    t, s = torch.full((2,), 0.6), torch.full((2,), 0.5)
    x_next, x_mean = step.step(
        x, t, None if name in CORRECTORS else s, lambda x, t: torch.zeros(2, 3, 4), torch.zeros
    )
    assert x_next.dtype == x_mean.dtype == torch.float64
    # Few-step solvers weigh the state and its denoised image, the same one, by float32 times.
    assert_close(x_next, x, 5e-7 if name in FEW_STEP else 1e-15)


@pytest.mark.parametrize("kind", ALL_SDES)
def test_the_ode_sampler_follows_the_closed_form_flow(kind):
    sde = ALL_SDES[kind]()
    data = Gaussian(sde, 0.7, DATA_STD**2)
    x, nfe = draw(ODESampler(sde), data.score, 6, (3, 4), batch_size=4, dtype=torch.float64)
    prior = SampleNoise(0, torch.arange(6), dtype=torch.float64)((6, 3, 4)) * sde.prior_std
    ends = (torch.tensor([v], dtype=torch.float64) for v in (sde.T, sde.eps))
    assert_close(x, data.flow(prior, *ends), 1e-4)
    assert (nfe > 20).all()


def test_an_ode_sample_that_gives_up_says_so():
    sde = VPSDE()
    data = Gaussian(sde, 0.7, DATA_STD**2)
    (part,) = ODESampler(sde, max_steps=2).draw(
        lambda index: data.score, torch.arange(3), (4,), seed=0, batch_size=2, device="cpu"
    )
    assert (part.status == Status.STEP_LIMIT).all()
    assert part.index.tolist() == [0, 1, 2]


def test_the_ode_sampler_ends_with_tweedies_formula_if_asked():
    sde = VPSDE()
    data = Gaussian(sde, 0.7, 0.0)
    plain, nfe = draw(ODESampler(sde, eps=0.2), data.score, 5, (4,), batch_size=3)
    ended, nfe_ended = draw(
        ODESampler(sde, eps=0.2, tweedie=True), data.score, 5, (4,), batch_size=3
    )
    assert plain.std() > 0.01
    assert torch.allclose(ended, torch.full_like(ended, 0.7), atol=1e-4)
    assert torch.equal(nfe_ended, nfe + 1)


@pytest.mark.parametrize("kind", SDES)
@pytest.mark.parametrize("make", [DDIM, Heun, DPMSolverPP2M])
def test_few_step_solvers_approach_the_ode_on_a_mixture(kind, make):
    sde = {"ve": VESDE(0.01, 20.0), "vp": VPSDE(), "subvp": subVPSDE()}[kind]
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]])
    data = Mixture(sde, means, torch.tensor([0.5, 0.3, 0.2]))
    reference, _ = draw(ODESampler(sde, eps=1e-3), data.score, 64, (2,))
    errors = []
    for num_steps in (16, 64):
        sampler = GridSampler(sde, time_grid(sde, num_steps, make.grid, eps=1e-3), make(sde))
        x, _ = draw(sampler, data.score, 64, (2,))
        errors.append((x - reference).norm(dim=1).mean().item())
    assert errors[1] < errors[0] / 2.5**make.order
    assert errors[1] < {1: 0.05, 2: 0.01}[make.order]


def stretched(base):
    """The same path in twice the time, all but mean scale and std left to `SDE`."""

    class Stretched(SDE):
        name, T, eps, prior_std = "stretched", 2.0, 2 * base.eps, base.prior_std

        def mean_scale(self, t):
            return base.mean_scale(t / 2)

        def std(self, t):
            return base.std(t / 2)

    return Stretched(base.N)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("grid", ["uniform", "log_snr", "edm"])
@pytest.mark.parametrize("kind", ["ve", "subvp"])
def test_samples_do_not_depend_on_where_time_ends(kind, grid, name):
    results = []
    for sde in (SDES[kind](N=50), stretched(SDES[kind](N=50))):
        data = Gaussian(sde, 0.7, DATA_STD**2)
        sampler = GridSampler(sde, time_grid(sde, 20, grid), STEPS[name](sde), tweedie=True)
        results.append(draw(sampler, data.score, dtype=torch.float64)[0])
    assert_close(results[1], results[0], 1e-5)


@pytest.mark.parametrize("kind", SDES)
def test_the_flow_and_the_papers_grid_do_not_depend_on_where_time_ends(kind):
    flows, walks = [], []
    for sde in (SDES[kind](N=50), stretched(SDES[kind](N=50))):
        data = Gaussian(sde, 0.7, DATA_STD**2)
        flows.append(draw(ODESampler(sde), data.score, dtype=torch.float64)[0])
        step = PREDICTORS["euler_maruyama"](sde)
        sampler = GridSampler(sde, paper_grid(sde), step, chain=True)
        walks.append(draw(sampler, data.score, dtype=torch.float64)[0])
    assert_close(flows[1], flows[0], 1e-4)
    assert_close(walks[1], walks[0], 1e-5)


# The loop


def test_the_loop_steps_in_the_order_of_the_2021_release_or_the_papers():
    sde, said = VPSDE(), []

    def spy(kind, base):
        class Spy(base):
            def step(self, x, t, t_next, score, noise):
                said.append((kind, round(t[0].item(), 3)))
                return super().step(x, t, t_next, score, noise)

        return Spy

    predictor = spy("predict", ReverseDiffusionPredictor)(sde)
    corrector = spy("correct", LangevinCorrector)(sde)
    times = torch.tensor([1.0, 0.5, 0.25])
    for first, expected in (
        (True, [("correct", 1.0), ("predict", 1.0), ("correct", 0.5), ("predict", 0.5)]),
        (False, [("predict", 1.0), ("correct", 0.5), ("predict", 0.5), ("correct", 0.25)]),
    ):
        said.clear()
        sampler = GridSampler(sde, times, predictor, corrector, corrector_first=first)
        draw(sampler, lambda x, t: -x)
        assert said == expected


def test_a_corrector_that_does_nothing_keeps_the_predictors_mean():
    sde = VESDE()
    data, step = Gaussian(sde, 0.7, DATA_STD**2), ReverseDiffusionPredictor(sde)
    none = CORRECTORS["none"](sde)
    plain = GridSampler(sde, time_grid(sde, 5), step)
    last = GridSampler(sde, time_grid(sde, 5), step, none, corrector_first=False)
    assert torch.equal(draw(plain, data.score)[0], draw(last, data.score)[0])


def test_a_constraint_acts_after_each_corrector_and_predictor():
    sde, seen = VPSDE(), []

    def constraint(x, x_mean, t, t_next):
        seen.append(
            (round(t[0].item(), 3), None if t_next is None else round(t_next[0].item(), 3))
        )
        return x.clone().fill_(3.0), x_mean.clone().fill_(5.0)

    step, corrector = ReverseDiffusionPredictor(sde), LangevinCorrector(sde)
    x = torch.randn(2, 3)
    noise = SampleNoise(0, torch.arange(2))
    sampler = GridSampler(sde, torch.tensor([1.0, 0.5, 0.25]), step, corrector)
    result, _ = sampler.run(x, lambda x, t: -x, noise, constraint=constraint)
    assert torch.equal(result, torch.full((2, 3), 5.0))
    assert seen == [(1.0, 1.0), (1.0, 0.5), (0.5, 0.5), (0.5, 0.25)]
    seen.clear()
    chain = GridSampler(sde, torch.tensor([1.0, 0.5]), step, corrector, chain=True, denoise=False)
    result, _ = chain.run(x, lambda x, t: -x, noise, constraint=constraint)
    assert torch.equal(result, torch.full((2, 3), 3.0))
    assert seen == [(1.0, 1.0), (1.0, 0.5), (0.5, 0.5), (0.5, None)]


def test_on_step_sees_every_state_and_changes_nothing():
    sde = VPSDE()
    data = Gaussian(sde, 0.7, DATA_STD**2)
    times = time_grid(sde, 6)
    sampler = GridSampler(sde, times, ReverseDiffusionPredictor(sde), LangevinCorrector(sde))
    seen = []
    watched, _ = draw(
        sampler, data.score, on_step=lambda k, total, t, x, x_mean: seen.append((k, total, t, x))
    )
    plain, _ = draw(sampler, data.score)
    assert torch.equal(watched, plain)
    assert [(k, total, t) for k, total, t, _ in seen] == [
        (k, 6, t) for k, t in enumerate(times.tolist())
    ]
    prior = SampleNoise(0, torch.arange(4))((4, 3, 4)) * sde.prior_std
    assert torch.equal(seen[0][3], prior)
    said = []
    draw(ODESampler(sde), data.score, on_step=lambda k, total, t, x, x_mean: said.append((k, t)))
    assert said == [(0, sde.T), (1, sde.eps)]


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_call_counts_are_those_of_a_counting_score(chain, first):
    sde = VPSDE(beta_max=5.0, N=8)
    cases = [
        (make(sde), CORRECTORS[name](sde, n_steps=2))
        for make, name in itertools.product(PREDICTORS.values(), CORRECTORS)
    ]
    cases += [(make(sde), CORRECTORS["none"](sde)) for make in FEW_STEP.values() if not chain]
    for step, corrector in cases:
        times = paper_grid(sde) if chain else time_grid(sde, 7)
        sampler = GridSampler(sde, times, step, corrector, chain=chain, corrector_first=first)
        score = Counting(lambda x, t: -x)
        _, nfe = draw(sampler, score, 3)
        assert nfe.tolist() == [score.calls] * 3
        assert sampler.evaluations == score.calls


@pytest.mark.parametrize("num_steps", [10, 50, 100, 200])
def test_steps_are_apart_from_the_trained_scales(num_steps):
    sde = VPSDE(N=100)
    data = Gaussian(sde, 0.0, 1.0)
    sampler = GridSampler(sde, time_grid(sde, num_steps), AncestralSamplingPredictor(sde))
    x, nfe = draw(sampler, data.score, 2, (500,))
    assert (nfe == num_steps).all()
    assert x.std().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("kind", ["ve", "vp"])
def test_a_discrete_network_is_asked_at_its_own_labels(kind):
    sde = SDES[kind](N=100)
    asked = []

    class Net(nn.Module):
        def forward(self, x, cond):
            asked.append(cond[0].item())
            return x

    for sampler, steps in (
        (GridSampler(sde, chain_grid(sde, 33), DDIM(sde)), 33),
        (
            GridSampler(
                sde, paper_grid(sde, eps=0.0), AncestralSamplingPredictor(sde), chain=True
            ),
            100,
        ),
    ):
        asked.clear()
        draw(sampler, NetworkScore(Net(), sde, continuous=False), 2)
        assert len(asked) == steps
        assert all(abs(label - round(label)) < 1e-3 for label in asked)
        walked = [round(label if kind == "ve" else 99 - label) for label in asked]
        assert walked == sorted(set(walked))
        assert walked[0] == 0


# Samples do not depend on how they are drawn


@pytest.mark.parametrize(
    "make",
    [
        lambda sde: GridSampler(
            sde, time_grid(sde, 6), ReverseDiffusionPredictor(sde), LangevinCorrector(sde, 0.1)
        ),
        lambda sde: GridSampler(sde, time_grid(sde, 8, "edm"), Heun(sde, s_churn=4.0)),
        lambda sde: GridSampler(sde, time_grid(sde, 8, "log_snr"), DPMSolverPP2M(sde)),
    ],
    ids=["pc", "heun", "dpm_solver++"],
)
def test_100_samples_are_the_same_with_batches_of_10_and_64(make):
    sde, net = VPSDE(), TinyNet()

    def score_for(index):
        return NetworkScore(net, sde, label=index % 10)

    def images(batch_size):
        parts = make(sde).draw(
            score_for, torch.arange(100), (1, 6, 6), seed=3, batch_size=batch_size, device="cpu"
        )
        return torch.cat([part.x for part in parts])

    ten, many = images(10), images(64)
    assert_close(ten, many, 1e-5)
    assert len({tuple(x.flatten().tolist()) for x in many}) == 100


def test_100_ode_samples_are_the_same_with_batches_of_10_and_64_and_keep_their_labels():
    sde, net = VPSDE(), TinyNet()

    def images(batch_size, index):
        parts = ODESampler(sde).draw(
            lambda index: NetworkScore(net, sde, label=index % 10),
            index,
            (1, 6, 6),
            seed=3,
            batch_size=batch_size,
            device="cpu",
        )
        return torch.cat([part.x for part in parts])

    many = images(64, torch.arange(100))
    assert_close(images(10, torch.arange(100)), many, 1e-4)
    assert_close(images(10, torch.tensor([93, 2, 57])), many[[93, 2, 57]], 1e-4)


def test_indices_and_seeds_make_the_samples():
    sde = VPSDE()
    data = Gaussian(sde, 0.7, DATA_STD**2)
    sampler = GridSampler(sde, time_grid(sde, 5), ReverseDiffusionPredictor(sde))

    def some(index, seed):
        (part,) = sampler.draw(
            lambda index: data.score, index, (4,), seed=seed, batch_size=9, device="cpu"
        )
        return part.x

    whole = some(torch.arange(8), 1)
    assert_close(some(torch.tensor([6, 3]), 1), whole[[6, 3]], 1e-6)
    assert not torch.allclose(some(torch.arange(8), 2), whole)


def test_gradients_are_not_recorded_and_the_callers_mode_is_left_alone():
    sde, net = VPSDE(), TinyNet()
    sampler = GridSampler(sde, time_grid(sde, 2), DDIM(sde))
    score = NetworkScore(net, sde)
    for part in sampler.draw(
        lambda index: score, torch.arange(4), (1, 6, 6), seed=0, batch_size=2, device="cpu"
    ):
        assert not part.x.requires_grad
        assert torch.is_grad_enabled()


# Every combination


EXTREME = {
    "ve, far": VESDE(1e-4, 5000.0, N=20),
    "ve, short": VESDE(0.5, 0.6, N=20),
    "vp, far": VPSDE(1e-4, 150.0, N=150),
    "vp, cut": VPSDE(0.1, 20.0, N=20),  # the last β_i is 1
    "vp, short": VPSDE(1e-3, 2e-3, N=20),
    "subvp, far": subVPSDE(1e-4, 150.0, N=150),
    "subvp, short": subVPSDE(1e-3, 2e-3, N=20),
}


@pytest.mark.parametrize("sde", EXTREME.values(), ids=EXTREME)
def test_extreme_schedules_stay_finite(sde):
    data = Gaussian(sde, 0.7, DATA_STD**2)
    for num_steps in (1, 2, 9):
        steps = [make(sde) for make in (*PREDICTORS.values(), *FEW_STEP.values())]
        steps += [Heun(sde, s_churn=30.0)]
        for step, grid in itertools.product(steps, ("uniform", "log_snr", "edm")):
            times = time_grid(sde, num_steps, grid)
            corrector = AnnealedLangevinDynamics(sde)
            x, _ = draw(GridSampler(sde, times, step, corrector), data.score, 2, (3,))
            assert x.isfinite().all(), (sde.__dict__, step.name, grid, num_steps)
    for make in PREDICTORS.values():
        sampler = GridSampler(sde, paper_grid(sde), make(sde), chain=True)
        assert draw(sampler, data.score, 2, (3,))[0].isfinite().all()


@pytest.mark.parametrize(
    ("times", "options", "message"),
    [
        (torch.tensor([0.9, 0.5]), {}, r"begins at 0\.89.* T=1"),
        (torch.tensor([1.0, 0.5, 0.5]), {}, "must decrease"),
        (torch.tensor([1.0]), {}, r"needs \(K \+ 1,\) times"),
        (torch.tensor([1.0, 0.5]), {"chain": True, "tweedie": True}, "Tweedie"),
    ],
)
def test_a_grid_that_is_none_is_refused(times, options, message):
    sde = VPSDE()
    with pytest.raises(ValueError, match=message):
        GridSampler(sde, times, ReverseDiffusionPredictor(sde), **options)


def test_a_batch_of_nothing_is_refused():
    sde = VPSDE()
    sampler = GridSampler(sde, time_grid(sde, 2), DDIM(sde))
    with pytest.raises(ValueError, match="batch_size=0"):
        draw(sampler, lambda x, t: -x, batch_size=0)
    with pytest.raises(ValueError, match=r"eps=2.0"):
        ODESampler(sde, eps=2.0)
    assert math.isclose(ODESampler(sde).eps, sde.eps)
