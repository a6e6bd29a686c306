"""NCSN++ (continuous) on CIFAR-10 with the VP SDE.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/vp/cifar10_ncsnpp_continuous.py --mode train
Cost:      62.7 M parameters, 1.3 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.NCSNPP_VP, parts.CIFAR10, parts.VP)
