"""NCSN++ on CIFAR-10 with the 1,000 steps of DDPM.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/vp/cifar10_ncsnpp.py --mode train
Cost:      62.7 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.NCSNPP_VP,
        parts.CIFAR10,
        parts.DDPM_CHAIN,
        {"sampling.predictor": "reverse_diffusion"},
    )
