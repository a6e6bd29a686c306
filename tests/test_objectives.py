"""Objectives: reference losses and updates, what minimises them, and the times they draw."""

import math

import pytest
import torch
from conftest import assert_close
from ml_collections import ConfigDict
from problems import ALL_SDES, Gaussian, make_sde
from scipy import integrate
from torch import nn

from losses import (
    get_ddpm_loss_fn,
    get_optimizer,
    get_sde_loss_fn,
    get_smld_loss_fn,
    get_step_fn,
    optimization_manager,
)
from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.objectives import (
    ELBO,
    OBJECTIVES,
    SMLD,
    ImportanceTimes,
    NoisePrediction,
    ScoreMatching,
    StratifiedTimes,
    elbo_weights,
    make_objective,
)
from score_sde.score import NetworkScore
from score_sde.sde import SDE, VESDE, VPSDE, subVPSDE
from score_sde.tensor_ops import expand_to

LOSSES = {
    "get_sde_loss_fn": get_sde_loss_fn,
    "get_smld_loss_fn": get_smld_loss_fn,
    "get_ddpm_loss_fn": get_ddpm_loss_fn,
}


@pytest.fixture(params=ALL_SDES)
def sde(request):
    return ALL_SDES[request.param]()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- Reference numbers of the 2021 release ----


class Recorder(nn.Module):
    def forward(self, x, cond):
        self.cond = cond
        return 0.5 * torch.tanh(0.3 * x)


def cases(golden):
    spec, data = golden.json("losses"), golden.arrays("losses")
    for row in spec["rows"]:
        sde, chain = make_sde(spec["sdes"][row["sde"]]), row["fn"] != "get_sde_loss_fn"
        options = {
            k: row[k]
            for k in ("reduce_mean", "continuous", "likelihood_weighting", "eps")
            if k in row
        }
        loss_fn = LOSSES[row["fn"]](sde, True, **options)
        first = data[f"{row['fn']}/labels"] if chain else data["u"]
        z = data[f"{row['fn']}/noise"] if chain else data["z"]
        t = first if chain else data["t"]
        expected = data[f"{row['key']}/loss"], data[f"{row['key']}/cond"]
        # sub-VP's std near 0 is rounded off in the reference, and squared by its weighting.
        tolerance = 5e-4 if options.get("likelihood_weighting") else 1e-4
        yield row, loss_fn, data["batch"], first, t, z, expected, tolerance


def test_reference_losses_for_given_times_and_noise(golden):
    count = 0
    for row, loss_fn, batch, _, t, z, (loss, cond), tolerance in cases(golden):
        net = Recorder()
        mine = loss_fn(net, batch, t=t, noise=z)
        assert mine.shape == ()
        assert_close(mine, loss, tolerance)
        assert str(net.cond.dtype) == row["cond_dtype"]
        torch.testing.assert_close(net.cond, cond, rtol=1e-5, atol=0)
        count += 1
    assert count == 16


def test_reference_losses_draw_times_first_and_then_noise(golden, monkeypatch):
    for row, loss_fn, batch, first, _, z, (loss, _), tolerance in cases(golden):
        drawn = []

        def draw(name, value, drawn=drawn):
            def function(*size, **_):
                drawn.append([name, list(value.shape)])
                return value

            return function

        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand", draw("rand", first))
            patch.setattr(torch, "randint", draw("randint", first))
            patch.setattr(torch, "randn_like", draw("randn_like", z))
            mine = loss_fn(Recorder(), batch)
        assert drawn == row["draws"]
        assert_close(mine, loss, tolerance)


class ReferenceNet(nn.Module):
    """The network of the reference updates, with its parameters in their order."""

    def __init__(self, h):
        super().__init__()
        self.frozen = nn.Parameter(torch.zeros(h), requires_grad=False)
        self.conv1 = nn.Conv2d(3, h, 3, padding=1)
        self.lin = nn.Linear(1, h)
        self.conv2 = nn.Conv2d(h, 3, 3, padding=1)

    def forward(self, x, cond):
        h = self.conv1(x) + self.lin(cond[:, None] / 999)[:, :, None, None]
        return self.conv2(torch.tanh(h) * (1 + self.frozen[:, None, None]))


