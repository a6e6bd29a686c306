"""The moving average: its rule, names, what is averaged and what copied, and strict loading."""

import copy

import pytest
import torch
from conftest import assert_close
from torch import nn

from score_sde.networks.ema import ExponentialMovingAverage, bare_name


class Net(nn.Module):
    """Trainable weights, a frozen one, a buffer that changes and an integer one."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.frequencies = nn.Parameter(torch.randn(4), requires_grad=False)
        self.first = nn.Linear(3, 4)
        self.last = nn.Linear(4, 3)
        self.register_buffer("levels", torch.randn(5))
        self.register_buffer("count", torch.tensor(seed))

    def forward(self, x, cond=None):
        return self.last(torch.sin(self.first(x) * self.frequencies))


def change(net, k):
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.full_like(p, 0.1 * k))
        net.levels.add_(k)
        net.count.add_(1)


class Wrapper(nn.Module):
    """What DDP does to names."""

    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize(
    ("decay", "warm"), [(0.999, True), (0.3, True), (0.9, False), (0.0, True)]
)
def test_shadow_follows_the_rule(by_name, decay, warm):
    net = Net()
    ema = ExponentialMovingAverage(net if by_name else net.parameters(), decay, warm)
    expected = [p.detach().double() for p in net.parameters() if p.requires_grad]
    for n in range(1, 6):
        change(net, n)
        ema.update(net if by_name else net.parameters())
        rate = min(decay, (1 + n) / (10 + n)) if warm else decay
        weights = [p.detach().double() for p in net.parameters() if p.requires_grad]
        expected = [rate * s + (1 - rate) * w for s, w in zip(expected, weights, strict=True)]
    assert ema.num_updates == (5 if warm else None)
    for shadow, value in zip(ema.shadow_params, expected, strict=True):
        assert_close(shadow, value, 1e-6)
        assert shadow.dtype == torch.float32


def test_average_differs_from_the_start_and_from_the_weights():
    net = Net()
    start = copy.deepcopy(net.state_dict())
    ema = ExponentialMovingAverage(net, 0.9)
    for k in range(3):
        change(net, k + 1)
        ema.update(net)
    for name in ("first.weight", "last.bias"):
        shadow = ema.state_dict()["shadow"][name]
        assert not torch.allclose(shadow, start[name])
        assert not torch.allclose(shadow, net.state_dict()[name])


def test_of_a_module_buffers_and_frozen_weights_are_copied_not_averaged():
    net = Net()
    ema = ExponentialMovingAverage(net, 0.9)
    change(net, 1)
    ema.update(net)
    shadow = ema.state_dict()["shadow"]
    assert shadow.keys() == net.state_dict().keys()
    for name in ("levels", "count", "frequencies"):
        assert torch.equal(shadow[name], net.state_dict()[name])
        assert shadow[name].data_ptr() != net.state_dict()[name].data_ptr()
    # So that the shadow alone is a whole network.
    fresh = Net(seed=7)
    fresh.load_state_dict(shadow)
    ema.copy_to(net)
    x = torch.randn(2, 3)
    assert torch.equal(fresh(x), net(x))


@pytest.mark.parametrize("wrap", [torch.compile, Wrapper, lambda net: Wrapper(torch.compile(net))])
def test_names_are_those_of_the_bare_module(wrap):
    net = Net()
    wrapped = wrap(net)
    plain, other = ExponentialMovingAverage(net, 0.9), ExponentialMovingAverage(wrapped, 0.9)
    assert plain.state_dict()["shadow"].keys() == other.state_dict()["shadow"].keys()
    change(net, 1)
    other.update(wrapped)
    other.update(net)
    plain.load_state_dict(other.state_dict())
    plain.update(wrapped)
    assert plain.num_updates == 3
    prefixed = {f"module._orig_mod.{k}": v for k, v in other.state_dict()["shadow"].items()}
    plain.load_state_dict({"decay": 0.5, "num_updates": 2, "shadow": prefixed})
    assert (plain.decay, plain.num_updates) == (0.5, 2)


def test_inner_compiled_parts_and_own_names_survive():
    assert bare_name("blocks.0._orig_mod.conv.weight") == "blocks.0.conv.weight"
    assert bare_name("_orig_mod.module.conv.weight") == "conv.weight"
    assert bare_name("inner.module.weight") == "inner.module.weight"


@pytest.mark.parametrize("by_name", [True, False])
def test_store_copy_restore(by_name):
    net = Net()
    given = (lambda: net) if by_name else net.parameters
    ema = ExponentialMovingAverage(given(), 0.9)
    change(net, 3)
    raw = copy.deepcopy(net.state_dict())
    ema.store(given())
    ema.copy_to(given())
    assert torch.equal(net.first.weight, ema.shadow_params[0])
    assert not torch.equal(net.first.weight, raw["first.weight"])
    ema.restore(given())
    assert all(torch.equal(value, raw[name]) for name, value in net.state_dict().items())
    with pytest.raises(ValueError, match="call store before restore"):
        ema.restore(given())


@pytest.mark.parametrize("by_name", [True, False])
def test_applied_gives_the_weights_back_even_after_an_error(by_name):
    net = Net()
    given = (lambda: net) if by_name else net.parameters
    ema = ExponentialMovingAverage(given(), 0.9)
    change(net, 3)
    raw = copy.deepcopy(net.state_dict())

    def fail():
        with ema.applied(given()):
            assert torch.equal(net.first.weight, ema.shadow_params[0])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(torch.equal(value, raw[name]) for name, value in net.state_dict().items())
    assert net.first.weight.requires_grad


def test_average_by_name_takes_parameters_by_order_and_frozen_networks_by_name():
    net = Net()
    ema = ExponentialMovingAverage(net, 0.5, use_num_updates=False)
    change(net, 1)
    ema.update(net.parameters())
    sampling = Net(seed=5).requires_grad_(False)
    ema.copy_to(sampling)
    assert torch.equal(sampling.first.weight, ema.shadow_params[0])


@pytest.mark.parametrize("by_name", [True, False])
def test_state_round_trip(by_name):
    net = Net()
    given = (lambda n: n) if by_name else (lambda n: n.parameters())
    ema = ExponentialMovingAverage(given(net), 0.9)
    change(net, 1)
    ema.update(given(net))
    state = copy.deepcopy(ema.state_dict())
    assert set(state) == {"decay", "num_updates", "shadow" if by_name else "shadow_params"}
    other = ExponentialMovingAverage(given(Net(seed=9)), 0.1)
    other.load_state_dict(state)
    for average in (ema, other):
        average.update(given(net))
    assert (other.decay, other.num_updates) == (0.9, 2)
    assert all(map(torch.equal, ema.shadow_params, other.shadow_params))
    # What was loaded stays the caller's own.
    values = state["shadow"].values() if by_name else state["shadow_params"]
    assert not torch.equal(next(v for v in values if v.shape == (4, 3)), other.shadow_params[0])


def test_a_low_precision_network_is_averaged_in_float32():
    net = nn.Linear(2, 2).to(torch.bfloat16)
    ema = ExponentialMovingAverage(net, 0.9999, use_num_updates=False)
    before = ema.shadow_params[0].clone()
    with torch.no_grad():
        net.weight.add_(1.0)
    ema.update(net)
    change = ema.shadow_params[0] - before
    assert change.dtype == torch.float32
    assert (change > 5e-5).all()  # 1e-4 of the movement: bfloat16 would have rounded it away
    with ema.applied(net):
        assert net.weight.dtype == torch.bfloat16


def test_the_shadow_follows_a_network_to_another_device():
    net = Net()
    ema = ExponentialMovingAverage(net, 0.9)
    ema.update(net.to("meta"))
    assert {value.device.type for value in ema.state_dict()["shadow"].values()} == {"meta"}


def test_mismatches_are_listed_in_one_sentence_and_change_nothing():
    net = Net()
    ema = ExponentialMovingAverage(net, 0.9)
    state = copy.deepcopy(ema.state_dict())
    shadow = state["shadow"]
    del shadow["first.bias"]
    shadow["surplus"] = torch.zeros(2)
    shadow["last.weight"] = torch.zeros(3, 9)
    before = copy.deepcopy(ema.state_dict())
    words = r"missing: first.bias; unexpected: surplus; .*last.weight \(3, 9\) instead of \(3, 4\)"
    with pytest.raises(ValueError, match=words) as error:
        ema.load_state_dict(state)
    assert "\n" not in str(error.value)
    after = ema.state_dict()["shadow"]
    assert all(torch.equal(after[name], value) for name, value in before["shadow"].items())


def test_mistakes_are_named():
    net = Net()
    with pytest.raises(ValueError, match=r"decay=1.5"):
        ExponentialMovingAverage(net, 1.5)
    ema = ExponentialMovingAverage(net, 0.9)
    with pytest.raises(ValueError, match="no shadow"):
        ema.load_state_dict({"decay": 0.9, "num_updates": 1, "shadow_params": []})
    with pytest.raises(ValueError, match="the network does not fit"):
        ema.update(nn.Linear(3, 4))
    with pytest.raises(ValueError, match="list of parameters does not fit"):
        ema.update(list(net.parameters())[:-1])
    listed = ExponentialMovingAverage(net.parameters(), 0.9)
    state = listed.state_dict()
    state["shadow_params"] = state["shadow_params"][:-1]
    with pytest.raises(ValueError, match="missing: 3"):
        listed.load_state_dict(state)
