"""The release's `models.ddpm`: the network of `score_sde.networks.ddpm`, made of a config."""

from models._release import FromConfig
from score_sde.networks import ddpm as library


class DDPM(FromConfig, library.DDPM):
    """DDPM of a config's `model` and `data`; called net(x, cond), as the library's."""

    model_name = "ddpm"
