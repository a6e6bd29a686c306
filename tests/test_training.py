"""The training step: reference updates, accumulation, resuming, divergence, names."""

import contextlib

import pytest
import torch
from conftest import assert_close
from problems import Gaussian, make_sde
from test_objectives import moved, reference_network
from torch import nn

from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.objectives import NoisePrediction, ScoreMatching, StratifiedTimes, make_objective
from score_sde.sde import VPSDE, subVPSDE
from score_sde.training import TrainState, TrainStep, learning_rate, loss_by_level, make_optimizer


class Net(nn.Module):
    """A network for points, with dropout, a frozen weight and classes."""

    def __init__(self, seed=0, dropout=0.0, backwards=False):
        super().__init__()
        torch.manual_seed(seed)
        parts = {
            "first": nn.Linear(3, 16),
            "classes": nn.Embedding(4, 16),
            "last": nn.Linear(16, 2),
        }
        for name in sorted(parts, reverse=backwards):
            self.add_module(name, parts[name])
        self.dropout = nn.Dropout(dropout)
        self.scale = nn.Parameter(torch.full((16,), 0.5), requires_grad=False)

    def forward(self, x, cond, label=None):
        h = self.first(torch.cat([x, cond[:, None] / 999], 1))
        self.seen = h.dtype
        h = h * self.scale
        if label is not None:
            h = h + self.classes(label)
        return self.last(self.dropout(torch.sin(h)))


def make_state(net, **options):
    optimizer = make_optimizer(net.named_parameters(), **{"lr": 1e-2, **options})
    return TrainState(net, ExponentialMovingAverage(net, 0.9), optimizer)


def make_step(seed=0, objective=None, **options):
    generator = torch.Generator().manual_seed(seed)
    objective = ScoreMatching(VPSDE()) if objective is None else objective
    return TrainStep(objective, generator=generator, **{"lr": 1e-2, "grad_clip": 1.0, **options})


def batches(n, size=8, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(n, size, 2, generator=generator))


def run(state, step, data):
    for x in data:
        step(state, x)


def tensors(state):
    """Everything in a state, flat: name → tensor."""
    saved = state.state_dict()
    flat = {f"network.{k}": v for k, v in saved["network"].items()}
    flat |= {f"ema.{k}": v for k, v in saved["ema"]["shadow"].items()}
    for name, moments in saved["optimizer"].items():
        flat |= {f"optimizer.{name}.{k}": v for k, v in moments.items()}
    return {name: value.clone() for name, value in flat.items()}


def assert_equal(one, other, tolerance=0.0):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=tolerance, msg=name)


# ---- Reference numbers of the 2021 release ----


@pytest.mark.parametrize("implementation", ["fused", "foreach"])
def test_reference_updates(golden, implementation):
    spec, data = golden.json("optim"), golden.arrays("optim")
    net = reference_network(spec, data)
    state = TrainState(
        net,
        ExponentialMovingAverage(net, spec["ema"]),
        make_optimizer(net.named_parameters(), lr=spec["lr"], implementation=implementation),
    )
    objective = ScoreMatching(make_sde(spec["sde"]), reduce_mean=spec["reduce_mean"])
    step = TrainStep(objective, lr=spec["lr"], warmup=spec["warmup"], grad_clip=spec["clip"])
    for k, log in enumerate(spec["steps_log"], start=1):
        key = f"step{k}"
        record = step.update(state, data["batches"][k - 1], data[f"{key}/t"], data[f"{key}/z"])
        assert_close(record.loss, data[f"{key}/loss"])
        assert record.step == log["step_before"]
        assert record.lr == pytest.approx(log["lr"], rel=1e-12)
        assert record.grad_norm.item() == pytest.approx(log["grad_norm_before_clip"], rel=1e-5)
        shadow = state.ema.state_dict()["shadow"]
        for name, p in net.named_parameters():
            start = data[f"init/{name}"]
            # A movement is the difference of close floats: 1e-3 of it is their rounding.
            moved(p.detach(), start, data[f"{key}/param/{name}"], 1e-3)
            if p.requires_grad:
                assert_close(p.grad, data[f"{key}/clipped_grad/{name}"])
                moved(shadow[name], start, data[f"{key}/ema/{name}"], 1e-3)
    saved = state.state_dict()
    assert saved["step"] == spec["final_step"]
    for name in spec["shadow_order"]:
        assert saved["optimizer"][name]["step"] == spec["adam_step"]
        for moment in ("exp_avg", "exp_avg_sq"):
            assert_close(saved["optimizer"][name][moment], data[f"final_adam/{moment}/{name}"])
    assert saved["optimizer"]["frozen"] == {}


