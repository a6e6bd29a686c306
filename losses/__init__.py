"""Objectives: from a batch of data to one loss per sample; times and weights."""

from losses.choice import OBJECTIVES, make_objective
from losses.objectives import DDPM, ELBO, SMLD, Objective, ScoreMatching, elbo_weights
from losses.original import (
    get_ddpm_loss_fn,
    get_optimizer,
    get_sde_loss_fn,
    get_smld_loss_fn,
    get_step_fn,
    optimization_manager,
)
from losses.times import (
    TIME_SAMPLERS,
    ImportanceTimes,
    StratifiedTimes,
    TimeSampler,
    UniformTimes,
)

__all__ = [
    "DDPM",
    "ELBO",
    "OBJECTIVES",
    "SMLD",
    "TIME_SAMPLERS",
    "ImportanceTimes",
    "Objective",
    "ScoreMatching",
    "StratifiedTimes",
    "TimeSampler",
    "UniformTimes",
    "elbo_weights",
    "get_ddpm_loss_fn",
    "get_optimizer",
    "get_sde_loss_fn",
    "get_smld_loss_fn",
    "get_step_fn",
    "make_objective",
    "optimization_manager",
]
