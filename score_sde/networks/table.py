"""Networks by the names that configs give them.

A row is a function of plain fields and the images' shape. The fields are those of a config's group
`model`, with their defaults where a recipe leaves them out, `centered` of the group `data`, and
`augment_dim`, how many numbers say how an image was augmented.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from score_sde.networks.ddpm import DDPM
from score_sde.networks.half_unet import HalfUNet
from score_sde.networks.ncsnpp import NCSNpp
from score_sde.networks.ncsnv2 import NCSN, NCSNv2
from score_sde.networks.refinenet import RefineNet

Shape = tuple[int, int, int]
"""(C, H, W) of an image."""


def _some(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names}


def _levels(fields: Mapping[str, Any]) -> dict[str, Any]:
    return _some(fields, "sigma_min", "sigma_max", "num_scales")


def _unet(fields: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Arguments that both U-Nets take."""
    plain = _some(fields, "nf", "num_res_blocks", "dropout", "resamp_with_conv", "conditional")
    more = _some(fields, "nonlinearity", "num_classes", "centered", "scale_by_sigma")
    more |= {name: fields.get(name, 0) for name in ("augment_dim", "upsampling_factor")}
    return {
        "image_size": shape[1:],
        "num_channels": shape[0],
        "ch_mult": tuple(fields["ch_mult"]),
        "attn_resolutions": tuple(fields["attn_resolutions"]),
        **plain,
        **more,
        **_levels(fields),
    }


def _ncsnpp(fields: Mapping[str, Any], shape: Shape) -> nn.Module:
    pyramids = _some(fields, "progressive", "progressive_input", "progressive_combine")
    blocks = _some(fields, "resblock_type", "fir", "skip_rescale", "embedding_type", "init_scale")
    return NCSNpp(
        **_unet(fields, shape),
        **pyramids,
        **blocks,
        fir_kernel=tuple(fields["fir_kernel"]),
        fourier_scale=float(fields["fourier_scale"]),
    )


def _ddpm(fields: Mapping[str, Any], shape: Shape) -> nn.Module:
    return DDPM(**_unet(fields, shape), attn_every_up=fields["attn_every_up"])


def _ncsn(fields: Mapping[str, Any], shape: Shape) -> nn.Module:
    plain = _some(fields, "nf", "num_scales", "nonlinearity", "centered")
    return _checked(NCSN(num_channels=shape[0], **plain), fields, shape)


def _ncsnv2(size_class: int) -> Callable[[Mapping[str, Any], Shape], nn.Module]:
    def build(fields: Mapping[str, Any], shape: Shape) -> nn.Module:
        plain = _some(fields, "nf", "normalization", "nonlinearity", "centered")
        net = NCSNv2(num_channels=shape[0], size_class=size_class, **plain, **_levels(fields))
        return _checked(net, fields, shape)

    return build


def _checked(net: RefineNet, fields: Mapping[str, Any], shape: Shape) -> nn.Module:
    """Refuses labels, and images of which instance normalisation would be given a single pixel."""
    if fields["num_classes"]:
        raise ValueError(
            f"model.num_classes={fields['num_classes']}: {type(net).__name__} takes no class "
            "labels; set 0, or take ncsnpp or ddpm"
        )
    if max(shape[1:]) <= net.divisor:
        raise ValueError(
            f"images of {shape[1]}x{shape[2]} pixels: {type(net).__name__} halves them to a "
            f"single one, so give it more than {net.divisor} a side"
        )
    return net


NETWORKS: dict[str, Callable[[Mapping[str, Any], Shape], nn.Module]] = {
    "ncsnpp": _ncsnpp,
    "ddpm": _ddpm,
    "ncsn": _ncsn,
    "ncsnv2_64": _ncsnv2(64),
    "ncsnv2_128": _ncsnv2(128),
    "ncsnv2_256": _ncsnv2(256),
}
"""Name in configs (`model.name`) → the network of plain fields and an image's shape."""


def _half_unet(fields: Mapping[str, Any], shape: Shape) -> nn.Module:
    plain = _some(fields, "num_classes", "nf", "num_res_blocks", "dropout")
    return HalfUNet(
        image_size=shape[1:],
        num_channels=shape[0],
        ch_mult=tuple(fields["ch_mult"]),
        attn_resolutions=tuple(fields["attn_resolutions"]),
        **plain,
    )


CLASSIFIERS: dict[str, Callable[[Mapping[str, Any], Shape], nn.Module]] = {
    "half_unet": _half_unet,
}
"""Name in configs (`classifier.name`) → the classifier of noisy images, net(x, cond) → logits, of
the plain fields of a config's group `classifier` and an image's shape."""
