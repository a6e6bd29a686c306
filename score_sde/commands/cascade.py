"""`--mode cascade`: images at a low resolution, drawn or given, and what a network makes of them.

Ho et al. 2022, "Cascaded Diffusion Models for High Fidelity Image Generation"; Saharia et al.
2022, "Image Super-Resolution via Iterative Refinement".
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_sde import noise, parallel, pictures
from score_sde.commands.inputs import place_of
from score_sde.commands.origin import origin_of
from score_sde.commands.progress import advice_on_batches
from score_sde.commands.sample import GRID_IMAGES, places, write_images
from score_sde.commands.sampling_grid import times_of
from score_sde.commands.shared import draw_together, for_all, join, take_part
from score_sde.commands.weights import network_of, open_beside, open_checkpoint
from score_sde.config.build import (
    Config,
    GivenFor,
    build_device,
    build_inverse_scaler,
    build_sampler,
    build_sde,
    data_range,
    draw,
    drawn_classes,
    field,
    given_images,
    image_shape,
    low_resolution_shape,
    num_classes,
    sample_labels,
    upsampling_factor,
)
from score_sde.data import open_pictures
from score_sde.logbook import Logbook
from score_sde.samplers import Sampler

WHITE = 255  # of the levels of an image file


@dataclass(frozen=True)
class Base:
    """What draws the low-resolution images of a cascade.

    Attributes:
        config: of its checkpoint.
        network: with its weights in place.
        sampler: of `config.sampling`.
        path: of the checkpoint.
        step: updates that it was trained for.
        origin: digest of all that its images depend on beside their number.
    """

    config: Config
    network: nn.Module
    sampler: Sampler
    path: Path
    step: int
    origin: str

    @classmethod
    def of(
        cls,
        config: Config,
        path: Path,
        state: dict[str, Any],
        report: Callable[[str], None],
        *,
        raw: bool = False,
    ) -> "Base":
        """The base model of a checkpoint that is opened."""
        network = network_of(config, state, path, raw=raw)
        times = times_of(config, network, path, report)
        sampler = build_sampler(config, build_sde(config), times)
        origin = origin_of(config, network.state_dict(), times=times)
        return cls(config, network, sampler, path, state["step"], origin)

    def draw(self, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 (b, C, h, w) of samples int64 (n,), some at a time, with their `nfe` (b,).

        They are those of `--mode sample`, as files hold them.
        """
        config, inverse_scale = self.config, build_inverse_scaler(self.config)
        sde, device = build_sde(config), build_device(config)
        for part in draw(config, self.network, sde, index, device, sampler=self.sampler):
            yield pictures.to_uint8(inverse_scale(part.x)).cpu(), part.nfe.cpu()

    def labels(self, index: Tensor) -> Tensor | None:
        """The classes of samples, int64 (n,); None for a model without."""
        label_of = sample_labels(self.config)
        return None if label_of is None else label_of(index)


