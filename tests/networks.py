"""Builds the networks of the 2021 release's configurations, given as plain dictionaries."""

import torch

from score_sde.networks.ddpm import DDPM
from score_sde.networks.ncsnpp import NCSNpp
from score_sde.networks.ncsnv2 import NCSN, NCSNv2

_SIGMAS = ("sigma_min", "sigma_max", "num_scales")
_UNET = (
    "nf",
    "ch_mult",
    "num_res_blocks",
    "attn_resolutions",
    "dropout",
    "resamp_with_conv",
    "conditional",
    "nonlinearity",
    "scale_by_sigma",
    *_SIGMAS,
)
_NCSNPP = (
    "resblock_type",
    "progressive",
    "progressive_input",
    "progressive_combine",
    "fir",
    "fir_kernel",
    "skip_rescale",
    "embedding_type",
    "init_scale",
)


def _picked(config: dict, fields: tuple[str, ...]) -> dict:
    data = {"num_channels": config["data"]["num_channels"], "centered": config["data"]["centered"]}
    return {field: config["model"][field] for field in fields} | data


def build(config: dict) -> torch.nn.Module:
    name = config["model"]["name"]
    if name in ("ncsnpp", "ddpm"):
        data = config["data"]
        size = (data["image_size"], data.get("image_width", 0) or data["image_size"])
        if name == "ddpm":
            return DDPM(image_size=size, **_picked(config, _UNET))
        scale = config["model"].get("fourier_scale", 16)
        fields = _picked(config, _UNET + _NCSNPP)
        return NCSNpp(image_size=size, fourier_scale=scale, **fields)
    if name == "ncsn":
        return NCSN(**_picked(config, ("nf", "num_scales", "nonlinearity")))
    fields = ("nf", "normalization", "nonlinearity", *_SIGMAS)
    return NCSNv2(size_class=int(name.removeprefix("ncsnv2_")), **_picked(config, fields))


def golden_weights(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of a reference network: weights are stored as 64 times themselves."""
    return {
        key.partition("/")[2]: value.float() / 64 if key.startswith("param64/") else value
        for key, value in arrays.items()
        if "/" in key
    }


def assert_images_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Compares image by image, each relative to its own largest value."""
    assert actual.shape == expected.shape
    scale = expected.double().abs().flatten(1).amax(1)
    worst = (actual.double() - expected.double()).abs().flatten(1).amax(1) / scale
    assert worst.max() <= tolerance, f"differs by {worst.max():.2e}, allowed {tolerance:.0e}"
