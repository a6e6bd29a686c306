"""Imports like the release's `evaluation`, whose work on TensorFlow the library does without."""

from models._moved import refuse

__getattr__ = refuse(
    __name__,
    "take features, moments and distances of score_sde.evaluation, or run --mode eval, and "
    "--mode stats for the statistics of a data set",
)
