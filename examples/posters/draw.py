"""Draws film posters that nobody has seen: a corpus to try everything on before your own.

    python examples/posters/draw.py --output posters --number 2000

Each genre is a folder, as a collection sorted by hand would be; sides are about 2:3, and no two
posters need have the same size. A poster is a function of its number, so the same command draws
the same pictures. `--odd` adds what real collections have among their pictures: a CMYK JPEG, a
photograph on its side, a transparent and a 16-bit one, a truncated download and a text file.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Scene = tuple[Image.Image, Colour]  # and the colour of the title on it

FIRST = "Midnight Silent Red Last Lost Golden Broken Hidden Distant Burning".split()
SECOND = "River Garden Signal Harbour Winter Station Promise Letter Valley Mirror".split()


def shade(colour: Colour, by: float) -> Colour:
    """A colour made lighter (by > 1) or darker."""
    red, green, blue = (min(255, int(channel * by)) for channel in colour)
    return red, green, blue


def chosen(rng: np.random.Generator, *colours: Colour) -> Colour:
    """One of the colours, a little lighter or darker."""
    return shade(colours[rng.integers(len(colours))], rng.uniform(0.85, 1.15))


def sky(width: int, height: int, top: Colour, bottom: Colour) -> Image.Image:
    """A ground that fades from one colour to another."""
    share = np.linspace(0, 1, height)[:, None, None]
    rows = (1 - share) * np.array(top) + share * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows, (height, width, 3)).astype(np.uint8))


def disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    """A filled circle."""
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def western(rng: np.random.Generator, width: int, height: int) -> Scene:
    """A low sun over table mountains."""
    picture = sky(width, height, chosen(rng, (226, 120, 50), (240, 170, 80)), (250, 215, 140))
    draw = ImageDraw.Draw(picture)
    sun = rng.uniform(0.25, 0.75) * width, rng.uniform(0.45, 0.6) * height
    disc(draw, *sun, rng.uniform(0.14, 0.22) * width, (252, 240, 190))
    ground = chosen(rng, (120, 50, 25), (95, 40, 30))
    for _ in range(3):
        middle, half = rng.uniform(0, 1) * width, rng.uniform(0.08, 0.2) * width
        top = rng.uniform(0.55, 0.68) * height
        slope = 0.4 * half
        corners = [(middle - half - slope, 0.75 * height), (middle - half, top)]
        corners += [(middle + half, top), (middle + half + slope, 0.75 * height)]
        draw.polygon(corners, fill=shade(ground, rng.uniform(0.8, 1.2)))
    draw.rectangle((0, 0.74 * height, width, height), fill=ground)
    return picture, (250, 215, 140)


def science_fiction(rng: np.random.Generator, width: int, height: int) -> Scene:
    """A planet with a ring among stars."""
    picture = sky(width, height, (8, 8, 28), chosen(rng, (20, 30, 80), (50, 20, 80)))
    draw = ImageDraw.Draw(picture)
    for x, y in rng.uniform(0, 1, (60, 2)):
        disc(draw, x * width, y * height, 0.004 * width, (230, 235, 255))
    colour = chosen(rng, (80, 190, 200), (220, 120, 90), (150, 130, 220))
    x, y = rng.uniform(0.35, 0.65) * width, rng.uniform(0.35, 0.5) * height
    radius = rng.uniform(0.18, 0.3) * width
    ring = (x - 1.7 * radius, y - 0.35 * radius, x + 1.7 * radius, y + 0.35 * radius)
    draw.ellipse(ring, outline=shade(colour, 1.3), width=max(1, width // 50))
    disc(draw, x, y, radius, colour)
    disc(draw, x + 0.25 * radius, y + 0.1 * radius, 0.8 * radius, shade(colour, 0.75))
    draw.arc(ring, 0, 180, fill=shade(colour, 1.3), width=max(1, width // 50))
    return picture, (200, 230, 250)


def romance(rng: np.random.Generator, width: int, height: int) -> Scene:
    """A heart on a pale ground."""
    picture = sky(width, height, (250, 225, 220), chosen(rng, (245, 180, 190), (250, 205, 175)))
    draw = ImageDraw.Draw(picture)
    colour = chosen(rng, (200, 40, 70), (220, 80, 90), (170, 30, 90))
    x, y = rng.uniform(0.4, 0.6) * width, rng.uniform(0.35, 0.48) * height
    size = rng.uniform(0.018, 0.026) * width
    turns = np.linspace(0, 2 * math.pi, 80)
    across = 16 * np.sin(turns) ** 3
    up = 13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns)
    draw.polygon(
        [(x + size * a, y - size * u) for a, u in zip(across, up, strict=True)], fill=colour
    )
    return picture, colour


def horror(rng: np.random.Generator, width: int, height: int) -> Scene:
    """A moon behind bare trees."""
    picture = sky(width, height, (10, 12, 14), chosen(rng, (40, 55, 45), (60, 35, 35)))
    draw = ImageDraw.Draw(picture)
    moon = rng.uniform(0.3, 0.7) * width, rng.uniform(0.25, 0.4) * height
    disc(draw, *moon, rng.uniform(0.15, 0.22) * width, chosen(rng, (220, 220, 190), (200, 60, 50)))
    for _ in range(rng.integers(3, 6)):
        x = rng.uniform(0.05, 0.95) * width
        top = rng.uniform(0.2, 0.5) * height
        draw.line((x, 0.8 * height, x, top), fill=(0, 0, 0), width=max(2, width // 40))
        for branch in rng.uniform(top, 0.65 * height, 4):
            reach = rng.uniform(-0.2, 0.2) * width
            ends = (x, branch, x + reach, branch - 0.6 * abs(reach))
            draw.line(ends, fill=(0, 0, 0), width=max(1, width // 90))
    draw.rectangle((0, 0.78 * height, width, height), fill=(0, 0, 0))
    return picture, (170, 20, 20)


def noir(rng: np.random.Generator, width: int, height: int) -> Scene:
    """A lit window among dark houses, in greys and one colour."""
    picture = sky(width, height, (70, 70, 75), (20, 20, 22))
    draw = ImageDraw.Draw(picture)
    colour = chosen(rng, (235, 200, 60), (230, 230, 225))
    left = 0.0
    while left < width:
        wide, top = rng.uniform(0.15, 0.3) * width, rng.uniform(0.25, 0.55) * height
        draw.rectangle(
            (left, top, left + wide, height), fill=shade((40, 40, 42), rng.uniform(0.5, 1))
        )
        for row in np.arange(top + 0.04 * height, 0.72 * height, 0.08 * height):
            for column in (0.2, 0.6):
                if rng.uniform() < 0.35:
                    x = left + column * wide
                    draw.rectangle((x, row, x + 0.2 * wide, row + 0.04 * height), fill=colour)
        left += wide
    return picture, colour


GENRES: dict[str, Callable[[np.random.Generator, int, int], Scene]] = {
    "horror": horror,
    "noir": noir,
    "romance": romance,
    "science_fiction": science_fiction,
    "western": western,
}


def poster(number: int, genre: str) -> Image.Image:
    """A poster (RGB): its genre's scene, a title of two words and a line of small print."""
    rng = np.random.default_rng([number, 1926])
    height = int(rng.integers(300, 421))
    width = round(height * rng.uniform(0.64, 0.69))
    picture, ink = GENRES[genre](rng, width, height)
    draw = ImageDraw.Draw(picture)
    words = FIRST[rng.integers(len(FIRST))], SECOND[rng.integers(len(SECOND))]
    for k, word in enumerate(words):
        font = ImageFont.load_default(size=0.13 * width)
        draw.text((width / 2, (0.82 + 0.07 * k) * height), word, ink, font, anchor="mm")
    small = ImageFont.load_default(size=0.04 * width)
    draw.text(
        (width / 2, 0.97 * height), f"a film of {1926 + number % 90}", ink, small, anchor="mm"
    )
    return picture


