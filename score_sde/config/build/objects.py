"""Config → SDE, network, objective, what trains, and data: one `build_*` per concept.

Fields that configs of the 2021 release lack have the
defaults of `schema` where such configs lead here without being completed (`load_official`).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from score_sde import parallel
from score_sde.config import schema
from score_sde.config.holds import expanded
from score_sde.config.schema import Config
from score_sde.data import (
    Downsampled,
    Range,
    Source,
    inverse_scale,
    open_source,
    scale,
)
from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.networks.low_resolution import LowResolution
from score_sde.networks.power_average import PowerAverage
from score_sde.networks.recomputing import recompute
from score_sde.networks.table import NETWORKS
from score_sde.objectives import Objective, make_objective
from score_sde.score import Network, NetworkScore, Parameterisation, parameterisation
from score_sde.sde import SDE, SDES, Score
from score_sde.tensor_ops import choose
from score_sde.training import (
    PARAMETERS,
    Augmentation,
    TrainState,
    TrainStep,
    divide,
    make_optimizer,
)
from score_sde.training.step import Objective as TrainingObjective

Built = TypeVar("Built")


def build_device(config: Config) -> torch.device:
    """The device of `config.device`; "auto" is CUDA, then MPS, then the CPU.

    Of several processes that a launcher started on this machine each has a GPU of its own.

    Raises:
        ValueError: a name that torch does not know, or a device that is not there.
    """
    name = str(config.device)
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"config.device={name!r}: give auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"config.device={name!r}: there are {torch.cuda.device_count()} CUDA devices here; "
            "set auto or cpu"
        )
    own = parallel.device_index()
    if device.type == "cuda" and device.index is None and own >= torch.cuda.device_count():
        raise ValueError(
            f"process {own} of those on this machine has no GPU of its own, as there are "
            f"{torch.cuda.device_count()}: start so many here (--nproc_per_node), or set "
            "--config.device=cpu"
        )
    return device


def field(config: Config, name: str) -> Any:
    """A field by its dotted name; the default of `schema` where the config lacks it."""
    group, _, leaf = name.rpartition(".")
    return config.get(group, {}).get(leaf, schema.FIELDS[name].default)


def image_shape(config: Config) -> tuple[int, int, int]:
    """(C, H, W) of the images, in pixels."""
    data = config.data
    return data.num_channels, data.image_size, field(config, "data.image_width") or data.image_size


def data_range(config: Config) -> Range:
    """Of floats, the numbers (low, high) that become 0 and 1; () of grey levels.

    A recipe need not know it: a run takes it from its data, and its checkpoints hold it.
    """
    return tuple(field(config, "data.range"))


def with_range(config: Config, range: Sequence[float]) -> Config:
    """A config that knows the range of its data; itself where it has one, or they have none."""
    if data_range(config) or not range:
        return config
    known = copy.deepcopy(config)
    with known.unlocked():
        known.data.range = tuple(range)
    return known


def num_classes(config: Config) -> int:
    """Class labels that the network takes; 0 for a network without."""
    return field(config, "model.num_classes")


def label_dropout(config: Config) -> float:
    """Probability that training leaves a label out; above 0 the network knows no class as well."""
    return field(config, "model.label_dropout")


def augment_dim(config: Config) -> int:
    """Numbers that tell the network how an image was augmented; 0 where none is."""
    return PARAMETERS if field(config, "training.augment") else 0


def upsampling_factor(config: Config) -> int:
    """How many times smaller the images are that the network upsamples; 0 for one of none."""
    return field(config, "model.upsampling_factor")


def low_resolution(config: Config) -> LowResolution | None:
    """What a network that upsamples is given of training images; None for one that does not."""
    factor = upsampling_factor(config)
    return LowResolution(factor, field(config, "training.image_noise")) if factor else None


def data_root(config: Config) -> str:
    """The folder that data sets lie in."""
    return str(expanded(field(config, "data.root") or schema.FIELDS["data.root"].default))


def build_sde(config: Config) -> SDE:
    """The forward SDE of `config.training.sde` with the parameters of `config.model`.

    Raises:
        ValueError: an unknown name, a field that the SDE lacks, or parameters that it refuses.
    """
    name = config.training.sde
    row = choose(SDES, name, "config.training.sde")
    return checked(_from_fields(row, name, config.model.to_dict()), SDE, f"SDES[{name!r}]")


def build_network(config: Config) -> nn.Module:
    """The network of `config.model.name`, on the config's device, channels-last where that pays.

    Raises:
        ValueError: an unknown name, a field that the network lacks, or options that it refuses.
    """
    return placed(config, fresh_network(config))


def placed(config: Config, network: nn.Module) -> nn.Module:
    """The network on the config's device, channels-last where that pays."""
    device = build_device(config)
    # nn.Module.to takes the memory format, though its annotation does not say so.
    memory: Any = {"memory_format": channels_last(config, device)}
    return network.to(device).to(**memory)


