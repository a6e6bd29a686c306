"""Which objective a set of options asks for."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from score_sde.objectives.chain import ELBO, SMLD, NoisePrediction
from score_sde.objectives.edm import EDMLoss, LogNormalTimes
from score_sde.objectives.losses import Objective, PredictionLoss, ScoreMatching
from score_sde.objectives.times import TIME_SAMPLERS, TimeSampler
from score_sde.score import Parameterisation
from score_sde.sde import SDE
from score_sde.tensor_ops import check_name, choose


@dataclass(frozen=True)
class Options:
    """What an objective may be made of, besides the SDE.

    Attributes:
        continuous: continuous times; False for the chains of SMLD (VE) and DDPM (VP).
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.
        likelihood_weighting: λ = g² instead of σ².
        times: a name of `TIME_SAMPLERS`.
        eps: the smallest continuous time.
        parameterisation: how the network is told the time, and how its output is read; None for
            the papers' convention.
        p_mean: mean of the logarithm of EDM's noise levels.
        p_std: its standard deviation.
        sigma_data: standard deviation of the data, in EDM's weighting.
    """

    continuous: bool = True
    reduce_mean: bool = False
    likelihood_weighting: bool = False
    times: str = "uniform"
    eps: float = 1e-5
    parameterisation: Parameterisation | None = None
    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_data: float = 0.5

    def time_sampler(self, sde: SDE) -> TimeSampler:
        """What draws the times of an SDE."""
        return TIME_SAMPLERS[self.times](sde, self.eps)


def make_objective(
    sde: SDE,
    *,
    objective: str = "auto",
    times: str = "uniform",
    eps: float | None = None,
    **given: Any,
) -> Objective:
    """The objective that a set of options asks for.

    Args:
        sde: the forward process.
        objective: a name of `OBJECTIVES`.
        times: a name of `TIME_SAMPLERS`.
        eps: the smallest continuous time; the SDE's own (`train_eps`) by default.
        **given: other fields of `Options`, by name.

    Raises:
        UnknownName: a name that is in none of the tables.
        ValueError: options that exclude each other.
    """
    check_name(times, TIME_SAMPLERS, "training.time_sampling")
    options = Options(eps=sde.train_eps if eps is None else eps, times=times, **given)
    row = choose(OBJECTIVES, objective, "training.objective")
    # A class with a constructor of this room would take options for a flag.
    if isinstance(row, type) and row.__init__.__module__.startswith(f"{__package__}."):
        raise ValueError(
            f"OBJECTIVES[{objective!r}] is the class {row.__name__}, which does not take options: "
            f"give a function, such as lambda sde, options: {row.__name__}(sde, …)"
        )
    made = row(sde, options)
    if not isinstance(made, Objective):
        raise ValueError(
            f"OBJECTIVES[{objective!r}] gives {made!r:.60} where it must give an Objective"
        )
    return made


def as_options_say(sde: SDE, options: Options) -> Objective:
    """Score matching in continuous time, or on the chain of SMLD or DDPM."""
    if options.continuous:
        sampler = options.time_sampler(sde)
        weighting = options.likelihood_weighting
        read = options.parameterisation
        return ScoreMatching(sde, True, options.reduce_mean, weighting, sampler, read)
    if not sde.has_chain:
        raise ValueError(
            f"{sde.name}: discrete training is defined for vesde (SMLD) and vpsde (DDPM); "
            "set training.continuous=True"
        )
    _check_chain(options)
    chain = SMLD if sde.network_output == "score" else NoisePrediction
    return chain(sde, options.reduce_mean, options.parameterisation)


def score_matching(sde: SDE, options: Options) -> Objective:
    """The paper's weighting, λ = σ²."""
    if options.likelihood_weighting:
        raise ValueError(
            "training.objective='score_matching' has the weighting of the paper: set "
            "training.likelihood_weighting=False, or training.objective='likelihood'"
        )
    return as_options_say(sde, options)


