"""Names, shapes and order of the 2021 release's weights, to and fro."""

import gzip
import json
import math

import pytest
import torch
from networks import build, golden_weights

from score_sde.checkpoints import release_2021
from score_sde.commands import cli
from score_sde.config.build import empty_network
from score_sde.networks.ddpm import DDPM
from score_sde.networks.mlp import MLP
from score_sde.networks.ncsnpp import NCSNpp
from score_sde.networks.ncsnv2 import NCSN, NCSNv2


def full_size_network(recipe: str) -> torch.nn.Module:
    words = ["main.py", f"--config=configs/{recipe}.py", "--mode=train"]
    return empty_network(cli.parse(words).config)


@pytest.fixture(scope="module")
def full_size(golden):
    """Per recipe: the network of our recipe, without memory, and what the release has."""
    with gzip.open(golden.folder / "state_dicts.json.gz") as file:
        stored = json.load(file)
    return {recipe: (full_size_network(recipe), stored[recipe]) for recipe in stored}


def test_every_recipe_has_the_releases_keys_shapes_order_and_dtypes(full_size):
    for recipe, (net, stored) in full_size.items():
        dumped = release_2021.dump(net)
        shapes = {key: list(value.shape) for key, value in dumped.items()}
        assert list(shapes.items()) == list(stored["state_dict"].items()), recipe
        doubles = {key for key, value in dumped.items() if value.dtype == torch.float64}
        assert doubles == {k for k, kind in stored["special"].items() if "float64" in kind}


def test_every_recipe_has_the_published_number_of_parameters(golden, full_size):
    published = golden.json("params")
    assert published.keys() == full_size.keys()
    for recipe, (net, stored) in full_size.items():
        shapes = stored["state_dict"]
        count = sum(math.prod(shapes[name]) for name in release_2021.trainable_order(net))
        assert count == published[recipe], recipe
        unused = sum(math.prod(shapes[name]) for name in release_2021.uninformative(net))
        assert sum(p.numel() for p in net.parameters()) == count - unused, recipe


def test_only_the_unconditional_recipe_has_keys_without_information(full_size):
    unused = {recipe: release_2021.uninformative(net) for recipe, (net, _) in full_size.items()}
    assert {recipe for recipe, names in unused.items() if names} == {
        "vp/ddpm/cifar10_unconditional"
    }
    assert all(".Dense_0." in name for name in unused["vp/ddpm/cifar10_unconditional"])


def test_ema_of_a_published_checkpoint_goes_by_trainable_order(golden):
    row = golden.json("checkpoints/ncsnpp_small")
    net = build(row["config"])
    names = [name.removeprefix("module.") for name in row["shadow_order"]]
    assert release_2021.trainable_order(net) == names
    assert len(release_2021.dump(net)) == len(names) + 2  # sigmas and the Fourier frequencies


@pytest.mark.parametrize(
    "name", ["ncsnpp_d_skip_cat", "ncsnpp_e_ddpmblock_conv", "ncsn", "ncsnv2_256"]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_to_ours_to_official_is_exact(golden, name, prefix):
    weights = golden_weights(golden.arrays(f"nets/{name}"))
    net = build(golden.json(f"nets/{name}")["config"])
    release_2021.load(net, {prefix + key: value for key, value in weights.items()})
    dumped = release_2021.dump(net)
    assert dumped.keys() == weights.keys()
    for key, value in weights.items():
        assert dumped[key].dtype == value.dtype
        assert torch.equal(dumped[key], value) or key == "sigmas", key
        assert torch.allclose(dumped[key], value, rtol=1e-12, atol=0), key


def test_keys_without_information_are_accepted_and_come_back_as_zeros(golden):
    name = "ncsnpp_k_positional_sigma_unconditional"
    weights = golden_weights(golden.arrays(f"nets/{name}"))
    net = build(golden.json(f"nets/{name}")["config"])
    release_2021.load(net, weights)
    dumped, unused = release_2021.dump(net), release_2021.uninformative(net)
    assert list(dumped) == list(weights)
    assert unused
    for key in unused:
        assert ".Dense_0." in key
        assert weights[key].any()
        assert not dumped[key].any()
        assert dumped[key].shape == weights[key].shape


def networks():
    unet = {"image_size": 8, "num_channels": 3, "ch_mult": (1, 2), "num_res_blocks": 1}
    yield lambda: NCSNpp(
        **unet, nf=8, fir=True, progressive="output_skip", progressive_input="input_skip"
    )
    yield lambda: NCSNpp(**unet, nf=8, embedding_type="fourier", conditional=False)
    yield lambda: DDPM(**unet, nf=32)
    yield lambda: NCSN(num_channels=3, nf=4)
    yield lambda: NCSNv2(num_channels=3, nf=4, size_class=256)


@pytest.mark.parametrize("make", list(networks()))
def test_ours_to_official_to_ours_is_exact(make):
    source, target = make(), make()
    with torch.no_grad():
        for value in source.parameters():
            value.normal_()
    release_2021.load(target, release_2021.dump(source))
    assert source.state_dict().keys() == target.state_dict().keys()
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key]), key


def test_dump_is_a_copy_in_the_releases_memory_layout():
    net = next(networks())().to(memory_format=torch.channels_last)
    dumped = release_2021.dump(net)
    assert all(value.is_contiguous() for value in dumped.values())
    before = net.conv_in.weight.clone()
    for value in dumped.values():
        value.zero_()
    assert torch.equal(net.conv_in.weight, before)


def test_all_misfits_are_listed_by_both_names_and_nothing_is_loaded():
    net = next(networks())()
    state = release_2021.dump(net)
    missing = state.pop("all_modules.3.Conv_0.weight")
    state["all_modules.99.weight"] = missing
    state["all_modules.2.bias"] = torch.zeros(7)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match="do not fit this NCSNpp") as error:
        release_2021.load(net, state)
    for part in (
        "all_modules.99.weight is left over",
        "all_modules.3.Conv_0.weight (down.0.blocks.0.conv_0.weight here) is missing",
        "all_modules.2.bias (conv_in.bias here) has shape (7,) instead of (8,)",
    ):
        assert part in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_another_table_of_noise_levels_is_refused():
    net = next(networks())()
    state = release_2021.dump(net)
    state["sigmas"] = state["sigmas"] * 2
    with pytest.raises(ValueError, match=r"sigmas runs from 100 to 0\.02 instead of"):
        release_2021.load(net, state)


def test_networks_the_release_does_not_have_are_refused():
    with pytest.raises(ValueError, match="the 2021 release has no MLP"):
        release_2021.entries(MLP(num_features=2))
    labelled = NCSNpp(image_size=8, num_channels=1, nf=8, ch_mult=(1,), num_classes=3)
    with pytest.raises(ValueError, match="no class labels"):
        release_2021.dump(labelled)
