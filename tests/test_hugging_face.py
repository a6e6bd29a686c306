"""Folders of diffusers' UNet2DModel: written by diffusers and read here, and the other way."""

import hashlib
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_close
from networks import assert_images_close
from torch import nn

from score_sde import checkpoints
from score_sde.checkpoints import hugging_face, release_2021
from score_sde.commands import cli, weights
from score_sde.config import history
from score_sde.config.build import build_network, build_state, empty_network

diffusers = pytest.importorskip("diffusers")
safetensors_torch = pytest.importorskip("safetensors.torch")

CONFIG, SAFE = "config.json", "diffusion_pytorch_model.safetensors"

# Two channels in a group of DDPM's normalisation: with one, it would take the time's effect away.
DDPM = (
    "--config=configs/vp/ddpm/cifar10.py",
    "--config.model.nf=64",
    "--config.model.ch_mult=(1,2)",
    "--config.model.num_res_blocks=1",
    "--config.model.attn_resolutions=(4,)",
    "--config.data.dataset=digits",
    "--config.data.image_size=8",
    "--config.data.num_channels=1",
    "--config.training.batch_size=4",
    "--config.training.snapshot_sampling=False",
    "--config.sampling.num_steps=2",
    "--config.device=cpu",
)
DDPM_THERE = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "downsample_padding": 0,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
}
# diffusers normalises in 32 groups where NCSN++ attends, which takes a width of 128.
NCSNPP = (
    "--config=configs/ve/celebahq_256_ncsnpp_continuous.py",
    "--config.model.nf=32",
    "--config.model.ch_mult=(1,2,4)",
    "--config.model.num_res_blocks=1",
    "--config.model.attn_resolutions=(4,)",
    "--config.data.image_size=16",
    "--config.sampling.num_steps=2",
    "--config.device=cpu",
)
NCSNPP_THERE = {
    "sample_size": 16,
    "center_input_sample": True,
    "time_embedding_type": "fourier",
    "down_block_types": ("SkipDownBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D", "SkipUpBlock2D"),
    "block_out_channels": (32, 64, 128),
    "layers_per_block": 1,
    "mid_block_scale_factor": math.sqrt(2),
    "attention_head_dim": None,
    "norm_num_groups": None,
    "norm_eps": 1e-6,
}
# An NCSN++ of DDPM's blocks, told σ: the plain blocks with a Fourier embedding.
PLAIN = (
    "--config=configs/ve/cifar10_ncsnpp_continuous.py",
    "--config.model.nf=128",
    "--config.model.ch_mult=(1,1)",
    "--config.model.num_res_blocks=1",
    "--config.model.resblock_type=ddpm",
    "--config.model.progressive_input=none",
    "--config.model.skip_rescale=False",
    "--config.model.fir=False",
    "--config.model.attn_resolutions=(4,)",
    "--config.data.image_size=8",
    "--config.device=cpu",
)
LABELLED = (*DDPM, "--config.model.num_classes=3")
IDLE = re.compile(r"up_blocks\.0\.attentions\.0\.to_out\.0\.")


def config_of(words: tuple[str, ...]):
    return cli.parse(["main.py", "--mode=train", *words]).config


def run(*words: object) -> int:
    return cli.main(["main.py", *map(str, words)])


def sentence(capsys, *words: object) -> str:
    """What a refused command says: one sentence, exit code 1, no stack trace."""
    capsys.readouterr()
    assert run(*words) == 1
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert "Traceback" not in said
    return said


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Weights of which each one moves the output; fresh ones have projections near zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.normal_(generator=generator)
            if value.ndim > 1:
                value.mul_(value[0].numel() ** -0.5)
            elif "norm" in name and name.endswith("weight"):
                value.mul_(0.2).add_(1)
            elif name.endswith("bias"):
                value.mul_(0.3)
    return network.eval()


def theirs(seed: int = 0, **options) -> nn.Module:
    """A network of diffusers; what only its DDPM attends to on the way up is silent."""
    network = randomise(diffusers.UNet2DModel(**options), seed)
    if options["up_block_types"][0] == "AttnUpBlock2D":
        with torch.no_grad():
            for name, value in network.state_dict().items():
                if IDLE.match(name):
                    value.zero_()
    return network


def ours(words: tuple[str, ...], seed: int = 0) -> nn.Module:
    return randomise(build_network(config_of(words)), seed)


