"""Which objective a set of options asks for."""

from score_sde.objectives.losses import ELBO, SMLD, NoisePrediction, Objective, ScoreMatching
from score_sde.objectives.times import TIME_SAMPLERS
from score_sde.sde import SDE, VESDE, VPSDE

OBJECTIVES = ("auto", "score_matching", "likelihood", "simple", "elbo")
"""auto: as the other options say. score_matching: the paper's weighting λ = σ². likelihood: λ = g²
with importance-sampled times (Song et al. 2021, "Maximum Likelihood Training"). simple and elbo:
L_simple and the variational bound of DDPM's chain (Ho et al. 2020)."""


def make_objective(
    sde: SDE,
    *,
    objective: str = "auto",
    continuous: bool = True,
    reduce_mean: bool = False,
    likelihood_weighting: bool = False,
    times: str = "uniform",
    eps: float = 1e-5,
) -> Objective:
    """The objective that a set of options asks for.

    Args:
        sde: the forward process.
        objective: a name of `OBJECTIVES`.
        continuous: continuous times; False for the chains of SMLD (VE) and DDPM (VP).
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.
        likelihood_weighting: λ = g² instead of σ².
        times: a name of `TIME_SAMPLERS`.
        eps: the smallest continuous time.

    Raises:
        ValueError: an unknown name, or options that exclude each other.
    """
    if times not in TIME_SAMPLERS:
        raise ValueError(f"times={times!r}: choose one of {', '.join(TIME_SAMPLERS)}")
    _check(sde, objective, continuous, likelihood_weighting, times)
    if objective == "likelihood":
        likelihood_weighting, times = True, "importance"
    if continuous:
        sampler = TIME_SAMPLERS[times](sde, eps)
        return ScoreMatching(sde, True, reduce_mean, likelihood_weighting, sampler)
    if likelihood_weighting:
        raise ValueError(
            "likelihood weighting is defined for continuous times only: "
            "set training.continuous=True or training.likelihood_weighting=False"
        )
    if times != "uniform":
        raise ValueError(
            f"times={times!r}: a discrete chain draws its steps by itself; "
            "set training.continuous=True or take uniform times"
        )
    if isinstance(sde, VESDE):
        return SMLD(sde, reduce_mean)
    if isinstance(sde, VPSDE):
        kind = ELBO if objective == "elbo" else NoisePrediction
        return kind(sde, reduce_mean)
    raise ValueError(
        f"{sde.name}: discrete training is defined for vesde (SMLD) and vpsde (DDPM); "
        "set training.continuous=True"
    )


def _check(
    sde: SDE, objective: str, continuous: bool, likelihood_weighting: bool, times: str
) -> None:
    """Refuses options that contradict a named objective."""
    given = f"training.objective={objective!r}"
    if objective not in OBJECTIVES:
        raise ValueError(f"{given}: it must be one of {', '.join(OBJECTIVES)}")
    if objective == "score_matching" and likelihood_weighting:
        raise ValueError(
            f"{given} has the weighting of the paper: set training.likelihood_weighting=False, or "
            "training.objective='likelihood'"
        )
    if objective == "likelihood" and not continuous:
        raise ValueError(
            f"{given} is defined for continuous times: set training.continuous=True, or "
            "training.objective='elbo' for DDPM's chain"
        )
    if objective == "likelihood" and times == "stratified":
        raise ValueError(
            f"{given} draws importance-sampled times: set training.time_sampling='importance'"
        )
    if objective in ("simple", "elbo") and (continuous or not isinstance(sde, VPSDE)):
        raise ValueError(
            f"{given} belongs to DDPM's chain: set training.sde='vpsde' and "
            f"training.continuous=False (they are {sde.name!r} and {continuous})"
        )
