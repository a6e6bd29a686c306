"""NCSN++ (continuous) on LSUN churches at 256×256 with the VE SDE.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/ve/church_ncsnpp_continuous.py --mode train
Cost:      65.6 M parameters, 2.4 M steps of 64 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(parts.NCSNPP_256, parts.CHURCH, parts.VE, {"model.sigma_max": 380.0})