def inputs(options: dict) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    x = torch.rand(3, options["in_channels"], *2 * [options["sample_size"]], generator=generator)
    fourier = options["time_embedding_type"] == "fourier"
    return x, torch.tensor([0.01, 3.0, 300.0] if fourier else [0.0, 7.0, 999.0])


@torch.no_grad()
def assert_equal_outputs(here: nn.Module, there: nn.Module, label=None) -> None:
    x, cond = inputs(dict(there.config))
    expected = there(x, cond, label).sample
    assert expected.flatten(1).std(1).min() > 1e-4
    assert_images_close(here(x, cond) if label is None else here(x, cond, label), expected, 1e-4)


def imported(folder: Path, words: tuple[str, ...]) -> nn.Module:
    """The network that the command line makes of a folder."""
    config = config_of(words)
    state, _ = weights.load_with_fingerprint(folder, config)
    network = build_network(config)
    for given in (state["ema"]["shadow"], state["network"]):
        network.load_state_dict(given)
    return network.eval()


def exported(network: nn.Module, words: tuple[str, ...], folder: Path) -> nn.Module:
    """The network that diffusers makes of a folder written here."""
    options = weights.network_options(config_of(words))
    checkpoints.save_folder(folder, network.state_dict(), network, options)
    return from_pretrained(folder)


