"""NCSN++ on CelebA at 64×64 with the 1,000 noise levels of SMLD.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/ve/celeba_ncsnpp.py --mode train
Cost:      62.7 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.NCSNPP, parts.CELEBA, parts.SMLD, {"model.embedding_type": "positional"}
    )