def cascade(
    config: Config,
    workdir: Path,
    *,
    upsampler: Path,
    source: Path | None = None,
    checkpoint: Path | None = None,
    num_samples: int = 64,
    output: Path | None = None,
    raw: bool = False,
    overrides: dict[str, object] | None = None,
) -> Path:
    """Draws images at a low resolution, and upsamples them.

    What the command line sets of `sampling`, seed and device holds for both models; else each
    draws as its own config says. A classifier or guide leads the base model, as it is of images of
    that size, or the upsampler where images are given.

    Args:
        config: the recipe of the base model; the config in a checkpoint of ours rules it.
        workdir: where the newest checkpoint is looked for, and where images go by default.
        upsampler: the checkpoint of the network that upsamples, one of ours.
        source: low-resolution images in the place of the base model: an image, a folder of images
            or an array file.
        checkpoint: of the base model.
        num_samples: how many images; image k is the same however many are drawn.
        output: a folder for PNG files, or a name ending in .npz; samples/step_… by default. Beside
            it a grid shows each low-resolution image and, to its right, what is made of it.
        raw: the weights as trained instead of their moving average.
        overrides: fields given on the command line, which may not contradict the checkpoint.

    Returns:
        Where the images are.

    Raises:
        ValueError: no checkpoint, one that does not fit the recipe, or two that do not fit.
        OSError: images that are not there, or an output that cannot be written; raised before
            anything is drawn.
    """
    reports: list[str] = []
    if source is not None and checkpoint is not None:
        raise ValueError(
            "--input takes the place of the base model of --checkpoint: give one of the two"
        )
    up, state = open_beside(
        upsampler, config, overrides or {}, upsampler=True, alone=source is not None
    )
    _refuse_floats(up, upsampler)
    sde, device = build_sde(up), build_device(up)
    world = join(upsampler, state["step"])
    batch = max(up.sampling.batch_size, config.sampling.batch_size)
    index = torch.arange(num_samples)
    with advice_on_batches(batch):
        base = images = labels = None
        if source is None:
            config, path, of_base = open_checkpoint(
                config, checkpoint, workdir, overrides, reports.append
            )
            join(path, of_base["step"])
            check_fit(config, up, upsampler)
            with parallel.main_first(world):  # which keeps the times that it finds
                base = Base.of(config, path, of_base, reports.append, raw=raw)
            labels, what, step = base.labels(index), f"images of {path}", base.step
        else:
            images = _own_images(up, source, num_samples, reports)
            index, what, step = index[: len(images)], f"images of {source}", state["step"]
        network = network_of(up, state, upsampler, raw=raw)
        origin = _origin(up, network, base, source, images)
        default = workdir / "samples" / f"step_{step:08d}_cascade"
        output, grid = places(world, up, output, default, origin, reports.append)
        with Logbook(workdir, beside=grid.parent, tensorboard=False, active=world.is_main) as log:
            for report in reports:
                log.say(report)
            log.say(f"{len(index)} {what}, upsampled by {upsampler}, into {output}")
            if base is not None:
                images = _drawn(log, base, len(index), world)
            assert images is not None
            given = given_images(up, images.float() / WHITE, labels, seed=second_seed(up))
            parts = draw_together(
                world,
                len(index),
                up.sampling.batch_size,
                lambda some: draw(up, network, sde, some, device, given=given),
            )
            if not world.is_main:
                take_part(parts)
                return output
            label_of = sample_labels(up) if labels is None else given.label_of
            more: Any = {"origin": origin, "network": network, "label_of": label_of}
            drawn, nfe = write_images(log, up, parts, len(index), output, **more)
            low = images[:GRID_IMAGES]
            pictures.save_png(grid, side_by_side(low, drawn))
            log.say(
                f"{len(index)} images upsampled, {nfe:.1f} network evaluations each; means of "
                f"their blocks are {_off(low, drawn):.4f} off the low-resolution pixels, of [0, 1]"
                f"; grid: {grid}"
            )
    return output


def second_seed(config: Config) -> int:
    """The seed of a cascade's second stage, whose noise is not that of the first."""
    return noise.derived_seed(config.seed, 1)


def check_fit(base: Config, up: Config, upsampler: Path) -> None:
    """Refuses a base model and an upsampler that do not fit.

    Raises:
        ValueError: images of other sizes or channels, floats, or classes that the base does not
            draw of.
    """
    _refuse_floats(base, "the base model")
    _refuse_floats(up, upsampler)
    drawn, taken = image_shape(base), low_resolution_shape(up)
    if drawn != taken:
        raise ValueError(
            f"the base model draws images of {drawn} (channels, height, width), and {upsampler} "
            f"upsamples those of {taken} by {upsampling_factor(up)}: take a base model of these, "
            "or another --upsampler"
        )
    classes, of_base = num_classes(up), drawn_classes(base)
    if classes and of_base != classes and field(up, "sampling.label") < 0:
        raise ValueError(
            f"{upsampler} has {classes} classes, and the base model "
            f"{of_base or 'none'}: name one for all with --label, or take a base model "
            "of the same classes"
        )


