"""Images larger than a network knows, by overlapping tiles (Bar-Tal et al. 2023, MultiDiffusion).

A network of images of one size gives the score of each tile k of a larger image by itself,
s_k = ∇ log p_t(x_k). With windows w_k ≥ 0 that sum to one at every pixel, the score of the image
is taken to be

    s(x)_i = Σ_k w_k(i) s_k(x_k)_i.

Denoised images, and whatever else is affine in the score with coefficients of x and t, are blended
by the same windows. What a tile lacks is what lies outside of it, which its border wants most: so
a window falls from its middle to its borders, as sin² does. Only data whose tiles, once noised,
are independent of what lies around them have this score exactly.

Zhang et al. 2023 (DiffCollage) add up the scores of the tiles and subtract those of their
overlaps, which is exact for data that are a Markov chain of blocks of an overlap's size. On short
correlations it is the better one by far (`benchmarks/tiles.py` measures both against the exact
score), but it asks for scores of overlaps alone, which a network of one size does not know, and
in two dimensions for those of the corners where four tiles meet. Hence the blend.

Symbols: x (B, ...) whose last axes are those that are tiled, such as (B, C, H, W) with H and W;
t (B,).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType

import torch
from torch import Tensor

from score_sde.score.guidance import evaluations_at
from score_sde.score.network import ScoreFor
from score_sde.sde import Score
from score_sde.tensor_ops import kept_on, times_for

OVERLAP = 0.5
"""What neighbouring tiles share of their sides, where nothing else is said."""


@dataclass(frozen=True)
class Tiling:
    """Tiles of one size that cover an image, evenly spaced, and their windows.

    Args:
        size: sides of the image, in pixels.
        tile: sides of a tile, as many.
        overlap: the least share of its side that a tile has in common with the next, from 0 to
            below 1. At 0 they stand side by side where the sides divide, and nothing is blended.

    Raises:
        ValueError: an image smaller than a tile, or another overlap.
    """

    size: tuple[int, ...]
    tile: tuple[int, ...]
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        fits = len(self.size) == len(self.tile) and min(self.tile, default=0) > 0
        if not (fits and all(n <= side for n, side in zip(self.tile, self.size, strict=True))):
            raise ValueError(
                f"an image of {_words(self.size)} is not covered by tiles of {_words(self.tile)}: "
                "each of its sides must be at least a tile's"
            )
        if not 0 <= self.overlap < 1:
            raise ValueError(
                f"overlap={self.overlap:g}: give a share of a tile's side from 0 to below 1"
            )

    @cached_property
    def starts(self) -> list[tuple[int, ...]]:
        """Where each tile begins, in the order in which tiles are counted."""
        sides = zip(self.size, self.tile, strict=True)
        return list(itertools.product(*(_starts(L, n, self.overlap) for L, n in sides)))

    @cached_property
    def windows(self) -> Tensor:
        """w_k of every tile, float64 (K, *tile): above 0, and a sum of one at every pixel."""
        window = torch.ones((), dtype=torch.float64)
        for n in self.tile:
            middles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
            window = window[..., None] * torch.sin(math.pi * middles) ** 2
        total = self.add(window.expand(len(self), *self.tile))
        return window / self.cut(total)

    def __len__(self) -> int:
        """K, how many tiles there are."""
        return len(self.starts)

    def cut(self, x: Tensor) -> Tensor:
        """The tiles of x: (..., *size) → (K, ..., *tile)."""
        return torch.stack([x[self._place(start)] for start in self.starts])

    def add(self, tiles: Tensor) -> Tensor:
        """Each tile added in its place: (K, ..., *tile) → (..., *size)."""
        total = tiles.new_zeros((*tiles.shape[1 : tiles.ndim - len(self.size)], *self.size))
        for start, tile in zip(self.starts, tiles, strict=True):
            total[self._place(start)] += tile
        return total

    def blend(self, tiles: Tensor) -> Tensor:
        """Σ_k w_k tile_k: (K, ..., *tile) → (..., *size), in the dtype of the tiles."""
        axes = tiles.ndim - 1 - len(self.size)
        w = kept_on(tiles.device, self.windows, tiles.dtype)
        w = w.reshape(len(self), *[1] * axes, *self.tile)
        return self.add(w * tiles)

    def _place(self, start: tuple[int, ...]) -> tuple[EllipsisType | slice, ...]:
        return (..., *(slice(a, a + n) for a, n in zip(start, self.tile, strict=True)))


def _starts(side: int, n: int, overlap: float) -> list[int]:
    """Evenly spaced starts of tiles of n pixels from 0 to side − n, at most n (1 − overlap) apart.

    In whole pixels, so that a very large overlap steps by one.
    """
    steps = math.ceil((side - n) / max(1, int(n * (1 - overlap))))
    return [round(k * (side - n) / steps) for k in range(steps + 1)] if steps else [0]


def _words(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


class TiledScore:
    """The score of a large image, blended of those of its tiles: (x, t) → the shape of x.

    Gradients pass through it. An evaluation of a sample is one of each of its K tiles, so that
    `nfe` counts what the network was given: K for a plain score, 2 K where it is guided.

    Args:
        score_for: int64 (b,) sample indices → the score for tiles of these samples, so that
            labels follow the samples, and are repeated for each tile.
        index: int64 (B,) of the samples.
        tiling: of their images.
        at_a_time: how many tiles the score is given at a time, in whole batches: the same tiles of
            all B samples together, and at least one of each.

    Raises:
        ValueError: where it is called, images of another size, or another number of them.
    """

    def __init__(
        self, score_for: ScoreFor, index: Tensor, tiling: Tiling, at_a_time: int = 64
    ) -> None:
        self.score_for, self.index = score_for, index
        self.tiling, self.at_a_time = tiling, at_a_time
        self._scores: dict[int, Score] = {}  # of k tiles of each sample: labels are read once

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The blended score at x (B, ..., *size) and t (B,)."""
        size = self.tiling.size
        if len(x) != len(self.index) or tuple(x.shape[-len(size) :]) != size:
            raise ValueError(
                f"images of shape {tuple(x.shape)}: the tiles are of {len(self.index)} images "
                f"whose last axes are {size}"
            )
        t, tiles = times_for(x, t), self.tiling.cut(x)
        together = max(1, self.at_a_time // len(x))
        scores = [self._of_tiles(some, t) for some in tiles.split(together)]
        return self.tiling.blend(torch.cat(scores))

    def _of_tiles(self, tiles: Tensor, t: Tensor) -> Tensor:
        """Scores of some tiles of all samples: (k, B, ..., *tile) → the same shape."""
        k = len(tiles)
        return self._of(k)(tiles.flatten(0, 1), t.repeat(k)).unflatten(0, (k, -1))

    def _of(self, k: int) -> Score:
        """The score for k tiles of each sample."""
        if k not in self._scores:
            self._scores[k] = self.score_for(self.index.repeat(k))
        return self._scores[k]

    def evaluations_at(self, t: Tensor) -> Tensor | int:
        """Those of each tile, as `score.evaluations_at` counts them, times the number of tiles."""
        return len(self.tiling) * evaluations_at(self._of(1), t)