def from_pretrained(folder: Path) -> nn.Module:
    network, found = diffusers.UNet2DModel.from_pretrained(
        str(folder), low_cpu_mem_usage=False, output_loading_info=True
    )
    assert not any(found.values()), found
    return network.eval()


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("diffusers") / "ddpm"
    theirs(**DDPM_THERE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ncsnpp(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("diffusers") / "ncsnpp"
    theirs(**NCSNPP_THERE).save_pretrained(folder)
    return folder


def copy_of(folder: Path, target: Path, **fields: object) -> Path:
    """A copy with other fields in its config.json."""
    target.mkdir(parents=True)
    config = json.loads((folder / CONFIG).read_text()) | fields
    (target / CONFIG).write_text(json.dumps(config))
    (target / SAFE).write_bytes((folder / SAFE).read_bytes())
    return target


def with_weights(folder: Path, target: Path, change) -> Path:
    """A copy whose weights, a dict, were changed in place."""
    copy_of(folder, target)
    state = safetensors_torch.load_file(folder / SAFE)
    change(state)
    safetensors_torch.save_file(state, target / SAFE)
    return target


# The same numbers


def test_every_weight_of_the_test_networks_moves_the_output():
    for options in (DDPM_THERE, NCSNPP_THERE):
        network = theirs(**options)
        x, cond = inputs(dict(network.config))
        (network(x, cond).sample * torch.randn_like(x)).sum().backward()
        still = {
            name
            for name, weight in network.named_parameters()
            if weight.requires_grad and not weight.grad.abs().max() > 1e-4
        }
        # What is added to all keys alike cancels in the softmax; a silent output hides the rest.
        still = {name for name in still if not name.endswith("to_k.bias")}
        assert all(name.startswith("up_blocks.0.attentions.0.") for name in still), still
        assert not still or options is DDPM_THERE


def test_a_ddpm_of_diffusers_computes_the_same_here(ddpm):
    assert_equal_outputs(imported(ddpm, DDPM), from_pretrained(ddpm))


def test_an_ncsnpp_of_diffusers_computes_the_same_here(ncsnpp):
    assert_equal_outputs(imported(ncsnpp, NCSNPP), from_pretrained(ncsnpp))


@pytest.mark.parametrize("words", [DDPM, NCSNPP, PLAIN], ids=["ddpm", "ncsnpp", "plain"])
def test_a_network_of_ours_computes_the_same_in_diffusers(words, tmp_path):
    network = ours(words)
    assert_equal_outputs(network, exported(network, words, tmp_path / "out"))


def test_class_labels_go_along_with_the_null_class_as_the_last(tmp_path):
    network = ours(LABELLED)
    there = exported(network, LABELLED, tmp_path / "out")
    assert_equal_outputs(network, there, torch.tensor([0, 2, 3]))
    x, cond = inputs(dict(there.config))
    with torch.no_grad():
        expected = there(x, cond, torch.tensor([3, 3, 3])).sample
        assert_images_close(network(x, cond), expected, 1e-4)


def test_attention_after_every_block_on_the_way_up_finds_its_names(tmp_path):
    there = randomise(diffusers.UNet2DModel(**DDPM_THERE), 3)
    there.save_pretrained(tmp_path / "busy")
    words = (*DDPM, "--config.model.attn_every_up=True")
    network = imported(tmp_path / "busy", words)
    assert_equal_outputs(network, there)
    assert_equal_outputs(network, exported(network, words, tmp_path / "out"))
    with pytest.raises(ValueError, match="attn_every_up=False"):
        release_2021.dump(network)


@pytest.mark.parametrize("words", [DDPM, NCSNPP, PLAIN, LABELLED])
def test_there_and_back_is_the_same_bit_for_bit(words, tmp_path):
    network = ours(words).to(memory_format=torch.channels_last)
    exported(network, words, tmp_path / "out")
    back = imported(tmp_path / "out", words).state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(back[name], value), name


def test_here_and_back_is_the_same_bit_for_bit(ncsnpp, tmp_path):
    exported(imported(ncsnpp, NCSNPP), NCSNPP, tmp_path / "out")
    before = safetensors_torch.load_file(ncsnpp / SAFE)
    after = safetensors_torch.load_file(tmp_path / "out" / SAFE)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value), name


# Folders as they were written over the years


def older(name: str) -> str:
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
        name = name.replace(f".{new}.", f".{old}.")
    return name.replace(".to_out.0.", ".proj_attn.")


@pytest.mark.parametrize("inside", ["", "unet"])
def test_an_older_folder_gives_the_same_network(ddpm, tmp_path, inside):
    place = tmp_path / "old" / inside
    place.mkdir(parents=True)
    given = json.loads((ddpm / CONFIG).read_text())
    # Fields that version 0.0.4 did not have yet, and names that it had.
    for name in ("add_attention", "class_embed_type", "downsample_type", "upsample_type"):
        del given[name]
    given["down_block_types"] = [f"UNetRes{kind}" for kind in given["down_block_types"]]
    given["act_fn"] = "swish"
    (place / CONFIG).write_text(json.dumps(given | {"sample_size": None}))
    state = safetensors_torch.load_file(ddpm / SAFE)
    torch.save(
        {older(name): v for name, v in state.items()}, place / SAFE.replace("safetensors", "bin")
    )
    assert any("proj_attn" in older(name) for name in state)
    expected, found = (
        imported(ddpm, DDPM).state_dict(),
        imported(tmp_path / "old", DDPM).state_dict(),
    )
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_pickle_needs_no_safetensors(ddpm, tmp_path, monkeypatch):
    folder = copy_of(ddpm, tmp_path / "pickled")
    torch.save(safetensors_torch.load_file(ddpm / SAFE), folder / "diffusion_pytorch_model.bin")
    (folder / SAFE).unlink()
    without_safetensors(monkeypatch)
    imported(folder, DDPM)


def test_other_words_for_the_same_network_are_taken(ddpm, ncsnpp, tmp_path):
    imported(copy_of(ddpm, tmp_path / "a", dropout=0.5, time_embedding_dim=256), DDPM)
    imported(copy_of(ddpm, tmp_path / "b", attn_norm_num_groups=32, sample_size=[8, 8]), DDPM)
    imported(copy_of(ddpm, tmp_path / "c", attention_head_dim=128, made_by="me"), DDPM)
    imported(copy_of(ncsnpp, tmp_path / "d", mid_block_scale_factor=1.4142135624), NCSNPP)
    imported(copy_of(ncsnpp, tmp_path / "e", freq_shift=5, downsample_padding=0), NCSNPP)


# What is refused


@pytest.mark.parametrize(
    ("recipe", "reasons"),
    [
        ("vp/cifar10_ddpmpp_continuous", ("progressive='none'", "fir=False")),
        ("ve/cifar10_ncsnpp_continuous", ("progressive_input='residual'", "progressive='none'")),
        ("vp/cifar10_ncsnpp_continuous", ("progressive_input='residual'",)),
        ("ve/cifar10_ddpm", ("scale_by_sigma=True",)),
        ("vp/ddpm/cifar10_unconditional", ("conditional=False",)),
        ("ve/ncsnv2/cifar10", ("no 'ncsnv2_64'",)),
        ("ve/digits", ("num_channels=1", "progressive_input='residual'")),
    ],
)
def test_a_network_that_diffusers_lacks_is_refused_with_its_options(recipe, reasons):
    options = weights.network_options(config_of((f"--config=configs/{recipe}.py",)))
    with pytest.raises(ValueError, match="diffusers") as caught:
        hugging_face.unet2d_config(options)
    for reason in reasons:
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("words", "field", "reason"),
    [
        (NCSNPP, "model.ch_mult=(1,2,2)", "nf=32"),
        (NCSNPP, "model.ch_mult=(2,2,4)", "ch_mult=(2, 2, 4)"),
        (NCSNPP, "data.image_size=18", "image_size=(18, 18)"),
        (NCSNPP, "model.skip_rescale=False", "skip_rescale=False"),
        (NCSNPP, "model.progressive_combine=cat", "progressive_combine='cat'"),
        (NCSNPP, "model.fir_kernel=(1,2,1)", "fir_kernel=(1, 2, 1)"),
        (NCSNPP, "model.nonlinearity=elu", "nonlinearity='elu'"),
        (NCSNPP, "data.num_channels=1", "num_channels=1"),
        (PLAIN, "model.nf=64", "nf=64"),
        (PLAIN, "model.skip_rescale=True", "skip_rescale=True"),
        (DDPM, "model.resamp_with_conv=False", "resamp_with_conv=False"),
    ],
)
def test_one_option_that_diffusers_lacks_is_named_alone(words, field, reason):
    hugging_face.unet2d_config(weights.network_options(config_of(words)))
    options = weights.network_options(config_of((*words, f"--config.{field}")))
    with pytest.raises(ValueError, match=r"cannot express this network: [^;]*$") as caught:
        hugging_face.unet2d_config(options)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("model.nf=32", "block_out_channels is (64, 128) there and (32, 64) by the recipe"),
        ("model.num_res_blocks=2", "layers_per_block is 1 there and 2 by the recipe"),
        ("model.attn_resolutions=(8,)", "'AttnDownBlock2D', 'DownBlock2D') by the recipe"),
        ("data.centered=False", "center_input_sample is False there and True by the recipe"),
        ("data.num_channels=3", "in_channels is 1 there and 3 by the recipe"),
        ("data.image_size=16", "sample_size is (8, 8) there and (16, 16) by the recipe"),
        ("model.num_classes=10", "num_class_embeds is None there and 11 by the recipe"),
    ],
)
def test_a_recipe_of_another_network_is_refused_with_both_values(ddpm, field, said, capsys):
    words = (*DDPM, "--config.model.attn_resolutions=(4,8)", f"--config.{field}")
    words = words if "attn" not in field else (*DDPM, f"--config.{field}")
    assert said in sentence(capsys, *words, "--mode=sample", f"--checkpoint={ddpm}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("norm_eps", 1e-5),
        ("norm_num_groups", 16),
        ("attn_norm_num_groups", 16),
        ("freq_shift", 0),
        ("flip_sin_to_cos", True),
        ("downsample_padding", 1),
        ("attention_head_dim", 8),
        ("mid_block_scale_factor", 2.0),
        ("act_fn", "gelu"),
        ("resnet_time_scale_shift", "scale_shift"),
        ("mid_block_type", None),
        ("time_embedding_type", "fourier"),
        ("add_attention", False),
        ("time_embedding_dim", 512),
        ("upsample_type", "resnet"),
        ("class_embed_type", "timestep"),
    ],
)
def test_a_folder_of_another_network_is_refused_with_its_field(ddpm, tmp_path, field, value):
    folder = copy_of(ddpm, tmp_path / "other", **{field: value})
    with pytest.raises(checkpoints.CheckpointError, match=f"{field} is {value!r} there"):
        imported(folder, DDPM)


