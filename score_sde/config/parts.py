"""The parts that recipes are composed of.

A part is a plain dictionary of dotted field names and values; `recipe` lays parts over one another
from left to right, so that a recipe shows only what is particular to it.
`schema` says what each field means and may hold; they have the 2021 release's names where it had
them. Every field can be overridden on the command line: `--config.optim.lr=1e-4`.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from score_sde.config.schema import FIELDS

Part = dict[str, Any]

REQUIRED = ("training.sde", "model.name")
"""Fields that every recipe sets: there is no sensible default."""

COMMON: Part = {
    name: field.default
    for name, field in FIELDS.items()
    if (not name.startswith("model.") or field.older is not None) and name not in REQUIRED
}
"""The defaults of `schema` that every recipe begins with; networks differ in theirs, those fields
aside that were added later and so may not be missing."""

# Data sets, with what the papers set for each. `sigma_max` is about the largest distance between
# two images (Song & Ermon 2020, technique 1).

DIGITS: Part = {
    "data.dataset": "digits",
    "data.image_size": 8,
    "data.num_channels": 1,
    "data.random_flip": False,
    "eval.batch_size": 100,
    "eval.bpd_batch_size": 50,
    "eval.num_samples": 2000,
    "eval.bpd_dataset": "both",
    "eval.reference_split": "test",
}
COLOUR_DIGITS: Part = DIGITS | {"data.dataset": "colour_digits", "data.num_channels": 3}
FASHION_MNIST: Part = {
    "data.dataset": "fashion_mnist",
    "data.image_size": 28,
    "data.num_channels": 1,
    "eval.batch_size": 100,
    "eval.bpd_batch_size": 50,
    "eval.bpd_dataset": "both",
    "eval.bpd_images": 200,
    "eval.num_samples": 2000,
    "eval.reference_split": "test",
}
CIFAR10: Part = {
    "data.dataset": "CIFAR10",
    "data.image_size": 32,
    "model.sigma_max": 50.0,
    "sampling.snr": 0.16,
}
CELEBA: Part = {
    "data.dataset": "CELEBA",
    "data.image_size": 64,
    "model.sigma_max": 90.0,
    "sampling.snr": 0.17,
}
LARGE_IMAGES: Part = {
    "data.image_size": 256,
    "model.sigma_max": 378.0,
    "training.batch_size": 64,
    "training.n_iters": 2400001,
    "training.snapshot_freq_for_preemption": 5000,
    "sampling.snr": 0.075,
    "eval.batch_size": 512,
    "eval.bpd_batch_size": 16,
}
BEDROOM: Part = LARGE_IMAGES | {"data.dataset": "LSUN", "data.category": "bedroom"}
CHURCH: Part = LARGE_IMAGES | {"data.dataset": "LSUN", "data.category": "church_outdoor"}
CELEBAHQ: Part = LARGE_IMAGES | {"data.dataset": "CelebAHQ"}
FFHQ: Part = LARGE_IMAGES | {"data.dataset": "FFHQ"}
MEGAPIXEL: Part = {
    "data.image_size": 1024,
    "model.sigma_max": 1348.0,
    "training.batch_size": 8,
    "sampling.snr": 0.15,
    "eval.batch_size": 1024,
    "eval.bpd_batch_size": 2,
}

# SDEs, with the objective and sampler of the paper.

SCHEDULES: Part = {
    f"model.{name}": FIELDS[f"model.{name}"].default
    for name in ("num_scales", "sigma_min", "sigma_max", "beta_min", "beta_max")
}
VE: Part = {
    "training.sde": "vesde",
    "sampling.predictor": "reverse_diffusion",
    "sampling.corrector": "langevin",
}
VP: Part = {
    "training.sde": "vpsde",
    "training.reduce_mean": True,
    "data.centered": True,
    "sampling.predictor": "euler_maruyama",
    "sampling.corrector": "none",
}
SUBVP: Part = VP | {"training.sde": "subvpsde"}
POWER_VE: Part = VE | {"training.sde": "powervesde", "model.sigma": 25.0}
KARRAS: Part = VE | {  # whose time is the noise level itself
    "training.sde": "karrasvesde",
    "model.sigma_min": 0.002,
    "model.sigma_max": 80.0,
    "training.time_sampling": "log_snr",
    "eval.bpd_eps": 0.002,
}
EDM: Part = {  # Karras et al. 2022, table 1; behind SMALL, whose sampler is another
    "training.sde": "karrasvesde",
    "training.objective": "edm",
    "training.reduce_mean": True,
    "data.centered": True,
    "model.sigma_min": 0.002,
    "model.sigma_max": 80.0,
    "model.prediction": "edm",
    "model.ema_lengths": (0.05, 0.1),
    "sampling.method": "heun",
    "sampling.num_steps": 17,  # Tweedie's formula at the end is the paper's 18th step
    "sampling.grid": "edm",
    "eval.bpd_eps": 0.002,
}
COSINE: Part = VP | {"training.sde": "cosinevpsde"}
STRAIGHT: Part = VP | {"training.sde": "straightsde"}
SMLD: Part = VE | {"training.continuous": False}
ANNEALED_LANGEVIN: Part = SMLD | {"sampling.predictor": "none", "sampling.corrector": "ald"}
DDPM_CHAIN: Part = VP | {"training.continuous": False, "sampling.predictor": "ancestral_sampling"}

# Networks.

NCSNPP: Part = {
    "model.name": "ncsnpp",
    "model.nf": 128,
    "model.ch_mult": (1, 2, 2, 2),
    "model.num_res_blocks": 4,
    "model.attn_resolutions": (16,),
    "model.dropout": 0.1,
    "model.ema_rate": 0.999,
    "model.nonlinearity": "swish",
    "model.resamp_with_conv": True,
    "model.conditional": True,
    "model.num_classes": 0,
    "model.fir": True,
    "model.fir_kernel": (1, 3, 3, 1),
    "model.skip_rescale": True,
    "model.resblock_type": "biggan",
    "model.progressive": "none",
    "model.progressive_input": "residual",
    "model.progressive_combine": "sum",
    "model.init_scale": 0.0,
    "model.embedding_type": "fourier",
    "model.fourier_scale": 16.0,
    "model.scale_by_sigma": True,
}
NCSNPP_256: Part = NCSNPP | {
    "model.ch_mult": (1, 1, 2, 2, 2, 2, 2),
    "model.num_res_blocks": 2,
    "model.dropout": 0.0,
    "model.progressive": "output_skip",
    "model.progressive_input": "input_skip",
    "model.num_scales": 2000,
}
NCSNPP_1024: Part = NCSNPP_256 | {
    "model.nf": 16,
    "model.ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
    "model.num_res_blocks": 1,
    "model.ema_rate": 0.9999,
}
NCSNPP_VP: Part = NCSNPP | {  # puts out the noise; its label is the time
    "model.embedding_type": "positional",
    "model.scale_by_sigma": False,
    "model.ema_rate": 0.9999,
}
DDPMPP: Part = NCSNPP_VP | {"model.fir": False, "model.progressive_input": "none"}
DDPM: Part = {
    "model.name": "ddpm",
    "model.nf": 128,
    "model.ch_mult": (1, 2, 2, 2),
    "model.num_res_blocks": 2,
    "model.attn_resolutions": (16,),
    "model.attn_every_up": False,
    "model.dropout": 0.1,
    "model.ema_rate": 0.9999,
    "model.nonlinearity": "swish",
    "model.resamp_with_conv": True,
    "model.conditional": True,
    "model.num_classes": 0,
    "model.scale_by_sigma": False,
}
DDPM_256: Part = DDPM | {
    "model.ch_mult": (1, 1, 2, 2, 4, 4),
    "model.dropout": 0.0,
    "optim.lr": 2e-5,
}
NCSN: Part = {
    "model.name": "ncsn",
    "model.nf": 128,
    "model.ema_rate": 0.0,  # without an average
    "model.normalization": "InstanceNorm++",
    "model.nonlinearity": "elu",
    "optim.lr": 1e-3,
    "optim.warmup": 0,
    "optim.grad_clip": -1.0,
}
NCSNV2: Part = NCSN | {
    "model.name": "ncsnv2_64",  # ncsnv2_64, ncsnv2_128, ncsnv2_256: for images up to this side
    "model.ema_rate": 0.999,
    "optim.lr": 1e-4,
}

UPSAMPLER: Part = {  # the second model of a cascade, whose low-resolution images are a half
    "model.upsampling_factor": 2,
    "training.image_noise": 0.5,
    "sampling.image_noise": 0.1,
}

# Noise levels for annealed Langevin dynamics, with the corrector's steps at each: those of NCSN,
# and those that Song & Ermon 2020 compute from the data (techniques 1, 2 and 4).

TEN_LEVELS: Part = {
    "model.sigma_max": 1.0,
    "model.num_scales": 10,
    "sampling.n_steps_each": 100,
    "sampling.snr": 0.316,
}
CIFAR10_LEVELS: Part = {
    "model.sigma_max": 50.0,
    "model.num_scales": 232,
    "sampling.n_steps_each": 5,
    "sampling.snr": 0.176,
}
CELEBA_LEVELS: Part = {
    "model.sigma_max": 90.0,
    "model.num_scales": 500,
    "sampling.n_steps_each": 5,
    "sampling.snr": 0.128,
}

# A network and a length for two CPU cores.

SMALL: Part = {
    "model.nf": 32,
    "model.ch_mult": (1, 2, 2),
    "model.num_res_blocks": 1,
    "model.attn_resolutions": (4,),
    "model.dropout": 0.0,
    "model.ema_rate": 0.995,
    "training.batch_size": 64,
    "training.n_iters": 2000,
    "training.time_sampling": "stratified",
    "training.log_freq": 100,
    "training.eval_freq": 100,
    "training.snapshot_freq": 500,
    "training.snapshot_freq_for_preemption": 250,
    "training.snapshot_images": 100,
    # Noise on the way forgives what a short training has not learnt at the largest levels;
    # the deterministic samplers amplify it.
    "sampling.method": "pc",
    "sampling.predictor": "ancestral_sampling",
    "sampling.corrector": "none",
    "sampling.num_steps": 100,
    "sampling.batch_size": 100,
    "optim.lr": 2e-3,
    "optim.warmup": 100,
}


def recipe(*parts: Part) -> ml_collections.ConfigDict:
    """Composes a config.

    Args:
        *parts: laid over the common defaults from left to right; a later part wins.

    Returns:
        The config, unlocked, as a fork adds fields to it; the command line locks it.

    Raises:
        TypeError: a part gives a field another type than an earlier one.
    """
    fields: Part = {}
    for part in (COMMON, SCHEDULES, *parts):
        for name, value in part.items():
            if name in fields and type(value) is not type(fields[name]):
                raise TypeError(
                    f"{name}={value!r}: an earlier part gives it the type "
                    f"{type(fields[name]).__name__}; write the value as one"
                )
            fields[name] = value
    return as_config(fields)


def by_dotted_name(tree: Mapping[str, Any], prefix: str = "") -> Part:
    """The values of nested dictionaries by dotted names, the inverse of `as_config`."""
    fields: Part = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        fields |= by_dotted_name(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return fields


def as_config(fields: Part) -> ml_collections.ConfigDict:
    """A config, unlocked, of values by dotted names."""
    # The top level holds the seed and the device, which may be a name or a torch.device.
    config: Any = ml_collections.ConfigDict(type_safe=False)
    for name, value in fields.items():
        group, _, leaf = name.rpartition(".")
        if group and group not in config:
            config[group] = ml_collections.ConfigDict()
        (config[group] if group else config)[leaf] = value
    return config
