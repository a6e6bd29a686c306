"""Rows of the group training: objective, lengths, logging."""

from score_sde.config.holds import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    AUTO_ON_OFF,
    EVERY,
    FINITE,
    PROBABILITY,
    Names,
)
from score_sde.config.schema.field import (
    Field,
    added,
    counted_from_1,
    free,
    of_checkpoint,
    on_request,
)

FIELDS: dict[str, Field] = {
    "training.sde": of_checkpoint(
        "vpsde", "the forward process", Names(table="score_sde.sde:SDES")
    ),
    "training.objective": of_checkpoint(
        "auto",
        "what training minimises; auto: as the fields below say",
        Names(table="score_sde.objectives:OBJECTIVES"),
    ),
    "training.continuous": of_checkpoint(
        True, "continuous times; False: the chains of SMLD and DDPM"
    ),
    "training.reduce_mean": of_checkpoint(False, "mean over dimensions; otherwise half their sum"),
    "training.likelihood_weighting": of_checkpoint(False, "weight losses by g² instead of σ²"),
    "training.time_sampling": of_checkpoint(
        "uniform",
        "how training times are drawn",
        Names(table="score_sde.objectives:TIME_SAMPLERS"),
    ),
    "training.p_mean": of_checkpoint(
        -1.2, "of the objective edm: mean of ln σ of its noise levels", FINITE, older=-1.2
    ),
    "training.p_std": of_checkpoint(1.2, "their standard deviation", ABOVE_0, older=1.2),
    "training.augment": of_checkpoint(
        0.0,
        "probability of each augmentation, whose parameters the network is given; 0: none",
        PROBABILITY,
        older=0.0,
    ),
    "training.augment_mirror": of_checkpoint(
        0.0,
        "probability of the mirror left to right among them, where above training.augment; half "
        "of the images that it happens to are mirrored",
        PROBABILITY,
        older=0.0,
    ),
    "training.image_noise": of_checkpoint(
        0.0,
        "of an upsampler: largest std of the noise on its low-resolution images in training",
        AT_LEAST_0,
        older=0.0,
    ),
    "training.batch_size": on_request(128, "images in one update, over all processes", AT_LEAST_1),
    "training.accumulation": free(
        1, "parts that a batch is split into, to save memory", AT_LEAST_1
    ),
    "training.activation_checkpointing": added(
        False,
        "keep only what goes into each block, and compute the block again for its gradient, to "
        "save memory",
    ),
    "training.sharding": added(
        "none",
        "full: weights, gradients, moments and averages are divided among the processes (FSDP), "
        "for networks that do not fit on one device; not compiled",
        Names("none", "full"),
    ),
    "training.checkpoint_format": added(
        "file",
        "file: one for all; shards: a folder into which each process writes its part, for "
        "networks that no machine could gather",
        Names("file", "shards"),
    ),
    "training.n_iters": free(1300001, "updates in all", AT_LEAST_1),
    "training.log_freq": free(50, "steps between log lines", EVERY),
    "training.eval_freq": free(100, "steps between held-out losses", EVERY),
    "training.snapshot_freq": free(
        50000, "steps between checkpoints that are kept, each with a sample grid", EVERY
    ),
    "training.snapshot_freq_for_preemption": free(
        10000, "steps between checkpoints to resume from", EVERY
    ),
    "training.snapshot_sampling": free(True, "draw samples at each snapshot"),
    "training.snapshot_images": free(
        64, "how many", counted_from_1("training.snapshot_sampling=False draws none")
    ),
    "training.keep_checkpoints": free(
        3, "newest checkpoints kept, beside those of snapshot_freq", AT_LEAST_1
    ),
    "training.average_freq": free(
        50000, "steps between kept snapshots of the averages of model.ema_lengths", EVERY
    ),
    "training.precision": free(
        "auto",
        "of the network; auto: TF32 on CUDA, float32 elsewhere",
        Names("auto", "float32", "tf32", "bf16"),
    ),
    "training.compile": free("auto", "torch.compile; auto: on CUDA", AUTO_ON_OFF),
    "training.channels_last": free("auto", "memory format; auto: not on MPS", AUTO_ON_OFF),
}
