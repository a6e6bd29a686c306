"""Rows of the group restore: what is measured of images, and how images are drawn that fit."""

from score_sde.config.holds import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    FINITE,
    PATH,
    PROBABILITY,
    Names,
    one_to,
)
from score_sde.config.schema.field import PART, Field, added

FIELDS: dict[str, Field] = {
    "restore.task": added(
        "inpaint", "what is measured of images", Names(table="score_sde.posteriors:TASKS")
    ),
    "restore.noise": added(
        0.0, "std of the noise of what is measured, in units of [0, 1] pixels", AT_LEAST_0
    ),
    "restore.posterior": added(
        "auto",
        "how images are drawn that fit: replacement, ddrm and twisted particles take steps of a "
        "grid, posterior scores run on every sampler; auto: replacement where there is no noise "
        "and a decomposition is known, else pigdm",
        Names(
            "auto",
            table="score_sde.config.build.restoring:RESTORERS",
            more="score_sde.posteriors:POSTERIORS",
        ),
    ),
    "restore.mask": added(
        "middle",
        "of inpaint and soft_inpaint: what is hidden (middle, left, right, top, bottom, "
        "scattered), or a picture that is white where images are known",
        PATH,
    ),
    "restore.mask_floor": added(
        0.9,
        "of soft_inpaint: how well black pixels of the mask are seen; 0: not at all",
        PROBABILITY,
    ),
    "restore.factor": added(
        2, "of super_resolution: how many times smaller each side is", one_to(65536)
    ),
    "restore.downsampling": added(
        "box",
        "of super_resolution: means of blocks, or a bicubic filter",
        Names(table="score_sde.posteriors.tasks:DOWNSAMPLINGS"),
    ),
    "restore.blur_width": added(1.0, "of deblur: std of the Gaussian in pixels", ABOVE_0),
    "restore.blur_length": added(5.0, "of motion_deblur: length of the line in pixels", ABOVE_0),
    "restore.blur_angle": added(
        0.0, "of motion_deblur: in degrees, 0 along rows and 90 along columns", FINITE
    ),
    "restore.share": added(
        0.25,
        "of compressed_sensing and fourier: which part of directions or frequencies is measured",
        PART,
    ),
    "restore.data_std": added(
        0.25,
        "of pigdm: std of the data about their mean, in units of [0, 1] pixels",
        ABOVE_0,
    ),
    "restore.strength": added(1.0, "of diffpir: of the tie to the denoised image", ABOVE_0),
    "restore.tolerance": added(
        1e-4, "of moment_matching: relative residual of its linear equations", ABOVE_0
    ),
    "restore.max_iterations": added(
        5, "of moment_matching: conjugate gradients at each evaluation, at most", AT_LEAST_1
    ),
    "restore.eta": added(
        0.85, "of ddrm: how much of the noise elsewhere is fresh; 0: none", PROBABILITY
    ),
    "restore.eta_b": added(
        1.0, "of ddrm: how far what is measured is followed; 0: not at all", PROBABILITY
    ),
    "restore.twist": added(
        "pigdm",
        "of twisted: the posterior score that is proposal and twist",
        Names(table="score_sde.posteriors:POSTERIORS"),
    ),
    "restore.particles": added(16, "of twisted: particles of each sample", one_to(2**20)),
    "restore.resample_below": added(
        0.5,
        "of twisted: part of the particles that the effective sample size falls below where they "
        "are resampled; 0: never",
        PROBABILITY,
    ),
}
