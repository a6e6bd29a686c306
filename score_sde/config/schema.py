"""Every field of a config, one row each: default, help, what it may hold, whether it may change.

Checks (`check`), resumption (`history`), the parts that recipes begin with (`parts`),
`--help_config` and docs/config.md all follow from these rows. A field that users add in a recipe
needs none: it is kept and recorded, and a run that is resumed may not change it.

Frequencies and lengths count training steps; noise levels are in units of the scaled data. No room
is imported here, so that `--help_config` needs no torch.
"""

from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal

from score_sde.config.holds import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    AUTO_ON_OFF,
    EVERY,
    FINITE,
    INTERVAL,
    KERNEL,
    LENGTHS,
    LEVELS,
    NOT_0,
    PATH,
    PROBABILITY,
    SEED,
    SHARE,
    SIDES,
    FilePath,
    Names,
    Number,
    Numbers,
    one_to,
    up_to,
)

Config = Any
"""An `ml_collections.ConfigDict`; its fields have no static types."""

PART = Number("above 0 and up to 1", lambda x: 0 < x <= 1)

GROUPS = {
    "": "of the whole run",
    "training": "objective, lengths, logging",
    "sampling": "how samples are drawn, in snapshots and from checkpoints",
    "eval": "what --mode eval computes",
    "data": "the images",
    "model": "SDE and network; a recipe holds those that its parts set",
    "optim": "the optimiser",
    "restore": "what --mode restore, inpaint and colorize measure of images, and how they fit it",
    "classifier": "the classifier of noisy images that --mode train_classifier trains",
}
"""Groups of fields, in the order in which they are listed."""


LARGEST_INT = 2**63 - 1
"""What a count may be at most: tensors hold no larger sizes."""


@dataclass(frozen=True)
class Field:
    """A row: one field of a config.

    Attributes:
        default: what it holds where a recipe says nothing; its type is the field's.
        help: one line.
        holds: what it may hold, None for whatever its type allows.
        resume: whether a resumed run may change it. "free": at any time; "on_request": where the
            user allows it by name (--allow NAME); "images": where other images are allowed
            (--allow data); "never": it would be another experiment.
        from_checkpoint: whether a checkpoint decides it when samples are drawn from it. "yes";
            "unless_given": where the command does not say otherwise; "no": the recipe does.
        older: what runs did that were made before the field was added; None for the fields of
            every run. A shard of an evaluation counts on where the field stands at this value.
    """

    default: Any
    help: str
    holds: Number | Names | Numbers | FilePath | None = None
    resume: Literal["free", "on_request", "images", "never"] = "never"
    from_checkpoint: Literal["yes", "unless_given", "no"] = "no"
    older: Any = None

    def check(self, value: Any, what: str) -> None:
        """Refuses a value that the field may not hold.

        Args:
            value: what it is given.
            what: the field, for the message.

        Raises:
            ValueError: another type, or a value outside of what is allowed; an UnknownName for a
                name that is none of the allowed ones.
        """
        kind, number = type(self.default), isinstance(value, Real) and not isinstance(value, bool)
        if kind is bool and not isinstance(value, bool):
            raise ValueError(f"{what}={value!r}: it must be True or False")
        if kind in (int, float) and not number:
            raise ValueError(f"{what}={value!r}: it must be a number")
        if kind is int and not isinstance(value, Integral):
            raise ValueError(f"{what}={value!r}: it must be a whole number")
        if kind is int and isinstance(value, int) and abs(value) > LARGEST_INT:
            raise ValueError(f"{what}={value!r}: it must be a whole number of 64 bits")
        if kind is str and not isinstance(value, str):
            raise ValueError(f"{what}={value!r}: it must be text")
        if kind is tuple and not isinstance(value, list | tuple):
            raise ValueError(f"{what}={value!r}: it must be a tuple, as (1, 2)")
        holds: Any = self.holds
        if holds:
            holds.check(value, what)


_free = partial(Field, resume="free")
_allowed = partial(Field, resume="on_request")
_model = partial(Field, from_checkpoint="yes")
_images = partial(_model, resume="images")


