"""For a GPU the host waits where it reads alone: in no step, but for the errors of adaptive ones.

The device is "meta", which has no numbers to be read and whose copies can be watched. What is told
of it holds for CUDA: a plain copy from the CPU, or a tensor made there of Python's numbers, waits
until all is done that was asked of the device before.
"""

import itertools

import pytest
import torch
from problems import ALL_SDES
from test_measurements import make
from torch.utils._python_dispatch import TorchDispatchMode

from score_sde.noise import normal
from score_sde.objectives import make_objective
from score_sde.posteriors import DDRM, DiffPIR, PiGDM
from score_sde.posteriors.measurements import MEASUREMENTS
from score_sde.score.tiling import TiledScore, Tiling
from score_sde.sde import VPSDE
from score_sde.solvers.adaptive_sde import SDEControl, solve_sde
from score_sde.solvers.correctors import CORRECTORS
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import chain_grid, time_grid
from score_sde.solvers.ode import solve
from score_sde.solvers.predictors import PREDICTORS
from score_sde.solvers.step import make_step
from score_sde.training.augmentation import Augmentation

B = 3
SAMPLING = {"eta": 0.5, "s_churn": 5.0, "s_min": 0.0, "s_max": 50.0, "s_noise": 1.0}
SAMPLING |= {"snr": 0.16, "n_steps_each": 2, "norms": "sample", "probability_flow": False}


