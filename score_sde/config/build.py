"""Config → objects: one `build_*` per concept.

Below this layer nothing sees a config. Fields that configs of the 2021 release lack have the
defaults of `schema` where such configs lead here without being completed (`load_official`).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from score_sde.config import schema
from score_sde.config.holds import expanded
from score_sde.data import Source, inverse_scale, open_source, scale
from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.networks.power_average import PowerAverage
from score_sde.networks.table import NETWORKS
from score_sde.objectives import Objective, make_objective
from score_sde.samplers import (
    SAMPLERS,
    AdaptiveSampler,
    GridSampler,
    OnStep,
    Sampler,
    Samples,
)
from score_sde.samplers.optimised_grid import OptimisedGrid, optimised_grid
from score_sde.samplers.thresholding import ThresholdedScore
from score_sde.score import Network, NetworkScore, Parameterisation, ScoreFor, parameterisation
from score_sde.sde import SDE, SDES, Score
from score_sde.solvers.correctors import CORRECTORS
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import GridKind, chain_grid, paper_grid, time_grid
from score_sde.solvers.predictors import PREDICTORS
from score_sde.solvers.step import Step, arguments_of, make_step
from score_sde.tensor_ops import choose
from score_sde.training import PARAMETERS, Augmentation, TrainState, TrainStep, make_optimizer

Config = Any
"""An `ml_collections.ConfigDict`; its fields have no static types."""

Built = TypeVar("Built")


def build_device(config: Config) -> torch.device:
    """The device of `config.device`; "auto" is CUDA, then MPS, then the CPU.

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
    return device


def field(config: Config, name: str) -> Any:
    """A field by its dotted name; the default of `schema` where the config lacks it."""
    group, _, leaf = name.rpartition(".")
    return config[group].get(leaf, schema.FIELDS[name].default)


def image_shape(config: Config) -> tuple[int, int, int]:
    """(C, H, W) of the images, in pixels."""
    data = config.data
    return data.num_channels, data.image_size, field(config, "data.image_width") or data.image_size


def num_classes(config: Config) -> int:
    """Class labels that the network takes; 0 for a network without."""
    return field(config, "model.num_classes")


def augment_dim(config: Config) -> int:
    """Numbers that tell the network how an image was augmented; 0 where none is."""
    return PARAMETERS if field(config, "training.augment") else 0


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
    return _checked(_from_fields(row, name, config.model.to_dict()), SDE, f"SDES[{name!r}]")


def build_network(config: Config) -> nn.Module:
    """The network of `config.model.name`, on the config's device, channels-last where that pays.

    Raises:
        ValueError: an unknown name, a field that the network lacks, or options that it refuses.
    """
    device = build_device(config)
    network = _network(config).to(device)
    # nn.Module.to takes the memory format, though its annotation does not say so.
    return network.to(memory_format=channels_last(config, device))  # type: ignore[call-overload]


def empty_network(config: Config) -> nn.Module:
    """The network without memory for its weights (on the meta device): names and shapes."""
    with torch.device("meta"):
        return _network(config).to("meta")  # tables are computed on the CPU


def _network(config: Config) -> nn.Module:
    name = config.model.name
    row = choose(NETWORKS, name, "config.model.name")
    fields = schema.defaults("model") | config.model.to_dict()
    fields["centered"] = config.data.centered
    fields["augment_dim"] = augment_dim(config)
    made = _from_fields(row, name, fields, image_shape(config))
    return _checked(made, nn.Module, f"NETWORKS[{name!r}]")


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


def _checked(made: Built, kind: type[Built], row: str) -> Built:
    """What a row gave, if it is what its table is of."""
    if not isinstance(made, kind):
        raise ValueError(f"{row} gives {made!r:.60} where it must give a new {kind.__name__}")
    return made


def channels_last(config: Config, device: torch.device) -> torch.memory_format:
    """The memory format of images and weights; "auto" is channels-last, but not on MPS."""
    setting = field(config, "training.channels_last")
    on = setting == "on" or (setting == "auto" and device.type != "mps")
    return torch.channels_last if on else torch.contiguous_format


def compiled(config: Config, network: nn.Module, device: torch.device) -> nn.Module:
    """The network under `torch.compile`, if the config says so ("auto": on CUDA)."""
    setting = config.training.compile
    on = setting == "on" or (setting == "auto" and device.type == "cuda")
    return torch.compile(network) if on else network  # type: ignore[return-value]


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
    network, optim = build_network(config), config.optim
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
        averages=[PowerAverage(network, one) for one in field(config, "model.ema_lengths")],
    )