def reference_config(spec):
    return ConfigDict(
        {
            "optim": {
                "optimizer": "Adam",
                "lr": spec["lr"],
                "beta1": 0.9,
                "eps": 1e-8,
                "weight_decay": spec["wd"],
                "warmup": spec["warmup"],
                "grad_clip": spec["clip"],
            }
        }
    )


def reference_network(spec, data):
    net = ReferenceNet(spec["hid"])
    net.load_state_dict({name: data[f"init/{name}"] for name in spec["param_order"]})
    assert [name for name, _ in net.named_parameters()] == spec["param_order"]
    return net


def moved(after, before, expected, tolerance=1e-4):
    """Compares the movement of a weight, not the weight, against its own size."""
    assert_close(after - before, expected - before, tolerance)


@pytest.mark.parametrize("by_name", [False, True])
def test_reference_updates_and_evaluation(golden, by_name):
    spec, data = golden.json("optim"), golden.arrays("optim")
    net, config = reference_network(spec, data), reference_config(spec)
    sde = make_sde(spec["sde"])
    state = {
        "model": net,
        "optimizer": get_optimizer(config, net.parameters()),
        "ema": ExponentialMovingAverage(net if by_name else net.parameters(), spec["ema"]),
        "step": 0,
    }
    step_fn = get_step_fn(
        sde, True, optimization_manager(config), spec["reduce_mean"], True, spec["lw"]
    )
    names = spec["shadow_order"]
    for k, log in enumerate(spec["steps_log"], start=1):
        key = f"step{k}"
        loss = step_fn(state, data["batches"][k - 1], t=data[f"{key}/t"], noise=data[f"{key}/z"])
        assert_close(loss, data[f"{key}/loss"])
        assert state["step"] == log["step_after"]
        assert state["optimizer"].param_groups[0]["lr"] == pytest.approx(log["lr"], rel=1e-12)
        assert state["ema"].num_updates == log["ema_num_updates"]
        shadow = dict(zip(names, state["ema"].shadow_params, strict=True))
        for name, p in net.named_parameters():
            start = data[f"init/{name}"]
            # A movement is the difference of close floats: 1e-3 of it is their rounding.
            moved(p.detach(), start, data[f"{key}/param/{name}"], 1e-3)
            if p.requires_grad:
                assert_close(p.grad, data[f"{key}/clipped_grad/{name}"])
                moved(shadow[name], start, data[f"{key}/ema/{name}"], 1e-3)
    for name, p in net.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq") if p.requires_grad else ():
            expected = data[f"final_adam/{moment}/{name}"]
            assert_close(state["optimizer"].state[p][moment], expected)
    evaluate = get_step_fn(sde, False, None, spec["reduce_mean"], True, spec["lw"])
    t = data["eval/u"] * (1 - 1e-5) + 1e-5
    before = {name: p.clone() for name, p in net.named_parameters()}
    loss = evaluate(state, data["batches"][0], t=t, noise=data["eval/z"])
    assert_close(loss, data["eval/loss"], 1e-6)
    assert not net.training
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    raw = get_sde_loss_fn(sde, False, False, likelihood_weighting=False)
    assert abs(raw(net, data["batches"][0], t=t, noise=data["eval/z"]) - loss) > 1e-3


def test_without_a_warm_up_the_optimisers_own_rate_stays():
    config = reference_config({"lr": 1e-3, "wd": 0.0, "warmup": 0, "clip": -1.0})
    p = nn.Parameter(torch.ones(3))
    optimizer = get_optimizer(config, [p])
    optimizer.param_groups[0]["lr"] = 0.5  # a schedule of the notebook's own
    p.grad = torch.full((3,), 7.0)
    optimization_manager(config)(optimizer, [p], step=0)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert_close(p.detach(), torch.full((3,), 0.5), 1e-6)
    optimization_manager(config)(optimizer, [p], step=1, lr=0.2, warmup=4)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


# ---- What the losses are, and what minimises them ----


