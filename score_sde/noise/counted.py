"""Noise as a function of (seed, sample index, draw number).

Every number is a word of the counter-based generator Philox4x32-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"). Its key is the seed; its counter says which number is meant:

    word 0   the block of four outputs inside a sample
    word 1   (stream << 24) | draw
    word 2   the sample index, low 32 bits
    word 3   the sample index, high 32 bits

So a sample's noise does not know its batch, its place in it, the process that draws it or how many
draws are made at a time. The arithmetic on words is exact; normals go through log, cos and sin,
whose last bit may depend on the device and on the place in a vector register.
"""

import math
from collections.abc import Callable, Sequence
from enum import IntEnum

import torch
from torch import Tensor

Noise = Callable[[Sequence[int]], Tensor]
"""A source of noise: a shape gives a standard normal tensor of this shape."""

MAX_DRAWS = 2**24
"""Draw numbers and epochs stay below this: 24 bits of counter word 1."""

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Stream(IntEnum):
    """What the noise is for. Different streams of one seed never share a number."""

    SAMPLE = 0
    DEQUANTISE = 1
    PROBE = 2
    AUGMENT = 3
    HELD_OUT = 4
    ORDER = 5
    BOUND = 6
    DATA = 7  # data that are computed, such as exact draws from a mixture
    LABEL = 8  # which labels training leaves out
    RESAMPLE = 9  # which particles of sequential Monte Carlo go on
    MEASURE = 10  # the noise of measurements that are made of images
    GIVEN = 12  # noise on the images that samples are drawn from
    SEED = 13  # seeds that are made of one
    CLASS = 14  # of which class a sample is, where classes are drawn in proportion


