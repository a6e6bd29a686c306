"""Training: its state, optimiser and schedule, and one step."""

from score_sde.training.augmentation import PARAMETERS, Augmentation
from score_sde.training.optimizer import learning_rate, make_optimizer
from score_sde.training.record import StepRecord, TrainingDiverged, check_finite, loss_by_level
from score_sde.training.sharding import divide, is_divided, load_weights, whole_at_once
from score_sde.training.share import Share
from score_sde.training.state import TrainState
from score_sde.training.step import TrainStep

__all__ = [
    "PARAMETERS",
    "Augmentation",
    "Share",
    "StepRecord",
    "TrainState",
    "TrainStep",
    "TrainingDiverged",
    "check_finite",
    "divide",
    "is_divided",
    "learning_rate",
    "load_weights",
    "loss_by_level",
    "make_optimizer",
    "whole_at_once",
]