def _refuse_floats(config: Config, what: object) -> None:
    if data_range(config):
        raise ValueError(
            f"{what} is of floats, and pictures of 8 bits pass from a base model to an upsampler: "
            "take networks of pictures"
        )


def given_by(base: Base, config: Config) -> GivenFor:
    """What an evaluation of an upsampler draws from, where a base model draws it."""

    def of(index: Tensor) -> Any:
        images = torch.cat([images for images, _ in base.draw(index)])
        return given_images(
            config,
            images.float() / WHITE,
            base.labels(index),
            lambda some: torch.searchsorted(index, some.cpu()),
            seed=second_seed(config),
        )

    method, steps = base.config.sampling.method, base.sampler.num_steps
    how = method if steps is None else f"{method}, {steps} steps"
    return GivenFor(of, f"images of {base.path} ({how})", {"given": base.origin})


def side_by_side(low: Tensor, high: Tensor) -> Any:
    """Pairs of pictures: uint8 (n, C, h, w) and (n, C, H, W) → a grid (H', W', C)."""
    enlarged = F.interpolate(low.float(), size=high.shape[-2:]).to(torch.uint8)
    pairs = torch.stack([enlarged, high], dim=1).flatten(0, 1)
    return pictures.grid(pairs, columns=2 * max(1, math.ceil(math.sqrt(len(low) / 2))))


def _origin(
    up: Config,
    network: nn.Module,
    base: Base | None,
    source: Path | None,
    images: Tensor | None,
) -> str:
    """A digest of all that the images depend on beside their number.

    Of own images the first one stands for all: a command may be repeated with more of them.
    """
    facts: dict[str, Any] = {"base": base.origin} if base else {"input": place_of(source)}
    first = {} if images is None else {"given image": images[0]}
    return origin_of(up, {**network.state_dict(), **first}, **facts)


def _off(low: Tensor, high: Tensor) -> float:
    """Mean distance of low-resolution pixels, uint8, from the means of blocks, in units of 1."""
    means = F.avg_pool2d(high.float(), high.shape[-1] // low.shape[-1])
    return ((means - low).abs().mean() / WHITE).item()


def _drawn(log: Logbook, base: Base, count: int, world: parallel.World) -> Tensor:
    """The base model's images, uint8 (n, C, h, w), for every process."""

    def compute(index: Tensor) -> tuple[Tensor, Tensor]:
        parts = list[tuple[Tensor, Tensor]]()
        with log.progress(len(index), unit="image") as bar:
            for images, nfe in base.draw(index):
                parts.append((images, nfe))
                bar.update(len(images))
        images, nfe = map(torch.cat, zip(*parts, strict=True))
        return images, nfe

    images, nfe = for_all(world, count, base.config.sampling.batch_size, compute)
    log.say(f"the base model took {nfe.double().mean():.1f} network evaluations each")
    return images


def _own_images(up: Config, source: Path, count: int, reports: list[str]) -> Tensor:
    """A user's low-resolution images, uint8 (n, C, h, w)."""
    channels, height, width = low_resolution_shape(up)
    classes = drawn_classes(up)
    if classes and field(up, "sampling.label") < 0:
        raise ValueError(
            f"the upsampler has {classes} classes and the images of {source} do not say theirs: "
            "name one for all with --label"
        )
    fit = field(up, "sampling.fit")
    if fit == "tile":
        raise ValueError(
            f"--fit tile keeps images at their own size, and the upsampler takes those of "
            f"{height}x{width}: take resize, crop or pad"
        )
    given = open_pictures(source, (height, width), channels, count, fit)
    reports += given.info.notes
    return given.images(torch.arange(len(given)))
