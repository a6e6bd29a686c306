"""What must hold in a config, checked before data are read or a network is built."""

import copy
import difflib
import math
from collections.abc import Sequence
from typing import Any

import torch

from score_sde.config.build import (
    NETWORKS,
    SDES,
    TIME_SAMPLINGS,
    Config,
    build_device,
    build_objective,
    build_sampler,
    build_sde,
    image_shape,
)
from score_sde.data import DatasetInfo, canonical_name
from score_sde.objectives import OBJECTIVES

CHOICES = {
    "training.sde": tuple(SDES),
    "training.objective": OBJECTIVES,
    "training.time_sampling": TIME_SAMPLINGS,
    "training.precision": ("auto", "float32", "tf32", "bf16"),
    "training.compile": ("auto", "on", "off"),
    "training.channels_last": ("auto", "on", "off"),
    "model.name": tuple(NETWORKS),
    "sampling.norms": ("sample", "batch"),
    "eval.bpd_dataset": ("test", "train", "both"),
    "eval.features": ("auto", "inception", "classifier"),
    "eval.reference_split": ("train", "test"),
    "eval.hutchinson_type": ("Rademacher", "Gaussian", "exact"),
    "optim.optimizer": ("Adam", "AdamW"),
}
AT_LEAST_ONE = (
    "training.batch_size",
    "training.accumulation",
    "training.n_iters",
    "training.log_freq",
    "training.eval_freq",
    "training.snapshot_freq",
    "training.snapshot_freq_for_preemption",
    "training.snapshot_images",
    "training.keep_checkpoints",
    "sampling.batch_size",
    "sampling.n_steps_each",
    "sampling.max_steps",
    "eval.batch_size",
    "eval.bpd_batch_size",
    "eval.num_samples",
    "eval.bpd_draws",
    "eval.bpd_probes",
    "eval.max_steps",
    "data.image_size",
    "data.num_channels",
    "model.num_scales",
    "model.nf",
    "model.num_res_blocks",
)
ABOVE_ZERO = (
    "optim.lr",
    "optim.eps",
    "sampling.snr",
    "sampling.rtol",
    "sampling.atol",
    "eval.rtol",
    "eval.atol",
    "eval.bpd_eps",
)
NOT_NEGATIVE = (
    "optim.warmup",
    "optim.weight_decay",
    "sampling.num_steps",
    "sampling.s_churn",
    "sampling.s_min",
    "sampling.s_max",
    "sampling.s_noise",
    "eval.bpd_images",
    "eval.begin_ckpt",
    "eval.end_ckpt",
    "data.image_width",
    "model.num_classes",
    "model.init_scale",
)
FRACTIONS = ("optim.beta1", "model.ema_rate", "model.dropout", "data.test_fraction")
FINITE = ("optim.grad_clip", "model.fourier_scale")
WHOLE_NUMBERS = ("model.ch_mult", "model.attn_resolutions")
DEVICES = ("cpu", "cuda", "mps")


def check_config(config: Config) -> None:
    """Refuses a config that cannot run.

    Raises:
        ValueError: the first field at fault, what it holds and what it may hold.
    """
    for name, allowed in CHOICES.items():
        _one_of(f"config.{name}", _get(config, name), allowed)
    _check_numbers(config)
    _check_tuples(config)
    batch, parts = config.training.batch_size, config.training.accumulation
    if batch % parts:
        raise ValueError(
            f"config.training.batch_size={batch} cannot be split into "
            f"config.training.accumulation={parts} equal parts; make one divide the other"
        )
    canonical_name(config.data.dataset)
    image_shape(config)
    begin, end = config.eval.begin_ckpt, config.eval.end_ckpt
    if end and begin > end:
        raise ValueError(
            f"config.eval.begin_ckpt={begin} lies after config.eval.end_ckpt={end}: give a first "
            "and a last step, or 0 for no last one"
        )
    _check_conditioning(config)
    _check_chain(config)
    sde = build_sde(config)
    if not config.eval.bpd_eps < sde.T:
        raise ValueError(
            f"config.eval.bpd_eps={config.eval.bpd_eps:g}: the flow begins there and ends at "
            f"{sde.T:g}, so give a small time, such as 1e-5"
        )
    build_objective(config, sde)
    build_sampler(config, sde)
    _check_device(config)
    with torch.device("meta"):  # every option of a network, at no cost
        NETWORKS[config.model.name](config)


def _check_numbers(config: Config) -> None:
    """Every number is finite and within its range; fields that a network lacks are left out."""
    rules = (
        (AT_LEAST_ONE, lambda x: x >= 1, "it must be at least 1"),
        (ABOVE_ZERO, lambda x: x > 0, "it must be above 0"),
        (NOT_NEGATIVE, lambda x: x >= 0, "it may not be negative"),
        (FRACTIONS, lambda x: 0 <= x < 1, "it must be from 0 to below 1"),
        (FINITE, lambda x: True, "it must be a finite number"),
    )
    for names, holds, words in rules:
        for name in names:
            value = _get(config, name)
            if value is not None and not (math.isfinite(value) and holds(value)):
                raise ValueError(f"config.{name}={value}: {words}")
    if not -(2**63) <= config.seed < 2**63:
        raise ValueError(f"config.seed={config.seed}: a seed has 64 bits")


