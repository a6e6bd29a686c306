"""Pictures: grids and films of images, files of samples, and plots of what a run measured."""

from score_sde.pictures.images import (
    NotFiniteError,
    check_finite,
    grid,
    origin_of,
    save_film,
    save_images,
    save_png,
    stream_npz,
    to_uint8,
)
from score_sde.pictures.labels import labelled
from score_sde.pictures.plots import Curve, accuracy_curve, evaluation_sheet, loss_curve
from score_sde.pictures.study import Panel, Points, quality_plot, sample_sheet

__all__ = [
    "Curve",
    "NotFiniteError",
    "Panel",
    "Points",
    "accuracy_curve",
    "check_finite",
    "evaluation_sheet",
    "grid",
    "labelled",
    "loss_curve",
    "origin_of",
    "quality_plot",
    "sample_sheet",
    "save_film",
    "save_images",
    "save_png",
    "stream_npz",
    "to_uint8",
]
