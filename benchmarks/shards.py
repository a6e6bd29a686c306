"""Images per second of a data set on its own: what training could be fed with.

    python -m benchmarks.shards --root prepared/ --size 64
    python -m benchmarks.shards --root posters/ --dataset folder --size 64

Batches are read as in training, in memory and streamed, by the decoding of one process and of
workers. A training step that takes longer than a batch here never waits for data.
"""

import argparse
import time
from contextlib import closing
from pathlib import Path

import torch

from score_sde.data import Source, StreamingSource, open_source, train_batches


def rate(source: Source, batch_size: int, batches: int) -> float:
    """Images per second, the first batch and the start of workers not counted."""
    with closing(train_batches(source, batch_size=batch_size, seed=0)) as stream:
        next(stream)
        start = time.perf_counter()
        for _ in range(batches):
            next(stream)
        return batches * batch_size / (time.perf_counter() - start)


def decoding(source: StreamingSource, count: int) -> tuple[float, float]:
    """Images per second of one process: by the time it worked, and by the clock."""
    index = torch.arange(min(count, len(source)))
    worked, start = time.process_time(), time.perf_counter()
    source.images(index)
    seconds = time.process_time() - worked, time.perf_counter() - start
    return len(index) / seconds[0], len(index) / seconds[1]


def main() -> None:
    """Reads the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--dataset", default="shards")
    parser.add_argument("--size", default="64", help="64, or height x width as 96x64")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=20)
    given = parser.parse_args()
    try:
        measure(given)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def measure(given: argparse.Namespace) -> None:
    """Prints the rates.

    Args:
        given: the options.

    Raises:
        OSError, ValueError: as `open_source`.
    """
    sides = [int(side) for side in given.size.split("x")]
    limits = {"streamed": 0, "in memory": 2**40}
    for words, limit in limits.items():
        source = open_source(
            given.dataset,
            "train",
            root=given.root,
            image_size=(sides[0], sides[-1]),
            num_channels=given.channels,
            memory_limit_bytes=limit,
        )
        if isinstance(source, StreamingSource):
            worked, clock = decoding(source, given.batches * given.batch_size)
            print(
                f"decoding, one process: {worked:,.0f} images/s of its own time, "
                f"{clock:,.0f} by the clock"
            )
        print(f"{words}: {rate(source, given.batch_size, given.batches):,.0f} images/s")


if __name__ == "__main__":
    main()
