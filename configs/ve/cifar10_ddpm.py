"""The network of DDPM on CIFAR-10 with the 1,000 noise levels of SMLD.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/ve/cifar10_ddpm.py --mode train
Cost:      35.2 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.DDPM,
        parts.CIFAR10,
        parts.SMLD,
        {"model.scale_by_sigma": True, "model.ema_rate": 0.999},
    )
