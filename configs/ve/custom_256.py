"""NCSN++ (continuous) on 256×256 images of one's own with the VE SDE.

Command:   python main.py --mode prepare --input posters/ --output prepared/ --size 256
           python main.py --config configs/ve/custom_256.py --mode tune
           python main.py --config configs/ve/custom_256.py --mode train
Cost:      65.6 M parameters, 0.6 M steps of 16 images; made for a GPU.

The second command computes the largest noise level of your images, to be given as
--config.model.sigma_max; the one here is FFHQ's. The batch is a quarter of the paper's, taken in
parts of four images (training.accumulation) whose blocks are computed again for their gradient
(training.activation_checkpointing), so that a part keeps 1.3 GB instead of 9.4. The noise of a
gradient grows as a batch shrinks, and Adam's step does not: a quarter of the batch takes a quarter
of the learning rate, warmed up for four times as many steps. --config.data.root names other
shards; where they have classes, add --config.model.num_classes=N --config.model.label_dropout=0.1.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.NCSNPP_256,
        parts.LARGE_IMAGES,
        parts.VE,
        {
            "data.dataset": "shards",
            "data.root": "prepared",
            "data.random_flip": True,
            "model.sigma_max": 348.0,
            "training.batch_size": 16,
            "training.accumulation": 4,
            "training.activation_checkpointing": True,
            "training.n_iters": 600001,
            "optim.lr": 5e-5,
            "optim.warmup": 20000,
        },
    )