# ---- One step ----


def test_the_learning_rate_grows_from_zero():
    rates = [learning_rate(step, 2.0, 4) for step in range(6)]
    assert rates == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert learning_rate(0, 2.0, 0) == 2.0


@pytest.mark.parametrize("accumulation", [2, 3, 8, 20])
@pytest.mark.parametrize("stratified", [False, True])
def test_accumulation_gives_the_update_of_the_whole_batch(accumulation, stratified):
    sde = VPSDE()
    times = StratifiedTimes(sde) if stratified else None
    results = []
    for parts in (1, accumulation):
        state = make_state(Net())
        step = make_step(objective=ScoreMatching(sde, time_sampler=times), accumulation=parts)
        records = [step(state, x, torch.arange(8) % 4) for x in batches(3)]
        results.append((tensors(state), records[-1]))
    (whole, record), (split, other) = results
    assert_equal(whole, split, 1e-5)
    assert torch.equal(record.t, other.t)
    assert_close(other.losses, record.losses, 1e-5)
    assert_close(other.grad_norm, record.grad_norm, 1e-5)
    assert not torch.equal(whole["network.first.weight"], Net().first.weight)


def test_processes_wait_for_the_last_part():
    # What DDP has: within no_sync, gradients are not sent around.
    log = []

    class Distributed(Net):
        @contextlib.contextmanager
        def no_sync(self):
            log.append("wait")
            yield
            log.append("on")

    step = make_step(accumulation=4)
    step(make_state(Distributed()), batches(1)[0])
    assert log == ["wait", "on"] * 3


def test_a_step_follows_its_own_generator_alone():
    results = []
    for consumed in (0, 5):
        state, step = make_state(Net()), make_step()
        torch.manual_seed(consumed)
        for x in batches(2):
            step(state, x)
        results.append(tensors(state))
    assert_equal(*results)


def test_the_network_trains_in_training_mode():
    net = Net(dropout=0.5).eval()
    make_step()(make_state(net), batches(1)[0])
    assert net.dropout.training


def test_the_record_has_one_loss_and_one_time_per_sample():
    record = make_step()(make_state(Net()), batches(1)[0])
    assert record.losses.shape == record.t.shape == (8,)
    assert not record.losses.requires_grad
    torch.testing.assert_close(record.loss, record.losses.mean())
    assert record.finite
    # Steps of a chain are given as times.
    record = make_step(objective=NoisePrediction(VPSDE()))(make_state(Net()), batches(1)[0])
    assert record.t.is_floating_point()
    assert record.t.max() <= 1


def test_clipping_bounds_the_gradient_and_can_be_off():
    for clip in (0.5, -1.0):
        state = make_state(Net())
        record = make_step(grad_clip=clip)(state, 30 * batches(1)[0])
        grads = [p.grad for p in state.network.parameters() if p.grad is not None]
        norm = torch.stack([g.norm() for g in grads]).norm()
        assert record.grad_norm > 1
        assert_close(norm, torch.tensor(0.5) if clip > 0 else record.grad_norm, 1e-4)


def test_autocast_runs_only_the_network_in_bfloat16():
    outputs = []

    class Recording(ScoreMatching):
        def __call__(self, net, *rest):
            def recorded(x, cond):
                outputs.append(net(x, cond))
                return outputs[-1]

            return super().__call__(recorded, *rest)

    state = make_state(Net())
    step = make_step(objective=Recording(VPSDE()), autocast_dtype=torch.bfloat16)
    record = step(state, batches(1)[0])
    exact = make_step()(make_state(Net()), batches(1)[0])
    assert state.network.seen == torch.bfloat16
    assert outputs[0].dtype == record.losses.dtype == torch.float32
    assert {v.dtype for v in tensors(state).values()} == {torch.float32}
    assert_close(record.losses, exact.losses, 0.03)
    assert not torch.equal(record.losses, exact.losses)