def empty_network(config: Config) -> nn.Module:
    """The network without memory for its weights (on the meta device): names and shapes."""
    with torch.device("meta"):
        return fresh_network(config).to("meta")  # tables are computed on the CPU


def fresh_network(config: Config) -> nn.Module:
    """The network with fresh weights on the CPU.

    Raises:
        ValueError: as `build_network`.
    """
    name = config.model.name
    row = choose(NETWORKS, name, "config.model.name")
    fields = schema.defaults("model") | config.model.to_dict()
    fields["centered"] = config.data.centered
    fields["augment_dim"] = augment_dim(config)
    made = _from_fields(row, name, fields, image_shape(config))
    return as_trained(config, checked(made, nn.Module, f"NETWORKS[{name!r}]"))


def as_trained(config: Config, network: nn.Module) -> nn.Module:
    """The network, which keeps for its gradient what `training.activation_checkpointing` says.

    Raises:
        ValueError: it can't keep less.
    """
    if field(config, "training.activation_checkpointing"):
        recompute(network)
    return network


def _from_fields(
    row: Callable[..., Built], name: str, fields: Mapping[str, Any], *more: object
) -> Built:
    """Calls a row of SDES or NETWORKS with the fields of the group `model`."""
    try:
        return row(fields, *more)
    except KeyError as error:
        if error.args and error.args[0] not in fields:
            raise ValueError(
                f"config.model.{error.args[0]} is missing, which {name!r} takes: set it in the "
                "recipe"
            ) from error
        raise


def checked(made: Built, kind: type[Built], row: str) -> Built:
    """What a row gave, if it is what its table is of."""
    if not isinstance(made, kind):
        raise ValueError(f"{row} gives {made!r:.60} where it must give a new {kind.__name__}")
    return made


def channels_last(config: Config, device: torch.device) -> torch.memory_format:
    """The memory format of images and weights; "auto" is channels-last, but not on MPS."""
    setting = field(config, "training.channels_last")
    on = setting == "on" or (setting == "auto" and device.type != "mps")
    return torch.channels_last if on else torch.contiguous_format


def autocast_dtype(config: Config) -> torch.dtype | None:
    """What the network computes in beside float32; None for float32 alone."""
    return torch.bfloat16 if config.training.precision == "bf16" else None


def set_tf32(config: Config) -> None:
    """Allows TF32 for the whole process as `training.precision` says; where a run begins."""
    allow_tf32(config.training.precision != "float32")


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products on CUDA may keep 10 bits of their factors, and be faster."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def build_parameterisation(config: Config, sde: SDE) -> Parameterisation:
    """How the config's network is told the time, and how its output is read.

    Raises:
        ValueError: a prediction that the network's chain does not know.
    """
    prediction = field(config, "model.prediction")
    # The papers' conventions, of which networks are made, need not be asked for.
    network = None if prediction == "auto" else empty_network(config)
    return parameterisation(
        sde,
        config.training.continuous,
        prediction,
        takes=getattr(network, "cond_kind", None),
        sigma_data=field(config, "model.sigma_data"),
    )


