"""Images at a lower resolution: the means of blocks of their pixels.

It is the downsampling of super-resolution (`posteriors.measurements`, box_downsampling): what a
base model of a cascade is trained on is what its upsampler is given of the larger images.
"""

from collections.abc import Generator, Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from score_sde.data.sources import Source, opened

MOST_LEVELS = 256


class Downsampled:
    """A source whose images are means of blocks of factor × factor pixels of another's.

    Sums of blocks of images of few grey levels are kept as they are: of L levels they have
    factor² (L − 1) + 1. Where these are more than 256, means are rounded to 256. Of floats the
    means are floats.

    Args:
        source: of images whose sides the factor divides.
        factor: how many times smaller each side becomes, 1 or more.
    """

    def __init__(self, source: Source, factor: int) -> None:
        info = source.info
        channels, height, width = info.shape
        self._source, self._factor = source, factor
        self.info = replace(
            info,
            shape=(channels, height // factor, width // factor),
            levels=info.levels and min(MOST_LEVELS, factor**2 * (info.levels - 1) + 1),
            fingerprint=f"{info.fingerprint}-means-{factor}",
            policy=f"{info.policy}, means of {factor}x{factor} pixels",
        )

    def __len__(self) -> int:
        return len(self._source)

    def images(self, indices: Tensor) -> Tensor:
        """Images (B, C, h, w) of `indices` int64 (B,)."""
        return self._means(self._source.images(indices))

    def labels(self, indices: Tensor) -> Tensor:
        """Labels int64 (B,) of `indices` int64 (B,)."""
        return self._source.labels(indices)

    def stream(self, batches: Iterable[Tensor]) -> Generator[Tensor]:
        """The images of each batch of indices, in order; fetched ahead where the source does."""
        with opened(self._source, batches) as images:
            yield from map(self._means, images)

    def to(self, device: torch.device) -> "Downsampled":
        """The same, of the source on a device."""
        return Downsampled(self._source.to(device), self._factor)

    def _means(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            return F.avg_pool2d(images, self._factor)
        unit = F.avg_pool2d(images.float(), self._factor) / (self._source.info.levels - 1)
        return (unit * (self.info.levels - 1)).round().to(torch.uint8)
