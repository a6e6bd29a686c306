"""Rows of the group data: the images."""

from score_sde.config.holds import PATH, RANGE, SHARE, one_to, up_to
from score_sde.config.schema.field import Field, free, of_checkpoint, of_images, on_request

FIELDS: dict[str, Field] = {
    "data.dataset": of_images(
        "CIFAR10", "a row of score_sde.data:DATASETS, spelt with or without - _"
    ),
    "data.root": free(
        "data", "the folder that data sets lie in", PATH, from_checkpoint="unless_given"
    ),
    "data.download": free(True, "fetch what torchvision can where it is missing"),
    "data.category": of_images("", "of LSUN, such as church_outdoor"),
    # Another share would make test images of training images.
    "data.test_fraction": of_images(0.1, "test images of a folder without a test part", SHARE),
    "data.image_size": of_checkpoint(
        32, "height in pixels, and width unless image_width", one_to(65536)
    ),
    "data.image_width": of_checkpoint(0, "width in pixels; 0: square images", up_to(65536)),
    "data.downsampling": of_checkpoint(
        1,
        "images are means of blocks of so many pixels a side, for the base model of a cascade; "
        "1: none",
        one_to(1024),
        older=1,
    ),
    "data.num_channels": of_checkpoint(3, "colours", one_to(65536)),
    # A checkpoint has that of its data, so that samples are in their units wherever they are.
    "data.range": of_checkpoint(
        (),
        "of arrays of floats: the numbers that become 0 and 1; (): their least and largest",
        RANGE,
        older=(),
    ),
    "data.random_flip": on_request(True, "mirror training images at random"),
    "data.centered": of_checkpoint(False, "the network's images lie in [-1, 1] instead of [0, 1]"),
    "data.uniform_dequantization": on_request(False, "add uniform noise to training images"),
}
