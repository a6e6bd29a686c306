"""NCSN++, DDPM++ and DDPM: the 2021 release's numbers, and what a user may count on."""

import pytest
import torch
from conftest import assert_close
from networks import assert_images_close, build, golden_weights

from score_sde.checkpoints import release_2021
from score_sde.networks.ddpm import DDPM
from score_sde.networks.ncsnpp import NCSNpp

GOLDEN = [
    "ddpm_a_vp_cifar10",
    "ddpm_b_ve_scale_by_sigma_noconv",
    "ddpm_c_unconditional",
    "ddpmpp_a_vp_cifar10_continuous",
    "ncsnpp_a_ve_cifar10_continuous",
    "ncsnpp_b_ve_cifar10_discrete",
    "ncsnpp_c_celebahq1024_style",
    "ncsnpp_d_skip_cat",
    "ncsnpp_e_ddpmblock_conv",
    "ncsnpp_f_ddpmblock_fir_noconv",
    "ncsnpp_g_ddpmblock_unconditional_gray16",
    "ncsnpp_h_residual_both",
    "ncsnpp_i_residual_out_inputskip_norescale",
    "ncsnpp_j_asymmetric_fir",
    "ncsnpp_k_positional_sigma_unconditional",
    "ncsnpp_l_vp_cifar10_continuous",
    "ncsnpp_m_inputskip_cat_ddpmblock",
    "ncsnpp_n_nofir_input_residual",
    "ncsnpp_o_nofir_inputskip_unconditional",
    "ncsnpp_p_residual_out_fir",
    "ncsnpp_q_ddpmblock_fir_conv",
]


@pytest.mark.parametrize("name", GOLDEN)
def test_network_gives_the_releases_numbers(golden, name):
    arrays, config = golden.arrays(f"nets/{name}"), golden.json(f"nets/{name}")["config"]
    net = build(config).eval()
    release_2021.load(net, golden_weights(arrays))
    with torch.no_grad():
        y = net(arrays["x"], arrays["cond"])
        channels_last = net.to(memory_format=torch.channels_last)(arrays["x"], arrays["cond"])
    # The release's y is float64 where its float64 table divides it; ours keeps the dtype of x.
    assert y.dtype == arrays["x"].dtype
    assert_images_close(y, arrays["y"], 2e-5)
    assert_images_close(channels_last, arrays["y"], 2e-5)


def test_every_golden_unet_is_tested(golden):
    there = {path.stem for path in (golden.folder / "nets").glob("*.npz")}
    assert {name for name in there if not name.startswith("ncsnv2") and name != "ncsn"} == set(
        GOLDEN
    )


OPTIONS = {
    "ddpmpp": {},
    "ncsnpp": {
        "fir": True,
        "progressive_input": "residual",
        "embedding_type": "fourier",
        "scale_by_sigma": True,
        "centered": False,
    },
    "skips": {"fir": True, "progressive": "output_skip", "progressive_input": "input_skip"},
    "cat": {"progressive_input": "input_skip", "progressive_combine": "cat"},
    "residual": {"progressive": "residual", "progressive_input": "residual", "fir": True},
    "ddpm_blocks": {"resblock_type": "ddpm", "fir": True, "scale_by_sigma": True},
    "plain_blocks": {"resblock_type": "ddpm", "resamp_with_conv": False, "skip_rescale": False},
    "unconditional": {"conditional": False},
}