@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 5), (6, 2, 3, 4)])
@pytest.mark.parametrize("likelihood", [False, True])
@pytest.mark.parametrize("reduce_mean", [False, True])
def test_score_matching_is_the_papers_formula(sde, shape, likelihood, reduce_mean):
    x_0, z = torch.randn(2, *shape, dtype=torch.float64)
    t = torch.linspace(0.1, 1, shape[0], dtype=torch.float64)
    std = expand_to(sde.std(t), z)
    score = NetworkScore(lambda x, cond: torch.sin(x), sde)
    s = score(expand_to(sde.mean_scale(t), z) * x_0 + std * z, t)
    if likelihood:
        squares = (s + z / std) ** 2 * expand_to(sde.diffusion_squared(t), z)
    else:
        squares = (s * std + z) ** 2
    flat = squares.flatten(1)
    expected = flat.mean(1) if reduce_mean else 0.5 * flat.sum(1)
    objective = ScoreMatching(sde, True, reduce_mean, likelihood)
    loss = objective(lambda x, cond: torch.sin(x), x_0, t, z)
    assert loss.shape == shape[:1]
    torch.testing.assert_close(loss, expected)


def exact_network(problem, scale=1.0):
    """net(x, cond) for continuous times whose score is `scale` times that of a Gaussian."""
    sde = problem.sde

    def net(x, cond):
        if sde.network_output == "score":
            return scale * problem.score(x, sde.time_of_noise_level(cond))
        t = cond / 999 * sde.T
        return -expand_to(sde.std(t), x) * scale * problem.score(x, t)

    return net


@pytest.mark.parametrize("likelihood", [False, True])
def test_the_exact_score_minimises_score_matching(sde, likelihood):
    torch.manual_seed(0)
    n, dimensions = 40_000, 3
    problem = Gaussian(sde, mean=0.0, variance=0.25)
    objective = ScoreMatching(sde, True, False, likelihood, StratifiedTimes(sde, 1e-2))
    x_0, z = 0.5 * torch.randn(n, dimensions).double(), torch.randn(n, dimensions).double()
    t = objective.times(n).double()
    scale = torch.ones(n, 1, dtype=torch.float64, requires_grad=True)
    loss = objective(exact_network(problem, scale), x_0, t, z)
    slope = torch.autograd.grad(loss.sum(), scale)[0][:, 0]
    # The gradient vanishes in expectation, though not for single samples.
    error = slope.std() / math.sqrt(n)
    assert abs(slope.mean()) < 4 * error
    assert slope.std() > 0.1
    assert error < 0.1 * loss.mean()
    for factor in (0.8, 1.2):
        other = objective(exact_network(problem, factor), x_0, t, z)
        assert (other - loss.detach()).mean() > 4 * (other - loss.detach()).std() / math.sqrt(n)


def test_chain_losses_vanish_for_data_at_one_point():
    # With x_0 = 0 the noise can be read off x: its prediction has no error.
    x_0, z = torch.zeros(20, 3), torch.randn(20, 3, generator=generator())
    labels = torch.arange(20)
    vp, ve = VPSDE(0.1, 10.0, 20), VESDE(N=20)
    sigmas = vp.sqrt_1m_alphas_cumprod
    exact = NoisePrediction(vp)(lambda x, i: x / sigmas[i][:, None], x_0, labels, z)
    assert exact.abs().max() < 1e-9
    levels = ve.discrete_sigmas.flip(0)
    exact = SMLD(ve)(lambda x, i: -x / levels[i][:, None] ** 2, x_0, labels, z)
    assert exact.abs().max() < 1e-9
    wrong = SMLD(ve)(lambda x, i: 0 * x, x_0, labels, z)
    assert_close(wrong, 0.5 * (z**2).sum(1))
    assert_close(
        NoisePrediction(vp, False)(lambda x, i: 0 * x, x_0, labels, z), 0.5 * (z**2).sum(1)
    )


def test_chain_labels_cover_the_chain_and_have_times():
    vp, ve = VPSDE(0.1, 10.0, 20), VESDE(N=20)
    for objective, ends in (
        (NoisePrediction(vp), [vp.chain_times()[0], 1.0]),
        (SMLD(ve), [1.0, 0.0]),
    ):
        labels = objective.times(2000, generator=generator())
        assert labels.dtype == torch.int64
        assert torch.equal(labels.unique(), torch.arange(20))
        time = objective.time(torch.tensor([0, 19]))
        assert time.tolist() == pytest.approx([float(end) for end in ends])
    t = torch.arange(20)
    sigmas = ve.discrete_sigmas.flip(0)
    assert_close(ve.std(SMLD(ve).time(t)), sigmas)
    ve.T = 5.0
    assert SMLD(ve).time(t)[0] == 5