def _check_tuples(config: Config) -> None:
    for name in WHOLE_NUMBERS:
        value = _get(config, name) or ()
        if not all(type(item) is int and item >= 1 for item in value):
            raise ValueError(f"config.{name}={value}: give whole numbers from 1 up, as (1, 2)")
    if _get(config, "model.ch_mult") == ():
        raise ValueError("config.model.ch_mult=(): a network has at least one level, as (1, 2)")
    kernel = _get(config, "model.fir_kernel")
    numbers = all(isinstance(item, int | float) for item in kernel or ())
    if kernel is not None and not (numbers and math.isfinite(sum(kernel)) and sum(kernel)):
        raise ValueError(
            f"config.model.fir_kernel={kernel}: give numbers whose sum is not 0, as (1, 3, 3, 1)"
        )
    attended, levels = _get(config, "model.attn_resolutions"), _get(config, "model.ch_mult")
    if attended and levels:
        sides = [min(image_shape(config)[1:]) // 2**level for level in range(len(levels))]
        if not set(attended) & set(sides):
            raise ValueError(
                f"config.model.attn_resolutions={attended}: none is the shorter side of a level "
                f"of this network, which are {', '.join(map(str, sides))}; choose among these, or "
                "() for no attention"
            )


def _check_device(config: Config) -> None:
    device = build_device(config)
    if device.type not in DEVICES:
        raise ValueError(f"config.device={config.device!r}: give auto, {', '.join(DEVICES)}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"config.device={config.device!r}: it is not there; set auto or cpu")


def _check_chain(config: Config) -> None:
    model, training = config.model, config.training
    if not training.continuous and training.time_sampling != "uniform":
        raise ValueError(
            f"config.training.time_sampling={training.time_sampling!r}: a discrete chain draws "
            "its steps uniformly, so set 'uniform' (or training.continuous=True)"
        )
    if training.sde != "vesde" and model.beta_max > model.num_scales:
        raise ValueError(
            f"config.model.num_scales={model.num_scales}: the chain needs at least "
            f"beta_max={model.beta_max} scales, since beta_max/num_scales is a variance of at "
            "most 1; for fewer sampling steps set config.sampling.num_steps"
        )


def _check_conditioning(config: Config) -> None:
    """SDE, embedding and scale_by_sigma must belong together, or a network learns nothing."""
    model, ve = config.model, config.training.sde == "vesde"
    if (
        "scale_by_sigma" in model
        and model.name in ("ncsnpp", "ddpm")
        and model.scale_by_sigma != ve
    ):
        raise ValueError(
            f"config.model.scale_by_sigma={model.scale_by_sigma} does not go with "
            f"{config.training.sde}: networks for VE divide by the noise level (True), those for "
            "VP and sub-VP put out the noise itself (False)"
        )
    if model.name == "ncsnpp":
        fits = "fourier" if ve and config.training.continuous else "positional"
        if model.embedding_type != fits:
            raise ValueError(
                f"config.model.embedding_type={model.embedding_type!r} does not go with "
                f"{config.training.sde}, continuous={config.training.continuous}: set {fits!r}"
            )
    if (
        model.name.startswith("ncsn")
        and model.name != "ncsnpp"
        and (not ve or config.training.continuous)
    ):
        raise ValueError(
            f"config.model.name={model.name!r} knows only the noise levels of SMLD: "
            "set config.training.sde='vesde' and config.training.continuous=False"
        )


def check_data(config: Config, info: DatasetInfo) -> None:
    """Refuses data that do not fit the network.

    Raises:
        ValueError: images of another shape, or class labels that the data set does not have.
    """
    if info.shape != image_shape(config):
        raise ValueError(
            f"the images of {info.name} are {info.shape} (channels, height, width), the network's "
            f"{image_shape(config)}: set data.num_channels, data.image_size and data.image_width"
        )
    classes = config.model.get("num_classes", 0)
    if classes and classes != info.num_classes:
        raise ValueError(
            f"config.model.num_classes={classes}, but {info.name} has {info.num_classes} classes; "
            "set the same number, or 0 for a network without labels"
        )


def reduced(config: Config) -> Config:
    """The recipe at the least width and length that still goes through everything: `--smoke`."""
    small = copy.deepcopy(config)
    with small.unlocked():
        for name, most in (
            ("nf", 32 if small.model.name == "ddpm" else 8),
            ("num_res_blocks", 1),
            ("num_scales", 20),
        ):
            if name in small.model:
                small.model[name] = min(small.model[name], most)
        if small.training.sde != "vesde" and small.model.beta_max >= small.model.num_scales:
            small.model.num_scales = 1 + int(small.model.beta_max)
        if "ch_mult" in small.model:
            small.model.ch_mult = tuple(min(factor, 2) for factor in small.model.ch_mult)
        small.data.image_size = min(small.data.image_size, 64)
        small.data.image_width = min(small.data.image_width, 64)
        small.training.update(
            batch_size=2,
            accumulation=1,
            n_iters=2,
            log_freq=1,
            eval_freq=1,
            snapshot_freq=2,
            snapshot_freq_for_preemption=1,
            snapshot_images=2,
            compile="off",
        )
        small.sampling.update(num_steps=3, n_steps_each=1, batch_size=2)
        small.eval.update(
            batch_size=4,
            num_samples=4,
            bpd_batch_size=2,
            bpd_images=2,
            bpd_draws=1,
            bpd_probes=1,
            hutchinson_type="Rademacher",
            bpd_dataset="test",
            rtol=0.1,
            atol=0.1,
            reference="",
            begin_ckpt=0,
            end_ckpt=0,
        )
    return small


def _get(config: Config, name: str) -> Any:
    """A field, or None where there is none: networks differ in theirs."""
    group, _, leaf = name.partition(".")
    return config[group].get(leaf)


def _one_of(name: str, given: object, allowed: Sequence[str]) -> None:
    if given not in allowed:
        near = difflib.get_close_matches(str(given), allowed, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}={given!r}: it must be one of {', '.join(allowed)}{hint}")
