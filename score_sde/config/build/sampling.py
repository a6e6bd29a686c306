"""Config → what draws samples: sampler, grid, samples by their index."""

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

from score_sde.config import schema
from score_sde.config.build.given import Given
from score_sde.config.build.objects import (
    Config,
    checked,
    field,
    image_shape,
)
from score_sde.config.build.scores import Labels, guided, thresholded
from score_sde.samplers import (
    SAMPLERS,
    AdaptiveSampler,
    GridSampler,
    OnStep,
    Sampler,
    Samples,
)
from score_sde.samplers.optimised_grid import OptimisedGrid, optimised_grid
from score_sde.score import Network, ScoreFor
from score_sde.sde import SDE
from score_sde.solvers.correctors import CORRECTORS
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.grids import GridKind, chain_grid, paper_grid, time_grid
from score_sde.solvers.predictors import PREDICTORS, flow_predictors
from score_sde.solvers.step import Step, arguments_of, make_step
from score_sde.tensor_ops import choose


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
    if sampling.grid == "optimised" and (discrete or pc or not predictor.deterministic):
        arguments = {} if pc else arguments_of(FEW_STEP[sampling.method])
        given = [f"{of}={sampling[of]!r}" for of in ("method", *arguments.values())]
        what = "a network of a discrete chain" if discrete else ", ".join(given)
        raise ValueError(
            "config.sampling.grid='optimised' is for few-step methods without noise in continuous "
            f"time, not for {what}: set auto"
        )
    if sampling.grid == "optimised" and not sampling.num_steps:
        raise ValueError(
            "config.sampling.num_steps=0 takes as many steps as the chain has scales, and "
            "config.sampling.grid='optimised' fits a grid to a few: set num_steps"
        )
    corrector = _corrector(config, sde) if pc else None
    temperature = _temperature(config, predictor.deterministic)
    if corrector is not None:
        _temperature(config, corrector.deterministic)
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
        corrector,
        chain=chain,
        denoise=sampling.noise_removal,
        tweedie=sampling.noise_removal and not pc,
        corrector_first=sampling.corrector_first,
        resample=field(config, "sampling.resample"),
        temperature=temperature,
    )


def build_times(config: Config, sde: SDE, kind: str, times: Tensor | None = None) -> Tensor:
    """The grid of steps that are no row of a table, by `sampling.grid`.

    Args:
        config: of the network.
        sde: that it was trained for.
        kind: of `time_grid`, for auto.
        times: instead of those, as `optimise_grid` finds them.
    """
    sampling = config.sampling
    if times is not None:
        return times
    if not config.training.continuous:
        return chain_grid(sde, sampling.num_steps or sde.N - 1)
    kinds = {"auto": kind, "optimised": "log_snr"}
    chosen = cast(GridKind, kinds.get(sampling.grid, sampling.grid))
    return time_grid(sde, sampling.num_steps or sde.N, chosen, sampling.eps or sde.eps)


def _adaptive_sampler(config: Config, sde: SDE, eps: float) -> Sampler:
    """A row of `SAMPLERS`: what chooses its own times."""
    method, kind = config.sampling.method, SAMPLERS[config.sampling.method]
    if _on_chain(config, sde):
        raise ValueError(
            f"config.sampling.method={method!r} steps to any time, and this network knows the "
            f"times of its discrete chain only: take {', '.join(['pc', *FEW_STEP])}"
        )
    if (resample := field(config, "sampling.resample")) > 1:
        raise ValueError(
            f"config.sampling.resample={resample} takes the steps of a grid again, and {method!r} "
            "chooses its own: set 1, or take pc or ddim"
        )
    fields = schema.defaults("sampling") | config.sampling.to_dict()
    arguments = arguments_of(kind)
    if lacking := [of for of in arguments.values() if of not in fields]:
        raise ValueError(
            f"config.sampling.{lacking[0]} is missing, which {method} takes: set it in the recipe"
        )
    if fields["sde_atol"] == 0:
        fields["sde_atol"] = (2 if config.data.centered else 1) / 256  # one grey level
    given = {name: fields[of] for name, of in arguments.items()}
    made = kind(sde, eps=eps, tweedie=config.sampling.noise_removal, **given)
    sampler = checked(made, AdaptiveSampler, f"SAMPLERS[{method!r}]")
    _temperature(config, "temperature" in arguments)
    return sampler


def _temperature(config: Config, heeded: bool) -> float:
    """That of draws from the prior; refuses one that a sampler does not heed."""
    temperature = field(config, "sampling.temperature")
    if temperature != 1 and not heeded:
        raise ValueError(
            f"config.sampling.temperature={temperature:g} scales the noise that an image is a "
            f"function of, and config.sampling.method={config.sampling.method!r} as it is set "
            "draws more noise on the way, and forgets it: take a method without noise, such as "
            "ode or ddim, or set 1"
        )
    return temperature


def _predictor(config: Config, sde: SDE) -> Step:
    sampling = config.sampling
    kind = choose(PREDICTORS, sampling.predictor, "config.sampling.predictor")
    step = make_step(kind, sde, sampling)
    # A step without noise follows the ODE anyway.
    heeds = "probability_flow" in arguments_of(kind) or step.deterministic
    if sampling.probability_flow and not heeds:
        raise ValueError(
            f"config.sampling.probability_flow=True: {sampling.predictor} has no form for the "
            f"ODE; set it to False, or take {' or '.join(flow_predictors())}"
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
    config: Config,
    network: Network,
    sde: SDE,
    device: torch.device,
    on_run: Callable[[], object] = lambda: None,
) -> OptimisedGrid:
    """The grid `sampling.grid=optimised` of a network; `on_run` as of `optimised_grid`.

    Raises:
        ValueError: as `build_sampler`, or a method that draws noise.
    """
    sampling = config.sampling
    build_sampler(config, sde)
    return optimised_grid(
        _few_step(config, sde),
        thresholded(config, sde, guided(config, network, sde)),
        sampling.num_steps,
        image_shape(config),
        sampling.eps or sde.eps,
        tweedie=sampling.noise_removal,
        batch_size=sampling.batch_size,
        device=device,
        on_run=on_run,
    )


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
    labels: Labels | None = None,
    given: Given | None = None,
) -> Iterator[Samples]:
    """Samples by their index, of the classes and led as the config says.

    Args:
        config: of the network, with sampler and seed.
        network: with its weights in place.
        sde: that it was trained for.
        index: int64 (n,) of the samples.
        device: where to compute.
        on_step: called after each step of the sampler.
        sampler: another one than that of `config.sampling`.
        seed: another one than `config.seed`, or than that of `given`.
        score_for: another score than that of the network, which is then not asked, nor led.
        labels: classes by sample indices, where `sampling.label` is -1; each in turn by default.
        given: what a network that upsamples draws from.
    """
    own_seed = config.seed if given is None else given.seed
    if score_for is None:
        score_for = guided(config, network, sde, labels, given)
    return (sampler or build_sampler(config, sde)).draw(
        thresholded(config, sde, score_for),
        index,
        image_shape(config),
        seed=own_seed if seed is None else seed,
        batch_size=config.sampling.batch_size,
        device=device,
        on_step=on_step,
    )
