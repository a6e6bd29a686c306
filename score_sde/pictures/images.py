"""Pictures of images: grids, films, and the files that samples are saved in.

Images are (N, C, H, W) with values in [0, 1], or uint8; a picture is (H, W, C) uint8. Its channels
are 1 (grey), 3 (RGB) or 4 (RGBA); images of any other number are shown as grey panels side by
side, one for each channel. Files appear under their names only once they are complete.
"""

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from score_sde import atomic

_READABLE_PIXELS = 64  # smaller images are enlarged in a grid, up to this side
_WHITE = 255
_CHANNELS = (1, 3, 4)
_ORIGIN = "score_sde"  # keyword of the text in a PNG file


class NotFiniteError(ValueError):
    """Pixel values that are not finite, as a sampler gives that diverged."""


def check_finite(x: Tensor) -> None:
    """Refuses images with pixels that are no numbers.

    Raises:
        NotFiniteError: if there are values that are not finite.
    """
    broken = int((~x.isfinite()).sum())
    if broken:
        raise NotFiniteError(
            f"{broken} of {x.numel()} pixel values are not finite: the sampler or the network "
            "that made them diverged, so take more steps or an earlier checkpoint"
        )


def to_uint8(x: Tensor) -> Tensor:
    """Values in [0, 1] to the nearest of 256 levels: (...) → (...) uint8.

    Values outside are clamped, as samples overshoot a little; uint8 comes back as it is.

    Raises:
        NotFiniteError: if there are values that are not finite.
    """
    if x.dtype == torch.uint8:
        return x
    check_finite(x)
    # In float32, as bfloat16 has fewer than 256 levels.
    return (x.float().clamp(0, 1) * 255).round().to(torch.uint8)


def grid(
    images: Tensor, columns: int | None = None, scale: int | None = None, padding: int = 2
) -> np.ndarray:
    """Lays images out row by row on white.

    Args:
        images: (N, C, H, W) in [0, 1], or uint8.
        columns: images in a row; about the square root of N where not given.
        scale: how many times images are enlarged, smoothly; where not given, tiny ones towards
            64 pixels. At 1 pixels stay as they are.
        padding: pixels between and around the images.

    Returns:
        (H', W', C) uint8.

    Raises:
        ValueError: if there are no images, or `images`, `columns`, `scale` or `padding` is not as
            described.
    """
    pixels = _shown(images)
    n, height, width, channels = pixels.shape
    if not n:
        raise ValueError("there are no images to lay out: give at least one")
    columns = ceil(sqrt(n)) if columns is None else columns
    scale = max(1, _READABLE_PIXELS // max(height, width)) if scale is None else scale
    if columns < 1 or scale < 1 or padding < 0:
        raise ValueError(
            f"got columns={columns}, scale={scale}, padding={padding}: give at least 1, 1 and 0"
        )
    rows = ceil(n / columns)
    high, wide = height * scale + padding, width * scale + padding
    canvas = np.full((rows * high + padding, columns * wide + padding, channels), _WHITE, np.uint8)
    for i, image in enumerate(pixels):
        top, left = padding + i // columns * high, padding + i % columns * wide
        canvas[top : top + height * scale, left : left + width * scale] = _enlarged(image, scale)
    return canvas


def _enlarged(image: np.ndarray, scale: int) -> np.ndarray:
    """Smoothly: a digit of 8 by 8 pixels is read at once, the same as 64 squares is not."""
    height, width, channels = image.shape
    size = (width * scale, height * scale)
    planes = [
        np.asarray(Image.fromarray(image[:, :, c]).resize(size, Image.Resampling.BICUBIC))
        for c in range(channels)
    ]
    return np.stack(planes, axis=2)


def save_png(path: str | Path, image: np.ndarray, origin: str = "") -> None:
    """Writes a picture, (H, W, C) uint8, as a PNG file; grey ones as grey.

    Args:
        path: where to.
        image: the picture.
        origin: a text for `origin_of`.

    Raises:
        ValueError: if the picture is not as described.
        OSError: if the file can't be written, in one sentence.
    """
    text = PngInfo()
    if origin:
        text.add_text(_ORIGIN, origin)
    save(path, lambda file: _pil(image).save(file, format="PNG", pnginfo=text))


def origin_of(folder: str | Path) -> str | None:
    """The origin that images of a folder were saved with, whichever is read first.

    Returns:
        None where the folder holds no images by index; "" where they do not say.
    """
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".png") and entry.name.removesuffix(".png").isdecimal():
                try:
                    with atomic.open_regular(entry.path) as file, Image.open(file) as image:
                        return str(image.info.get(_ORIGIN, ""))
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                    return ""  # damaged
    return None


