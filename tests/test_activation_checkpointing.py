"""Blocks computed again for their gradient: the same weights bit for bit, and less kept."""

import runpy
from functools import partial

import pytest
import torch
from test_compiled import batch, seeded, small

from score_sde.commands import recipes
from score_sde.commands.first_screen import activation_bytes, kept_bytes
from score_sde.config import check, parts
from score_sde.config.build import (
    build_classification,
    build_classifier_state,
    build_objective,
    build_sde,
    build_state,
    build_train_step,
    empty_classifier,
)
from score_sde.networks.table import NETWORKS


def ncsnpp(**fields):
    return small(parts.VE, parts.NCSNPP, **{"model.dropout": 0.3, **fields})


def ddpm(**fields):
    fields |= {"model.nf": 32, "model.num_classes": 3, "model.dropout": 0.3}
    return small(parts.VP, parts.DDPM, **fields)


def of_score(config):
    return build_state(config), build_objective(config, build_sde(config))


def of_classifier(config):
    return build_classifier_state(config), build_classification(config, build_sde(config))


def classifier():
    config = ddpm()
    for leaf, value in {"nf": 8, "ch_mult": (1, 2), "num_classes": 3, "dropout": 0.3}.items():
        config.classifier[leaf] = value
    return config


def weights_after(config, made, steps=3):
    """Weights and averages after some steps, and how often a block was computed in them."""
    torch.manual_seed(0)
    state, objective = made(config)
    calls = []
    network = state.network
    block = (network.down[0] if hasattr(network, "down") else network).blocks[0]
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    step = build_train_step(config, objective, augmented=False)
    for seed in range(steps):
        x_0, _, _, label = batch(config, seed)
        step(state, x_0, label)
    return state.state_dict(), len(calls)


@pytest.mark.parametrize(
    ("config", "made"),
    [
        (ncsnpp, of_score),
        (
            partial(ncsnpp, **{"model.progressive": "residual", "training.precision": "bf16"}),
            of_score,
        ),
        (partial(ddpm, **{"training.accumulation": 2}), of_score),
        (classifier, of_classifier),
    ],
)
def test_the_same_weights_bit_for_bit(config, made):
    kept, again = config(), config()
    again.training.activation_checkpointing = True
    (one, once), (other, twice) = weights_after(kept, made), weights_after(again, made)
    assert (once, twice) == (3 * kept.training.accumulation, 6 * kept.training.accumulation)
    for entry in ("network", "ema"):
        here, there = one[entry], other[entry]
        if entry == "ema":
            here, there = here["shadow"], there["shadow"]
        assert here.keys() == there.keys()
        assert all(torch.equal(value, there[name]) for name, value in here.items())


def test_an_evaluation_computes_nothing_twice():
    config = ncsnpp(**{"training.activation_checkpointing": True})
    network = seeded(partial(build_state, config)).network.eval()
    calls = []
    network.down[0].blocks[0].register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    network(x, torch.ones(2)).sum().backward()
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("ve/cifar10", 0.107),
        ("vp/ddpm/church", 0.163),
        pytest.param("ve/ffhq_256_ncsnpp_continuous", 0.135, marks=pytest.mark.slow),
    ],
)
def test_the_share_that_is_kept(name, share):
    config = runpy.run_path(str(recipes.find(name)))["get_config"]()
    config.device = "cpu"
    kept = activation_bytes(config)
    with config.unlocked():
        config.training.activation_checkpointing = True
    assert activation_bytes(config) / kept == pytest.approx(share, abs=5e-4)


def test_a_classifier_keeps_a_share():
    config, found = classifier(), []
    x, cond = torch.zeros(1, 3, 8, 8, device="meta"), torch.zeros(1, device="meta")
    for on in (False, True):
        config.training.activation_checkpointing = on
        found.append(kept_bytes(empty_classifier(config), lambda network: network(x, cond)))
    assert found[1] < 0.3 * found[0]


@pytest.mark.parametrize("name", ["ncsn", "mine"])
def test_a_network_without_parts_is_refused(name):
    NETWORKS["mine"] = lambda model, shape: torch.nn.Conv2d(shape[0], shape[0], 3, padding=1)
    config = ncsnpp(**{"training.activation_checkpointing": True, "model.name": name})
    with pytest.raises(ValueError, match="does not divide itself into parts"):
        check.check_config(config)
