"""The images that a command begins with: a user's own, or the recipe's test images."""

from pathlib import Path

from score_sde.config.build import Config, drawn_classes, field, image_shape, open_split
from score_sde.data import Source, open_pictures


def open_input(config: Config, path: Path | None, count: int) -> Source:
    """Images of the network's size: the first `count` of a user's own, or the test images.

    Args:
        config: of the network.
        path: an image, a folder of images or an array file (`--input`); None for the recipe's
            test images.
        count: how many are asked for, at most.

    Raises:
        OSError: nothing at the path.
        ValueError: no images there, or a network of classes and images that do not say theirs,
            where `sampling.label` names none for all.
    """
    channels, height, width = image_shape(config)
    if path is None:
        source = open_split(config, "test")
    else:
        source = open_pictures(path, (height, width), channels, count)
    classes = drawn_classes(config)
    if classes and source.info.num_classes != classes and field(config, "sampling.label") < 0:
        raise ValueError(
            f"the network has {classes} classes and the images of {source.info.name} do not say "
            "theirs: name one for all with --label, take the recipe's own test images, or an "
            "unconditional network"
        )
    return source
