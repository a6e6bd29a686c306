"""The release's `models.ncsnpp`: the network of `score_sde.networks.ncsnpp`, made of a config."""

from models._release import FromConfig
from score_sde.networks import ncsnpp as library


class NCSNpp(FromConfig, library.NCSNpp):
    """NCSNpp of a config's `model` and `data`; called net(x, cond), as the library's."""

    model_name = "ncsnpp"
