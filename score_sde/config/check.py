"""What must hold in a config, checked before data are read or a network is trained.

`schema` has what each field alone may hold. What must hold between fields is asked of the
objects that are made of them, never of their names, so that it is true of what users add.
"""

import json
import math

import torch
from ml_collections import ConfigDict
from torch import nn

from score_sde.config.build import (
    Config,
    augment_dim,
    build_device,
    build_objective,
    build_parameterisation,
    build_sampler,
    build_sde,
    check_guides,
    data_range,
    empty_network,
    field,
    image_shape,
    label_dropout,
    num_classes,
    upsampling_factor,
)
from score_sde.config.history import leaves
from score_sde.config.schema import FIELDS
from score_sde.data import DatasetInfo, canonical_name
from score_sde.data.memory import installed_bytes
from score_sde.data.scaling import refuse_dequantisation
from score_sde.sde import SDE

DEVICES = ("cpu", "cuda", "mps")


def check_config(config: Config, copies: int = 1, processes: int = 1) -> None:
    """Refuses a config that cannot run.

    Args:
        config: the whole of it.
        copies: how many numbers there are for each weight: 1 to draw samples, 5 to train
            (weight, gradient, the optimiser's two moments and the moving average), beside those
            of `model.ema_lengths`.
        processes: among which they are divided where `training.sharding` says so.

    Raises:
        ValueError: the first field at fault, what it holds and what it may hold.
    """
    check_fields(config)
    canonical_name(config.data.dataset)
    _check_parts(config)
    _check_attention(config)
    _check_labels(config)
    sde = build_sde(config)
    check_guides(config, sde)
    _check_times(config, sde)
    build_objective(config, sde)
    build_sampler(config, sde)
    _check_device(config)
    network = empty_network(config)
    _check_sharding(config)
    _check_memory(config, network, copies, processes)
    _check_conditioning(config, sde, network)
    _check_augmentation(config, network)
    _check_upsampling(config, network)


def _check_sharding(config: Config) -> None:
    if field(config, "training.sharding") == "full" and config.training.compile == "on":
        raise ValueError(
            "config.training.compile='on': a network that is divided among processes "
            "(config.training.sharding='full') is not compiled; set 'auto' or 'off', or do "
            "without sharding"
        )


def _check_memory(config: Config, network: nn.Module, copies: int, processes: int) -> None:
    """Refuses a network, or images at a time, that alone exceed the memory of the device."""
    memory = memory_of(build_device(config))
    weights = sum(p.numel() for p in network.parameters())
    divided = processes > 1 and field(config, "training.sharding") == "full"
    parts, other = (processes, "start more processes") if divided else (1, "")
    if copies > 1 and not divided and processes > 1:
        other = "set config.training.sharding='full'"
    if copies > 1:
        copies += len(field(config, "model.ema_lengths"))
    pixels = math.prod(image_shape(config))
    training = config.training
    widths = " or ".join(
        f"config.model.{name}"
        for name in ("nf", "ch_mult", "num_res_blocks", "num_classes")
        if name in config.model
    )
    for bytes_, what, remedy in (
        (
            4 * copies * weights // parts,
            f"a network of {weights:,} weights"
            + (", with gradients, moments and average," if copies > 1 else "")
            + (f" in {parts} parts," if divided else ""),
            f"take a smaller network{f', with a lower {widths}' if widths else ''}"
            + (f", or {other}" if other else ""),
        ),
        (
            4 * pixels * training.batch_size // training.accumulation,
            f"{training.batch_size:,} images of {image_shape(config)}",
            "lower config.training.batch_size, or raise config.training.accumulation",
        ),
        (
            4 * pixels * training.snapshot_images,
            f"{training.snapshot_images:,} images of {image_shape(config)}",
            "lower config.training.snapshot_images",
        ),
    ):
        if bytes_ > memory:
            raise ValueError(
                f"{what}: {bytes_ / 2**30:,.1f} GiB in float32, where {build_device(config)} has "
                f"{memory / 2**30:,.1f} GiB; {remedy}"
            )