def build_score(config: Config, network: Network, sde: SDE, label: Tensor | None = None) -> Score:
    """The score that a network stands for, by the conventions of `score`."""
    read = build_parameterisation(config, sde)
    return NetworkScore(network, sde, label=label, parameterisation=read)


def build_objective(config: Config, sde: SDE) -> Objective:
    """What training minimises.

    Raises:
        ValueError: options that exclude each other.
    """
    training = config.training
    return make_objective(
        sde,
        objective=field(config, "training.objective"),
        continuous=training.continuous,
        reduce_mean=training.reduce_mean,
        likelihood_weighting=training.likelihood_weighting,
        times=training.time_sampling,
        parameterisation=build_parameterisation(config, sde),
        p_mean=field(config, "training.p_mean"),
        p_std=field(config, "training.p_std"),
        sigma_data=field(config, "model.sigma_data"),
    )


def build_state(config: Config) -> TrainState:
    """A network with fresh weights, its moving averages and its optimiser."""
    return state_of(config, fresh_network(config), field(config, "model.ema_lengths"))


def divides(config: Config) -> bool:
    """Whether training divides weights among processes; a single one has all of them."""
    return field(config, "training.sharding") == "full" and parallel.count() > 1


def state_of(config: Config, network: nn.Module, lengths: Sequence[float] = ()) -> TrainState:
    """What training changes of a network on the CPU, with averages of further lengths.

    The network is brought to the config's device: all of it, or this process's part.
    """
    if divides(config):  # before anything is made as large as its weights
        network = divide(network, build_device(config))
    else:
        network = placed(config, network)
    optim = config.optim
    optimizer = make_optimizer(
        network.named_parameters(),
        name=optim.optimizer,
        lr=optim.lr,
        beta1=optim.beta1,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        amsgrad=optim.amsgrad,
    )
    return TrainState(
        network,
        ExponentialMovingAverage(network, config.model.ema_rate),
        optimizer,
        averages=[PowerAverage(network, one) for one in lengths],
    )


def build_train_step(
    config: Config, objective: TrainingObjective, augmented: bool = True
) -> TrainStep:
    """One update with the optimiser's schedule; without augmentation for networks untold of it."""
    share, mirror = (
        field(config, f"training.{name}") if augmented else 0.0
        for name in ("augment", "augment_mirror")
    )
    return TrainStep(
        objective,
        lr=config.optim.lr,
        warmup=config.optim.warmup,
        grad_clip=config.optim.grad_clip,
        accumulation=config.training.accumulation,
        autocast_dtype=autocast_dtype(config),
        augmentation=Augmentation(share, mirror) if share else None,
        low_resolution=low_resolution(config),
    )


def build_scaler(config: Config) -> Callable[[Tensor], Tensor]:
    """The map from [0, 1] to the network's range: [-1, 1] if `config.data.centered`, or itself."""
    return scale if config.data.centered else _unchanged


def build_inverse_scaler(config: Config) -> Callable[[Tensor], Tensor]:
    """The map from the network's range back to [0, 1]; it does not clip."""
    return inverse_scale if config.data.centered else _unchanged


def _unchanged(image: Tensor) -> Tensor:
    return image


def open_split(config: Config, split: str) -> Source:
    """A split of `config.data`, "train" or "test"."""
    data, factor = config.data, field(config, "data.downsampling")
    _, height, width = image_shape(config)
    source = open_source(
        data.dataset,
        split,
        root=data_root(config),
        image_size=(height * factor, width * factor),
        num_channels=data.num_channels,
        download=field(config, "data.download"),
        test_fraction=field(config, "data.test_fraction"),
        category=field(config, "data.category"),
        range=data_range(config),
        dequantised=field(config, "data.uniform_dequantization"),
    )
    return source if factor == 1 else Downsampled(source, factor)


def build_sources(config: Config) -> tuple[Source, Source]:
    """The training and the test images."""
    return open_split(config, "train"), open_split(config, "test")
