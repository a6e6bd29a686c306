"""A small DDPM++ on the embedded digits (8×8), trained and sampled as in EDM.

Command:   python main.py --config configs/edm/digits.py --mode train
Cost:      1.3 M parameters; minutes on two CPU cores, no download.

The network, the images seen and the learning rate are those of configs/vp/digits.py; noise levels,
loss, prediction and sampler are EDM's. --config.training.augment=0.12 adds its augmentation.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.DDPMPP,
        parts.DIGITS,
        parts.SMALL,
        parts.EDM,
        {"model.sigma_data": 0.75, "training.average_freq": 200},
    )