class Cosine(SDE):
    """Variance preserving with ᾱ = cos² (Nichol & Dhariwal 2021), with a chain on its grid."""

    name, has_chain = "cosine", True

    def mean_scale(self, t):
        return torch.cos(math.pi / 2 * 0.99 * t + 0.01)

    def std(self, t):
        return torch.sin(math.pi / 2 * 0.99 * t + 0.01)


def test_a_chain_of_ones_own_is_trained_bounded_and_scored_as_ddpms():
    sde = Cosine(N=50)
    x_0, z = torch.zeros(50, 3), torch.randn(50, 3, generator=generator())
    labels = torch.arange(50)
    stds = torch.sin(math.pi / 2 * 0.99 * labels / 49 + 0.01)

    def net(x, i):
        return x / stds[i.long()][:, None]

    for objective in ("auto", "simple", "elbo"):
        loss = make_objective(sde, objective=objective, continuous=False)(net, x_0, labels, z)
        assert loss.abs().max() < 1e-6 * (1 if objective != "elbo" else elbo_weights(sde).sum())
    score = NetworkScore(net, sde, continuous=False)(x_0 + 1, sde.chain_times().float())
    assert_close(score, -1 / stds[:, None].expand(50, 3) ** 2, 1e-5)
    kept = torch.cos(math.pi / 2 * 0.99 * labels.double() / 49 + 0.01) ** 2
    beta, tilde = 1 - kept[1:] / kept[:-1], (1 - kept[:-1]) / (1 - kept[1:])
    expected = beta**2 / (2 * beta * tilde * (1 - beta) * (1 - kept[1:]))
    assert_close(elbo_weights(sde)[1:], expected, 1e-9)


def test_a_chain_that_keeps_no_variance_has_no_variational_bound():
    class Half(Cosine):
        def std(self, t):
            return super().std(t) / 2

    with pytest.raises(ValueError, match="the variational bound belongs to DDPM's chain"):
        elbo_weights(Half(N=50))


def test_elbo_weights_are_those_of_the_divergences():
    sde = VPSDE(0.1, 10.0, 20)
    beta = sde.discrete_betas.double()
    kept = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1).double(), kept[:-1]])
    posterior = beta * (1 - before) / (1 - kept)
    variance = torch.where(posterior > 0, posterior, beta)  # the decoder has the chain's own
    expected = beta**2 / (2 * variance * (1 - beta) * (1 - kept))
    torch.testing.assert_close(elbo_weights(sde), expected)


def test_the_elbos_step_0_is_the_log_density_of_the_decoder():
    sde = VPSDE(0.1, 10.0, 20)
    beta = sde.discrete_betas[0].double()
    x_0, z = torch.randn(2, 8, 3, generator=generator(), dtype=torch.float64)

    def noise(x):
        return torch.sin(3 * x)

    x_1 = (1 - beta).sqrt() * x_0 + beta.sqrt() * z
    mean = (x_1 - beta.sqrt() * noise(x_1)) / (1 - beta).sqrt()
    decoder = torch.distributions.Normal(mean, beta.sqrt())
    constant = 1.5 * torch.log(2 * math.pi * beta)
    errors = ((noise(x_1) - z) ** 2).sum(1)
    expected = -decoder.log_prob(x_0).sum(1) - constant
    assert_close(elbo_weights(sde)[0] * errors, expected, 1e-6)


@pytest.mark.parametrize("reduce_mean", [False, True])
def test_losses_per_dimension_are_squared_errors_or_nats(reduce_mean):
    # Of data N(0, s²) with the exact prediction, E (E[z | x_t] − z)² is α²s²/(α²s² + σ²).
    s, D, sde = 0.5, 40_000, VPSDE(0.1, 10.0, 20)
    draw = torch.Generator().manual_seed(0)
    x_0, z = s * torch.randn(1, D, generator=draw), torch.randn(1, D, generator=draw)
    alpha, sigma = sde.sqrt_alphas_cumprod, sde.sqrt_1m_alphas_cumprod

    def net(x, step):
        return expand_to(sigma[step] / (alpha[step] ** 2 * s**2 + sigma[step] ** 2), x) * x

    squared_error = alpha**2 * s**2 / (alpha**2 * s**2 + sigma**2)
    simple, elbo = NoisePrediction(sde, reduce_mean), ELBO(sde, reduce_mean)
    steps = torch.arange(20)
    errors = torch.cat([simple(net, x_0, step[None], z) for step in steps])
    assert_close(errors * simple.per_dimension(D), squared_error, 0.02)
    losses = torch.cat([elbo(net, x_0, step[None], z) for step in steps])
    nats = (elbo_weights(sde) * squared_error).sum()
    mean = (elbo.probabilities * losses).sum() * elbo.per_dimension(D)
    assert mean.item() == pytest.approx(nats.item(), rel=0.02)


