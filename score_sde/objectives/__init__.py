"""Objectives: from a batch of data to one loss per sample; times and weights."""

from score_sde.objectives.chain import ELBO, SMLD, NoisePrediction, elbo_weights
from score_sde.objectives.choice import OBJECTIVES, Options, make_objective
from score_sde.objectives.classification import Classification
from score_sde.objectives.edm import EDMLoss, LogNormalTimes
from score_sde.objectives.losses import Objective, PredictionLoss, ScoreMatching
from score_sde.objectives.times import (
    TIME_SAMPLERS,
    ImportanceTimes,
    LogSNRTimes,
    StratifiedTimes,
    TimeSampler,
    UniformTimes,
)

__all__ = [
    "ELBO",
    "OBJECTIVES",
    "SMLD",
    "TIME_SAMPLERS",
    "Classification",
    "EDMLoss",
    "ImportanceTimes",
    "LogNormalTimes",
    "LogSNRTimes",
    "NoisePrediction",
    "Objective",
    "Options",
    "PredictionLoss",
    "ScoreMatching",
    "StratifiedTimes",
    "TimeSampler",
    "UniformTimes",
    "elbo_weights",
    "make_objective",
]
