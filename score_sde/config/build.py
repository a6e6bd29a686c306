"""Config → objects: one `build_*` per concept.

Below this layer nothing sees a config. Fields that configs of the 2021 release lack have defaults
here where its entry points lead here (`build_network`, `build_sde`).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from score_sde import noise
from score_sde.data import DatasetInfo, MemorySource, Source, inverse_scale, open_source, scale
from score_sde.networks.ddpm import DDPM
from score_sde.networks.ema import ExponentialMovingAverage
from score_sde.networks.ncsnpp import NCSNpp
from score_sde.networks.ncsnv2 import NCSN, NCSNv2
from score_sde.objectives import TIME_SAMPLERS, Objective, make_objective
from score_sde.samplers import GridSampler, ODESampler, OnStep, Sampler, Samples
from score_sde.score import NetworkScore, ScoreFor
from score_sde.sde import SDE, VESDE, VPSDE, Score, subVPSDE
from score_sde.solvers.correctors import CORRECTORS
from score_sde.solvers.few_step import FEW_STEP, Heun
from score_sde.solvers.grids import GridKind, chain_grid, paper_grid, time_grid
from score_sde.solvers.predictors import PREDICTORS
from score_sde.solvers.step import Step, by_name
from score_sde.training import TrainState, TrainStep, make_optimizer

Config = Any
"""An `ml_collections.ConfigDict`; its fields have no static types."""

DEFAULT_ROOT = "data"
"""The folder of data sets where a config names none."""
TIME_SAMPLINGS = tuple(TIME_SAMPLERS)
METHODS = ("pc", "ode", *FEW_STEP)


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


def image_shape(config: Config) -> tuple[int, int, int]:
    """(C, H, W) of the images, in pixels."""
    data = config.data
    return data.num_channels, data.image_size, data.get("image_width", 0) or data.image_size


SDES: Mapping[str, Callable[[Config], SDE]] = {
    "vesde": lambda m: VESDE(m.sigma_min, m.sigma_max, m.num_scales),
    "vpsde": lambda m: VPSDE(m.beta_min, m.beta_max, m.num_scales),
    "subvpsde": lambda m: subVPSDE(m.beta_min, m.beta_max, m.num_scales),
}


def build_sde(config: Config) -> SDE:
    """The forward SDE of `config.training.sde` with the parameters of `config.model`."""
    return SDES[config.training.sde](config.model)


def _levels(config: Config) -> dict[str, Any]:
    model = config.model
    return {
        "sigma_min": model.sigma_min,
        "sigma_max": model.sigma_max,
        "num_scales": model.num_scales,
    }


def _unet(config: Config) -> dict[str, Any]:
    """Arguments that every U-Net takes."""
    model, (channels, height, width) = config.model, image_shape(config)
    fields = ("nf", "num_res_blocks", "dropout", "resamp_with_conv", "conditional", "nonlinearity")
    return {
        "image_size": (height, width),
        "num_channels": channels,
        "ch_mult": tuple(model.ch_mult),
        "attn_resolutions": tuple(model.attn_resolutions),
        "num_classes": model.get("num_classes", 0),
        "centered": config.data.centered,
        "scale_by_sigma": model.scale_by_sigma,
        **{field: model[field] for field in fields},
        **_levels(config),
    }


def _ncsnpp(config: Config) -> nn.Module:
    model = config.model
    fields = (
        "resblock_type",
        "progressive",
        "progressive_input",
        "progressive_combine",
        "fir",
        "skip_rescale",
        "embedding_type",
        "init_scale",
    )
    return NCSNpp(
        **_unet(config),
        **{field: model[field] for field in fields},
        fir_kernel=tuple(model.fir_kernel),
        fourier_scale=float(model.get("fourier_scale", 16.0)),
    )


def _ddpm(config: Config) -> nn.Module:
    return DDPM(**_unet(config), attn_every_up=config.model.get("attn_every_up", False))


def _ncsn(config: Config) -> nn.Module:
    model = config.model
    return NCSN(
        num_channels=config.data.num_channels,
        nf=model.nf,
        num_scales=model.num_scales,
        nonlinearity=model.nonlinearity,
        centered=config.data.centered,
    )


def _ncsnv2(size_class: int) -> Callable[[Config], nn.Module]:
    def build(config: Config) -> nn.Module:
        model = config.model
        return NCSNv2(
            num_channels=config.data.num_channels,
            nf=model.nf,
            size_class=size_class,
            normalization=model.normalization,
            nonlinearity=model.nonlinearity,
            centered=config.data.centered,
            **_levels(config),
        )

    return build


NETWORKS: Mapping[str, Callable[[Config], nn.Module]] = {
    "ncsnpp": _ncsnpp,
    "ddpm": _ddpm,
    "ncsn": _ncsn,
    "ncsnv2_64": _ncsnv2(64),
    "ncsnv2_128": _ncsnv2(128),
    "ncsnv2_256": _ncsnv2(256),
}


def build_network(config: Config) -> nn.Module:
    """The network of `config.model.name`, on the config's device, channels-last where that pays.

    Raises:
        ValueError: an unknown name, or options that the network refuses.
    """
    name = config.model.name
    if name not in NETWORKS:
        raise ValueError(f"config.model.name={name!r}: it must be one of {', '.join(NETWORKS)}")
    device = build_device(config)
    network = NETWORKS[name](config).to(device)
    # nn.Module.to takes the memory format, though its annotation does not say so.
    return network.to(memory_format=channels_last(config, device))  # type: ignore[call-overload]


def channels_last(config: Config, device: torch.device) -> torch.memory_format:
    """The memory format of images and weights; "auto" is channels-last, but not on MPS."""
    wish = config.training.get("channels_last", "auto")
    on = wish == "on" or (wish == "auto" and device.type != "mps")
    return torch.channels_last if on else torch.contiguous_format


def compiled(config: Config, network: nn.Module, device: torch.device) -> nn.Module:
    """The network under `torch.compile`, if the config says so ("auto": on CUDA)."""
    wish = config.training.compile
    on = wish == "on" or (wish == "auto" and device.type == "cuda")
    return torch.compile(network) if on else network  # type: ignore[return-value]


def autocast_dtype(config: Config) -> torch.dtype | None:
    """What the network computes in beside float32, and whether products may use TF32."""
    precision = config.training.precision
    allow_tf32(precision != "float32")
    return torch.bfloat16 if precision == "bf16" else None


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products on CUDA may keep 10 bits of their factors, and be faster."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def build_score(
    config: Config, network: nn.Module, sde: SDE, label: Tensor | None = None
) -> Score:
    """The score that a network stands for, by the conventions of `score`."""
    return NetworkScore(network, sde, config.training.continuous, label)


def build_objective(config: Config, sde: SDE) -> Objective:
    """What training minimises.

    Raises:
        ValueError: options that exclude each other.
    """
    training = config.training
    return make_objective(
        sde,
        objective=training.get("objective", "auto"),
        continuous=training.continuous,
        reduce_mean=training.reduce_mean,
        likelihood_weighting=training.likelihood_weighting,
        times=training.time_sampling,
    )


def build_state(config: Config) -> TrainState:
    """A network with fresh weights, its moving average and its optimiser."""
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
    return TrainState(network, ExponentialMovingAverage(network, config.model.ema_rate), optimizer)


def build_train_step(config: Config, objective: Objective) -> TrainStep:
    """One update with the optimiser's schedule."""
    return TrainStep(
        objective,
        lr=config.optim.lr,
        warmup=config.optim.warmup,
        grad_clip=config.optim.grad_clip,
        accumulation=config.training.accumulation,
        autocast_dtype=autocast_dtype(config),
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
    """A split of `config.data`, with defaults for the fields that the 2021 release lacks.

    Args:
        config: `data.image_width=0` stands for square images.
        split: `train` or `test`.
    """
    data = config.data
    return open_source(
        data.dataset,
        split,
        root=data.get("root", DEFAULT_ROOT) or DEFAULT_ROOT,
        image_size=(data.image_size, data.get("image_width", 0) or data.image_size),
        num_channels=data.num_channels,
        download=data.get("download", True),
        test_fraction=data.get("test_fraction", 0.1),
        category=data.get("category", ""),
    )


def build_sources(config: Config) -> tuple[Source, Source]:
    """The training and the test images."""
    return open_split(config, "train"), open_split(config, "test")


def synthetic_sources(config: Config) -> tuple[Source, Source]:
    """Random images of the recipe's shape, where only the machinery is to be tried."""
    shape, classes = image_shape(config), config.model.get("num_classes", 0)

    def source(split: str, n: int) -> Source:
        index = torch.arange(n)
        images = noise.uniform(config.seed, index, 0, shape).mul(256).to(torch.uint8)
        names = tuple(str(label) for label in range(classes))
        info = DatasetInfo(
            "synthetic", split, n, shape, 256, classes, names, "synthetic", "random pixels"
        )
        return MemorySource(info, images, index % classes if classes else None)

    return source("train", 16), source("test", 8)


def build_sampler(config: Config, sde: SDE) -> Sampler:
    """The sampler of `config.sampling`.

    `num_steps=0` takes as many steps as the chain has scales. Networks trained on a discrete chain
    are asked at its own times only.

    Raises:
        ValueError: an unknown name, or a combination that does not run.
    """
    sampling = config.sampling
    if sampling.method not in METHODS:
        raise ValueError(
            f"config.sampling.method={sampling.method!r}: it must be one of {', '.join(METHODS)}"
        )
    eps = sampling.eps or sde.eps
    if sampling.method == "ode":
        return _ode_sampler(config, sde, eps)
    pc = sampling.method == "pc"
    if pc and sampling.predictor == sampling.corrector == "none":
        raise ValueError(
            "config.sampling.predictor and config.sampling.corrector are both 'none', which draws "
            "nothing: name at least one"
        )
    predictor = _predictor(config, sde) if pc else _few_step(config, sde)
    steps = sampling.num_steps or sde.N
    chain = pc and not config.training.continuous and steps == sde.N
    if chain:
        times = paper_grid(sde, eps=0.0)
    elif not config.training.continuous:
        times = chain_grid(sde, min(steps, sde.N - 1) if not sampling.num_steps else steps)
    else:
        times = time_grid(sde, steps, _grid_kind(config, predictor), eps)
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


def _ode_sampler(config: Config, sde: SDE, eps: float) -> Sampler:
    sampling = config.sampling
    if not config.training.continuous and sde.has_chain:
        raise ValueError(
            "config.sampling.method='ode' steps to any time, and this network knows the times of "
            "its discrete chain only: take pc, ddim, heun or dpm_solver++"
        )
    return ODESampler(
        sde, sampling.rtol, sampling.atol, eps, sampling.max_steps, tweedie=sampling.noise_removal
    )


def _predictor(config: Config, sde: SDE) -> Step:
    sampling = config.sampling
    kind = by_name(PREDICTORS, sampling.predictor, "config.sampling.predictor")
    return kind(sde, sampling.probability_flow)


def _corrector(config: Config, sde: SDE) -> Step:
    sampling = config.sampling
    kind = by_name(CORRECTORS, sampling.corrector, "config.sampling.corrector")
    return kind(sde, sampling.snr, sampling.n_steps_each, sampling.norms)


def _few_step(config: Config, sde: SDE) -> Step:
    sampling, kind = config.sampling, FEW_STEP[config.sampling.method]
    if kind is Heun:
        if sampling.s_churn and sde.has_chain and not config.training.continuous:
            raise ValueError(
                f"config.sampling.s_churn={sampling.s_churn} leads to times between those of the "
                "discrete chain, which this network does not know: set it to 0"
            )
        return Heun(sde, sampling.s_churn, sampling.s_min, sampling.s_max, sampling.s_noise)
    return kind(sde)


def _grid_kind(config: Config, step: Step) -> GridKind:
    wish = config.sampling.grid
    return step.grid if wish == "auto" else wish  # type: ignore[return-value]


def build_score_for(
    config: Config,
    network: nn.Module,
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
    classes = config.model.get("num_classes", 0)

    def score_for(index: Tensor) -> Score:
        label = labels(index).to(index.device) if classes and labels else None
        return build_score(config, network, sde, label)

    return score_for


def draw(
    config: Config,
    network: nn.Module,
    sde: SDE,
    index: Tensor,
    device: torch.device,
    on_step: OnStep | None = None,
) -> Iterator[Samples]:
    """Samples by their index, int64 (n,); labels, where the network has them, count through it."""
    classes = config.model.get("num_classes", 0)
    return build_sampler(config, sde).draw(
        build_score_for(config, network, sde, lambda part: part % classes),
        index,
        image_shape(config),
        seed=config.seed,
        batch_size=config.sampling.batch_size,
        device=device,
        on_step=on_step,
    )
