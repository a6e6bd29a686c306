"""DDPM on CIFAR-10 with a network that is not told the time.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/vp/ddpm/cifar10_unconditional.py --mode train
Cost:      34.9 M parameters (2.6 M of them, without effect, are left out here), 1.3 M steps of 128
           images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.DDPM, parts.CIFAR10, parts.DDPM_CHAIN, {"model.conditional": False})
