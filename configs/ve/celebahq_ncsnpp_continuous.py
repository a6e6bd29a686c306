"""NCSN++ (continuous) on CelebA-HQ at 1024×1024 with the VE SDE.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/ve/celebahq_ncsnpp_continuous.py --mode train
Cost:      105.8 M parameters, 2.4 M steps of 8 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.NCSNPP_1024, parts.CELEBAHQ, parts.MEGAPIXEL, parts.VE)