def test_attention_that_is_at_work_where_ours_has_none_is_refused(tmp_path):
    randomise(diffusers.UNet2DModel(**DDPM_THERE), 1).save_pretrained(tmp_path / "busy")
    with pytest.raises(
        checkpoints.CheckpointError, match=r"up_blocks\.0\.attentions\.0 is at work"
    ):
        imported(tmp_path / "busy", DDPM)


def test_weights_that_do_not_fit_are_listed_by_both_names(ddpm, tmp_path):
    def change(state):
        del state["mid_block.resnets.1.conv2.weight"]
        state["conv_in.bias"] = torch.zeros(5)
        state["extra.weight"] = torch.zeros(1)

    with pytest.raises(checkpoints.CheckpointError) as caught:
        imported(with_weights(ddpm, tmp_path / "bad", change), DDPM)
    assert "mid_block.resnets.1.conv2.weight (middle.1.conv_1.weight here) is missing" in str(
        caught.value
    )
    assert "conv_in.bias (conv_in.bias here) has shape (5,) instead of (64,)" in str(caught.value)
    assert "extra.weight is left over" in str(caught.value)


def test_damaged_and_foreign_folders_are_refused(ddpm, tmp_path, capsys):
    def refused(folder: Path) -> str:
        return sentence(capsys, *DDPM, "--mode=sample", f"--checkpoint={folder}")

    (tmp_path / "empty").mkdir()
    assert "has no config.json of a UNet2DModel" in refused(tmp_path / "empty")
    assert "has no config.json of a UNet2DModel" in refused(
        copy_of(ddpm, tmp_path / "conditional", _class_name="UNet2DConditionModel")
    )
    assert "is no configuration of" in refused(
        copy_of(ddpm, tmp_path / "odd", block_out_channels=3)
    )
    text = copy_of(ddpm, tmp_path / "text")
    (text / CONFIG).write_text("{")
    assert "cannot be read as JSON" in refused(text)
    whole = (ddpm / SAFE).read_bytes()
    for size in (0, 5, 1000, len(whole) - 1):
        cut = copy_of(ddpm, tmp_path / f"cut{size}")
        (cut / SAFE).write_bytes(whole[:size])
        assert f"{SAFE} is damaged" in refused(cut)
    (cut / SAFE).unlink()
    assert "diffusion_pytorch_model.bin" in refused(cut)
    torch.save([1, 2], cut / "diffusion_pytorch_model.bin")
    assert "holds no weights by name" in refused(cut)