def write_odd(folder: Path, numbers: range) -> None:
    """What real collections have among their pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    cmyk, turned, clear, deep, cut = (poster(number, "noir") for number in numbers)
    cmyk.convert("CMYK").save(folder / "press proof.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees
    turned.transpose(Image.Transpose.ROTATE_90).save(folder / "on its side.jpg", exif=exif)
    clear.putalpha(Image.radial_gradient("L").resize(clear.size))
    clear.save(folder / "transparent.png")
    levels = np.asarray(deep.convert("L")).astype(np.uint16) * 257
    Image.fromarray(levels).save(folder / "16 bits.png")
    cut.save(folder / "truncated.jpg")
    content = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 3])
    (folder / "notes.txt").write_text("to be scanned: the ones from the attic\n")


def draw(output: Path, number: int, *, odd: bool = False) -> None:
    """Writes posters, a genre after another, each into the folder of its genre."""
    genres = list(GENRES)
    for k in range(number):
        genre = genres[k % len(genres)]
        path = output / genre / f"{k:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        poster(k, genre).save(path, quality=92)
    if odd:
        write_odd(output / "noir", range(number, number + 5))


def main() -> None:
    """The command of the file's first lines."""
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--output", type=Path, required=True, help="folder to write to")
    words.add_argument("--number", type=int, default=2000, help="posters in all")
    words.add_argument("--odd", action="store_true", help="add odd and damaged files")
    given = words.parse_args()
    if given.number < 1:
        words.exit(1, f"--number {given.number}: give how many posters to draw, 1 or more\n")
    try:
        draw(given.output, given.number, odd=given.odd)
    except OSError as error:
        reason = error.strerror or str(error)
        words.exit(1, f"cannot write to {given.output} ({reason}): choose another --output\n")
    print(f"{given.number} posters of {len(GENRES)} genres in {given.output}")


if __name__ == "__main__":
    main()
