"""The largest distance between two images: the largest noise level that their set asks for.

Two images whose distances from any third point are r_a and r_b lie at most r_a + r_b apart.
So images are compared in the order of falling r, from their mean, and where the next one's r and
the largest r together do not exceed the distance found, no pair is left that could. The result is
exact, and on photographs most pairs need no comparison.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from score_sde import noise
from score_sde.data.sources import Source, in_order, opened

MOST_IMAGES = 200_000
"""Of a larger set a random sample of so many is looked at."""

MOST_PRODUCTS = 20_000**2 * 3072 // 2
"""Work after which the search is cut short: all pairs of 20,000 images of CIFAR-10."""

_BLOCK_NUMBERS = 2**22  # of one block of images: 32 MB in float64
_BLOCK_IMAGES = 1024
_CENTRE_IMAGES = 1024
_ROUNDING = 1e-9  # of r, relative


@dataclass(frozen=True)
class LargestDistance:
    """The largest Euclidean distance that was found.

    Attributes:
        distance: in units in which a channel goes from 0 to 1.
        at_most: what no pair of the images looked at exceeds; equal to `distance` unless the
            search was cut short.
        num_images: how many were looked at: all, or a random sample.
        whole: whether these were all.
    """

    distance: float
    at_most: float
    num_images: int
    whole: bool

    @property
    def exact(self) -> bool:
        """Whether no pair of the whole set is further apart."""
        return self.whole and self.distance == self.at_most


def largest_distance(
    source: Source, seed: int, most_images: int = MOST_IMAGES, most_products: int = MOST_PRODUCTS
) -> LargestDistance:
    """Searches a set of images for its farthest pair.

    Images are squared and multiplied in float64, where sums of uint8 products are exact. Flips
    and other augmentations are left out of account.

    Args:
        source: the images.
        seed: of the sample.
        most_images: images to look at.
        most_products: multiplications to spend on pairs; also bounds what is kept in memory,
            √(2 · most_products · D) bytes for images of D numbers.
    """
    size, total = math.prod(source.info.shape), len(source)
    whole = total <= most_images
    index = torch.arange(total)
    if not whole:
        index = noise.permutation(total, seed, 0)[:most_images].sort().values
    radii, order = _radii(source, index, size).sort(descending=True)
    found, bound = _search(source, index[order], radii.tolist(), _rows(size), most_products)
    low, high = source.info.ends
    unit = high - low
    return LargestDistance(found / unit, bound / unit, len(index), whole)


def _rows(size: int) -> int:
    return min(max(_BLOCK_NUMBERS // size, 1), _BLOCK_IMAGES)


def _radii(source: Source, index: Tensor, size: int) -> Tensor:
    """Distances from about the mean of the images, in the units stored: float64 (n,)."""
    every = -(-len(index) // _CENTRE_IMAGES)
    some = index[::every]
    total = torch.zeros(size, dtype=torch.float64)
    for part in some.split(_rows(size)):
        total += source.images(part).flatten(1).double().sum(0)
    centre = total / max(len(some), 1)
    batches = [index[part] for part in in_order(len(index), _rows(size))]
    with opened(source, batches) as stream:
        parts = [
            torch.linalg.vector_norm(images.flatten(1).double() - centre, dim=1)
            for images in stream
        ]
    return torch.cat(parts) if parts else centre[:0]


def _search(
    source: Source, outermost: Tensor, radii: list[float], rows: int, most_products: int
) -> tuple[float, float]:
    """The largest distance in the units stored, and what no pair exceeds."""
    best, spent = 0.0, 0
    kept: list[tuple[float, Tensor]] = []
    for start in range(0, len(radii), rows):
        reach = radii[start] * (1 + _ROUNDING)
        if radii[0] + reach <= best:
            break
        if spent >= most_products:
            return best, radii[0] + reach
        new = source.images(outermost[start : start + rows]).flatten(1)
        if 2 * reach > best:  # otherwise no later one is far enough from these
            kept.append((radii[start], new))
        for radius, old in kept:
            if radius + reach <= best:
                break
            best = max(best, _largest_between(old, new, source.info.ends[0]))
            spent += len(old) * new.numel()
    return best, best


def _largest_between(a: Tensor, b: Tensor, low: float) -> float:
    """The largest distance of a row of a, (n, D) as stored, and a row of b ((m, D))."""
    a, b = a.double() - low, b.double() - low  # far from 0 the squares would cancel
    squared = torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1), a, b.T, alpha=-2)
    return math.sqrt(squared.max().item())
