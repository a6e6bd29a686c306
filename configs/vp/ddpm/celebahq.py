"""DDPM (Ho et al. 2020) on CelebA-HQ at 256×256.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/vp/ddpm/celebahq.py --mode train
Cost:      111.6 M parameters, 2.4 M steps of 64 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.DDPM_256, parts.CELEBAHQ, parts.DDPM_CHAIN)
