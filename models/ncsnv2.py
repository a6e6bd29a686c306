"""The release's `models.ncsnv2`: the networks of `score_sde.networks.ncsnv2`, made of a config."""

from models._release import FromConfig
from score_sde.networks import ncsnv2 as library


class NCSN(FromConfig, library.NCSN):
    """NCSN of a config's `model` and `data`; called net(x, cond), as the library's."""

    model_name = "ncsn"


class NCSNv2(FromConfig, library.NCSNv2):
    """NCSNv2 for images of up to 64 pixels a side."""

    model_name = "ncsnv2_64"


class NCSNv2_128(NCSNv2):
    """NCSNv2 for images of up to 128 pixels a side."""

    model_name = "ncsnv2_128"


class NCSNv2_256(NCSNv2):
    """NCSNv2 for images of up to 256 pixels a side."""

    model_name = "ncsnv2_256"