def memory_of(device: torch.device) -> float:
    """Bytes of memory that a device has in all; MPS shares that of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return installed_bytes()


def check_fields(config: Config) -> None:
    """Refuses a field that holds what its row of `schema` does not allow, or JSON can't hold.

    Raises:
        ValueError: the first field at fault, what it holds and what it may hold.
    """
    for name in FIELDS:
        group, _, leaf = name.rpartition(".")
        fields = config.get(group, {}) if group else config
        if isinstance(fields.get(leaf), ConfigDict):
            raise ValueError(f"config.{name} is a group of fields: give it a single value")
    given = leaves(config) | {"device": str(config.device)}  # it may be a torch.device
    for name, value in given.items():
        if name in FIELDS:
            FIELDS[name].check(value, f"config.{name}")
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"config.{name}={value!r:.60} is {type(value).__name__}, and runs write their "
                "config as JSON: give a number, text, True, False, or a tuple of them"
            ) from error


def _check_parts(config: Config) -> None:
    batch, parts = config.training.batch_size, config.training.accumulation
    if batch % parts:
        raise ValueError(
            f"config.training.batch_size={batch} cannot be split into "
            f"config.training.accumulation={parts} equal parts; make one divide the other"
        )
    begin, end = config.eval.begin_ckpt, config.eval.end_ckpt
    if end and begin > end:
        raise ValueError(
            f"config.eval.begin_ckpt={begin} lies after config.eval.end_ckpt={end}: give a first "
            "and a last step, or 0 for no last one"
        )


def _check_attention(config: Config) -> None:
    attended, levels = config.model.get("attn_resolutions"), config.model.get("ch_mult")
    if not attended or not levels:
        return
    sides = [min(image_shape(config)[1:]) // 2**level for level in range(len(levels))]
    if not set(attended) & set(sides):
        raise ValueError(
            f"config.model.attn_resolutions={attended}: none is the shorter side of a level "
            f"of this network, which are {', '.join(map(str, sides))}; choose among these, or "
            "() for no attention"
        )


def _check_labels(config: Config) -> None:
    dropout = label_dropout(config)
    if dropout and not num_classes(config):
        raise ValueError(
            f"config.model.label_dropout={dropout:g}: this network is given no labels that could "
            "be left out; set config.model.num_classes to the number of classes, or 0 here"
        )


def _check_device(config: Config) -> None:
    device = build_device(config)
    if device.type not in DEVICES:
        raise ValueError(f"config.device={config.device!r}: give auto, {', '.join(DEVICES)}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"config.device={config.device!r}: it is not there; set auto or cpu")


def _check_times(config: Config, sde: SDE) -> None:
    if not config.eval.bpd_eps < sde.T:
        raise ValueError(
            f"config.eval.bpd_eps={config.eval.bpd_eps:g}: the flow begins there and ends at "
            f"{sde.T:g}, so give a small time, such as 1e-5"
        )
    if not config.sampling.eps < sde.T:
        raise ValueError(
            f"config.sampling.eps={config.sampling.eps:g}: sampling begins at {sde.T:g} and ends "
            "there, so give a small time, such as 1e-3, or 0 for the SDE's own"
        )


def _check_conditioning(config: Config, sde: SDE, network: nn.Module) -> None:
    """SDE, prediction and network must agree on label and output, or the network learns nothing.

    Networks say what they take as `cond` (`cond_kind`), and by what they divide their output
    (`noise_level`); those that say nothing are not checked.
    """
    model, chain = config.model, sde.has_chain and not config.training.continuous
    own, prediction = sde.network_output == "score", field(config, "model.prediction")
    given = "number" if not own else "level" if chain else "sigma"
    takes = getattr(network, "cond_kind", given)
    if takes == "level" and given != "level":
        raise ValueError(
            f"config.model.name={model.name!r} knows only the noise levels of SMLD: "
            "set config.training.sde='vesde' and config.training.continuous=False"
        )
    # By the papers' conventions, and on a chain, the SDE decides what a network is given.
    if (prediction == "auto" or chain) and (takes == "sigma") != (given == "sigma"):
        wanted = "a noise level" if given == "sigma" else "a time or step"
        what = f"config.model.name={model.name!r}"
        remedy = f"take a network that is given {wanted}, such as ncsnpp"
        if "embedding_type" in model:
            what = f"config.model.embedding_type={model.embedding_type!r}"
            remedy = f"set {'fourier' if given == 'sigma' else 'positional'!r}"
        raise ValueError(
            f"{what} does not go with {sde.name}, continuous={config.training.continuous}, whose "
            f"networks are given {wanted}: {remedy}"
        )
    _check_division(config, sde, network, takes)


def _check_division(config: Config, sde: SDE, network: nn.Module, takes: str) -> None:
    """A network divides its output by the noise level where that is of the output's size."""
    if not hasattr(network, "noise_level"):
        return
    prediction, divides = field(config, "model.prediction"), network.noise_level is not None
    read = build_parameterisation(config, sde).prediction
    if takes == "level":  # NCSN never divides, NCSNv2 always; scale_by_sigma says nothing of it
        if divides and not read.divided:
            raise ValueError(
                f"config.model.prediction={prediction!r}: {config.model.name} divides its output "
                "by the noise level, as scores are, so set 'auto' or 'score', or take ncsnpp"
            )
    elif prediction == "auto" and divides != read.divided:
        raise ValueError(
            f"config.model.scale_by_sigma={divides} does not go with {sde.name}: networks that "
            "put out the score (VE) divide by the noise level (True), those that put out the "
            "noise (VP, sub-VP) do not (False)"
        )
    elif divides != read.divided:
        raise ValueError(
            f"config.model.scale_by_sigma={divides} does not go with config.model.prediction="
            f"{prediction!r}: networks that put out the score divide by the noise level (True), "
            "those that put out anything else do not (False)"
        )
    elif read.divided and takes == "number" and not _by_levels_of_smld(config, sde):
        raise ValueError(
            f"config.model.prediction={prediction!r} with {sde.name}: to divide by the noise "
            "level a network has to be given it, so set config.model.embedding_type='fourier' in "
            "continuous time, or config.model.prediction='noise', which is −σ times the score"
        )


