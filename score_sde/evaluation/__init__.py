"""Evaluation: the figures of a checkpoint, with their errors.

`figures` holds the table of them: each is a function of a `subject` (the checkpoint, and what to
compute it from), by way of `likelihood` (loss, bits/dim, bounds) and `quality` (of samples).
`shards` keeps results by sample, `references` the statistics that samples are compared with,
`report` turns figures into text.

For sample quality: images → features → statistics → distances, each a piece of its own.

`features` says what a feature network is and holds the Inception network of the FID; `classifier`
and `classifier_training` a small one for images that Inception does not suit, trained on the data
themselves; `moments` means and covariances; `statistics` the reference files and what may be
compared; `frechet` and `distances` the numbers. Images are uint8 with 256 levels throughout.

For restored images, whose truth is known: `restoration`.
"""

from score_sde.evaluation.classifier import Classifier, digits_classifier, suits_classifier
from score_sde.evaluation.classifier_training import train_classifier
from score_sde.evaluation.distances import inception_score, kernel_distance, precision_recall
from score_sde.evaluation.features import (
    INCEPTION_FILE,
    collect,
    inception,
    metric_name,
    spread_levels,
    to_uint8,
)
from score_sde.evaluation.figure import Figure, LeftOut, mean_figure
from score_sde.evaluation.figures import FIGURES, EachSample
from score_sde.evaluation.frechet import bootstrap, frechet_distance
from score_sde.evaluation.moments import Moments
from score_sde.evaluation.references import References
from score_sde.evaluation.restoration import coverage, psnr, restoration_figures, ssim
from score_sde.evaluation.statistics import Facts, Reference
from score_sde.evaluation.subject import Subject

__all__ = [
    "FIGURES",
    "INCEPTION_FILE",
    "Classifier",
    "EachSample",
    "Facts",
    "Figure",
    "LeftOut",
    "Moments",
    "Reference",
    "References",
    "Subject",
    "bootstrap",
    "collect",
    "coverage",
    "digits_classifier",
    "frechet_distance",
    "inception",
    "inception_score",
    "kernel_distance",
    "mean_figure",
    "metric_name",
    "precision_recall",
    "psnr",
    "restoration_figures",
    "spread_levels",
    "ssim",
    "suits_classifier",
    "to_uint8",
    "train_classifier",
]
