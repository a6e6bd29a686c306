"""The adaptive ODE solver: closed forms, scipy's counts, samples that do not know their mates."""

import math

import pytest
import torch
from conftest import assert_close
from problems import Gaussian
from scipy.integrate import solve_ivp

from score_sde.likelihoods import encode, log_likelihood
from score_sde.sde import VPSDE
from score_sde.solvers.ode import (
    ODE_SOLVERS,
    STEP_CONTROLS,
    RungeKutta,
    Status,
    runge_kutta_step,
    solve,
    solve_scipy,
)
from score_sde.tensor_ops import expand_to

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(y, t, index):
    return torch.stack([y[:, 1], -y[:, 0]], dim=1)


def logistic(y, t, index):
    return y * (1 - y)


def driven(y, t, index):
    """dy/dt = 2 t y, so that y = y0 exp(t² − t0²)."""
    return 2 * expand_to(t, y) * y


def van_der_pol(y, t, index):
    return torch.stack([y[:, 1], 5 * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], dim=1)


# name, field, y0, t0, t1, exact end
CLOSED_FORMS = {
    "rotation": (
        rotation,
        normals(5, 2),
        0.0,
        2.0,
        lambda y: math.cos(2) * y + math.sin(2) * rotation(y, None, None),
    ),
    "logistic": (
        logistic,
        normals(5, 3, 2).sigmoid(),
        0.0,
        3.0,
        lambda y: torch.sigmoid(torch.logit(y) + 3),
    ),
    "driven, backward": (driven, normals(5, 4), 1.5, 0.25, lambda y: y * math.exp(0.0625 - 2.25)),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("norm", ["sample", "joint"])
@pytest.mark.parametrize("method", ODE_SOLVERS)
def test_closed_forms_are_reached(name, norm, method):
    f, y0, t0, t1, exact = CLOSED_FORMS[name]
    result = solve(f, y0, t0, t1, norm=norm, method=method, **TIGHT)
    assert (result.status == Status.DONE).all()
    assert (result.t == t1).all()
    assert_close(result.y, exact(y0), 1e-8)
    # The tolerance is the measure: a looser one costs less and gives less.
    loose = solve(f, y0, t0, t1, norm=norm, method=method, rtol=1e-4, atol=1e-4)
    assert loose.calls < result.calls
    assert_close(loose.y, exact(y0), 1e-3)
    assert (loose.y - exact(y0)).abs().max() > 10 * (result.y - exact(y0)).abs().max()


def fixed_steps(method: RungeKutta, n: int, y: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Logistic growth from 0 to 3 in n equal steps; the end and the error of the first step."""
    h = torch.full((len(y),), 3 / n, dtype=y.dtype)
    slope, first_error = logistic(y, None, None), 0.0
    for step in range(n):
        y, slope, errors = runge_kutta_step(
            method, lambda y, t: logistic(y, t, None), step * h, y, slope, h
        )
        first_error = first_error or method.error([error.norm().item() for error in errors])
    return y, first_error


@pytest.mark.parametrize(
    ("name", "order", "steps"), [("rk45", 5, 32), ("tsit5", 5, 32), ("dop853", 8, 8)]
)
def test_a_method_is_of_its_order_and_so_is_the_error_of_a_step(name, order, steps):
    method = ODE_SOLVERS[name]
    y0 = torch.tensor([[0.1, 0.3], [0.45, 0.8]], dtype=torch.float64)
    exact = torch.sigmoid(torch.logit(y0) + 3)
    coarse, fine = fixed_steps(method, steps, y0), fixed_steps(method, 2 * steps, y0)
    errors = [(y - exact).abs().max().item() for y, _ in (coarse, fine)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)
    assert method.order == order
    estimates = [error for _, error in (coarse, fine)]
    assert math.log2(estimates[0] / estimates[1]) == pytest.approx(method.error_order, abs=0.4)


@pytest.mark.parametrize("name", ODE_SOLVERS)
def test_the_conditions_of_the_declared_order_hold(name):
    """Σ b φ(tree) = 1/γ(tree) for each rooted tree (Hairer, Nørsett, Wanner I, II.2).

    For the trees without branches off the stem, Σ b (A^p c^q) = q!/(p + q + 1)!, and for the
    bushy ones.
    """
    method = ODE_SOLVERS[name]
    stages = len(method.nodes) + 1
    a = torch.zeros(stages, stages, dtype=torch.float64)
    for k, row in enumerate(method.weights, 1):
        a[k, :k] = torch.tensor(row, dtype=torch.float64)
    b, c = a[-1], torch.tensor([0.0, *method.nodes], dtype=torch.float64)
    assert_close(a.sum(1), c, 1e-14)
    for p in range(method.order):
        for q in range(method.order - p):
            stem = torch.linalg.matrix_power(a, p) @ c**q
            exact = math.factorial(q) / math.factorial(p + q + 1)
            assert (b @ stem).item() == pytest.approx(exact, abs=3e-14)
    # An estimate is of a difference of results, whose weights add up to 1 each.
    for row in method.errors:
        assert sum(row) == pytest.approx(0, abs=1e-14)


def test_a_table_of_another_shape_is_refused():
    table = {"title": "mine", "order": 2, "nodes": (1.0, 1.0), "error_order": 2}
    euler_heun = {"weights": ((1.0,), (0.5, 0.5)), "errors": ((-0.5, 0.5, 0.0),)}
    y0 = torch.ones(1, 1, dtype=torch.float64)
    mine = solve(logistic, y0 / 2, 0.0, 1.0, method=RungeKutta(**table, **euler_heun))
    assert mine.y.item() == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-4)
    for change, message in (
        ({"nodes": (1.0, 0.5)}, "of which the last is 1"),
        ({"weights": ((1.0,),)}, "rows of 1, 2"),
        ({"errors": ()}, "one or two rows of 3 weights"),
        ({"errors": ((1.0, -1.0),)}, "one or two rows of 3 weights"),
    ):
        with pytest.raises(ValueError, match=message):
            RungeKutta(**table | euler_heun | change)


@pytest.mark.parametrize("name", ODE_SOLVERS)
def test_a_step_carries_on_the_slope_of_its_end(name):
    y, t, h = normals(3, 2), torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.1, -0.2, 0.0])
    y_new, slope, errors = runge_kutta_step(
        ODE_SOLVERS[name], lambda y, t: driven(y, t, None), t, y, driven(y, t, None), h
    )
    assert_close(slope, driven(y_new, t + h, None), 1e-6)
    assert y_new[2].equal(y[2])
    assert all((error[2] == 0).all() for error in errors)


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(
    ("f", "y0", "t0", "t1"),
    [
        (rotation, normals(4, 2), 0.0, 7.0),
        (logistic, normals(3, 5).sigmoid(), 0.0, 20.0),
        (driven, normals(2, 3), 2.0, -1.0),
        (van_der_pol, torch.tensor([[2.0, 0.0]], dtype=torch.float64), 0.0, 12.0),
        (lambda y, t, index: 0 * y, torch.zeros(2, 2, dtype=torch.float64), 0.0, 1.0),
        # From zero the trial step is tiny, and bounds the first one.
        (
            lambda y, t, index: expand_to(t, y).cos().expand_as(y),
            torch.zeros(2, 2, dtype=torch.float64),
            0.0,
            3.0,
        ),
    ],
)
@pytest.mark.parametrize("method", ["rk45", "dop853"])
def test_the_joint_norm_makes_scipys_evaluations(f, y0, t0, t1, rtol, method):
    def flat(t, y):
        times = torch.full((len(y0),), t, dtype=y0.dtype)
        return f(torch.from_numpy(y).reshape(y0.shape), times, None).flatten().numpy()

    name, stages = method.upper(), ODE_SOLVERS[method].evaluations
    expected = solve_ivp(flat, (t0, t1), y0.flatten().numpy(), rtol=rtol, atol=rtol, method=name)
    result = solve(f, y0, t0, t1, norm="joint", method=method, rtol=rtol, atol=rtol)
    assert result.nfe.unique().tolist() == [expected.nfev]
    assert result.calls == expected.nfev
    assert result.accepted.unique().tolist() == [len(expected.t) - 1]
    assert (result.nfe == 2 + stages * (result.accepted + result.rejected)).all()
    # The limit cycle magnifies what rounding does to the long steps of order 8.
    close = 1e-9 if method == "rk45" else 1e-8
    assert_close(result.y.flatten(), torch.from_numpy(expected.y[:, -1]), close)
    through = solve_scipy(f, y0, t0, t1, rtol=rtol, atol=rtol, method=name)
    assert through.nfe.unique().tolist() == [expected.nfev]
    assert through.y.flatten().equal(torch.from_numpy(expected.y[:, -1]))


def test_van_der_pol_has_rejected_steps():
    """Without them the comparison with scipy would say nothing about rejection."""
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    assert solve(van_der_pol, y0, 0.0, 12.0).rejected.item() > 3


def test_pi_control_rejects_fewer_steps_at_the_same_error():
    """Gustafsson's controller on a field whose steps must shrink again and again.

    Of a method of order 5 the error falls as NFE⁻⁵, so that NFE · error^(1/5) is what a solution
    of any error costs.
    """
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    exact = solve(van_der_pol, y0, 0.0, 12.0, method="dop853", rtol=1e-12, atol=1e-12).y
    rejected, cost = {}, {}
    for name in STEP_CONTROLS:
        found = solve(van_der_pol, y0, 0.0, 12.0, control=name, rtol=1e-6, atol=1e-6)
        rejected[name] = found.rejected.item()
        cost[name] = found.nfe.item() * (found.y - exact).abs().max().item() ** (1 / 5)
    assert rejected["pi"] < 0.5 * rejected["i"]
    assert cost["pi"] < 0.9 * cost["i"]


class Net(torch.nn.Module):
    """A small image network with a time and a stiffness per sample; counts and checks its calls.

    Its widths are multiples of a vector register: others may make torch's own matrix products and
    elementwise functions round otherwise in other rows of a batch.
    """

    def __init__(self, n: int, batch_size: int, stiff: dict[int, float] | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = torch.nn.Conv2d(2, 8, 3, padding=1)
        self.linear = torch.nn.Linear(8 * 16, 2 * 16)
        self.rate = torch.ones(n)
        for index, rate in (stiff or {}).items():
            self.rate[index] = rate
        self.batch_size = batch_size
        self.calls = 0

    def forward(self, y, t, index):
        assert len(y) == len(t) == len(index) == self.batch_size
        self.calls += 1
        hidden = torch.tanh(self.conv(y) + expand_to(t, y))
        slope = self.linear(hidden.flatten(1)).reshape(y.shape) - y
        return expand_to(self.rate[index], y) * slope


@pytest.mark.parametrize("method", ODE_SOLVERS)
@pytest.mark.parametrize("batch_size", [1, 3, 5, 16])
def test_a_sample_is_the_same_bit_for_bit_whatever_its_mates(batch_size, method):
    n, kept = 13, [0, 4, 7, 12]
    y0 = normals(n, 2, 4, 4, dtype=torch.float32)
    options = {"rtol": 1e-4, "atol": 1e-4, "batch_size": batch_size, "method": method}
    alike = solve(Net(n, batch_size), y0, 0.0, 1.0, **options)
    others = normals(n, 2, 4, 4, seed=1, dtype=torch.float32) * 3
    others[kept] = y0[kept]
    stiff = {1: 60.0, 5: 25.0, 9: 200.0}
    mixed = solve(Net(n, batch_size, stiff), others, 0.0, 1.0, **options)
    assert mixed.nfe[9] > 4 * mixed.nfe[0]
    assert mixed.y[kept].equal(alike.y[kept])
    assert mixed.nfe[kept].equal(alike.nfe[kept])
    assert not mixed.y[1].equal(alike.y[1])


@pytest.mark.parametrize("method", ODE_SOLVERS)
def test_a_sample_is_the_same_in_every_slot(method):
    """Turned round, samples of different rates pass through other slots."""
    n, batch_size = 23, 6
    y0 = normals(n, 2, 4, 4, dtype=torch.float32)
    net = Net(n, batch_size)
    net.rate = torch.linspace(0.5, 40, n)
    turned = Net(n, batch_size)
    turned.rate = net.rate.flip(0)
    one = solve(net, y0, 0.0, 1.0, batch_size=batch_size, method=method)
    other = solve(turned, y0.flip(0), 0.0, 1.0, batch_size=batch_size, method=method)
    assert other.y.flip(0).equal(one.y)
    assert other.nfe.flip(0).equal(one.nfe)


def test_batch_sizes_agree_within_the_tolerance():
    n = 9
    y0 = normals(n, 2, 4, 4, dtype=torch.float32)
    results = [
        solve(Net(n, b), y0, 0.0, 1.0, rtol=1e-5, atol=1e-5, batch_size=b) for b in (1, 4, 9, 20)
    ]
    for result in results[1:]:
        assert_close(result.y, results[0].y, 2e-5)
        assert (result.nfe - results[0].nfe).abs().max() <= 6


def test_a_free_slot_goes_to_the_next_sample():
    n, batch_size, stiff = 40, 4, dict.fromkeys(range(0, 40, 4), 150.0)
    y0 = normals(n, 2, 4, 4, dtype=torch.float32)
    options = {"batch_size": batch_size, "rtol": 1e-4, "atol": 1e-4}
    net = Net(n, batch_size, stiff)
    result = solve(net, y0, 0.0, 1.0, **options)
    chunks = result.nfe.reshape(-1, batch_size)
    naive, least = chunks.max(1).values.sum().item(), result.nfe.sum().item() / batch_size
    assert result.calls == net.calls
    # Up to the last samples no slot is empty.
    assert least <= result.calls < least + result.nfe.max().item()
    assert result.calls < 0.6 * naive


def test_samples_that_cannot_start_do_not_stop_the_others():
    def f(y, t, index):
        return torch.where((index % 6 >= 2)[:, None], torch.nan, -y)

    y0 = torch.ones(12, 2, dtype=torch.float64)
    for batch_size in (1, 2, 4, 12):  # whole batches of them, among others
        result = solve(f, y0, 0.0, 1.0, batch_size=batch_size, **TIGHT)
        good = torch.arange(12) % 6 < 2
        assert (result.status[good] == Status.DONE).all()
        assert (result.status[~good] == Status.NON_FINITE).all()
        assert_close(result.y[good], y0[good] * math.exp(-1), 1e-8)
        assert torch.equal(result.y[~good], y0[~good])


def test_f_is_told_who_is_in_each_slot():
    y0 = torch.arange(1.0, 8.0, dtype=torch.float64)[:, None]
    result = solve(lambda y, t, i: (i[:, None] + 1.0).to(y), y0, 0.0, 2.0, batch_size=3)
    assert_close(result.y, 3 * y0, 1e-12)


def test_on_finish_streams_every_sample_once():
    seen = {}

    def on_finish(index, y, nfe, status):
        for k, *rest in zip(index.tolist(), y, nfe.tolist(), status.tolist(), strict=True):
            assert k not in seen
            seen[k] = rest

    y0 = normals(7, 2)
    y0[3] = math.nan
    rate = torch.linspace(1, 30, 7, dtype=torch.float64)[:, None]
    for norm, options in (("sample", {"batch_size": 3}), ("joint", {})):
        seen.clear()
        start = y0 if norm == "sample" else y0.nan_to_num()
        result = solve(
            lambda y, t, i: rate[i] * rotation(y, t, i),
            start,
            0.0,
            1.0,
            norm=norm,
            on_finish=on_finish,
            **options,
        )
        assert sorted(seen) == list(range(7))
        for k, (y, nfe, status) in seen.items():
            assert torch.equal(y.nan_to_num(), result.y[k].nan_to_num())
            assert (nfe, status) == (result.nfe[k], result.status[k])
    assert y0[0].equal(normals(7, 2)[0])  # the start is not written to


def hurdles(y, t, index):
    """0: harmless. 1: NaN at once. 2: NaN from t = ½ on. 3: infinite at ½. 4: stiff."""
    time = expand_to(t, y)
    fields = [
        -y,
        y * math.nan,
        torch.where(time < 0.5, -y, y * math.nan),
        2 * y**2,
        -1e4 * y,
    ]
    return torch.stack(fields)[index, torch.arange(len(index))]


@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_a_sample_that_fails_leaves_the_others_alone(batch_size):
    y0 = torch.ones(5, 2, dtype=torch.float64)
    result = solve(hurdles, y0, 0.0, 1.0, batch_size=batch_size, max_steps=300)
    assert result.status.tolist() == [
        Status.DONE,
        Status.NON_FINITE,
        Status.NON_FINITE,
        Status.STEP_TOO_SMALL,
        Status.STEP_LIMIT,
    ]
    assert_close(result.y[0], torch.full((2,), math.exp(-1)), 1e-5)
    assert (result.nfe[1], result.t[1]) == (1, 0)
    assert result.y[1].tolist() == [1, 1]
    # The last accepted states, and the times at which they stand.
    assert result.t[2].item() == pytest.approx(0.5, abs=1e-12)
    assert_close(result.y[2], torch.full((2,), math.exp(-0.5)), 1e-5)
    assert result.t[3].item() == pytest.approx(0.5, abs=1e-5)
    assert 0 < result.t[4].item() < 1
    assert (result.accepted + result.rejected)[4] == 300
    assert result.y.isfinite().all()
    alone = solve(hurdles, y0[:1], 0.0, 1.0, batch_size=batch_size)
    assert alone.nfe[0] == result.nfe[0]
    assert_close(alone.y[0], result.y[0], 1e-12)


def test_status_of_the_joint_problem():
    y0 = torch.ones(5, 2, dtype=torch.float64)
    joint = solve(hurdles, y0, 0.0, 1.0, norm="joint")
    assert joint.status.tolist() == [Status.NON_FINITE] * 5
    stiff = solve(lambda y, t, i: -1e4 * y, y0, 0.0, 1.0, norm="joint", max_steps=10)
    assert stiff.status.tolist() == [Status.STEP_LIMIT] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_end_is_reached_exactly_and_done_wins_over_the_limit(dtype):
    y0 = torch.ones(2, 1, dtype=dtype)
    free = solve(driven, y0, 1.0, 1e-5)
    limited = solve(driven, y0, 1.0, 1e-5, max_steps=int((free.accepted + free.rejected)[0]))
    assert limited.status.tolist() == [Status.DONE] * 2
    assert limited.t.equal(torch.full((2,), 1e-5, dtype=dtype))


def test_a_given_first_step_saves_an_evaluation():
    f, y0 = driven, torch.ones(3, 1, dtype=torch.float64)
    result = solve(f, y0, 0.0, 1.0, first_step=1e-3)
    assert (result.nfe == 1 + 6 * (result.accepted + result.rejected)).all()
    expected = solve_ivp(
        lambda t, y: 2 * t * y, (0, 1), [1.0], rtol=1e-5, atol=1e-5, first_step=1e-3
    )
    assert (result.nfe == expected.nfev).all()


@pytest.mark.parametrize("norm", ["sample", "joint"])
@pytest.mark.parametrize("eval_dtype", [None, torch.float32, torch.bfloat16])
def test_the_network_has_its_own_precision(norm, eval_dtype):
    seen = set()

    def f(y, t, index):
        seen.add((y.dtype, t.dtype))
        return -y

    y0 = normals(3, 4)
    options = {"rtol": 1e-2, "atol": 1e-2} if eval_dtype == torch.bfloat16 else {}
    result = solve(f, y0, 0.0, 1.0, norm=norm, eval_dtype=eval_dtype, **options)
    assert seen == {(eval_dtype or torch.float64,) * 2}
    assert result.y.dtype == torch.float64
    assert_close(result.y, y0 * math.exp(-1), 1e-2 if options else 1e-5)


def test_gradients_are_not_recorded_but_f_may_record_its_own():
    weight = torch.ones(1, requires_grad=True)

    def f(y, t, index):
        with torch.enable_grad():
            y = y.requires_grad_(True)
            return torch.autograd.grad((0.5 * weight * y**2).sum(), y, create_graph=True)[0]

    result = solve(f, torch.ones(2, 1), 0.0, 1.0)
    assert not result.y.requires_grad
    assert_close(result.y, torch.full((2, 1), math.e), 1e-4)


@pytest.mark.parametrize("norm", ["sample", "joint"])
def test_the_probability_flow_of_a_gaussian_is_followed(norm):
    """VE data N(mu, s0² I): (x − mu) / std of p_t is constant along dx/dt = −½ g² score."""
    sigma_min, sigma_max, mu, s0 = 0.01, 50.0, 0.3, 0.5
    ratio = math.log(sigma_max / sigma_min)

    def sigma(t):
        return sigma_min * (sigma_max / sigma_min) ** t

    def flow(x, t, index):
        variance = expand_to(sigma(t) ** 2, x)
        score = -(x - mu) / (s0**2 + variance)
        return -0.5 * (2 * ratio * variance) * score

    x_T = 50 * normals(6, 3, 4, 4)
    result = solve(flow, x_T, 1.0, 1e-5, norm=norm, batch_size=None if norm == "joint" else 4)
    start, end = s0**2 + sigma(1.0) ** 2, s0**2 + sigma(1e-5) ** 2
    assert (result.status == Status.DONE).all()
    assert_close(result.y, mu + (x_T - mu) * math.sqrt(end / start), 1e-4)


@pytest.mark.parametrize("method", ODE_SOLVERS)
@pytest.mark.parametrize("control", STEP_CONTROLS)
def test_a_density_is_that_of_the_flow_by_every_method(method, control):
    sde = VPSDE()
    data, x = Gaussian(sde, 0.3, 0.25), normals(4, 2)
    how = {"method": method, "control": control, "rtol": 1e-8, "atol": 1e-8, "eps": 1e-3}
    found = log_likelihood(sde, lambda row: data.score, x, probes=None, **how)
    ends = torch.tensor([1e-3, sde.T], dtype=torch.float64)
    _, (start, end) = data.moments(ends, torch.ones(2, 1))
    z = data.flow(x, *ends[:, None])
    assert_close(found.z, z, 1e-6)
    # The flow stretches each of two dimensions by √(end/start).
    assert_close(found.logp, sde.prior_logp(z) + torch.log(end / start), 1e-6)
    assert_close(encode(sde, lambda row: data.score, x, **how).y, z, 1e-6)


@pytest.mark.parametrize("method", ["RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA"])
def test_every_method_of_scipy_reaches_the_closed_form(method):
    y0 = normals(2, 3, dtype=torch.float32)
    seen = []

    def f(y, t, index):
        seen.append((tuple(y.shape), y.dtype, t.dtype, index.tolist()))
        return driven(y, t, index)

    result = solve_scipy(f, y0, 1.0, 0.5, rtol=1e-7, atol=1e-7, method=method)
    assert set(map(str, seen)) == {str(((2, 3), torch.float32, torch.float32, [0, 1]))}
    assert result.nfe.tolist() == [len(seen)] * 2 == [result.calls] * 2
    assert result.status.tolist() == [Status.DONE] * 2
    assert result.y.dtype == torch.float32
    assert_close(result.y, y0 * math.exp(0.25 - 1), 1e-5)


@pytest.mark.parametrize("method", ["RK45", "Radau", "LSODA"])
def test_scipys_failures_are_a_status(method):
    y0 = torch.ones(2, 1, dtype=torch.float64)
    nan = solve_scipy(lambda y, t, i: y * math.nan, y0, 0.0, 1.0, method=method)
    assert nan.status.tolist() == [Status.NON_FINITE] * 2
    assert (nan.calls, nan.y.tolist()) == (1, y0.tolist())
    late = solve_scipy(
        lambda y, t, i: torch.where(expand_to(t, y) < 0.5, -y, y * math.nan),
        y0,
        0.0,
        1.0,
        method=method,
    )
    assert late.status.tolist() == [Status.NON_FINITE] * 2
    assert 0 < late.t[0].item() <= 0.5
    assert_close(late.y, torch.exp(-late.t)[:, None], 1e-3)


def test_a_singularity_stops_scipy():
    y0 = torch.ones(1, 1, dtype=torch.float64)
    result = solve_scipy(lambda y, t, i: y**2, y0, 0.0, 2.0)
    assert result.status.tolist() != [Status.DONE]
    assert result.t.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rtol": 0.0}, "tolerances"),
        ({"atol": math.nan}, "tolerances"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 3, "norm": "joint"}, "all 2 samples"),
        ({"norm": "max"}, "'max'"),
        ({"method": "rk4"}, "it must be one of rk45, tsit5, dop853; did you mean 'rk45'"),
        ({"t1": 0.0}, "differ"),
        ({"t1": math.inf}, "finite"),
        ({"max_steps": 0}, "max_steps"),
        ({"first_step": 2.0}, "first_step"),
        ({"y0": torch.ones(3)}, r"\(3,\)"),
        ({"y0": torch.ones(0, 3)}, "N ≥ 1"),
        ({"y0": torch.ones(2, 3, dtype=torch.float16)}, "float16"),
        ({"f": lambda y, t, i: y[:, :1]}, r"shape \(2, 1\)"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {"f": rotation, "y0": torch.ones(2, 2), "t0": 0.0, "t1": 1.0} | change
    with pytest.raises(ValueError, match=message):
        solve(**arguments)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match="'Euler': it must be one of RK45, RK23, DOP853, Radau, BDF, LSODA"
    ):
        solve_scipy(rotation, torch.ones(2, 2), 0.0, 1.0, method="Euler")