def save_film(
    path: str | Path, frames: Sequence[np.ndarray], *, frame_ms: int = 80, hold_ms: int = 2000
) -> None:
    """Writes pictures as an animated GIF, the format that every viewer plays.

    Grey frames are exact; colours are reduced to 256 in each frame. Equal successive frames
    become one that is shown longer.

    Args:
        path: where to; its name should end in `.gif`.
        frames: pictures, (H, W, C) uint8, all of one shape.
        frame_ms: how long each is shown, in milliseconds.
        hold_ms: how long the last one is shown before the film starts over.

    Raises:
        ValueError: if there are no frames, or they differ in shape.
        OSError: if the file can't be written, in one sentence.
    """
    shapes = sorted({frame.shape for frame in frames})
    if len(shapes) != 1:
        raise ValueError(f"got frames of shapes {shapes}: a film needs frames, all of one shape")
    first, *rest = [_pil(frame) for frame in frames]
    durations = [frame_ms] * len(rest) + [hold_ms]
    save(
        path,
        lambda file: first.save(
            file, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0
        ),
    )


def save_images(folder: str | Path, images: Tensor, index: Tensor, origin: str = "") -> list[Path]:
    """Writes images as `000000.png` … by sample index.

    Args:
        folder: where to; made where missing.
        images: (N, C, H, W) in [0, 1], or uint8.
        index: (N,) the samples' indices, from 0.
        origin: what they were made of, for `origin_of`.

    Returns:
        The files, in the order of `images`.

    Raises:
        ValueError: if `images` and `index` are not as described.
        OSError: if a file can't be written, in one sentence.
    """
    pixels = _shown(images)
    paths = [Path(folder) / f"{i:06d}.png" for i in _indices(index, len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        save_png(path, image, origin)
    return paths


def stream_npz(
    path: str | Path,
    parts: Iterable[tuple[Tensor, Tensor]],
    count: int,
    label_of: Callable[[Tensor], Tensor] | None = None,
    as_floats: bool = False,
) -> None:
    """Writes images into one file, as uint8 `images` (N, H, W, C) and int64 `index` (N,).

    They are written as they come: memory holds one part of them.

    Args:
        path: where to; its name should end in `.npz`.
        parts: images, (n, C, H, W) in [0, 1] or uint8 of any number of channels, and (n,) the
            samples' indices, from 0.
        count: N, of all parts together.
        label_of: indices, int64 (N,), → the samples' classes, for int64 `label` (N,) beside them.
        as_floats: write images as float32, as they are, whatever their range.

    Raises:
        ValueError: if images or indices are not as described.
        OSError: if the file can't be written, in one sentence.
    """

    def fill(file: BinaryIO) -> None:
        indices: list[int] = []
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open("images.npy", "w", force_zip64=True) as member:
                for images, index in parts:
                    pixels = _numbers(images.float()) if as_floats else _pixels(images)
                    if not indices:
                        _begin(member, pixels.dtype.str, (count, *pixels.shape[1:]))
                    indices += _indices(index, len(pixels))
                    member.write(pixels.data)
            numbers = {"index": torch.tensor(indices)}
            if label_of is not None:
                numbers["label"] = label_of(numbers["index"])
            for name, values in numbers.items():
                with archive.open(f"{name}.npy", "w") as member:
                    _begin(member, "<i8", (count,))
                    member.write(values.numpy().astype("<i8").tobytes())
        if len(indices) != count:
            raise ValueError(f"got {len(indices)} images where {count} were announced: give all")

    save(path, fill)


def _begin(file: IO[bytes], kind: str, shape: tuple[int, ...]) -> None:
    """How an array of numpy begins in a file."""
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]


def _pixels(images: Tensor) -> np.ndarray:
    """(N, C, H, W) → (N, H, W, C) uint8."""
    return _numbers(to_uint8(images.detach()))


def _numbers(images: Tensor) -> np.ndarray:
    """(N, C, H, W) → (N, H, W, C)."""
    if images.ndim != 4 or not images.shape[1]:
        raise ValueError(f"got images of shape {tuple(images.shape)}: (N, C, H, W) is needed")
    return images.detach().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _shown(images: Tensor) -> np.ndarray:
    """(N, C, H, W) → pictures (N, H, W, C), or (N, H, C W, 1) where pictures lack the channels."""
    if images.ndim == 4 and images.shape[1] and images.shape[1] not in _CHANNELS:
        images = images.transpose(1, 2).flatten(2)[:, None]
    return _pixels(images)


def _indices(index: Tensor, n: int) -> list[int]:
    if tuple(index.shape) != (n,) or index.is_floating_point() or bool((index < 0).any()):
        raise ValueError(
            f"got sample indices of shape {tuple(index.shape)} and type {index.dtype} for {n} "
            "images: give one integer, from 0, for each"
        )
    return index.tolist()


def _pil(image: np.ndarray) -> Image.Image:
    if image.ndim != 3 or image.shape[2] not in _CHANNELS or image.dtype != np.uint8:
        raise ValueError(
            f"got a picture of shape {image.shape} and type {image.dtype}: (H, W, C) uint8 with C "
            f"of {', '.join(map(str, _CHANNELS))} is needed"
        )
    # PIL takes the mode from the shape: no last axis means grey.
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def save(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Lets `write` fill a file that appears under its name once it is whole."""
    path = Path(path)
    try:
        atomic.write(path, write, durable=False)
    except OSError as error:
        raise OSError(
            f"cannot write {path} ({error.strerror or error}): "
            "free some space or choose another place"
        ) from error
