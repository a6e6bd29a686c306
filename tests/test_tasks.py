"""What each task measures of images."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from score_sde.config import parts
from score_sde.config.build import build_measurement
from score_sde.posteriors import TASKS

SHAPES = {
    "inpaint": (3, 8, 8),
    "colorize": (1, 8, 8),
    "super_resolution": (3, 4, 4),
    "deblur": (3, 8, 8),
    "motion_deblur": (3, 8, 8),
    "denoise": (3, 8, 8),
    "soft_inpaint": (3, 8, 8),
    "compressed_sensing": (48,),
    "fourier": (3, 8, 8),
}
PICTURES = set(SHAPES) - {"compressed_sensing", "fourier"}


def measurement_of(task, **fields):
    given = {f"restore.{name}": value for name, value in fields.items()}
    given |= {"restore.task": task, "device": "cpu"}
    return build_measurement(
        parts.recipe(parts.DDPMPP, parts.COLOUR_DIGITS, parts.VP, parts.SMALL, given)
    )


def images():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_every_task_is_here():
    assert SHAPES.keys() == TASKS.keys()


@pytest.mark.parametrize("task", SHAPES)
def test_a_task_measures_what_it_says(task):
    measurement = measurement_of(task, noise=0.05)
    assert measurement.std == pytest.approx(0.1)  # of images in [-1, 1]
    assert measurement.forward(images()).shape == (2, *SHAPES[task])
    assert measurement.in_pixels == (task in PICTURES)


@pytest.mark.parametrize("kind", ["box", "bicubic"])
def test_super_resolution_is_of_smaller_images(kind):
    y = measurement_of("super_resolution", downsampling=kind, factor=4).forward(images())
    assert y.shape == (2, 3, 2, 2)
    assert torch.allclose(y, avg_pool2d(images(), 4), atol=1e-6) == (kind == "box")


def test_a_soft_mask_sees_its_black_pixels_as_the_floor_says():
    measurement = measurement_of("soft_inpaint", mask="left", mask_floor=0.8, noise=0.05)
    y = torch.ones(1, 3, 8, 8)
    variance = measurement.covariance(y)[0, 0, 0]
    torch.testing.assert_close(variance[[0, 7]], torch.tensor([0.01 + 0.25, 0.01]))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_shares_are_of_all_that_could_be_measured(share):
    kept = measurement_of("compressed_sensing", share=share).forward(images()).shape[1]
    assert kept == round(share * 192)
    large = TASKS["fourier"].measure((1, 128, 127), 0.0, share=share, seed=3)
    seen = large.singular_values
    assert seen.mean().item() == pytest.approx(share, abs=0.02)
    assert seen[0, 0] == 1
