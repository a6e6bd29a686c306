"""NCSNv2 (Song & Ermon 2020) on LSUN bedrooms at 128×128, with 1,086 noise levels.

Published: no FID, Inception score or likelihood.
Command:   python main.py --config configs/ve/ncsnv2/bedroom.py --mode train
Cost:      83.4 M parameters, 2.4 M steps of 128 images; made for a GPU.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.NCSNV2,
        parts.BEDROOM,
        parts.ANNEALED_LANGEVIN,
        {
            "model.name": "ncsnv2_128",
            "model.ema_rate": 0.9999,
            "model.sigma_max": 190.0,
            "model.num_scales": 1086,
            "sampling.n_steps_each": 3,
            "sampling.snr": 0.095,
            "data.image_size": 128,
            "training.batch_size": 128,
        },
    )
