"""JPEG files by torchvision's decoder: Pillow's pixels, and what is not plain is Pillow's."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from score_sde.data import jpeg
from score_sde.data.folder import FileDecoder


def planes(image: Image.Image) -> torch.Tensor:
    """Pillow's pixels as (C, H, W)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0)


@pytest.fixture(scope="module", autouse=True)
def ready():
    assert jpeg.is_ready()


def photograph(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours and some noise, as photographs have."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth + generator.normal(0, 6, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def file_of(image: Image.Image, **options: object) -> bytes:
    image.save(content := io.BytesIO(), "JPEG", **options)
    return content.getvalue()


def by_pillow(content: bytes) -> Image.Image | None:
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return image.copy()
    except (OSError, SyntaxError):
        return None


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (64, 64), (33, 50)])
def test_every_pixel_is_pillows(size, mode):
    kinds = itertools.product(("4:4:4", "4:2:2", "4:2:0"), (False, True), (20, 90))
    for subsampling, progressive, quality in kinds:
        content = file_of(
            photograph(*size, mode),
            subsampling=subsampling,
            progressive=progressive,
            quality=quality,
            comment="beside the picture",
            icc_profile=b"a profile of colours" * 9,
        )
        expected = planes(by_pillow(content))
        assert torch.equal(jpeg.decoded(content, tuple(expected.shape)), expected)


def test_what_is_not_plain_is_left_to_pillow():
    image = photograph(8, 12)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = file_of(image, exif=exif)
    four = file_of(image.convert("CMYK"))
    png = io.BytesIO()
    image.save(png, "PNG")
    for content in (turned, four, png.getvalue(), b"", b"\xff\xd8", b"\xff\xd8\xff\xda" * 9):
        for shape in ((3, 8, 12), (3, 12, 8), (4, 8, 12)):
            assert jpeg.decoded(content, shape) is None
    plain = file_of(image)
    assert jpeg.decoded(plain, (3, 8, 12)).shape == (3, 8, 12)
    for other in ((1, 8, 12), (3, 12, 8), (4, 8, 12)):
        assert jpeg.decoded(plain, other) is None


def test_cut_off_and_damaged_files_are_pillows_too():
    content = file_of(photograph(24, 24), quality=90)
    generator = np.random.default_rng(1)
    spoilt = [content[:size] for size in range(0, len(content), 37)]
    for place in generator.integers(2, len(content), 60):
        flipped = bytearray(content)
        flipped[place] ^= 1 << generator.integers(8)
        spoilt.append(bytes(flipped))
    read = 0
    for each in spoilt:
        made = jpeg.decoded(each, (3, 24, 24))
        if made is not None:
            expected = by_pillow(each)
            assert expected is not None
            assert torch.equal(made, planes(expected))
            read += 1
    assert 0 < read < len(spoilt)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_decoder_gives_the_same_images_either_way(channels, tmp_path):
    names = ("plain.jpg", "grey.jpeg", "turned.JPG", "no.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(30, 20).save(tmp_path / names[0])
    photograph(30, 20, "L").save(tmp_path / names[1])
    photograph(30, 20).save(tmp_path / names[2], exif=exif)
    photograph(30, 20).save(tmp_path / names[3])
    for size, centre in (((30, 20), 0), ((20, 30), 0), ((12, 12), 0), ((16, 16), 16)):
        slow, quick = (
            FileDecoder(tmp_path, names, size, channels, centre, quick=quick)
            for quick in (False, True)
        )
        for index in range(len(names)):
            assert torch.equal(slow(index), quick(index))
    quick = FileDecoder(tmp_path, names, (30, 20), channels, quick=True)
    (tmp_path / names[0]).write_bytes((tmp_path / names[0]).read_bytes()[:300])
    with pytest.raises(ValueError, match=r"plain\.jpg cannot be decoded.*remove it"):
        quick(0)