class Copies(TorchDispatchMode):
    """Refuses copies to the device that wait for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, made = kwargs or {}, func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            here = args[0].device.type == "cpu" and made.device.type == "meta"
            assert not here or kwargs.get("non_blocking"), "a copy that waits for the device"
        if func is torch.ops.aten.copy_.default:
            assert {a.device.type for a in args[:2]} != {"cpu", "meta"}, "a copy that waits"
        return made


@pytest.fixture
def device(monkeypatch):
    """The device, while nothing makes the host wait for it."""
    tensor, new_tensor = torch.tensor, torch.Tensor.new_tensor

    def made(*given, device=None, **options):
        assert torch.device(device or "cpu").type == "cpu", "numbers are sent and waited for"
        return tensor(*given, device=device, **options)

    def made_like(like, *given, **options):
        assert like.device.type == "cpu", "numbers are sent and waited for"
        return new_tensor(like, *given, **options)

    with monkeypatch.context() as patch, Copies():
        patch.setattr(torch, "tensor", made)
        patch.setattr(torch.Tensor, "new_tensor", made_like)
        yield "meta"


@pytest.mark.parametrize(
    ("name", "chain"),
    [(name, False) for name in (*FEW_STEP, *PREDICTORS, *CORRECTORS)]
    + [(name, True) for name in ("dpm_solver2", "sra1", "unipc", "reverse_diffusion", "langevin")],
)
def test_a_step_does_not_make_the_host_wait(name, chain, device):
    sde, row = VPSDE(), {**CORRECTORS, **PREDICTORS, **FEW_STEP}[name]
    sampling = SAMPLING | {"s_churn": 0.0 if chain else 5.0}
    step = make_step(row, sde, sampling, on_chain=chain and name in FEW_STEP)
    times = (chain_grid(sde, 2) if chain else time_grid(sde, 2)).tolist()
    x = torch.zeros(B, 1, 8, 8, device=device)
    zeros = torch.zeros_like(x)
    step.begin(2)
    for at, to in itertools.pairwise(times):
        t, s = (torch.full((B,), v, device=device) for v in (at, to))
        on_the_grid = None if name in CORRECTORS else s
        x, x_mean = step.step(x, t, on_the_grid, score, lambda shape: zeros)
        assert x.device.type == x_mean.device.type == device


@pytest.mark.parametrize("kind", ALL_SDES)
def test_scales_of_an_sde_do_not_make_the_host_wait(kind, device):
    sde = ALL_SDES[kind]()
    t, s = (torch.full((B,), v, device=device) for v in (0.6, 0.3))
    for at in (t, s):
        scales = sde.mean_scale(at), sde.mean_rate(at), sde.diffusion_squared(at)
        steps = sde.nearest_step(at), sde.chain_alpha(at), *sde.ancestral_step(at)
        levels = sde.time_of_noise_level(sde.noise_level(at)), sde.snr(at), *sde.transition(t, s)
        assert {v.device.type for v in (*scales, *steps, *levels)} == {device}


@pytest.mark.parametrize("draw", [4, torch.tensor([1, 5, 2])])
def test_noise_does_not_make_the_host_wait(draw, device):
    assert normal(0, torch.arange(B, device=device), draw, (2,)).device.type == device


def score(x, t):
    assert t.device == x.device
    return -x


def test_tiles_do_not_make_the_host_wait(device):
    asked, tiling = [], Tiling((12, 16), (8, 8))

    def score_for(index):
        asked.append(len(index))  # which may read them, as labels by image do
        return score

    tiled = TiledScore(score_for, torch.arange(B, device=device), tiling, at_a_time=2 * B)
    x, t = torch.zeros(B, 1, 12, 16, device=device), torch.full((B,), 0.5, device=device)
    for _ in range(3):
        assert tiled(x, t).device.type == device
    assert asked == [2 * B]


@pytest.mark.parametrize("name", [name for name in MEASUREMENTS if name != "function"])
def test_what_fits_a_measurement_does_not_make_the_host_wait(name, device):
    measurement, sde = make(name), VPSDE()
    x, t = torch.zeros(B, *measurement.shape, device=device), torch.full((B,), 0.5, device=device)
    y = measurement.forward(x)
    for kind in (PiGDM, DiffPIR):
        assert kind(score, sde, measurement, y)(x, t).device.type == device
    step = DDRM(sde, measurement, y)
    assert step.step(x, t, t / 2, score, torch.zeros_like(x).new_zeros)[0].device.type == device


@pytest.mark.parametrize("objective", ["auto", "edm"])
@pytest.mark.parametrize("kind", ALL_SDES)
def test_a_loss_does_not_make_the_host_wait(kind, objective, device):
    sde = ALL_SDES[kind]()
    loss = make_objective(sde, objective=objective, eps=1e-3)
    x, t = torch.zeros(B, 1, 8, 8, device=device), loss.times(B, device)
    assert loss(lambda x, cond: -x, x, t, torch.zeros_like(x)).device.type == device


def test_augmentation_does_not_make_the_host_wait(device):
    x, told = Augmentation(0.5)(torch.zeros(B, 1, 8, 8, device=device))
    assert x.device.type == told.device.type == device


@pytest.fixture
def reads(monkeypatch):
    """Of the device; what is read is 0 there."""
    read, tolist = [], torch.Tensor.tolist

    def noted(tensor):
        if tensor.device.type == "cpu":
            return tolist(tensor)
        read.append(tensor.shape)
        return tolist(torch.zeros(tensor.shape))

    monkeypatch.setattr(torch.Tensor, "tolist", noted)
    return read


def test_a_step_of_the_adaptive_sde_reads_its_errors_alone(reads, device):
    evaluations = []

    def equation(x, t, index):
        assert x.device.type == t.device.type == device
        evaluations.append(len(reads))
        return -x, torch.ones_like(t)

    def draws(index, number):
        return torch.zeros(B, 4, device=device)

    x0, control = torch.zeros(B, 4, device=device), SDEControl(first_step=0.25)
    solve_sde(equation, x0, 1.0, 0.25, draws, control)
    assert evaluations == [0, 0, 1, 1]  # two of each of two steps
    assert len(reads) == 2


def test_a_step_of_the_adaptive_ode_reads_its_errors_alone(reads, device):
    evaluations = []

    def slope(y, t, index):
        assert y.device.type == t.device.type == device
        evaluations.append(len(reads))
        return -y

    solve(slope, torch.zeros(B, 4, device=device), 1.0, 0.25, first_step=0.1)
    first, *steps = evaluations
    assert first == 0
    assert steps == [1] * 6 + [2] * 6  # after the norms of the beginning one read a step
