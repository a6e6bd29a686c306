"""NCSN++ and DDPM as configurations of `UNet2DModel`.

That class has two kinds of blocks in which the networks here can be written:

    Skip blocks   NCSN++ as its recipes for 256 and 1024 pixels have it: BigGAN blocks, FIR filter,
                  both pyramids, sums divided by √2
    plain blocks  DDPM, and an NCSN++ of DDPM's blocks, without pyramids
"""

import math
from collections.abc import Mapping
from typing import Any

CLASS_NAME = "UNet2DModel"

# What the class needs of a network, by the names of the constructors' arguments.
_ALWAYS = {"conditional": True, "nonlinearity": "swish"}
_SKIP = {
    "resblock_type": "biggan",
    "progressive": "output_skip",
    "progressive_input": "input_skip",
    "progressive_combine": "sum",
    "fir": True,
    "fir_kernel": (1, 3, 3, 1),
    "skip_rescale": True,
    "num_channels": 3,
}
_PLAIN = {
    "resblock_type": "ddpm",
    "progressive": "none",
    "progressive_input": "none",
    "fir": False,
    "skip_rescale": False,
    "resamp_with_conv": True,
}
_GROUPS, _EPS = 32, 1e-6

# The class's documented defaults, which hold for what a config.json leaves out.
_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", *3 * ("AttnDownBlock2D",)),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": (*3 * ("AttnUpBlock2D",), "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
# The fields of a recipe that decide them, for messages.
_FIELDS = {
    "sample_size": "data.image_size",
    "in_channels": "data.num_channels",
    "out_channels": "data.num_channels",
    "center_input_sample": "not data.centered",
    "time_embedding_type": "model.embedding_type",
    "down_block_types": "model.attn_resolutions",
    "up_block_types": "model.attn_resolutions",
    "block_out_channels": "model.nf times model.ch_mult",
    "layers_per_block": "model.num_res_blocks",
    "num_class_embeds": "model.num_classes + 1",
}


def unet2d_config(options: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the `UNet2DModel` that computes what a network of ours computes.

    Args:
        options: `name` ("ncsnpp" or "ddpm") and the arguments of NCSNpp or DDPM; more are ignored.

    Raises:
        ValueError: that class cannot express the network; the sentence lists why.
    """
    options = _as_ncsnpp(options)
    skip, classes = options["resblock_type"] == "biggan", options.get("num_classes", 0)
    widths = [options["nf"] * mult for mult in options["ch_mult"]]
    height, width = _sides(options["image_size"])
    attended = [
        min(height, width) // 2**level in options["attn_resolutions"]
        for level in range(len(widths))
    ]
    if reasons := _reasons(options, widths, attended):
        raise ValueError(
            f"{CLASS_NAME} of diffusers cannot express this network: {'; '.join(reasons)}"
        )
    kinds = [("Attn" if attention else "") + ("Skip" if skip else "") for attention in attended]
    return {
        "_class_name": CLASS_NAME,
        "sample_size": height if height == width else [height, width],
        "in_channels": options["num_channels"],
        "out_channels": options["num_channels"],
        "center_input_sample": not options["centered"],
        "time_embedding_type": options["embedding_type"],
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "block_out_channels": widths,
        "layers_per_block": options["num_res_blocks"],
        "mid_block_scale_factor": math.sqrt(2) if skip else 1.0,
        "downsample_padding": 0,
        "dropout": float(options["dropout"]),
        "act_fn": "silu",
        "attention_head_dim": None,  # one head
        "norm_num_groups": None if skip else _GROUPS,
        "norm_eps": _EPS,
        "num_class_embeds": classes + 1 if classes else None,  # one is the null class
    }


def _as_ncsnpp(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """DDPM's options with those that it would have as an NCSN++; NCSN++'s as they are."""
    name = options.get("name")
    if name not in ("ncsnpp", "ddpm"):
        raise ValueError(
            f"{CLASS_NAME} of diffusers has no {name!r}: it can express ncsnpp and ddpm"
        )
    if name == "ncsnpp":
        return options
    with_conv = {"resamp_with_conv": options["resamp_with_conv"]}
    return {**options, **_PLAIN, **with_conv, "embedding_type": "positional"}


def _reasons(options: Mapping[str, Any], widths: list[int], attended: list[bool]) -> list[str]:
    """Why the class cannot express a network, in words."""
    skip, ddpm = options["resblock_type"] == "biggan", options["name"] == "ddpm"
    needed = _ALWAYS | (_SKIP if skip else _PLAIN)
    given = {name: options[name] for name in needed}
    if skip:
        given["fir_kernel"] = tuple(given["fir_kernel"])
    reasons = [
        f"{name}={given[name]!r}, where its {'Skip' if skip else 'plain'} blocks have {value!r}"
        for name, value in needed.items()
        if given[name] != value
    ]
    if options["scale_by_sigma"] != (options["embedding_type"] == "fourier"):
        reasons.append(
            f"scale_by_sigma={options['scale_by_sigma']}, where it divides by the noise level "
            "with a Fourier embedding and only then"
        )
    if options.get("augment_dim"):
        reasons.append("training.augment above 0, where it is not told of augmentations")
    if options.get("upsampling_factor"):
        reasons.append("model.upsampling_factor above 0, where it upsamples no images")
    if widths[0] != options["nf"]:
        reasons.append(f"ch_mult={tuple(options['ch_mult'])}, where it begins with 1")
    narrow = [
        width
        for width, attention in zip(widths, attended, strict=True)
        if width < 4 * _GROUPS and (attention if skip else not ddpm)
    ]
    if narrow:
        of = "a level with attention" if skip else "every level"
        reasons.append(
            f"nf={options['nf']}, which makes a level {narrow[0]} wide, where {of} is normalised "
            f"in {_GROUPS} groups and so has a width of at least {4 * _GROUPS}"
        )
    divisor = 2 ** (len(widths) - 1)
    if any(side % divisor for side in _sides(options["image_size"])):
        reasons.append(
            f"image_size={options['image_size']}, where sides are multiples of {divisor}"
        )
    return reasons


def disagreements(options: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Where a network of ours and a configuration of the class differ, in words.

    Fields without effect on what is computed (dropout, other ways to say the same) are left out.

    Args:
        options: as for `unet2d_config`.
        config: what a config.json holds.

    Raises:
        ValueError: as `unet2d_config`.
    """
    ours, theirs = _effective(unet2d_config(options)), _effective(config)
    if theirs["sample_size"] is None:
        theirs["sample_size"] = ours["sample_size"]
    return [
        f"{name} is {theirs[name]!r} there and {ours[name]!r} by the recipe"
        + (f" ({_FIELDS[name]})" if name in _FIELDS else "")
        for name in _DEFAULTS
        if not _same(ours[name], theirs[name])
    ]


def _effective(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with its defaults, without what makes no difference."""
    full = _DEFAULTS | {name: value for name, value in config.items() if name in _DEFAULTS}
    full = {name: tuple(v) if isinstance(v, list) else v for name, v in full.items()}
    for name in ("down_block_types", "up_block_types"):
        full[name] = tuple(kind.removeprefix("UNetRes") for kind in full[name])
    widths, kinds = full["block_out_channels"], full["down_block_types"]
    attended = {width for width, kind in zip(widths, kinds, strict=True) if "Attn" in kind}
    if full["sample_size"] is not None:
        full["sample_size"] = _sides(full["sample_size"])
    if full["act_fn"] == "swish":
        full["act_fn"] = "silu"
    if {full["attention_head_dim"]} == attended | {widths[-1]}:
        full["attention_head_dim"] = None
    if full["time_embedding_dim"] == 4 * widths[0]:
        full["time_embedding_dim"] = None
    lowest_groups = full["norm_num_groups"] or min(widths[-1] // 4, _GROUPS)
    if full["attn_norm_num_groups"] == lowest_groups:
        full["attn_norm_num_groups"] = None
    if all("Skip" in kind for kind in kinds):  # these norm by a rule, and pad by their filter
        if {min(width // 4, _GROUPS) for width in (widths[0], widths[-1])} == {
            full["norm_num_groups"]
        }:
            full["norm_num_groups"] = None
        full |= {name: None for name in ("downsample_padding", "downsample_type", "upsample_type")}
    if full["time_embedding_type"] == "fourier":
        full |= {"freq_shift": None, "flip_sin_to_cos": None}
    return full


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other)  # √2 may be written with fewer digits
    return one == other


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