@pytest.mark.parametrize("reduce_mean", [False, True])
@pytest.mark.parametrize("end", [1.0, 5.0])
def test_the_likelihood_weighting_counts_nats_per_dimension(reduce_mean, end):
    s, D = 0.5, 40_000

    class Steady(SDE):  # g = 1, f = −x/2 up to any time
        name, T = "steady", end
        mean_scale = staticmethod(lambda t: torch.exp(-t / 2))
        std = staticmethod(lambda t: torch.sqrt(-torch.expm1(-t)))

    sde = Steady(10)
    objective = make_objective(sde, objective="likelihood", reduce_mean=reduce_mean, eps=0.05)
    draw = torch.Generator().manual_seed(0)
    x_0, z = s * torch.randn(1, D, generator=draw), torch.randn(1, D, generator=draw)

    def net(x, cond):
        t = cond * end / 999
        alpha, sigma = sde.mean_scale(t), sde.std(t)
        return expand_to(sigma / (alpha**2 * s**2 + sigma**2), x) * x

    def rate(t):  # ½ g²/σ² E (E[z | x_t] − z)²
        alpha2, sigma2 = math.exp(-t), -math.expm1(-t)
        return 0.5 / sigma2 * alpha2 * s**2 / (alpha2 * s**2 + sigma2)

    nats = integrate.quad(rate, 0.05, end)[0]
    # The middles of equal parts of the importance sampler's own variable.
    u = (torch.arange(200) + 0.5) / 200
    log_times = objective.time_sampler.quantile.log_times
    times = log_times[(u * (len(log_times) - 1)).long()].exp()
    x_0, z = (drawn[:, :2000].expand(len(times), 2000) for drawn in (x_0, z))
    losses = objective(net, x_0, times, z)
    assert losses.shape == times.shape
    assert losses.mean() * objective.per_dimension(2000) == pytest.approx(nats, rel=0.04)


@pytest.mark.parametrize("reduce_mean", [False, True])
def test_the_elbo_is_the_weighted_sum_over_the_chain_and_ddpm_at_other_steps(reduce_mean):
    sde, N, D = VPSDE(0.1, 10.0, 20), 20, 3
    objective, weights = ELBO(sde, reduce_mean), elbo_weights(sde)
    x_0, z = torch.randn(2, N, D, generator=generator(1), dtype=torch.float64)
    steps = torch.arange(N)

    def net(x, i):
        return torch.tanh(x) * i[:, None] / N

    losses, plain = (
        objective(net, x_0, steps, z) for objective in (objective, NoisePrediction(sde))
    )
    share = weights / weights.sum()
    # In nats, with the half sum; the mean over dimensions is 2/D of it, as everywhere.
    expected = (weights * D * plain).sum() * (2 / D if reduce_mean else 1)
    torch.testing.assert_close((share * losses).sum(), expected)
    drawn = objective.times(40_000, generator=generator())
    assert drawn.dtype == torch.int64
    counts = drawn.bincount(minlength=N) / 40_000
    assert ((counts - share).abs() < 4 * (share * (1 - share) / 40_000).sqrt()).all()


def same_objective(one, other):
    assert type(one) is type(other)
    for name, value in vars(one).items():
        if name == "time_sampler":
            assert type(value) is type(other.time_sampler)
            assert value.eps == other.time_sampler.eps
        elif name in ("parameterisation", "prediction"):
            assert type(value) is type(getattr(other, name))
        elif name != "sde" and not isinstance(value, torch.Tensor):
            assert value == getattr(other, name), name


CHAIN = {"continuous": False}
LIKELIHOOD = {"likelihood_weighting": True, "times": "importance"}