def test_training_finds_the_score_of_a_gaussian():
    sde = VPSDE()
    problem = Gaussian(sde, mean=0.0, variance=0.25)
    objective = make_objective(sde, times="stratified", eps=1e-2)

    class Linear(nn.Module):  # the exact score is linear in x; its factor depends on t
        def __init__(self):
            super().__init__()
            self.factor = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

        def forward(self, x, cond):
            return self.factor(cond[:, None] / 250 - 2) * x

    torch.manual_seed(0)
    state, step = make_state(Linear()), make_step(objective=objective)
    generator = torch.Generator().manual_seed(5)
    for _ in range(500):
        step(state, 0.5 * torch.randn(256, 2, generator=generator))
    t = torch.linspace(0.2, 1, 10)
    x = torch.ones(10, 2)
    with state.ema.applied(state.network), torch.no_grad():
        noise = state.network(x, 999 * t)
    assert_close(noise, -sde.std(t)[:, None] * problem.score(x, t), 0.05)


# ---- Optimisers ----


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_implementations_agree(name, amsgrad):
    results = []
    for implementation in ("fused", "foreach"):
        options = {"name": name, "amsgrad": amsgrad, "implementation": implementation}
        state, step = make_state(Net(), weight_decay=0.1, **options), make_step()
        for x in batches(4):
            step(state, x)
        results.append(tensors(state))
    assert_equal(*results, 1e-6)


def test_the_first_update_of_adam_is_the_papers():
    p = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    p.grad = torch.tensor([0.5, -0.1, 0.0])
    make_optimizer([("p", p)], lr=0.1, eps=0.01).step()
    expected = torch.tensor([1.0, -2.0, 3.0]) - 0.1 * p.grad / (p.grad.abs() + 0.01)
    assert_close(p.detach(), expected, 1e-6)
    decayed = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    decayed.grad = p.grad.clone()
    make_optimizer([("p", decayed)], name="AdamW", lr=0.1, eps=0.01, weight_decay=0.2).step()
    assert_close(decayed.detach(), expected - 0.1 * 0.2 * torch.tensor([1.0, -2.0, 3.0]), 1e-6)


# ---- For the log ----


def test_loss_by_level_averages_within_parts_and_leaves_out_empty_ones():
    t = torch.tensor([0.0, 0.05, 0.31, 0.99, 1.0])
    losses = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0])
    parts = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    assert loss_by_level(t, losses, parts) == {0: 2.0, 1: 5.0, 3: 8.0}
    assert loss_by_level(2 * t, losses, 2 * parts) == {0: 2.0, 1: 5.0, 3: 8.0}
    assert loss_by_level(t, losses, torch.tensor([0.0, 0.31, 1.0])) == {0: 2.0, 1: 7.0}
    assert loss_by_level(t[:0], losses[:0], parts) == {}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: make_step(accumulation=0), "accumulation=0"),
        (lambda: make_step(grad_clip=0.0), "a negative one for no limit"),
        (lambda: make_step(autocast_dtype=torch.float16), "torch.bfloat16"),
        (lambda: make_optimizer([], name="SGD"), "Adam, AdamW"),
        (lambda: make_optimizer([], implementation="slow"), "auto, fused, foreach"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("reduce", "shape"), [(torch.mean, r"\(\)"), (lambda losses: losses[:, None], r"\(4, 1\)")]
)
def test_an_objective_that_gives_no_loss_of_each_sample_is_named(reduce, shape):
    class Mine(ScoreMatching):
        def __call__(self, *given):
            return reduce(super().__call__(*given))

    state, step = make_state(Net()), make_step(objective=Mine(VPSDE()), accumulation=2)
    words = rf"objective Mine gave a loss of shape {shape} for 4 images: .* shape \(4,\)"
    with pytest.raises(ValueError, match=words):
        step(state, batches(1)[0])
    assert state.step == 0


def test_sub_vp_trains_on_points_too():
    state, step = make_state(Net()), make_step(objective=ScoreMatching(subVPSDE()))
    run(state, step, batches(3))
    assert state.step == 3