def small(**options) -> NCSNpp:
    torch.manual_seed(0)
    settings = {
        "image_size": 8,
        "num_channels": 1,
        "nf": 8,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (4,),
        "dropout": 0.0,
    }
    return NCSNpp(**settings | options)


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """Every weight drawn anew, so that none stands at (almost) zero."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.2)
    return net


def batch(size=(8, 8), channels=1, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(3, channels, *size, dtype=dtype), torch.tensor(
        [0.5, 3.0, 20.0], dtype=dtype
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains_every_parameter(name):
    net = randomised(small(**OPTIONS[name], init_scale=1.0))
    x, cond = batch()
    y = net(x, cond)
    assert y.shape == x.shape
    (y * torch.randn_like(y)).sum().backward()
    without = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # One key's bias moves all of a softmax's logits alike.
    assert all(key.endswith("key.bias") for key in without)


@pytest.mark.parametrize("name", ["ncsnpp", "skips", "ddpm_blocks"])
def test_network_is_one_graph(name):
    net = randomised(small(**OPTIONS[name])).eval()
    x, cond = batch()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert_close(compiled(x, cond).detach(), net(x, cond).detach(), 1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_channels_last_is_kept_through_the_network(name):
    net = small(**OPTIONS[name], num_channels=3).to(memory_format=torch.channels_last)
    strayed = []

    def look(module, inputs, output):
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[1] > 3:
            if not output.is_contiguous(memory_format=torch.channels_last):
                strayed.append(type(module).__name__)

    for module in net.modules():
        module.register_forward_hook(look)
    x, cond = batch(channels=3)
    net(x.to(memory_format=torch.channels_last), cond)
    assert not strayed


@pytest.mark.parametrize(
    ("size", "ch_mult"),
    [
        ((28, 28), (1, 1, 2)),
        ((8, 8), (1, 1, 2)),
        ((8, 16), (1, 2)),
        ((7, 5), (1, 1, 2)),
        ((1, 1), (1, 2)),
    ],
)
@pytest.mark.parametrize("name", ["ncsnpp", "skips", "residual", "ddpm_blocks"])
def test_any_size_comes_back(size, ch_mult, name):
    net = small(image_size=size, ch_mult=ch_mult, attn_resolutions=(7, 4), **OPTIONS[name])
    x, cond = batch(size)
    assert net(x, cond).shape == x.shape


def test_sizes_that_divide_are_not_padded_and_others_are_padded_with_mid_grey():
    net = randomised(small(centered=False)).eval()
    x, cond = batch((7, 8))
    padded = torch.full((3, 1, 8, 8), 0.5)
    padded[:, :, :7] = x
    assert_close(net(x, cond).detach(), net(padded, cond)[:, :, :7].detach(), 1e-6)


def attention_levels(net: NCSNpp) -> list[int]:
    return [
        i
        for i, level in enumerate(net.down)
        if any("attention" in n for n, _ in level.named_modules())
    ]


def test_attention_is_placed_by_level_from_the_shorter_side():
    net = small(image_size=(16, 64), ch_mult=(1, 1, 1), attn_resolutions=(16, 4))
    assert attention_levels(net) == [0, 2]
    x, cond = batch((16, 64))
    assert net(x, cond).shape == x.shape
    # The way up has attention at the same levels, once each.
    assert [
        sum(n.endswith("attention") for n, _ in level.named_modules()) for level in net.up
    ] == [1, 0, 1]


def test_output_is_divided_by_sigma():
    net = randomised(small(embedding_type="fourier")).eval()
    scaled = small(embedding_type="fourier", scale_by_sigma=True).eval()
    scaled.load_state_dict(net.state_dict())
    x, sigma = batch()
    assert_close(scaled(x, sigma).detach() * sigma[:, None, None, None], net(x, sigma).detach())


def test_sigma_table_is_only_looked_up_where_it_divides():
    x, _ = batch()
    time = torch.tensor([0.0, 500.0, 998.9])
    assert small(num_scales=10)(x, time).isfinite().all()
    with pytest.raises(IndexError):
        small(num_scales=10, scale_by_sigma=True)(x, time)


def test_float_index_is_truncated_for_sigma_but_not_for_the_embedding():
    net = randomised(small(num_scales=10, scale_by_sigma=True)).eval()
    plain = small(num_scales=10).eval()
    plain.load_state_dict(net.state_dict())
    x, index = batch()[0], torch.tensor([0.9, 5.5, 8.2])
    sigma = 50.0 * (0.01 / 50.0) ** (torch.tensor([0.0, 5.0, 8.0]) / 9)
    expected = plain(x, index) / sigma[:, None, None, None]
    assert_close(net(x, index).detach(), expected.detach(), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_of_the_input_is_kept(dtype):
    for options in (OPTIONS["ncsnpp"], OPTIONS["ddpm_blocks"]):
        net = small(**options).to(dtype)
        x, cond = batch(dtype=dtype)
        assert net(x, cond).dtype == dtype
    assert not [k for k, b in small(**options).named_buffers() if b.dtype == torch.float64]


def test_output_is_float32_under_autocast():
    net = small(**OPTIONS["ncsnpp"])
    with torch.autocast("cpu", torch.bfloat16):
        assert net(*batch()).dtype == torch.float32


def test_double_precision_agrees_with_single():
    net = randomised(small(**OPTIONS["ncsnpp"])).eval()
    x, cond = batch()
    single = net(x, cond).detach()
    assert_close(single, net.double()(x.double(), cond.double()).detach().float(), 1e-5)


def test_class_labels_matter_and_none_is_the_null_class():
    net = randomised(small(num_classes=4)).eval()
    x, cond = batch()
    zero, null = torch.zeros(3, dtype=torch.int64), torch.full((3,), 4)
    assert torch.equal(net(x, cond), net(x, cond, null))
    assert not torch.allclose(net(x, cond), net(x, cond, zero))


def test_labels_are_refused_where_there_are_no_classes():
    x, cond = batch()
    for net in (small(), small(conditional=False)):
        with pytest.raises(ValueError, match="labels were given"):
            net(x, cond, torch.zeros(3, dtype=torch.int64))
    for network in (small, lambda **o: DDPM(image_size=8, num_channels=1, nf=32, **o)):
        with pytest.raises(ValueError, match="unconditional network cannot take 3 classes"):
            network(conditional=False, num_classes=3)


def test_unconditional_network_ignores_the_noise_level():
    net = randomised(small(conditional=False)).eval()
    x, cond = batch()
    assert torch.equal(net(x, cond), net(x, 2 * cond))
    assert not any("dense" in key for key, _ in net.named_parameters())


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("resblock_type", "biggan2", "biggan, ddpm"),
        ("progressive", "skip", "none, output_skip, residual"),
        ("progressive_input", "output_skip", "none, input_skip, residual"),
        ("progressive_combine", "mean", "sum, cat"),
        ("embedding_type", "sinusoidal", "fourier, positional"),
        ("nonlinearity", "gelu", "swish, relu, elu, lrelu"),
    ],
)
def test_an_unknown_option_is_refused_with_the_known_ones(option, value, allowed):
    with pytest.raises(ValueError, match=f"{option}='{value}'.*{allowed}"):
        small(**{option: value})


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="18 channels"):
        small(nf=18)
    with pytest.raises(ValueError, match="multiples of 32"):
        DDPM(image_size=8, num_channels=1, nf=48)


def test_dropout_acts_in_training_only():
    net = randomised(small(dropout=0.5))
    x, cond = batch()
    assert not torch.equal(net(x, cond), net(x, cond))
    assert torch.equal(net.eval()(x, cond), net(x, cond))


def test_a_new_network_says_almost_nothing():
    x, cond = batch()
    assert small()(x, cond).abs().max() < 1e-3
    assert DDPM(image_size=8, num_channels=1, nf=32, ch_mult=(1,))(x, cond).abs().max() < 1e-3