def _restore(default: Any, help: str, holds: Number | Names | FilePath | None = None) -> Field:
    """Fields that runs did not have; at their defaults they are in no digest."""
    return Field(default, help, holds, resume="free", older=default)


def _at_least_1(instead: str, most: int = LARGEST_INT) -> Number:
    """Counts of what is switched off by another field; `most` where each takes memory at once."""
    words = AT_LEAST_1.words if most == LARGEST_INT else one_to(most).words
    return Number(words, lambda x: 1 <= x <= most, f"it must be {words}; {instead}")


FIELDS: dict[str, Field] = {
    "seed": Field(42, "decides weights, data order, training noise and samples", SEED),
    "device": _free("auto", "auto (CUDA, then MPS, then CPU), or a name such as cuda:1"),
    "training.sde": _model("vpsde", "the forward process", Names(table="score_sde.sde:SDES")),
    "training.objective": _model(
        "auto",
        "what training minimises; auto: as the fields below say",
        Names(table="score_sde.objectives:OBJECTIVES"),
    ),
    "training.continuous": _model(True, "continuous times; False: the chains of SMLD and DDPM"),
    "training.reduce_mean": _model(False, "mean over dimensions; otherwise half their sum"),
    "training.likelihood_weighting": _model(False, "weight losses by g² instead of σ²"),
    "training.time_sampling": _model(
        "uniform",
        "how training times are drawn",
        Names(table="score_sde.objectives:TIME_SAMPLERS"),
    ),
    "training.p_mean": _model(
        -1.2, "of the objective edm: mean of ln σ of its noise levels", FINITE, older=-1.2
    ),
    "training.p_std": _model(1.2, "their standard deviation", ABOVE_0, older=1.2),
    "training.augment": _model(
        0.0,
        "probability of each augmentation, whose parameters the network is given; 0: none",
        PROBABILITY,
        older=0.0,
    ),
    "training.augment_mirror": _model(
        0.0,
        "probability of the mirror left to right among them, where above training.augment; half "
        "of the images that it happens to are mirrored",
        PROBABILITY,
        older=0.0,
    ),
    "training.image_noise": _model(
        0.0,
        "of an upsampler: largest std of the noise on its low-resolution images in training",
        AT_LEAST_0,
        older=0.0,
    ),
    "training.batch_size": _allowed(128, "images in one update, over all processes", AT_LEAST_1),
    "training.accumulation": _free(
        1, "parts that a batch is split into, to save memory", AT_LEAST_1
    ),
    "training.n_iters": _free(1300001, "updates in all", AT_LEAST_1),
    "training.log_freq": _free(50, "steps between log lines", EVERY),
    "training.eval_freq": _free(100, "steps between held-out losses", EVERY),
    "training.snapshot_freq": _free(
        50000, "steps between checkpoints that are kept, each with a sample grid", EVERY
    ),
    "training.snapshot_freq_for_preemption": _free(
        10000, "steps between checkpoints to resume from", EVERY
    ),
    "training.snapshot_sampling": _free(True, "draw samples at each snapshot"),
    "training.snapshot_images": _free(
        64, "how many", _at_least_1("training.snapshot_sampling=False draws none")
    ),
    "training.keep_checkpoints": _free(
        3, "newest checkpoints kept, beside those of snapshot_freq", AT_LEAST_1
    ),
    "training.average_freq": _free(
        50000, "steps between kept snapshots of the averages of model.ema_lengths", EVERY
    ),
    "training.precision": _free(
        "auto",
        "of the network; auto: TF32 on CUDA, float32 elsewhere",
        Names("auto", "float32", "tf32", "bf16"),
    ),
    "training.compile": _free("auto", "torch.compile; auto: on CUDA", AUTO_ON_OFF),
    "training.channels_last": _free("auto", "memory format; auto: not on MPS", AUTO_ON_OFF),
    "sampling.method": _free(
        "pc",
        "pc: predictor and corrector; a sampler that chooses its own times; or a few-step solver",
        Names(
            "pc",
            table="score_sde.samplers:SAMPLERS",
            more="score_sde.solvers.few_step:FEW_STEP",
        ),
    ),
    "sampling.num_steps": _free(0, "steps; 0: the chain's own number of scales", up_to(10**7)),
    "sampling.batch_size": _free(64, "images drawn at a time", AT_LEAST_1),
    "sampling.predictor": _free(
        "reverse_diffusion",
        "of pc: the step from one time to the next",
        Names(table="score_sde.solvers.predictors:PREDICTORS"),
    ),
    "sampling.corrector": _free(
        "none",
        "of pc: the steps at each time",
        Names(table="score_sde.solvers.correctors:CORRECTORS"),
    ),
    "sampling.n_steps_each": _free(
        1, "corrector steps at each time", _at_least_1("sampling.corrector=none makes none")
    ),
    "sampling.snr": _free(
        0.16,
        "signal-to-noise ratio of the Langevin step",
        Number(
            ABOVE_0.words,
            ABOVE_0.within,
            "it must be above 0; sampling.corrector=none makes no Langevin step",
        ),
    ),
    "sampling.norms": _free(
        "sample",
        "norms in the Langevin step: each sample's (below 64 dimensions those expected of it), or "
        "the batch's mean as in the 2021 release",
        Names("sample", "batch"),
    ),
    "sampling.corrector_first": _free(True, "correct before each prediction, or after it"),
    "sampling.resample": _free(
        1,
        "how often each step of a completion is taken, noised back between (Lugmayr et al. 2022)",
        AT_LEAST_1,
        older=1,
    ),
    "sampling.probability_flow": _free(False, "predict along the probability-flow ODE"),
    "sampling.noise_removal": _free(
        True, "the last step returns its mean; ODE and few-step solvers end with Tweedie's formula"
    ),
    "sampling.grid": _free(
        "auto",
        "where the times stand; auto: as suits step and SDE; optimised: found for this network "
        "(in the snapshots of training log_snr); a discrete chain has times of its own",
        Names("auto", "uniform", "log_snr", "edm", "optimised"),
    ),
    "sampling.threshold": _free(
        "none",
        "keep denoised images to the data's range: clip them, or by a quantile of each "
        "(Saharia et al. 2022)",
        Names("none", "static", "dynamic"),
        older="none",
    ),
    "sampling.label": _free(
        -1,
        "class of every sample; -1: each in turn, sample k of class k mod their number",
        Number("-1 or a class, from 0 up", lambda x: x >= -1),
        older=-1,
    ),
    "sampling.guidance": _free(
        1.0,
        "scale w of classifier-free guidance, s_u + w (s_c - s_u); 1: none, 0: of no class",
        AT_LEAST_0,
        older=1.0,
    ),
    "sampling.guidance_interval": _free(
        (),
        "noise levels std/mean scale between which it acts; (): at all",
        INTERVAL,
        older=(),
    ),
    "sampling.fit": _free(
        "resize",
        "how images of --input are brought to the network's size: resize, crop or pad; tile: they "
        "keep theirs, and the network is given overlapping tiles",
        Names(table="score_sde.data.fits:FITS"),
        older="resize",
    ),
    "sampling.tile_overlap": _free(
        0.5,
        "least share of its side that a tile has in common with the next; 0: none",
        SHARE,
        older=0.5,
    ),
    "sampling.classifier": _free(
        "",
        "a classifier of noisy images that leads samples: its checkpoint, or its work directory; "
        "empty: none",
        PATH,
        older="",
    ),
    "sampling.classifier_scale": _free(
        1.0, "scale v of its gradient, v grad log p(c | x_t); 0: none", AT_LEAST_0, older=1.0
    ),
    "sampling.guide": _free(
        "",
        "a weaker network that guidance leads away from (Karras et al. 2024): its checkpoint, or "
        "its work directory; empty: the network's own score of no class",
        PATH,
        older="",
    ),
    "sampling.temperature": _free(
        1.0,
        "what draws from the prior are scaled by, for methods without noise of their own",
        ABOVE_0,
        older=1.0,
    ),
    "sampling.strength": _free(
        0.5,
        "of --mode edit: the share of the sampler's grid that images are led back along",
        PART,
        older=0.5,
    ),
    "sampling.image_noise": _free(
        0.0,
        "of an upsampler: std of the noise on the low-resolution images that it draws from",
        AT_LEAST_0,
        older=0.0,
    ),
    "sampling.eps": _free(
        0.0, "time at which sampling ends, but on a discrete chain; 0: the SDE's own", AT_LEAST_0
    ),
    "sampling.ode_solver": _free(
        "rk45",
        "Runge-Kutta method of the adaptive ODE",
        Names(table="score_sde.solvers.ode:ODE_SOLVERS"),
        older="rk45",
    ),
    "sampling.step_control": _free(
        "i",
        "how its steps follow from their errors; pi: from the last two, as rejects fewer",
        Names(table="score_sde.solvers.ode:STEP_CONTROLS"),
        older="i",
    ),
    "sampling.rtol": _free(1e-5, "relative tolerance of the adaptive ODE", ABOVE_0),
    "sampling.atol": _free(1e-5, "absolute tolerance of the adaptive ODE", ABOVE_0),
    "sampling.sde_rtol": _free(
        0.02, "relative tolerance of the adaptive SDE", ABOVE_0, older=0.02
    ),
    "sampling.sde_atol": _free(
        0.0,
        "absolute tolerance of the adaptive SDE; 0: one grey level of 256",
        AT_LEAST_0,
        older=0.0,
    ),
    "sampling.max_steps": _free(
        10000, "of adaptive samplers, after which they give up", AT_LEAST_1
    ),
    "sampling.eta": _free(
        0.0,
        "noise of DDIM's steps: 0 none, 1 that of ancestral sampling (Song, J. et al. 2021)",
        PROBABILITY,
        older=0.0,
    ),
    "sampling.s_churn": _free(
        0.0, "noise that Heun's method adds (Karras et al. 2022, algorithm 2)", AT_LEAST_0
    ),
    "sampling.s_min": _free(0.0, "least noise level at which it does", AT_LEAST_0),
    "sampling.s_max": _free(1e30, "largest noise level at which it does", AT_LEAST_0),
    "sampling.s_noise": _free(1.0, "standard deviation of that noise", AT_LEAST_0),
    "eval.batch_size": _free(1024, "images, for losses and the features of data sets", AT_LEAST_1),
    "eval.bpd_batch_size": _free(
        128, "images, for bits/dim, whose backward pass keeps all activations", AT_LEAST_1
    ),
    "eval.num_samples": _free(
        50000,
        "samples that distances are computed of",
        _at_least_1("eval.enable_sampling=False computes none", 10**7),
    ),
    "eval.labels": _free(
        "equal",
        "classes of the samples, where sampling.label names none: each equally often, or in the "
        "proportions of the training images",
        Names("equal", "proportional"),
        older="equal",
    ),
    "eval.begin_ckpt": _free(
        0, "first step of the checkpoints to evaluate; both 0: the newest", AT_LEAST_0
    ),
    "eval.end_ckpt": _free(0, "last step; 0: no last one", AT_LEAST_0),
    "eval.enable_sampling": _free(True, "compute distances of samples"),
    "eval.enable_loss": _free(True, "compute the held-out loss"),
    "eval.enable_bpd": _free(True, "compute bits/dim and their bound"),
    "eval.bpd_dataset": _free("test", "splits for bits/dim", Names("test", "train", "both")),
    "eval.bpd_images": _free(
        0, "images of each split, at random; 0: as many as there are test images", AT_LEAST_0
    ),
    "eval.bpd_draws": _free(
        1,
        "uniform dequantisations of each image",
        _at_least_1("eval.enable_bpd=False computes no bits/dim", 10**7),
    ),
    "eval.bpd_probes": _free(1, "probes for the trace, in each", one_to(10**7)),
    "eval.bpd_eps": _free(1e-5, "time at which the flow begins", ABOVE_0),
    "eval.hutchinson_type": _free(
        "Rademacher",
        "probes for the trace; exact for few dimensions",
        Names("Rademacher", "Gaussian", "exact"),
    ),
    "eval.ode_solver": _free(
        "rk45",
        "Runge-Kutta method of the flow",
        Names(table="score_sde.solvers.ode:ODE_SOLVERS"),
        older="rk45",
    ),
    "eval.step_control": _free(
        "i",
        "how its steps follow from their errors; pi: from the last two, as rejects fewer",
        Names(table="score_sde.solvers.ode:STEP_CONTROLS"),
        older="i",
    ),
    "eval.rtol": _free(1e-5, "relative tolerance of the flow", ABOVE_0),
    "eval.atol": _free(1e-5, "absolute tolerance of the flow", ABOVE_0),
    "eval.max_steps": _free(10000, "of the flow, after which it gives up", AT_LEAST_1),
    "eval.features": _free(
        "auto",
        "network of the features; auto: Inception where its weights are",
        Names("auto", "inception", "classifier"),
    ),
    "eval.inception_path": _free(
        "", "weights of Inception; where torch-fidelity keeps them", PATH
    ),
    "eval.reference": _free("", "a file of statistics; by default the data set's own", PATH),
    "eval.reference_split": _free(
        "train",
        "split that samples are compared with, in the papers train",
        Names("train", "test"),
    ),
    "eval.stats_folder": _free("runs/stats", "keeps feature networks and statistics", PATH),
    "data.dataset": _images(
        "CIFAR10", "a row of score_sde.data:DATASETS, spelt with or without - _"
    ),
    "data.root": _free(
        "data", "the folder that data sets lie in", PATH, from_checkpoint="unless_given"
    ),
    "data.download": _free(True, "fetch what torchvision can where it is missing"),
    "data.category": _images("", "of LSUN, such as church_outdoor"),
    # Another share would make test images of training images.
    "data.test_fraction": _images(0.1, "test images of a folder without a test part", SHARE),
    "data.image_size": _model(32, "height in pixels, and width unless image_width", one_to(65536)),
    "data.image_width": _model(0, "width in pixels; 0: square images", up_to(65536)),
    "data.downsampling": _model(
        1,
        "images are means of blocks of so many pixels a side, for the base model of a cascade; "
        "1: none",
        one_to(1024),
        older=1,
    ),
    "data.num_channels": _model(3, "colours", one_to(65536)),
    "data.random_flip": _allowed(True, "mirror training images at random"),
    "data.centered": _model(False, "the network's images lie in [-1, 1] instead of [0, 1]"),
    "data.uniform_dequantization": _allowed(False, "add uniform noise to training images"),
    "model.name": _model(
        "ncsnpp", "the network", Names(table="score_sde.networks.table:NETWORKS")
    ),
    "model.num_scales": _model(1000, "noise levels of the SDE's chain", one_to(10**7)),
    "model.sigma_min": _model(0.01, "smallest noise level, of VE and Karras' VE", ABOVE_0),
    "model.sigma_max": _model(50.0, "largest noise level, of VE and Karras' VE", ABOVE_0),
    "model.sigma": _model(25.0, "g(t) = sigma^t, of powervesde", ABOVE_0, older=25.0),
    "model.beta_min": _model(0.1, "rate β at time 0, of VP and sub-VP", FINITE),
    "model.beta_max": _model(20.0, "rate β at time 1, of VP and sub-VP", FINITE),
    "model.ema_rate": _model(0.999, "decay of the weights' moving average; 0: none", SHARE),
    "model.ema_lengths": _model(
        (),
        "lengths of further averages that are tracked, in shares of the training; (): none",
        LENGTHS,
        older=(),
    ),
    "model.ema_length": _free(
        0.0, "length that --mode ema makes, between those tracked", SHARE, older=0.0
    ),
    "model.nf": _model(128, "channels of the first level", one_to(65536)),
    "model.ch_mult": _model((1, 2, 2, 2), "channels of each level, in units of nf", LEVELS),
    "model.num_res_blocks": _model(4, "residual blocks of each level", one_to(64)),
    "model.attn_resolutions": _model((16,), "sides of the levels with attention", SIDES),
    "model.attn_every_up": _model(
        False, "of ddpm: attention in every block up, as in google/ddpm-*"
    ),
    "model.dropout": _model(0.1, "share of activations dropped in training", SHARE),
    "model.nonlinearity": _model("swish", "swish, relu, elu or lrelu"),
    "model.normalization": _model("InstanceNorm++", "of NCSNv2"),
    "model.resamp_with_conv": _model(True, "convolve where sizes change"),
    "model.conditional": _model(True, "condition the network on the noise level"),
    "model.num_classes": _model(0, "class labels; 0: none", up_to(10**7)),
    "model.label_dropout": _model(
        0.0,
        "probability that training leaves a label out, by which the network learns no class, too",
        SHARE,
        older=0.0,
    ),
    "model.upsampling_factor": _model(
        0,
        "how many times smaller the images are that the network is given to upsample; 0: none",
        Number("0 or from 2 to 1,024", lambda x: x == 0 or 2 <= x <= 1024),
        older=0,
    ),
    "model.fir": _model(True, "of ncsnpp: smooth where sizes change"),
    "model.fir_kernel": _model((1, 3, 3, 1), "of that filter", KERNEL),
    "model.skip_rescale": _model(True, "of ncsnpp: divide sums with shortcuts by √2"),
    "model.resblock_type": _model("biggan", "of ncsnpp: biggan or ddpm"),
    "model.progressive": _model("none", "of ncsnpp: none, output_skip or residual"),
    "model.progressive_input": _model("residual", "of ncsnpp: none, input_skip or residual"),
    "model.progressive_combine": _model("sum", "of ncsnpp: sum or cat"),
    "model.init_scale": _model(0.0, "of ncsnpp: scale of the first weights", AT_LEAST_0),
    "model.embedding_type": _model(
        "fourier", "of ncsnpp: fourier (of log σ) or positional (of a time or step)"
    ),
    "model.fourier_scale": _model(16.0, "of the Fourier frequencies", NOT_0),
    "model.prediction": _model(
        "auto",
        "what the network puts out; auto: the score for VE, the noise for the others",
        Names("auto", table="score_sde.score:PREDICTIONS"),
        older="auto",
    ),
    "model.sigma_data": _model(
        0.5,
        "standard deviation of the scaled data, of prediction and objective edm",
        ABOVE_0,
        older=0.5,
    ),
    "model.scale_by_sigma": _model(True, "divide the output by the noise level, as scores are"),
    "optim.optimizer": _allowed("Adam", "its kind", Names("Adam", "AdamW")),
    "optim.lr": _allowed(2e-4, "learning rate", ABOVE_0),
    "optim.beta1": _allowed(0.9, "decay of the first moment", SHARE),
    "optim.eps": _allowed(1e-8, "added to the root of the second moment", ABOVE_0),
    "optim.weight_decay": _allowed(
        0.0, "of Adam within the gradient, of AdamW beside it", AT_LEAST_0
    ),
    # Never: the largest second moment of the updates before is not there.
    "optim.amsgrad": Field(False, "keep the largest second moment"),
    "optim.warmup": _allowed(
        5000, "steps over which the learning rate rises; 0: none", AT_LEAST_0
    ),
    "optim.grad_clip": _allowed(
        1.0,
        "largest norm of the gradient; negative: no limit",
        Number(
            NOT_0.words,
            NOT_0.within,
            "a limit of 0 makes every gradient 0: give a number above 0, or a negative one for "
            "no limit",
        ),
    ),
    "restore.task": _restore(
        "inpaint", "what is measured of images", Names(table="score_sde.posteriors:TASKS")
    ),
    "restore.noise": _restore(
        0.0, "std of the noise of what is measured, in units of [0, 1] pixels", AT_LEAST_0
    ),
    "restore.posterior": _restore(
        "auto",
        "how images are drawn that fit: replacement, ddrm and twisted particles take steps of a "
        "grid, posterior scores run on every sampler; auto: replacement where there is no noise "
        "and a decomposition is known, else pigdm",
        Names(
            "auto",
            table="score_sde.config.build.restoring:RESTORERS",
            more="score_sde.posteriors:POSTERIORS",
        ),
    ),
    "restore.mask": _restore(
        "middle",
        "of inpaint and soft_inpaint: what is hidden (middle, left, right, top, bottom, "
        "scattered), or a picture that is white where images are known",
        PATH,
    ),
    "restore.mask_floor": _restore(
        0.9,
        "of soft_inpaint: how well black pixels of the mask are seen; 0: not at all",
        PROBABILITY,
    ),
    "restore.factor": _restore(
        2, "of super_resolution: how many times smaller each side is", one_to(65536)
    ),
    "restore.downsampling": _restore(
        "box",
        "of super_resolution: means of blocks, or a bicubic filter",
        Names(table="score_sde.posteriors.tasks:DOWNSAMPLINGS"),
    ),
    "restore.blur_width": _restore(1.0, "of deblur: std of the Gaussian in pixels", ABOVE_0),
    "restore.blur_length": _restore(
        5.0, "of motion_deblur: length of the line in pixels", ABOVE_0
    ),
    "restore.blur_angle": _restore(
        0.0, "of motion_deblur: in degrees, 0 along rows and 90 along columns", FINITE
    ),
    "restore.share": _restore(
        0.25,
        "of compressed_sensing and fourier: which part of directions or frequencies is measured",
        PART,
    ),
    "restore.data_std": _restore(
        0.25,
        "of pigdm: std of the data about their mean, in units of [0, 1] pixels",
        ABOVE_0,
    ),
    "restore.strength": _restore(1.0, "of diffpir: of the tie to the denoised image", ABOVE_0),
    "restore.tolerance": _restore(
        1e-4, "of moment_matching: relative residual of its linear equations", ABOVE_0
    ),
    "restore.max_iterations": _restore(
        5, "of moment_matching: conjugate gradients at each evaluation, at most", AT_LEAST_1
    ),
    "restore.eta": _restore(
        0.85, "of ddrm: how much of the noise elsewhere is fresh; 0: none", PROBABILITY
    ),
    "restore.eta_b": _restore(
        1.0, "of ddrm: how far what is measured is followed; 0: not at all", PROBABILITY
    ),
    "restore.twist": _restore(
        "pigdm",
        "of twisted: the posterior score that is proposal and twist",
        Names(table="score_sde.posteriors:POSTERIORS"),
    ),
    "restore.particles": _restore(16, "of twisted: particles of each sample", one_to(2**20)),
    "restore.resample_below": _restore(
        0.5,
        "of twisted: part of the particles that the effective sample size falls below where they "
        "are resampled; 0: never",
        PROBABILITY,
    ),
    # Free: they are none of a score network's. What a classifier is made of its own run holds.
    "classifier.name": _free(
        "half_unet",
        "the network",
        Names(table="score_sde.networks.table:CLASSIFIERS"),
        older="half_unet",
    ),
    "classifier.nf": _free(32, "channels of the first level", one_to(65536), older=32),
    "classifier.ch_mult": _free(
        (1, 2, 2), "channels of each level, in units of nf", LEVELS, older=(1, 2, 2)
    ),
    "classifier.num_res_blocks": _free(1, "residual blocks of each level", one_to(64), older=1),
    "classifier.attn_resolutions": _free(
        (), "sides of the levels with attention", SIDES, older=()
    ),
    "classifier.dropout": _free(0.1, "share of activations dropped in training", SHARE, older=0.1),
    "classifier.num_classes": _free(
        0, "class labels; 0: those of the training images", up_to(10**7), older=0
    ),
}


def defaults(group: str) -> dict[str, Any]:
    """The default of every field of a group, by its name within it."""
    return {
        name.rpartition(".")[2]: field.default
        for name, field in FIELDS.items()
        if name.rpartition(".")[0] == group
    }