def build_train_step(config: Config, objective: Objective) -> TrainStep:
    """One update with the optimiser's schedule."""
    share = field(config, "training.augment")
    return TrainStep(
        objective,
        lr=config.optim.lr,
        warmup=config.optim.warmup,
        grad_clip=config.optim.grad_clip,
        accumulation=config.training.accumulation,
        autocast_dtype=autocast_dtype(config),
        augmentation=Augmentation(share) if share else None,
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
    data = config.data
    return open_source(
        data.dataset,
        split,
        root=data_root(config),
        image_size=image_shape(config)[1:],
        num_channels=data.num_channels,
        download=field(config, "data.download"),
        test_fraction=field(config, "data.test_fraction"),
        category=field(config, "data.category"),
    )


def build_sources(config: Config) -> tuple[Source, Source]:
    """The training and the test images."""
    return open_split(config, "train"), open_split(config, "test")


def build_sampler(config: Config, sde: SDE, times: Tensor | None = None) -> Sampler:
    """The sampler of `config.sampling`.

    `num_steps=0` takes as many steps as the chain has scales. Networks trained on a discrete chain
    are called at its times only.

    Args:
        config: of the network.
        sde: that it was trained for.
        times: instead of those of `sampling.grid`, as `optimise_grid` finds them.

    Raises:
        UnknownName: a name that is in none of the tables.
        ValueError: a combination that does not run.
    """
    sampling = config.sampling
    eps = sampling.eps or sde.eps
    schema.FIELDS["sampling.method"].check(sampling.method, "config.sampling.method")
    if sampling.method in SAMPLERS:
        return _adaptive_sampler(config, sde, eps)
    pc = sampling.method == "pc"
    if pc and sampling.predictor == sampling.corrector == "none":
        raise ValueError(
            "config.sampling.predictor and config.sampling.corrector are both 'none', which draws "
            "nothing: name at least one"
        )
    predictor = _predictor(config, sde) if pc else _few_step(config, sde)
    steps = sampling.num_steps or sde.N
    discrete = not config.training.continuous
    if sampling.grid == "optimised" and (discrete or pc or predictor.order is None):
        what = "a network of a discrete chain" if discrete else f"method={sampling.method!r}"
        raise ValueError(
            "config.sampling.grid='optimised' is for few-step methods without noise in continuous "
            f"time, not for {what}: set auto"
        )
    if chain := pc and discrete and predictor.chain_steps and steps == sde.N:
        times = paper_grid(sde, eps=0.0)
    elif discrete:
        times = chain_grid(sde, sampling.num_steps or sde.N - 1)
    elif times is None:
        times = time_grid(sde, steps, _grid_kind(config, sde, predictor), eps)
    return GridSampler(
        sde,
        times,
        predictor,
        _corrector(config, sde) if pc else None,
        chain=chain,
        denoise=sampling.noise_removal,
        tweedie=sampling.noise_removal and not pc,
        corrector_first=sampling.corrector_first,
    )


def _adaptive_sampler(config: Config, sde: SDE, eps: float) -> Sampler:
    """A row of `SAMPLERS`: what chooses its own times."""
    method, kind = config.sampling.method, SAMPLERS[config.sampling.method]
    if _on_chain(config, sde):
        raise ValueError(
            f"config.sampling.method={method!r} steps to any time, and this network knows the "
            f"times of its discrete chain only: take {', '.join(['pc', *FEW_STEP])}"
        )
    fields = schema.defaults("sampling") | config.sampling.to_dict()
    arguments = arguments_of(kind)
    if lacking := [of for of in arguments.values() if of not in fields]:
        raise ValueError(
            f"config.sampling.{lacking[0]} is missing, which {method} takes: set it in the recipe"
        )
    given = {name: fields[of] for name, of in arguments.items()}
    if given.get("atol") == 0:
        given["atol"] = (2 if config.data.centered else 1) / 256
    made = kind(sde, eps=eps, tweedie=config.sampling.noise_removal, **given)
    return _checked(made, AdaptiveSampler, f"SAMPLERS[{method!r}]")


def _predictor(config: Config, sde: SDE) -> Step:
    sampling = config.sampling
    kind = choose(PREDICTORS, sampling.predictor, "config.sampling.predictor")
    step = make_step(kind, sde, sampling)
    # A step with an order of convergence is deterministic: it follows the ODE anyway.
    heeds = "probability_flow" in arguments_of(kind) or step.order is not None
    if sampling.probability_flow and not heeds:
        raise ValueError(
            f"config.sampling.probability_flow=True: {sampling.predictor} has no form for the "
            "ODE; set it to False, or take reverse_diffusion or euler_maruyama"
        )
    return step


def _corrector(config: Config, sde: SDE) -> Step:
    kind = choose(CORRECTORS, config.sampling.corrector, "config.sampling.corrector")
    return make_step(kind, sde, config.sampling)


def _few_step(config: Config, sde: SDE) -> Step:
    sampling = config.sampling
    kind = choose(FEW_STEP, sampling.method, "config.sampling.method")
    return make_step(kind, sde, sampling, on_chain=_on_chain(config, sde))


def _on_chain(config: Config, sde: SDE) -> bool:
    """Whether the network knows the times of a discrete chain only."""
    return sde.has_chain and not config.training.continuous


def _grid_kind(config: Config, sde: SDE, step: Step) -> GridKind:
    kind = config.sampling.grid
    # What is not optimised, as no network is at hand, is what an optimised grid is held against.
    own = sde.grid if step.grid == "uniform" else step.grid
    kinds = {"auto": own, "optimised": "log_snr"}
    return kinds.get(kind, kind)  # type: ignore[return-value]


def optimise_grid(
    config: Config, network: Network, sde: SDE, device: torch.device
) -> OptimisedGrid:
    """The grid `sampling.grid=optimised` of a network.

    Raises:
        ValueError: as `build_sampler`, or a method that draws noise.
    """
    sampling, classes = config.sampling, num_classes(config)
    build_sampler(config, sde)
    score_for = build_score_for(config, network, sde, lambda part: part % classes)
    return optimised_grid(
        _few_step(config, sde),
        thresholded(config, sde, score_for),
        sampling.num_steps or sde.N,
        image_shape(config),
        sampling.eps or sde.eps,
        tweedie=sampling.noise_removal,
        batch_size=sampling.batch_size,
        device=device,
    )


def build_score_for(
    config: Config,
    network: Network,
    sde: SDE,
    labels: Callable[[Tensor], Tensor] | None = None,
) -> ScoreFor:
    """A callable: sample indices → the score for these samples, so that labels follow them.

    Args:
        config: of the network.
        network: with its weights in place.
        sde: that it was trained for.
        labels: int64 (b,) sample indices → their classes; not asked where the network has none.
    """
    labelled, read = num_classes(config) > 0, build_parameterisation(config, sde)

    def score_for(index: Tensor) -> Score:
        label = labels(index).to(index.device) if labelled and labels else None
        return NetworkScore(network, sde, label=label, parameterisation=read)

    return score_for


def thresholded(config: Config, sde: SDE, score_for: ScoreFor) -> ScoreFor:
    """The scores that samples are drawn with: their denoised images as `sampling.threshold` says.

    Args:
        config: of the network.
        sde: that it was trained for.
        score_for: as `build_score_for` gives it, for whatever else a score is asked for.
    """
    kind = field(config, "sampling.threshold")
    if kind == "none":
        return score_for
    centered = config.data.centered
    return lambda index: ThresholdedScore(score_for(index), sde, kind, centered)


def draw(
    config: Config,
    network: Network,
    sde: SDE,
    index: Tensor,
    device: torch.device,
    on_step: OnStep | None = None,
    sampler: Sampler | None = None,
    seed: int | None = None,
    score_for: ScoreFor | None = None,
) -> Iterator[Samples]:
    """Samples by their index, int64 (n,): image k is of class k modulo the number of classes.

    Args:
        config: of the network, with sampler and seed.
        network: with its weights in place.
        sde: that it was trained for.
        index: of the samples.
        device: where to compute.
        on_step: called after each step of the sampler.
        sampler: another one than that of `config.sampling`.
        seed: another one than `config.seed`.
        score_for: another score than that of the network, which is then not asked.
    """
    classes = num_classes(config)
    if score_for is None:
        score_for = build_score_for(config, network, sde, lambda part: part % classes)
    return (sampler or build_sampler(config, sde)).draw(
        thresholded(config, sde, score_for),
        index,
        image_shape(config),
        seed=config.seed if seed is None else seed,
        batch_size=config.sampling.batch_size,
        device=device,
        on_step=on_step,
    )
