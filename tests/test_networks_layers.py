"""Primitives against closed forms and against slow, plain versions of themselves."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close

from score_sde.networks.blocks import AttentionBlock, BigGANBlock, Conditioning, ResidualBlock
from score_sde.networks.layers import (
    GaussianFourierProjection,
    SigmaTable,
    SinusoidalEmbedding,
    activation,
    attend,
    conv1x1,
    conv3x3,
    descending_sigmas,
    group_norm,
    pad_to_multiple,
)
from score_sde.networks.mlp import MLP
from score_sde.networks.resampling import (
    AverageDown,
    FIRDown,
    FIRDownConv,
    FIRUp,
    FIRUpConv,
    NearestUp,
    StridedDownConv,
    fir_kernel,
    upfirdn2d,
)


def plain_upfirdn2d(x, kernel, up, down, pad):
    """Insert zeros, pad, slide the flipped kernel pixel by pixel, decimate."""
    batch, channels, height, width = x.shape
    spread = x.new_zeros(batch, channels, height, up, width, up)
    spread[:, :, :, 0, :, 0] = x
    padded = F.pad(spread.reshape(batch, channels, height * up, width * up), pad * 2)
    taps = kernel.shape[0]
    flipped = kernel.flip(0, 1)
    rows = []
    for i in range(0, padded.shape[2] - taps + 1, down):
        windows = [
            (padded[:, :, i : i + taps, j : j + taps] * flipped).sum((2, 3))
            for j in range(0, padded.shape[3] - taps + 1, down)
        ]
        rows.append(torch.stack(windows, dim=2))
    return torch.stack(rows, dim=2)


TAPS = [(1, 3, 3, 1), (1, 2, 3, 4), (1, 2, 1), (1, 1), (3, 1, 4, 1, 5)]


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize(
    ("up", "down", "pad"),
    [(1, 1, (2, 1)), (2, 1, (2, 1)), (2, 1, (1, 0)), (1, 2, (1, 1)), (3, 2, (4, 3))],
)
def test_upfirdn2d_is_the_plain_definition_forward_and_backward(taps, up, down, pad):
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    kernel = fir_kernel(taps).double() * up**2
    actual = upfirdn2d(x, kernel, up=up, down=down, pad=pad)
    expected = plain_upfirdn2d(x, kernel, up, down, pad)
    assert_close(actual.detach(), expected.detach(), 1e-12)
    weights = torch.randn_like(actual)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (actual, expected)]
    assert_close(*gradients, 1e-12)


@pytest.mark.parametrize("module", [FIRUp, FIRDown])
def test_fir_gradients_pass_gradcheck(module):
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module((1, 2, 3, 4)).double(), x)
    assert torch.autograd.gradgradcheck(module((1, 2, 3, 4)).double(), x)


@pytest.mark.parametrize("taps", TAPS)
def test_fir_resampling_has_the_papers_padding_and_gain(taps):
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    kernel, extra = fir_kernel(taps).double(), len(taps) - 2
    up = plain_upfirdn2d(x, 4 * kernel, 2, 1, ((extra + 1) // 2 + 1, extra // 2))
    down = plain_upfirdn2d(x, kernel, 1, 2, ((extra + 1) // 2, extra // 2))
    assert_close(FIRUp(taps).double()(x), up, 1e-7)
    assert_close(FIRDown(taps).double()(x), down, 1e-7)
    assert up.shape[2:] == (12, 16)
    assert down.shape[2:] == (3, 4)


def test_fir_keeps_a_constant_image_constant_inside():
    x = torch.full((1, 1, 8, 8), 3.0)
    for module in (FIRUp((1, 3, 3, 1)), FIRDown((1, 3, 3, 1)), NearestUp(), AverageDown()):
        inside = module(x)[..., 1:-1, 1:-1]
        assert_close(inside, torch.full_like(inside, 3.0), 1e-6)


@pytest.mark.parametrize("taps", TAPS)
def test_fused_convolutions_are_their_two_steps(taps):
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    kernel = fir_kernel(taps).double()
    down = FIRDownConv(3, 5, taps).double()
    filtered = plain_upfirdn2d(x, kernel, 1, 1, ((len(taps) + 1) // 2, len(taps) // 2))
    expected = F.conv2d(filtered, down.conv.weight, down.conv.bias, stride=2)
    assert_close(down(x).detach(), expected.detach(), 1e-6)
    assert expected.shape == (2, 5, 3, 4)
    up = FIRUpConv(3, 5, taps).double()
    torch.nn.init.normal_(up.conv.bias)
    spread = x.new_zeros(2, 3, 11, 15)
    spread[:, :, ::2, ::2] = x
    wide, extra = F.conv2d(spread, up.conv.weight, padding=2), len(taps) - 4
    pad = ((extra + 1) // 2 + 1, extra // 2 + 1)
    expected = plain_upfirdn2d(wide, 4 * kernel, 1, 1, pad) + up.conv.bias[:, None, None]
    assert_close(up(x).detach(), expected.detach(), 1e-6)
    assert expected.shape == (2, 5, 12, 16)


def test_ddpm_downsampling_pads_bottom_and_right_only():
    layer = StridedDownConv(1, 1)
    with torch.no_grad():
        layer.conv.weight.zero_()[0, 0, 0, 0] = 1
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(layer(x), x[..., ::2, ::2])


def test_a_filter_without_weight_is_refused():
    with pytest.raises(ValueError, match="two or more taps whose sum is not 0"):
        fir_kernel((1, -1))
    with pytest.raises(ValueError, match="two or more taps"):
        fir_kernel((1,))


def test_attention_is_softmax_over_all_pixels():
    q, k, v = torch.randn(3, 2, 5, 3, 4, dtype=torch.float64)
    weights = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(5)
    weights = weights.flatten(3).softmax(-1).reshape(weights.shape)
    assert_close(attend(q, k, v), torch.einsum("bhwij,bcij->bchw", weights, v), 1e-12)


def test_initial_weights_have_the_declared_variance():
    torch.manual_seed(0)
    weight = conv3x3(64, 128).weight
    limit = math.sqrt(3 / (9 * (64 + 128) / 2))
    assert weight.abs().max() <= limit
    assert weight.abs().max() > 0.99 * limit
    assert abs(weight.var().item() / (limit**2 / 3) - 1) < 0.02
    tiny = conv3x3(8, 8, init_scale=0.0)
    assert 0 < tiny.weight.abs().max() < 1e-5
    assert not tiny.bias.any()
    ratio = conv1x1(256, 256, init_scale=0.1).weight.var() / conv1x1(256, 256).weight.var()
    assert abs(ratio.item() - 0.1) < 0.01


def test_sinusoids_of_known_times():
    features = SinusoidalEmbedding(8)(torch.tensor([0, 3]))
    assert torch.equal(features[0], torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]))
    frequencies = 10_000.0 ** (-torch.arange(4) / 3)
    expected = torch.cat([torch.sin(3 * frequencies), torch.cos(3 * frequencies)])
    assert_close(features[1], expected, 1e-6)
    assert SinusoidalEmbedding(9)(torch.rand(2)).shape == (2, 9)


def test_times_are_embedded_in_float32_whatever_comes():
    t = torch.tensor([997.0, 998.0])
    for dtype in (torch.float32, torch.int64):
        assert SinusoidalEmbedding(16)(t.to(dtype)).dtype == torch.float32
    assert SinusoidalEmbedding(16)(t.double()).dtype == torch.float64
    assert GaussianFourierProjection(16)(t.bfloat16()).dtype == torch.float32


def test_fourier_features_are_of_log_sigma_and_frozen():
    layer = GaussianFourierProjection(5, 2.0)
    sigma = torch.tensor([0.01, 50.0])
    phases = 2 * math.pi * torch.outer(sigma.log(), layer.frequencies)
    expected = torch.cat([phases.sin(), phases.cos()], dim=1)
    assert_close(layer(sigma), expected, 1e-4)
    assert not list(layer.parameters())
    assert list(layer.state_dict()) == ["frequencies"]


def test_sigmas_descend_geometrically_and_indices_are_truncated():
    table = descending_sigmas(0.01, 50.0, 7)
    assert table.dtype == torch.float64
    assert_close(table[[0, -1]], torch.tensor([50.0, 0.01], dtype=torch.float64), 1e-12)
    assert_close(table[1:] / table[:-1], (0.01 / 50) ** torch.full((6,), 1 / 6).double(), 1e-7)
    with pytest.raises(ValueError, match=r"sigma_min=-0.5.*noise levels must be above 0"):
        descending_sigmas(-0.5, 50.0, 7)
    layer = SigmaTable(0.01, 50.0, 7)
    assert torch.equal(layer(torch.tensor([2.99, 0.0])), layer(torch.tensor([2, 0])))
    assert layer(torch.tensor([6])).dtype == torch.float32
    assert not layer.state_dict()


@pytest.mark.parametrize(("channels", "groups"), [(16, 4), (12, 3), (128, 32), (256, 32), (6, 1)])
def test_ncsnpp_group_rule(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_a_width_that_cannot_be_normalised_says_which_can():
    with pytest.raises(ValueError, match=r"18 channels .* 4 groups.*multiples of 4 up to 128"):
        group_norm(18)
    with pytest.raises(ValueError, match=r"48 channels .* 32 groups.*multiples of 32"):
        group_norm(48, 32)


def test_unknown_activation_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'gelu'.*swish, relu, elu, lrelu"):
        activation("gelu")
    x = torch.tensor([-1.0, 2.0])
    assert torch.equal(activation("lrelu")(x), torch.tensor([-0.2, 2.0]))


def test_padding_is_at_the_end_and_only_where_needed():
    x = torch.ones(1, 1, 5, 8)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 1, 8, 8)
    assert torch.equal(padded[..., :5, :], x)
    assert not padded[..., 5:, :].any()
    assert pad_to_multiple(x, 1) is x


def test_blocks_start_as_their_shortcut():
    x, temb = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    act = activation("swish")
    for rescale, factor in ((False, 1.0), (True, math.sqrt(0.5))):
        block = ResidualBlock(8, 8, act=act, temb_dim=16, rescale=rescale)
        assert_close(block(x, temb).detach(), factor * x, 1e-4)
        assert_close(AttentionBlock(8, rescale=rescale)(x).detach(), factor * x, 1e-4)


def test_biggan_block_resamples_both_branches():
    x, temb = torch.randn(2, 8, 4, 6), torch.randn(2, 16)
    options = {"act": activation("swish"), "temb_dim": 16}
    down = BigGANBlock(8, 12, resample=AverageDown(), **options)
    assert_close(down(x, temb).detach(), down.shortcut(F.avg_pool2d(x, 2)).detach(), 1e-4)
    assert BigGANBlock(8, 12, resample=NearestUp(), **options)(x, temb).shape == (2, 12, 8, 12)


def test_null_class_is_the_last_one():
    layer = Conditioning(4, 8, act=activation("swish"), num_classes=3)
    features = torch.randn(2, 4)
    null = layer(features, torch.tensor([3, 3]))
    assert torch.equal(layer(features), null)
    assert not torch.equal(layer(features, torch.tensor([0, 0])), null)


@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 5)])
def test_mlp_takes_any_rank_and_uses_every_parameter(shape):
    torch.manual_seed(0)
    net = MLP(num_features=math.prod(shape[1:]), width=16, num_blocks=2, num_classes=2)
    x, cond = torch.randn(shape), torch.rand(4) * 999
    y = net(x, cond, torch.tensor([0, 1, 2, 0]))
    assert y.shape == x.shape
    assert y.abs().max() < 1e-3
    torch.nn.init.normal_(net.dense_out.weight)
    net(x, cond, torch.tensor([0, 1, 2, 0])).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_mlp_divides_by_sigma():
    torch.manual_seed(0)
    net = MLP(num_features=2, width=16, embedding_type="fourier")
    torch.nn.init.normal_(net.dense_out.weight)
    scaled = MLP(num_features=2, width=16, embedding_type="fourier", scale_by_sigma=True)
    scaled.load_state_dict(net.state_dict())
    x, sigma = torch.randn(3, 2), torch.tensor([0.1, 1.0, 20.0])
    assert_close(scaled(x, sigma) * sigma[:, None], net(x, sigma).detach(), 1e-5)
    with pytest.raises(ValueError, match="without classes"):
        net(x, sigma, torch.zeros(3, dtype=torch.int64))
