"""Objectives: from a batch of data to one loss per sample; times and weights."""

from losses.objectives import DDPM, SMLD, Objective, ScoreMatching, make_objective
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
    "SMLD",
    "TIME_SAMPLERS",
    "ImportanceTimes",
    "Objective",
    "ScoreMatching",
    "StratifiedTimes",
    "TimeSampler",
    "UniformTimes",
    "get_ddpm_loss_fn",
    "get_optimizer",
    "get_sde_loss_fn",
    "get_smld_loss_fn",
    "get_step_fn",
    "make_objective",
    "optimization_manager",
]
