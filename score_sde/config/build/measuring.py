"""Config → what is measured of images."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from score_sde.config import schema
from score_sde.config.build.objects import Config, checked, field, image_shape
from score_sde.config.holds import expanded
from score_sde.data import read_soft_mask
from score_sde.posteriors import TASKS, Measurement, Task
from score_sde.samplers.completion import MASKS
from score_sde.tensor_ops import choose


def restore_fields(config: Config) -> dict[str, Any]:
    """The plain fields of the group `restore`, lengths in units of the network's data; the seed.

    `noise` and `data_std` are given in units of [0, 1] pixels.
    """
    fields = schema.defaults("restore") | config.restore.to_dict() | {"seed": config.seed}
    unit = 2 if config.data.centered else 1
    return fields | {name: unit * fields[name] for name in ("noise", "data_std")}


def build_task(config: Config) -> Task:
    """The row of `restore.task`."""
    name = field(config, "restore.task")
    return checked(choose(TASKS, name, "config.restore.task"), Task, f"TASKS[{name!r}]")


def build_measurement(config: Config, shape: Sequence[int] | None = None) -> Measurement:
    """What `restore.task` measures of images.

    Args:
        config: of the network.
        shape: (C, H, W) of the images. By default the network's, and a picture of a mask is then
            resized where images and masks would keep their own.

    Raises:
        ValueError: a setting that the task refuses, or a measurement that says all of an image or
            nothing.
        OSError: a picture of a mask that cannot be read.
    """
    name, task, fields = field(config, "restore.task"), build_task(config), restore_fields(config)
    lacking = [of for of in task.arguments.values() if of not in fields]
    if lacking:
        raise ValueError(
            f"config.restore.{lacking[0]} is missing, which {name} takes: set it in the recipe"
        )
    fit = field(config, "sampling.fit")
    fit = "resize" if fit == "tile" and shape is None else fit
    shape = shape or image_shape(config)
    masked = "mask" in task.arguments.values()
    if masked:
        fields["mask"] = _mask_of(config, fields["mask"], shape, fit)
    given = {argument: fields[of] for argument, of in task.arguments.items()}
    made = task.measure(shape, fields["noise"], **given)
    measurement = checked(made, Measurement, f"TASKS[{name!r}].measure")
    _check_measured(config, measurement, masked)
    return measurement


def _mask_of(config: Config, mask: str, shape: Sequence[int], fit: str) -> Tensor:
    """(1, H, W) in [0, 1], 1 where images are known."""
    _, height, width = shape
    if mask in MASKS:
        return MASKS[mask](height, width, config.seed)[None].float()
    if expanded(mask).is_file():
        return read_soft_mask(expanded(mask), (height, width), fit)
    raise ValueError(
        f"--mask {mask}: there is no such file; give {', '.join(MASKS)}, or a picture that is "
        "white where images are known"
    )


def _check_measured(config: Config, measurement: Measurement, masked: bool) -> None:
    """Refuses what says all of an image, and what says nothing of it."""
    spectral = measurement.spectral
    if spectral is None:
        return
    seen, mask = spectral.singular_values > 0, field(config, "restore.mask")
    # Where images are padded, what surrounds them is hidden as well.
    if seen.all() and spectral.noise_free and field(config, "sampling.fit") != "pad":
        if masked:
            raise ValueError(
                f"--mask {mask} is white all over and hides nothing: paint a part black"
            )
        raise ValueError(
            f"the task {field(config, 'restore.task')} tells all of an image where there is no "
            "noise: give some, such as --noise 0.05"
        )
    if not seen.any():
        _, height, width = measurement.shape
        raise ValueError(
            f"--mask {mask} is black all over where it is brought to {height}x{width}, as images "
            "are, and leaves nothing known: paint a part white, or take --mode sample"
        )
