"""NCSN and NCSNv2: the release's numbers where it was repaired, and sizes, gradients, refusals."""

import pytest
import torch
from conftest import assert_close
from networks import assert_images_close, build, golden_weights

from score_sde.checkpoints import release_2021
from score_sde.config import schema
from score_sde.networks.ncsnv2 import (
    NCSN,
    ConditionalInstanceNormPlus,
    InstanceNormPlus,
    NCSNv2,
    VarianceNorm,
)
from score_sde.networks.table import NETWORKS

GOLDEN = [
    "ncsn",
    "ncsnv2_64",
    "ncsnv2_64_instancenorm",
    "ncsnv2_64_variancenorm_28px",
    "ncsnv2_128",
    "ncsnv2_256",
]


@pytest.mark.parametrize("name", GOLDEN)
def test_network_gives_the_releases_numbers(golden, name):
    arrays, config = golden.arrays(f"nets/{name}"), golden.json(f"nets/{name}")["config"]
    net = build(config).eval()
    release_2021.load(net, golden_weights(arrays))
    with torch.no_grad():
        y = net(arrays["x"], arrays["cond"])
    assert y.dtype == torch.float32
    assert_images_close(y, arrays["y"], 2e-5)


def networks():
    torch.manual_seed(0)
    yield NCSN(num_channels=1, nf=4, num_scales=5)
    for size_class in (64, 128, 256):
        yield NCSNv2(num_channels=1, nf=4, size_class=size_class, num_scales=5)


@pytest.mark.parametrize("size", [(28, 28), (9, 14)])
def test_any_size_comes_back_and_every_parameter_trains(size):
    for net in networks():
        x, index = torch.randn(2, 1, *size), torch.tensor([0, 4])
        y = net(x, index)
        assert y.shape == x.shape
        (y * torch.randn_like(y)).sum().backward()
        without = [key for key, p in net.named_parameters() if p.grad is None]
        assert not without


def test_a_float_index_is_truncated():
    for net in networks():
        x = torch.randn(2, 1, 16, 16)
        indices = torch.tensor([0, 4]), torch.tensor([0.7, 4.2])
        assert torch.equal(*(net(x, index) for index in indices))


def test_ncsnv2_divides_by_sigma_and_knows_it_no_other_way():
    net = NCSNv2(num_channels=1, nf=4, sigma_min=0.1, sigma_max=10.0, num_scales=3)
    x = torch.randn(1, 1, 8, 8).expand(3, 1, 8, 8)
    y = net(x, torch.arange(3)).detach()
    for k, sigma in enumerate((10.0, 1.0, 0.1)):
        assert_close(y[k] * sigma, y[1], 1e-4)


@pytest.mark.slow
def test_networks_are_one_graph():
    net = NCSN(num_channels=1, nf=4, num_scales=5)
    x, index = torch.randn(2, 1, 8, 8), torch.tensor([0, 4])
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert_close(compiled(x, index).detach(), net(x, index).detach(), 1e-6)


def test_instance_norm_plus_adds_the_normalised_means_back():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64) + 3 * torch.randn(2, 6, 1, 1)
    norm = InstanceNormPlus(6).double()
    torch.nn.init.normal_(norm.beta)
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    means = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, keepdim=True) + 1e-5).sqrt()
    alpha, gamma, beta = (w[:, None, None] for w in (norm.alpha, norm.gamma, norm.beta))
    expected = gamma * ((x - mean) / (variance + 1e-5).sqrt() + alpha * means) + beta
    index = torch.tensor([1, 0])
    assert_close(norm(x, index).detach(), expected.detach(), 1e-10)
    conditional = ConditionalInstanceNormPlus(6, 2).double()
    with torch.no_grad():
        conditional.embed.weight[:] = torch.cat([norm.gamma, norm.alpha, norm.beta])
    assert_close(conditional(x, index).detach(), expected.detach(), 1e-10)
    flat = VarianceNorm(6).double()(x, index).detach()
    assert_close(flat.var((2, 3)), flat.new_ones(2, 6), 0.2)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"size_class=32.*64, 128, 256"):
        NCSNv2(num_channels=1, nf=4, size_class=32)
    with pytest.raises(ValueError, match=r"normalization='GroupNorm'.*InstanceNorm"):
        NCSNv2(num_channels=1, nf=4, normalization="GroupNorm")
    with pytest.raises(ValueError, match="labels were given"):
        next(networks())(torch.randn(1, 1, 8, 8), torch.tensor([0]), torch.tensor([0]))


@pytest.mark.parametrize(("name", "side"), [("ncsn", 2), ("ncsnv2_64", 2), ("ncsnv2_256", 8)])
def test_labels_and_images_that_come_down_to_one_pixel_are_refused(name, side):
    fields = schema.defaults("model") | {"nf": 4, "nonlinearity": "elu", "centered": False}
    with pytest.raises(ValueError, match=rf"more than {side} a side"):
        NETWORKS[name](fields, (1, side, side))
    with pytest.raises(ValueError, match=r"num_classes=3.*takes no class labels"):
        NETWORKS[name](fields | {"num_classes": 3}, (1, 9, 9))
    net = NETWORKS[name](fields, (1, side, side + 1)).train()
    x = torch.randn(2, 1, side, side + 1)
    assert net(x, torch.tensor([0, 4])).shape == x.shape