def test_a_malicious_pickle_is_never_run(ddpm, tmp_path, capsys):
    victim = tmp_path / "victim"

    class Attack:
        def __reduce__(self):
            return Path.mkdir, (victim,)

    folder = copy_of(ddpm, tmp_path / "evil")
    (folder / SAFE).unlink()
    torch.save({"conv_in.bias": Attack()}, folder / "diffusion_pytorch_model.bin")
    said = sentence(capsys, *DDPM, "--mode=sample", f"--checkpoint={folder}")
    assert "is refused, as it holds more than" in said
    assert not victim.exists()


def without_safetensors(monkeypatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "safetensors"]:
        monkeypatch.setitem(sys.modules, name, None)


def test_without_safetensors_a_sentence_says_how_to_install_it(
    ddpm, tmp_path, monkeypatch, capsys
):
    without_safetensors(monkeypatch)
    asked = (*DDPM, "--mode=convert", f"--checkpoint={ddpm}", f"--output={tmp_path / 'out.pt'}")
    assert sentence(capsys, *asked).endswith("pip install safetensors")


# Known networks in full


def ncsnpp_256() -> dict:
    """google/ncsnpp-celebahq-256, as its class documents the fields."""
    kinds = ["Skip"] * 4 + ["AttnSkip"] + ["Skip"] * 2
    return {
        **NCSNPP_THERE,
        "sample_size": 256,
        "block_out_channels": (128, 128, 256, 256, 256, 256, 256),
        "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        "layers_per_block": 2,
    }


def ncsnpp_1024() -> dict:
    """google/ncsnpp-ffhq-1024."""
    kinds = ["Skip"] * 6 + ["AttnSkip", "Skip"]
    return {
        **NCSNPP_THERE,
        "sample_size": 1024,
        "block_out_channels": (16, 32, 64, 128, 256, 512, 512, 512),
        "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        "layers_per_block": 1,
    }


def ddpm_like(size: int, widths: tuple[int, ...], attended: int) -> dict:
    """google/ddpm-church-256, -bedroom-256, -celebahq-256 and -cifar10-32."""
    kinds = ["Attn" if level == attended else "" for level in range(len(widths))]
    return {
        **DDPM_THERE,
        "sample_size": size,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": widths,
        "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        "layers_per_block": 2,
    }


DDPM_256 = ddpm_like(256, (128, 128, 256, 256, 512, 512), attended=4)


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("ve/celebahq_256_ncsnpp_continuous", ncsnpp_256()),
        ("ve/church_ncsnpp_continuous", ncsnpp_256()),
        ("ve/ffhq_ncsnpp_continuous", ncsnpp_1024()),
        ("vp/ddpm/church", DDPM_256),
        ("vp/ddpm/celebahq", DDPM_256),
        ("vp/ddpm/cifar10", ddpm_like(32, (128, 256, 256, 256), attended=1)),
    ],
)
def test_a_published_recipe_is_the_public_network_in_names_and_shapes(recipe, options):
    config = config_of((f"--config=configs/{recipe}.py",))
    with torch.device("meta"):
        there = diffusers.UNet2DModel(**options)
    assert hugging_face.disagreements(weights.network_options(config), there.config) == []
    network = empty_network(config)
    here = hugging_face.to_theirs(network, network.state_dict())
    # diffusers lists the Fourier frequencies as a weight, and so does its state dict.
    expected = {name: tuple(value.shape) for name, value in there.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in here.items()} == expected