def prediction(sde: SDE, options: Options) -> Objective:
    """The squared error of the network's own output, whichever `model.prediction` says."""
    given = "training.objective='prediction'"
    if not options.continuous:
        raise ValueError(
            f"{given} is defined for continuous times: set training.continuous=True, or "
            "training.objective='auto' for a chain"
        )
    if options.likelihood_weighting:
        raise ValueError(
            f"{given} has no other weighting: set training.likelihood_weighting=False, or "
            "training.objective='auto'"
        )
    sampler = options.time_sampler(sde)
    return PredictionLoss(sde, options.parameterisation, options.reduce_mean, sampler)


def edm(sde: SDE, options: Options) -> Objective:
    """EDM's error of the denoised image at log-normal noise levels (Karras et al. 2022)."""
    given = "training.objective='edm'"
    if not options.continuous or options.likelihood_weighting:
        raise ValueError(
            f"{given} has a weighting of its own over continuous times: set "
            "training.continuous=True and training.likelihood_weighting=False"
        )
    if options.times not in ("uniform", "stratified"):
        raise ValueError(
            f"{given} draws log-normal noise levels (training.p_mean, training.p_std), which "
            f"replace the times of training.time_sampling={options.times!r}: set 'uniform' for "
            "independent levels, or 'stratified'"
        )
    stratified = options.times == "stratified"
    times = LogNormalTimes(sde, options.eps, options.p_mean, options.p_std, stratified)
    read, s = options.parameterisation, options.sigma_data
    return EDMLoss(sde, read, options.reduce_mean, times, s)


def likelihood(sde: SDE, options: Options) -> Objective:
    """λ = g² with importance-sampled times (Song et al. 2021, "Maximum Likelihood Training")."""
    given = "training.objective='likelihood'"
    if not options.continuous:
        raise ValueError(
            f"{given} is defined for continuous times: set training.continuous=True, or "
            "training.objective='elbo' for DDPM's chain"
        )
    if options.times not in ("uniform", "importance"):
        raise ValueError(
            f"{given} is likelihood weighting with importance-sampled times, which replace those "
            f"of training.time_sampling={options.times!r}: set "
            "training.time_sampling='importance', or keep stratified times with "
            "training.objective='auto' and training.likelihood_weighting=True"
        )
    return as_options_say(sde, replace(options, likelihood_weighting=True, times="importance"))


def simple(sde: SDE, options: Options) -> Objective:
    """L_simple of DDPM's chain (Ho et al. 2020, eq. 14)."""
    chain = _of_chain(sde, options, "simple")
    return NoisePrediction(chain, options.reduce_mean, options.parameterisation)


def elbo(sde: SDE, options: Options) -> Objective:
    """The variational bound of DDPM's chain (Ho et al. 2020, eq. 5)."""
    chain = _of_chain(sde, options, "elbo")
    return ELBO(chain, options.reduce_mean, options.parameterisation)


OBJECTIVES: dict[str, Callable[[SDE, Options], Objective]] = {
    "auto": as_options_say,
    "score_matching": score_matching,
    "prediction": prediction,
    "edm": edm,
    "likelihood": likelihood,
    "simple": simple,
    "elbo": elbo,
}
"""Name in configs (`training.objective`) → the objective of an SDE and options."""


def _of_chain(sde: SDE, options: Options, name: str) -> SDE:
    if options.continuous or not sde.has_chain or sde.network_output != "noise":
        raise ValueError(
            f"training.objective={name!r} belongs to DDPM's chain: set training.sde='vpsde' and "
            f"training.continuous=False (they are {sde.name!r} and {options.continuous})"
        )
    _check_chain(options)
    return sde


def _check_chain(options: Options) -> None:
    """Refuses what a chain of discrete steps has no use for."""
    if options.likelihood_weighting:
        raise ValueError(
            "likelihood weighting is defined for continuous times only: "
            "set training.continuous=True or training.likelihood_weighting=False"
        )
    if options.times != "uniform":
        raise ValueError(
            f"config.training.time_sampling={options.times!r}: a discrete chain draws its steps "
            "uniformly, so set 'uniform' (or training.continuous=True)"
        )
