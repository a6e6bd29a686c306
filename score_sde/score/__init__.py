"""From what a network puts out to the score, the noise and the denoised image, and back.

`conversions`: between these three; `predictions`: what a network may put out; `conventions`: how a
network is told the time, and how its output is read; `network`: the score that it stands for;
`guidance`: one led by another, or by a classifier; `classifier`: what a network that classifies
noisy images is given; `tiling`: that of a larger image, of its tiles; `exact`: mixtures of
Gaussians, whose score is known.
"""

from score_sde.score.classifier import NoisyClassifier
from score_sde.score.conventions import (
    ContinuousNoise,
    ContinuousScore,
    DiscreteNoise,
    DiscreteScore,
    Parameterisation,
    parameterisation,
)
from score_sde.score.conversions import (
    denoised_from_score,
    noise_from_score,
    score_from_denoised,
    score_from_noise,
)
from score_sde.score.guidance import ClassifierGuidedScore, GuidedScore, evaluations_at
from score_sde.score.network import Network, NetworkScore, ScoreFor, call
from score_sde.score.predictions import PREDICTIONS, Affine, ChainScales, Prediction, Scales
from score_sde.score.tiling import TiledScore, Tiling
from score_sde.sde import Score

__all__ = [
    "PREDICTIONS",
    "Affine",
    "ChainScales",
    "ClassifierGuidedScore",
    "ContinuousNoise",
    "ContinuousScore",
    "DiscreteNoise",
    "DiscreteScore",
    "GuidedScore",
    "Network",
    "NetworkScore",
    "NoisyClassifier",
    "Parameterisation",
    "Prediction",
    "Scales",
    "Score",
    "ScoreFor",
    "TiledScore",
    "Tiling",
    "call",
    "denoised_from_score",
    "evaluations_at",
    "noise_from_score",
    "parameterisation",
    "score_from_denoised",
    "score_from_noise",
]
