"""Under `torch.compile` a training step's network and loss are one graph, as is an evaluation.

The backend `aot_eager` traces forward and backward pass as inductor does, and compiles nothing.
"""

import shutil
from collections import Counter
from functools import partial

import pytest
import torch
from conftest import assert_close
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import naive
from benchmarks.routes import recipe
from score_sde.config import parts
from score_sde.config.build import (
    build_network,
    build_objective,
    build_sampler,
    build_score_for,
    build_sde,
    build_state,
    build_train_step,
    channels_last,
    compiled,
)

COMPILE = torch.compile
CPU = torch.device("cpu")


@pytest.fixture
def one_graph(monkeypatch):
    """What is compiled is one graph, forward and backward, or an error."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(COMPILE, backend="aot_eager", fullgraph=True))
    yield
    torch.compiler.reset()


def small(sde, network, **fields):
    config = parts.recipe(network, parts.CIFAR10, sde)
    fields = {
        "model.nf": 8,
        "model.ch_mult": (1, 2),
        "model.num_res_blocks": 1,
        "model.attn_resolutions": (4,),
        "model.dropout": 0.0,
        "model.init_scale": 1.0,
        "data.image_size": 8,
        "optim.warmup": 0,
        "sampling.num_steps": 3,
        "sampling.batch_size": 4,
        **fields,
    }
    for name, value in fields.items():
        group, leaf = name.split(".")
        config[group][leaf] = value
    config.device = "cpu"
    return config


LEVEL = {"model.ch_mult": (1,)}  # one is quicker, where the kind of network does not matter
CONFIGS = {
    "ncsnpp": partial(small, parts.VE, parts.NCSNPP),
    "ncsnpp whose blocks are computed again": partial(
        small, parts.VE, parts.NCSNPP, **LEVEL, **{"training.activation_checkpointing": True}
    ),
    "ddpm": partial(
        small, parts.VP, parts.DDPM, **LEVEL, **{"model.nf": 32, "model.num_classes": 3}
    ),
}


def batch(config, seed=0, n=4):
    generator = torch.Generator().manual_seed(seed)
    side, classes = config.data.image_size, config.model.get("num_classes", 0)
    x_0, z = (torch.randn(n, 3, side, side, generator=generator) for _ in range(2))
    t = torch.rand(n, generator=generator) * 0.9 + 0.05
    label = torch.randint(classes, (n,), generator=generator) if classes else None
    return x_0.contiguous(memory_format=torch.channels_last), t, z, label


def seeded(make):
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("name", CONFIGS)
def test_network_and_loss_are_one_graph(name, one_graph):
    config = CONFIGS[name]()
    objective = build_objective(config, build_sde(config))
    network = seeded(partial(build_network, config))

    def losses(x_0, t, z, label):
        return objective(network, x_0, t, z, label)

    traced, found = torch.compile(losses), []
    for way in (losses, traced):
        network.zero_grad()
        value = way(*batch(config))
        value.sum().backward()
        gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        found.append((value.detach(), torch.cat(gradients)))
    for eager, graph in zip(*found, strict=True):
        assert_close(graph / eager.abs().max(), eager / eager.abs().max(), 1e-5)
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed in range(3):
            traced(*batch(config, seed)).sum().backward()


def test_training_steps_in_bfloat16_compile_once(one_graph):
    fields = {"training.precision": "bf16", "training.compile": "on", "model.dropout": 0.1}
    config = small(parts.VE, parts.NCSNPP, **LEVEL, **fields)
    state = seeded(partial(build_state, config))
    step = build_train_step(config, build_objective(config, build_sde(config)))
    state.network = compiled(config, state.network, CPU)
    step(state, batch(config)[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed in range(3):
            record = step(state, batch(config, seed)[0])
    assert record.losses.dtype == record.grad_norm.dtype == torch.float32
    held = [*state.network.parameters(), *state.ema.shadow_params]
    held += [p.grad for p in state.network.parameters() if p.grad is not None]
    held += [v for values in state.optimizer.state.values() for v in values.values()]
    assert {v.dtype for v in held} == {torch.float32}


def test_samples_of_a_compiled_network_are_the_same_and_compile_once(one_graph):
    config, images = CONFIGS["ddpm"](), {}
    network, sde = seeded(partial(build_network, config)).eval(), build_sde(config)
    for on in (False, True):
        config.sampling.compile = on
        score_for = build_score_for(config, network, sde, lambda index: index % 3)
        drawn = build_sampler(config, sde).draw(
            score_for, torch.arange(6), (3, 8, 8), seed=0, batch_size=4, device=CPU
        )
        first = next(drawn).x
        with torch.compiler.set_stance("fail_on_recompile" if on else "default"):
            images[on] = torch.cat([first, next(drawn).x])  # of two, which are filled up
    largest = images[False].abs().max()
    assert_close(images[True] / largest, images[False] / largest, 1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
def test_inductor_computes_the_same():
    config = small(parts.VE, parts.NCSNPP, **LEVEL)
    network = seeded(partial(build_network, config))
    x, t, _, _ = batch(config)
    made, found = torch.compile(network), []
    for way in (network, made):
        network.zero_grad()
        y = way(x, t)
        y.square().sum().backward()
        found.append((y.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])))
    for eager, graph in zip(*found, strict=True):
        assert_close(graph / eager.abs().max(), eager / eager.abs().max(), 1e-5)


# ---- A step touches memory once ----


def test_a_training_step_copies_no_activations():
    config = small(parts.VE, parts.NCSNPP, **{"model.dropout": 0.1})
    state = seeded(partial(build_state, config))
    step = build_train_step(config, build_objective(config, build_sde(config)))
    # Of fewer than 16 torch computes 1×1 convolutions otherwise, with one thread; no width is 17.
    x_0 = batch(config, n=17)[0].contiguous(memory_format=channels_last(config, CPU))
    step(state, x_0)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        step(state, x_0)
    copied = Counter()
    for event in found.events():
        shape = event.input_shapes[0] if event.input_shapes else []
        if event.name == "aten::copy_" and len(shape) == 4 and shape[0] == len(x_0):
            copied[event.cpu_parent.name, *shape] += shape[1] > 3
    assert not copied.total(), copied


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.made = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_weights_are_clipped_updated_and_averaged_in_one_call_each():
    config = small(parts.VE, parts.NCSNPP, **{"optim.grad_clip": 1.0})
    state = seeded(partial(build_state, config))
    step = build_train_step(config, build_objective(config, build_sde(config)))
    x_0 = batch(config)[0]
    step(state, x_0)
    with Calls() as calls:
        step(state, x_0)
    once = ("_foreach_norm", "_foreach_mul_", "_fused_adam_", "_foreach_lerp_")
    assert {name: calls.made[name] for name in once} == dict.fromkeys(once, 1)


# ---- What the benchmarks measure against ----


@torch.no_grad()
def test_the_naive_formulation_is_the_same_network():
    config = recipe(nf=8, num_res_blocks=1)
    network = seeded(partial(build_network, config)).double().eval()
    other = naive.NCSNpp(8, config.model.ch_mult, 1).double().eval()
    naive.take_weights(other, network)
    x, sigma = torch.rand(2, 3, 32, 32, dtype=torch.float64), torch.tensor([0.1, 20.0]).double()
    y = network(x, sigma)
    assert_close(other(x, sigma) / y.abs().max(), y / y.abs().max(), 1e-10)
