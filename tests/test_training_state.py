"""What training leaves behind: saved states by name, and states that divergence cannot spoil."""

import copy
import io

import pytest
import torch
from test_training import Net, assert_equal, batches, make_state, make_step, run, tensors
from torch import nn

from score_sde.training import StepRecord, TrainingDiverged, check_finite


def through_a_file(state_dict):
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("implementation", ["fused", "foreach"])
def test_resuming_is_bitwise(implementation):
    data = batches(10)
    straight, step = make_state(Net(), implementation=implementation), make_step(warmup=7)
    run(straight, step, data)

    first, step = make_state(Net(), implementation=implementation), make_step(warmup=7)
    run(first, step, data[:5])
    saved, rng = through_a_file(first.state_dict()), step.generator.get_state()
    # Another start, and the parameters in another order.
    second = make_state(Net(seed=8, backwards=True), implementation=implementation)
    second.load_state_dict(saved)
    again = make_step(seed=99, warmup=7)
    again.generator.set_state(rng)
    run(second, again, data[5:])
    assert second.step == straight.step == 10
    assert_equal(tensors(second), tensors(straight))
    assert second.ema.num_updates == 10


class Images(nn.Module):
    """Two convolutions, one of them 1×1."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x, cond):
        return self.last(self.first(x).tanh())


@pytest.mark.parametrize("by_torch", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_take_the_layout_of_their_weights_wherever_they_come_from(layout, by_torch):
    data = [torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    other = {torch.contiguous_format: torch.channels_last}.get(layout, torch.contiguous_format)
    first = make_state(Images().to(memory_format=other), implementation="foreach")
    run(first, make_step(lr=0.1), data[:1])
    saved = through_a_file(first.state_dict())
    # As a published file has the matrix of a 1×1 convolution: transposed in memory.
    moment = saved["optimizer"]["last.weight"]["exp_avg"]
    saved["optimizer"]["last.weight"]["exp_avg"] = (
        moment[..., 0, 0].t().clone().t()[..., None, None]
    )
    fused = make_state(Images().to(memory_format=layout), implementation="fused")
    fused.load_state_dict(saved)
    if by_torch:
        fused.optimizer.load_state_dict(through_a_file(first.optimizer.state_dict()))
    for weight, state in fused.optimizer.state.items():
        for key in ("exp_avg", "exp_avg_sq"):
            assert state[key].stride() == weight.stride()
    for shadow, weight in zip(fused.ema.shadow_params, fused.network.parameters(), strict=True):
        assert shadow.stride() == weight.stride()
    for state in (first, fused):
        run(state, make_step(seed=1, lr=0.1), data[1:])
    assert_equal(tensors(fused), tensors(first), 1e-5)


def test_loading_does_not_tie_two_states_together():
    state, step = make_state(Net()), make_step()
    run(state, step, batches(2))
    other = make_state(Net())
    other.load_state_dict(state.state_dict())
    before = tensors(other)
    run(state, step, batches(2))
    assert_equal(tensors(other), before)


def test_compiled_and_bare_networks_share_their_names():
    compiled = torch.compile(Net(), backend="eager")
    state, step = make_state(compiled), make_step()
    run(state, step, batches(2))
    saved = through_a_file(state.state_dict())
    assert saved["network"].keys() == Net().state_dict().keys()
    assert saved["optimizer"].keys() == dict(Net().named_parameters()).keys()
    bare = make_state(Net(seed=4))
    bare.load_state_dict(saved)
    assert_equal(tensors(bare), tensors(state))
    back = make_state(torch.compile(Net(seed=5), backend="eager"))
    back.load_state_dict(bare.state_dict())
    assert_equal(tensors(back), tensors(state))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("network", "the saved network does not fit .missing: last.bias; unexpected: extra"),
        ("optimizer", "the saved optimizer does not fit .missing: last.bias; unexpected: extra"),
    ],
)
def test_a_state_of_another_network_is_refused(entry, words):
    state, step = make_state(Net()), make_step()
    run(state, step, batches(1))
    saved = copy.deepcopy(state.state_dict())
    saved[entry]["extra"] = saved[entry].pop("last.bias")
    with pytest.raises(ValueError, match=words):
        make_state(Net()).load_state_dict(saved)
    saved = copy.deepcopy(state.state_dict())
    saved["optimizer"]["last.bias"]["exp_avg"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"last.bias \(7,\) instead of \(2,\)"):
        make_state(Net()).load_state_dict(saved)


# ---- Divergence ----


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("implementation", ["fused", "foreach"])
def test_an_update_that_is_not_finite_is_left_out(implementation, value):
    state, step = make_state(Net(), implementation=implementation), make_step()
    good, bad = batches(2), batches(1)[0].clone()
    bad[5, 0] = value
    records = [step(state, good[0])]
    before = tensors(state)
    records.append(step(state, bad))
    # The average goes on, towards weights that stay.
    weights = {k: v for k, v in before.items() if not k.startswith("ema")}
    now = tensors(state)
    assert_equal({k: now[k] for k in weights}, weights)
    assert all(v.isfinite().all() for v in now.values())
    records.append(step(state, good[1]))
    assert [bool(record.finite) for record in records] == [True, False, True]
    assert all(v.isfinite().all() for v in tensors(state).values())
    assert not torch.equal(tensors(state)["network.last.bias"], weights["network.last.bias"])

    check_finite(records[:1])
    with pytest.raises(TrainingDiverged) as error:
        check_finite(records)
    assert error.value.step == 1
    message = str(error.value)
    assert "1 of 8 samples" in message
    assert f"t = {records[1].t[5].item():.3g}" in message
    assert "in step 1:" in message
    assert "\n" not in message


def test_a_first_update_that_is_not_finite_leaves_the_weights():
    state, step = make_state(Net()), make_step()
    step(state, torch.full((8, 2), float("nan")))
    assert torch.equal(state.network.first.weight, Net().first.weight)
    assert_equal(state.ema.state_dict()["shadow"], state.network.state_dict())


def test_a_gradient_that_overflows_alone_is_named_too():
    one = torch.tensor(1.0)
    record = StepRecord(7, one, one.expand(3), one.expand(3), torch.tensor(float("inf")), 1e-3)
    with pytest.raises(TrainingDiverged, match=r"step 7: the loss is 1 .*no sample.*gradient inf"):
        check_finite([record])
    check_finite([])