@pytest.mark.parametrize(
    ("sde", "options", "named", "meant"),
    [
        (VPSDE, {}, "score_matching", {}),
        (VESDE, CHAIN, "score_matching", CHAIN),
        (VPSDE, {"times": "stratified"}, "score_matching", {"times": "stratified"}),
        (VPSDE, {}, "likelihood", LIKELIHOOD),
        (subVPSDE, LIKELIHOOD, "likelihood", LIKELIHOOD),
        (VPSDE, CHAIN, "simple", CHAIN),
    ],
)
def test_a_named_objective_is_what_its_options_spell_out(sde, options, named, meant):
    same_objective(
        make_objective(sde(), objective=named, **options), make_objective(sde(), **meant)
    )


def test_the_elbo_is_chosen_by_its_name():
    objective = make_objective(VPSDE(), objective="elbo", continuous=False, reduce_mean=True)
    assert type(objective) is ELBO
    assert objective.reduce_mean
    assert type(make_objective(VPSDE(), continuous=False)) is NoisePrediction


def test_labels_of_classes_reach_the_network():
    label = torch.tensor([3, 1])
    seen = []

    def net(x, cond, label=None):
        seen.append(label)
        return x

    x_0, z = torch.zeros(2, 2), torch.ones(2, 2)
    ScoreMatching(VPSDE())(net, x_0, torch.tensor([0.2, 0.4]), z, label)
    NoisePrediction(VPSDE())(net, x_0, torch.tensor([2, 4]), z, label)
    SMLD(VESDE())(net, x_0, torch.tensor([2, 4]), z, label)
    assert all(given is label for given in seen)
    assert len(seen) == 3


def test_loss_fn_sets_the_mode():
    net = nn.Sequential(nn.Dropout())
    net.forward = lambda x, cond: x
    for train in (True, False):
        net.train(not train)
        get_sde_loss_fn(VPSDE(), train)(net, torch.zeros(2, 3))
        assert net[0].training == train


# ---- Mistakes ----


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: make_objective(VPSDE(), times="importance"), "likelihood_weighting=True"),
        (
            lambda: make_objective(VPSDE(), times="random"),
            "log_snr, importance",
        ),
        (lambda: make_objective(subVPSDE(), continuous=False), "subvpsde: discrete training"),
        (
            lambda: make_objective(subVPSDE(), continuous=False, times="stratified"),
            "subvpsde: discrete training",
        ),
        (lambda: make_objective(VPSDE(), continuous=False, times="stratified"), "'stratified'"),
        (
            lambda: make_objective(VPSDE(), continuous=False, likelihood_weighting=True),
            "continuous=True",
        ),
        (lambda: make_objective(VPSDE(), eps=1.0), "eps=1.0"),
        (lambda: make_objective(VPSDE(), objective="vlb"), ", ".join(OBJECTIVES)),
        (
            lambda: make_objective(VPSDE(), objective="score_matching", likelihood_weighting=True),
            "training.likelihood_weighting=False",
        ),
        (
            lambda: make_objective(VPSDE(), objective="score_matching", times="importance"),
            "importance times",
        ),
        (
            lambda: make_objective(VPSDE(), objective="likelihood", times="stratified"),
            "training.time_sampling='importance', or keep .*likelihood_weighting=True",
        ),
        (lambda: make_objective(VPSDE(), objective="likelihood", continuous=False), "'elbo'"),
        (lambda: make_objective(VPSDE(), objective="elbo"), "training.continuous=False"),
        (lambda: make_objective(VPSDE(), objective="simple"), "'vpsde' and True"),
        (
            lambda: make_objective(VESDE(), objective="elbo", continuous=False),
            "training.sde='vpsde'.*'vesde' and False",
        ),
        (
            lambda: make_objective(
                VPSDE(), objective="elbo", continuous=False, likelihood_weighting=True
            ),
            "likelihood_weighting=False",
        ),
        (lambda: ELBO(subVPSDE()), "subvpsde: DDPM's chain"),
        (lambda: elbo_weights(VPSDE(N=20)), "more scales than beta_max"),
        (lambda: ImportanceTimes(VPSDE(), 0.0), "eps > 0"),
        (lambda: get_ddpm_loss_fn(VESDE(), True), "SMLD for vesde"),
        (lambda: get_smld_loss_fn(VPSDE(), True), "NoisePrediction for vpsde"),
        (lambda: get_step_fn(VPSDE(), True), "optimization_manager"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