# The command line


def test_a_folder_is_sampled_and_converted(ncsnpp, tmp_path):
    ours_file, images = tmp_path / "ours.pt", [tmp_path / "a.npz", tmp_path / "b.npz"]
    convert = ("--mode=convert", f"--checkpoint={ncsnpp}", f"--output={ours_file}")
    assert run(*NCSNPP, *convert) == 0
    for path, output in zip((ncsnpp, ours_file), images, strict=True):
        sample = ("--mode=sample", "--num_samples=2", f"--workdir={tmp_path / 'run'}")
        assert run(*NCSNPP, *sample, f"--checkpoint={path}", f"--output={output}") == 0
    first, second = (np.load(path)["images"] for path in images)
    assert np.array_equal(first, second)
    assert first.std() > 1
    state = checkpoints.load(ours_file)
    sha = hashlib.sha256((ncsnpp / SAFE).read_bytes()).hexdigest()[:16]
    assert f"converted_from {ncsnpp} (sha256 {sha})" in state["versions"]


def test_a_run_begins_with_the_weights_of_a_folder_and_is_exported(ddpm, tmp_path):
    workdir, out = tmp_path / "run", tmp_path / "out"
    train = ("--mode=train", "--config.training.n_iters=1", f"--workdir={workdir}")
    assert run(*DDPM, *train, f"--init_from={ddpm}") == 0
    newest = max((workdir / "checkpoints").iterdir())
    sha = hashlib.sha256((ddpm / SAFE).read_bytes()).hexdigest()[:16]
    origin = f"init_from {ddpm} (step 0, sha256 {sha})"
    assert origin in checkpoints.load(newest)["versions"]
    assert run("--mode=convert", f"--checkpoint={newest}", f"--output={out}/") == 0
    # The first update has a rate of 0, so that the weights are still those of the folder.
    assert_equal_outputs(imported(out, DDPM), from_pretrained(ddpm))
    before, after = (safetensors_torch.load_file(folder / SAFE) for folder in (ddpm, out))
    for name, value in before.items():
        if not name.startswith("up_blocks.0.attentions.0."):
            assert_close(after[name], value, 1e-6)


def test_the_average_is_exported_and_not_the_raw_weights(tmp_path):
    config, network, average = config_of(DDPM), ours(DDPM, 1), ours(DDPM, 2)
    state = build_state(config).state_dict() | {"network": network.state_dict()}
    state["ema"]["shadow"] = average.state_dict()
    extra = {"rng": {}, "data": {}, "config": history.to_json(config), "versions": ""}
    checkpoints.save_as(tmp_path / "ours.pt", {**state, **extra})
    paths = (f"--checkpoint={tmp_path / 'ours.pt'}", f"--output={tmp_path / 'out'}")
    assert run("--mode=convert", *paths) == 0
    assert_equal_outputs(average, from_pretrained(tmp_path / "out"))


def test_converting_says_what_is_missing_or_in_the_way(ddpm, tmp_path, capsys):
    asked = ("--mode=convert", f"--checkpoint={ddpm}")
    assert "name its recipe" in sentence(capsys, *asked, f"--output={tmp_path / 'out.pt'}")
    (tmp_path / "there").mkdir()
    assert "exists" in sentence(capsys, *DDPM, *asked, f"--output={tmp_path / 'there'}")
    (tmp_path / "file").touch()
    under = f"--output={tmp_path / 'file' / 'out'}"
    assert "cannot save" in sentence(capsys, *DDPM, *asked, under)
    options, network = weights.network_options(config_of(DDPM)), ours(DDPM)
    with pytest.raises(FileExistsError, match="exists"):
        checkpoints.save_folder(tmp_path / "there", network.state_dict(), network, options)
    assert list((tmp_path / "there").iterdir()) == []


def test_a_network_that_diffusers_lacks_is_not_exported(tmp_path, capsys):
    words = ("--config=configs/vp/digits.py", "--config.model.nf=8", "--config.device=cpu")
    config = config_of(words)
    extra = {"rng": {}, "data": {}, "config": history.to_json(config), "versions": ""}
    checkpoints.save_as(tmp_path / "a.pt", {**build_state(config).state_dict(), **extra})
    asked = ("--mode=convert", f"--checkpoint={tmp_path / 'a.pt'}", f"--output={tmp_path / 'b'}")
    assert "fir=False" in sentence(capsys, *asked)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
