"""What a network that upsamples is given of images: smaller ones, with noise of a known level.

    image = means of blocks of factor × factor pixels of x_0 + s z,    image_noise = s

In training s is uniform on [0, s_max], so that the network also learns how far to trust what a
base model has drawn, whose images are not quite those of the data: conditioning augmentation (Ho
et al. 2022, "Cascaded Diffusion Models for High Fidelity Image Generation", section 4). There the
noise comes with the mean scale of the forward process; a network is told the level, and learns the
same of images without it.

Symbols: x_0 (B, C, H, W) images, s (B,) levels, z standard normal noise (B, C, h, w) with
h = H/factor and w = W/factor.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from score_sde import noise
from score_sde.noise import Stream
from score_sde.parallel import Part
from score_sde.tensor_ops import expand_to


def with_image(x: Tensor, image: Tensor | None, factor: int) -> Tensor:
    """What a network sees: x, and beside it the low-resolution image, whose pixels are repeated.

    Args:
        x: (B, C, H, W).
        image: (B, C, h, w).
        factor: H/h; 0 for a network that does not upsample, which sees x alone.

    Returns:
        (B, 2 C, H, W).

    Raises:
        ValueError: an image for a network that does not upsample, none for one that does, or one
            of another size.
    """
    if image is None and not factor:
        return x
    if image is None:
        raise ValueError(
            f"this network enlarges each side of a low-resolution image {factor} times, and is "
            "given none: give it one as image="
        )
    if not factor:
        raise ValueError(
            "a low-resolution image was given to a network that does not upsample: set "
            "upsampling_factor"
        )
    wanted = (len(x), x.shape[1], x.shape[2] // factor, x.shape[3] // factor)
    if image.shape != wanted or any(side % factor for side in x.shape[2:]):
        raise ValueError(
            f"low-resolution images {tuple(image.shape)} for images {tuple(x.shape)}: this "
            f"network enlarges each side {factor} times, so give it {wanted}"
        )
    return torch.cat([x, F.interpolate(image.to(x.dtype), scale_factor=factor)], dim=1)


class LowResolution:
    """Low-resolution images of training images, for a network that upsamples.

    Args:
        factor: how many times smaller each side becomes.
        most_noise: s_max, in units of the images.
    """

    def __init__(self, factor: int, most_noise: float) -> None:
        self.factor, self.most_noise = factor, most_noise

    def __call__(
        self, x_0: Tensor, generator: torch.Generator | None = None, part: Part | None = None
    ) -> dict[str, Tensor]:
        """What the network is given of x_0 in training, by the names of its inputs.

        Args:
            x_0: (B, C, H, W).
            generator: on the device of x_0; torch's global one by default.
            part: of the batch, that x_0 is; x_0 is all of it by default.
        """
        images, part = self.images(x_0), part or Part(range(len(x_0)), len(x_0))
        u = part.of(torch.rand(part.whole, device=x_0.device, generator=generator))
        z = part.normal(images, generator)
        return with_noise(images, self.most_noise * u, z)

    def held_out(self, x_0: Tensor, seed: int, index: Tensor) -> dict[str, Tensor]:
        """The same at levels and noise that belong to an image: index int64 (B,)."""
        images, stream = self.images(x_0), Stream.HELD_OUT
        u = noise.uniform(seed, index, 1, (), stream=stream)
        z = noise.normal(seed, index, 2, images.shape[1:], stream=stream)
        return with_noise(images, self.most_noise * u, z)

    def images(self, x_0: Tensor) -> Tensor:
        """The means of blocks: (B, C, H, W) → (B, C, h, w)."""
        return F.avg_pool2d(x_0, self.factor)


def with_noise(images: Tensor, level: Tensor, z: Tensor) -> dict[str, Tensor]:
    """Low-resolution images (B, C, h, w) with noise z of levels (B,), by the network's names."""
    return {"image": images + expand_to(level, images) * z, "image_noise": level}


def to_draw_from(images: Tensor, level: float, seed: int, index: Tensor) -> dict[str, Tensor]:
    """What samples are drawn from, with noise of one level that belongs to the sample.

    Args:
        images: (B, C, h, w).
        level: s.
        seed: of the noise.
        index: int64 (B,) of the samples.
    """
    z = noise.normal(seed, index, 0, images.shape[1:], stream=Stream.GIVEN)
    return with_noise(images, images.new_full((len(images),), level), z)