def philox(counter: Sequence[Tensor], key: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10, the block function of Salmon et al. (2011).

    Args:
        counter: the four counter words, int64 tensors of one device with values in [0, 2³²) that
            broadcast.
        key: 64 bits; the low half is the first key word.

    Returns:
        Four int64 tensors of 32 random bits each.
    """
    # Copies, and room for a product's high half: draws are made of a hundred passes over memory,
    # and what stays in its place also stays in the cache.
    words = torch.broadcast_tensors(*counter)
    c0, c1, c2, c3 = (word.clone(memory_format=torch.contiguous_format) for word in words)
    high = torch.empty_like(c0)
    k0, k1 = key & _MASK, key >> 32
    for _ in range(_ROUNDS):
        # 64 bits each, modulo which they wrap: the sign is off, but all the bits are there.
        c0 *= _MULTIPLIERS[0]
        c2 *= _MULTIPLIERS[1]
        _mix(c1, c2, k0, high)
        _mix(c3, c0, k1, high)
        c0, c1, c2, c3 = c1, c2, c3, c0  # of products the low words count from here on
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    c1 &= _MASK
    c3 &= _MASK
    return c0, c1, c2, c3


def _mix(word: Tensor, product: Tensor, key: int, high: Tensor) -> None:
    """Adds the high word of a product and a key to `word`, modulo 2, and cuts it to 32 bits."""
    torch.bitwise_right_shift(product, 32, out=high)
    word ^= high
    word ^= key
    word &= _MASK


def _blocks(
    seed: int, index: Tensor, draw: int | Tensor, n_blocks: int, stream: Stream
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first `n_blocks` blocks of each sample, word by word: four of (B, n_blocks)."""
    if index.ndim != 1 or index.dtype != torch.int64:
        raise ValueError(
            f"index must be an int64 tensor of shape (B,), got {index.dtype} of shape "
            f"{tuple(index.shape)}: give one sample index per sample"
        )
    # Of draw numbers on the CPU none is waited for.
    draws = torch.as_tensor(draw)
    if draws.dtype != torch.int64 or draws.shape not in ((), index.shape):
        raise ValueError(
            f"draw numbers of {draws.dtype} and shape {tuple(draws.shape)}: give one int, or "
            f"int64 ({len(index)},) with one for each sample"
        )
    if draws.numel() and not 0 <= int(draws.min()) <= int(draws.max()) < MAX_DRAWS:
        raise ValueError(
            f"draw number {draw} is outside 0 … {MAX_DRAWS - 1}: take another seed or stream"
        )
    block = torch.arange(n_blocks, device=index.device)
    purpose = int(stream) << 24 | draws
    if purpose.ndim:
        waits = index.device.type == "mps"  # see `tensor_ops.sent_to`
        purpose = purpose.to(index.device, non_blocking=not waits).reshape(-1, 1)
    else:
        purpose = torch.full_like(block[:1], int(purpose))
    sample = index[:, None]
    counter = (block, purpose, sample & _MASK, (sample >> 32) & _MASK)
    return philox(counter, seed & 0xFFFFFFFFFFFFFFFF)


def _words(seed: int, index: Tensor, draw: int, shape: Sequence[int], stream: Stream) -> Tensor:
    """One word for each entry: int64 (B, *shape)."""
    size = math.prod(shape)
    words = _blocks(seed, index, draw, -(-size // 4), stream)
    return _interleaved(words)[:, :size].reshape(-1, *shape)


def _interleaved(words: Sequence[Tensor]) -> Tensor:
    """Four of (B, n_blocks), block by block: (B, 4 n_blocks)."""
    # As `torch.stack` along a new last axis, which copies number by number.
    blocks = words[0].new_empty((*words[0].shape, len(words)))
    for k, word in enumerate(words):
        blocks[..., k] = word
    return blocks.flatten(1)


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"noise is drawn in float32 or float64, got {dtype}: cast what was drawn")


def normal(
    seed: int,
    index: Tensor,
    draw: int | Tensor,
    shape: Sequence[int],
    *,
    stream: Stream = Stream.SAMPLE,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise, by Box and Muller (1958) from pairs of 32-bit words.

    float64 gives the same numbers as float32, with less rounding; no value exceeds 6.67.

    Args:
        seed: any int; its low 64 bits count (two's complement for negative ones).
        index: int64 (B,), the sample indices; the result lies on its device.
        draw: the number of the draw, 0 ≤ draw < 2²⁴; int64 (B,), best on the CPU, where samples
            have numbers of their own.
        shape: the shape of one sample.
        stream: what the noise is for.
        dtype: float32 or float64.

    Returns:
        (B, *shape).

    Raises:
        ValueError: where `index`, `draw` or `dtype` is not of this kind.
    """
    _check_dtype(dtype)
    size = math.prod(shape)
    a, b, c, d = _blocks(seed, index, draw, -(-size // 4), stream)
    z = _interleaved((*_box_muller(a, b, dtype), *_box_muller(c, d, dtype)))
    return z[:, :size].reshape(-1, *shape)


def _box_muller(a: Tensor, b: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    # 1 … 2³² instead of 0 … 2³² − 1: the logarithm never meets zero.
    radius = (a + 1).to(dtype).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = b.to(dtype).mul_(2 * math.pi * 2.0**-32)
    return angle.cos().mul_(radius), angle.sin_().mul_(radius)


def uniform(
    seed: int,
    index: Tensor,
    draw: int,
    shape: Sequence[int],
    *,
    stream: Stream = Stream.SAMPLE,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Uniform noise in [0, 1): (B, *shape). Arguments and errors are those of `normal`."""
    _check_dtype(dtype)
    # As many bits as the dtype holds exactly, lest rounding reach 1.
    bits = 24 if dtype == torch.float32 else 32
    return (_words(seed, index, draw, shape, stream) >> (32 - bits)).to(dtype) * 2.0**-bits


def rademacher(
    seed: int,
    index: Tensor,
    draw: int,
    shape: Sequence[int],
    *,
    stream: Stream = Stream.SAMPLE,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Random signs, −1 or +1: (B, *shape). Arguments and errors are those of `normal`."""
    _check_dtype(dtype)
    return (1 - 2 * (_words(seed, index, draw, shape, stream) >> 31)).to(dtype)


class SampleNoise:
    """Standard normal noise for a batch of samples; successive calls are successive draws.

    Args:
        seed: any int; its low 64 bits count.
        index: int64 (B,), the sample index of each row.
        stream: what the noise is for.
        dtype: float32 or float64.

    Attributes:
        draw: number of the next draw, 0 at first. Setting it moves to that draw.
    """

    def __init__(
        self,
        seed: int,
        index: Tensor,
        stream: Stream = Stream.SAMPLE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seed = seed
        self.index = index
        self.stream = stream
        self.dtype = dtype
        self.draw = 0

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """The next draw, (B, ...).

        Raises:
            ValueError: where `shape[0]` is not the number of samples.
        """
        if len(shape) == 0 or shape[0] != len(self.index):
            raise ValueError(
                f"noise of shape {tuple(shape)} was asked for {len(self.index)} samples: "
                "the first axis must count the samples"
            )
        z = normal(
            self.seed, self.index, self.draw, shape[1:], stream=self.stream, dtype=self.dtype
        )
        self.draw += 1
        return z


def torch_noise(
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Noise:
    """Noise from torch's own generator (the global one if none is given)."""
    return lambda shape: torch.randn(tuple(shape), device=device, dtype=dtype, generator=generator)


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """A shuffled order of n items, a function of its arguments alone.

    Items are sorted by 64 random bits each, equal ones by index.

    Args:
        n: the number of items.
        seed: any int; its low 64 bits count.
        epoch: 0 ≤ epoch < 2²⁴.

    Returns:
        int64 (n,) on the CPU, each of 0 … n − 1 once.
    """
    high, low, _, _ = _blocks(seed, torch.arange(n), epoch, 1, Stream.ORDER)
    # The top bit becomes the sign of an int64: keys are compared as signed numbers, and any order
    # of 64 uniform bits is a uniform order of the items.
    return ((high << 32) | low).flatten().argsort(stable=True)


def derived_seed(seed: int, number: int) -> int:
    """Another seed, 64 bits that follow from a seed and a number: for noise that knows neither.

    Args:
        seed: any int; its low 64 bits count.
        number: 0 or more; the seed of each number is another.
    """
    high, low, _, _ = _blocks(seed, torch.tensor([number]), 0, 1, Stream.SEED)
    return int(high << 32 | low)
