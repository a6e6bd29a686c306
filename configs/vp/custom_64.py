"""DDPM++ (continuous) on 64×64 images of one's own with the VP SDE, on one small GPU.

Command:   python main.py --mode prepare --input posters/ --output prepared/ --size 64
           python main.py --config configs/vp/custom_64.py --mode train
Cost:      61.8 M parameters, 0.5 M steps of 64 images; made for a GPU.

The batch is half of the papers', taken in two parts (training.accumulation) that fit into less
memory (10 GB a part; --config.training.activation_checkpointing=True makes it 1.2, for a third
more time). The noise of a gradient grows as a batch shrinks, and Adam's step does not: half the
batch takes half the learning rate, warmed up for twice as many steps, so that as many images are
seen on the way. --config.data.root names other shards; where they have classes, add
--config.model.num_classes=N --config.model.label_dropout=0.1 for guidance.
"""

import ml_collections

from score_sde.config import parts


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return parts.recipe(
        parts.DDPMPP,
        {
            "data.dataset": "shards",
            "data.root": "prepared",
            "data.image_size": 64,
            "data.random_flip": True,
            "training.batch_size": 64,
            "training.accumulation": 2,
            "training.n_iters": 500001,
            "optim.lr": 1e-4,
            "optim.warmup": 10000,
        },
        parts.VP,
    )