def _by_levels_of_smld(config: Config, sde: SDE) -> bool:
    """Whether a network is given an index of SMLD's levels, of which it has a table."""
    return sde.has_chain and not config.training.continuous and sde.network_output == "score"


def _check_augmentation(config: Config, network: nn.Module) -> None:
    """A network that images are augmented for is told of it, or samples would be moved, too."""
    if augment_dim(config) and "augment" not in getattr(network, "inputs", ()):
        raise ValueError(
            f"config.training.augment={config.training.augment:g}: the network "
            f"config.model.name={config.model.name!r} is not told how images were augmented (its "
            "inputs name no 'augment'), and would learn to draw moved ones; set 0, or take ncsnpp "
            "or ddpm"
        )


def _check_upsampling(config: Config, network: nn.Module) -> None:
    """A network that upsamples is given images that fit, with noise of which it has learnt."""
    factor, (_, height, width) = upsampling_factor(config), image_shape(config)
    most, level = field(config, "training.image_noise"), field(config, "sampling.image_noise")
    if not factor:
        return
    if "image" not in getattr(network, "inputs", ()):
        raise ValueError(
            f"config.model.upsampling_factor={factor}: the network config.model.name="
            f"{config.model.name!r} takes no low-resolution images (its inputs name no 'image'); "
            "set 0, or take ncsnpp or ddpm"
        )
    if height % factor or width % factor:
        fitting = [f for f in range(2, min(height, width) + 1) if not (height % f or width % f)]
        remedy = f"take one of {', '.join(map(str, fitting))}" if fitting else "no factor does"
        raise ValueError(
            f"config.model.upsampling_factor={factor} does not divide both sides of "
            f"{height}x{width} images; {remedy}"
        )
    if level > most:
        raise ValueError(
            f"config.sampling.image_noise={level:g}: this network has learnt low-resolution "
            f"images with noise up to config.training.image_noise={most:g}; give at most that"
        )
    if config.sampling.grid == "optimised":
        raise ValueError(
            "config.sampling.grid='optimised' is fitted to a network alone, and one that "
            "upsamples needs low-resolution images: set auto"
        )


def check_data(config: Config, info: DatasetInfo) -> None:
    """Refuses data that do not fit the network.

    Raises:
        ValueError: images of another shape or range, noise on floats, or class labels that the
            data set does not have.
    """
    if info.shape != image_shape(config):
        raise ValueError(
            f"the images of {info.name} are {info.shape} (channels, height, width), the network's "
            f"{image_shape(config)}: set data.num_channels, data.image_size and data.image_width"
        )
    _check_range(config, info)
    classes = num_classes(config)
    if classes and classes != info.num_classes:
        raise ValueError(
            f"config.model.num_classes={classes}, but {info.name} has {info.num_classes} classes; "
            "set the same number, or 0 for a network without labels"
        )


def _check_range(config: Config, info: DatasetInfo) -> None:
    known = data_range(config)
    if known and tuple(info.range) != known:
        what = "pictures of 8 bits" if not info.range else f"numbers whose range is {info.range}"
        raise ValueError(
            f"{info.name} holds {what}, and config.data.range={known}: give data of this range, "
            "or for a network of others leave it out"
        )
    if config.data.uniform_dequantization:
        refuse_dequantisation(info.range, info.name)
