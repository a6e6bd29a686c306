"""Batches of training images: ours against a torchvision DataLoader with two workers.

    python -m benchmarks.data --json data.json      # three minutes on two cores

*Memory*: 50,000 images of 3×32×32 in batches of 128, mirrored with probability 1/2 and scaled to
[-1, 1], as a run takes them. The DataLoader's set gives each image through PIL and torchvision's
transforms (`RandomHorizontalFlip`, `ToTensor`, `Normalize`), as `datasets.CIFAR10` does.

*Folders*: a folder of our kind streams batches of 64 through the same number of workers as a
DataLoader with PIL and the same transforms (`Resize`, `CenterCrop`), and beside it stands what one
process takes to decode and resize the files alone, by PIL and by torchvision: the decoder's own
rate. `in the step` is how long a step that computes for longer than a batch takes to decode waits
for the batch.

All are run in turn. The streams run in processes of their own, so `--clock` holds for the memory
set and the decoders alone.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.timing import CLOCKS, interleaved, medians, spread, table, write
from score_sde.data import DatasetInfo, MemorySource, StreamingSource, scale, train_batches
from score_sde.data.folder import FileDecoder

CIFAR, BATCH, FOLDER_BATCH, EPOCH = (50_000, 3, 32, 32), 128, 64, 40
FOLDERS = {  # ending, (H, W) as stored, side as given
    "JPEG 218x178 to 64": (".jpg", (218, 178), 64),
    "JPEG 256": (".jpg", (256, 256), 256),
    "JPEG 512 to 256": (".jpg", (512, 512), 256),
    "PNG 64": (".png", (64, 64), 64),
    "PNG 256": (".png", (256, 256), 256),
}


class Loaded(Dataset[tuple[Tensor, int]]):
    """A set of torchvision's manner: each image through PIL and its transforms."""

    def __init__(self, images: Callable[[int], Image.Image], count: int, side: int = 0) -> None:
        resized = [transforms.Resize(side), transforms.CenterCrop(side)] if side else []
        self.images, self.count = images, count
        self.transform: Callable[[Image.Image], Any] = transforms.Compose(
            [
                *resized,
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images(index)), 0


def endless(images: Dataset[tuple[Tensor, int]], batch: int, workers: int) -> Generator[Tensor]:
    """Shuffled batches of a DataLoader, its workers kept from epoch to epoch."""
    loader = DataLoader(
        images, batch, True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    for _ in itertools.count():
        for x, _ in loader:
            yield x


def ours(source: MemorySource | StreamingSource, batch: int) -> Generator[Tensor]:
    """Batches as a training run takes them."""
    with closing(train_batches(source, batch_size=batch, seed=0, random_flip=True)) as batches:
        for made in batches:
            yield scale(made["image"])


def info_of(count: int, shape: tuple[int, int, int]) -> DatasetInfo:
    """A description of images without labels."""
    return DatasetInfo("drawn", "train", count, shape, 256, 0, (), "", "")


def memory(given: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a batch of each route; prints the table."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (CIFAR[0], *CIFAR[2:], CIFAR[1]), dtype=np.uint8)
    images = torch.from_numpy(pixels).movedim(-1, 1).contiguous()
    mine = ours(MemorySource(info_of(CIFAR[0], CIFAR[1:]), images), BATCH)
    loaded = Loaded(lambda index: Image.fromarray(pixels[index]), CIFAR[0])
    theirs = endless(loaded, BATCH, given.workers)
    loader = f"DataLoader, {given.workers} workers"
    counts = {"ours": 20 * given.each, loader: given.each}
    routes = {
        "ours": lambda: take(mine, counts["ours"]),
        loader: lambda: take(theirs, counts[loader]),
    }
    times = interleaved(routes, given.rounds)
    times = {name: [sec / counts[name] for sec in values] for name, values in times.items()}
    middle = medians(times)
    rows = [
        (
            name,
            spread(values, 2),
            f"{BATCH / middle[name]:,.0f}",
            f"{middle[name] / middle['ours']:.1f}",
        )
        for name, values in times.items()
    ]
    print(f"memory: {BATCH} images of 3×32×32, {given.rounds} rounds, wall time, one thread\n")
    print(table(("route", "ms a batch (least to largest)", "images/s", "times ours"), rows))
    return times


def take(batches: Iterator[Tensor], count: int) -> None:
    """Draws batches."""
    for _ in range(count):
        next(batches)


def photographs(folder: Path, ending: str, stored: tuple[int, int], count: int) -> list[str]:
    """Files of smooth colours and some noise, as photographs have."""
    generator = np.random.default_rng(0)
    height, width = stored
    names = [f"{number:05d}{ending}" for number in range(count)]
    for name in names:
        coarse = generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + generator.normal(0, 4, (height, width, 3))
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        image.save(folder / name, quality=90)  # of which PNG files take no note
    return names


def folders(given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds an image of each route, by kind of folder; prints the table."""
    rounds, workers, count = given.rounds, given.workers, given.files
    found = {}
    for kind, (ending, stored, side) in FOLDERS.items():
        with tempfile.TemporaryDirectory() as place:
            # Many times over, lest an epoch's end is what is measured.
            names = photographs(Path(place), ending, stored, count) * EPOCH
            slow, quick = (
                FileDecoder(Path(place), tuple(names), (side, side), 3, quick=one)
                for one in (False, True)
            )

            def opened(index: int, place: str = place, names: list[str] = names) -> Image.Image:
                return Image.open(Path(place) / names[index]).convert("RGB")

            source = StreamingSource(info_of(len(names), (3, side, side)), quick, None, workers)
            mine = ours(source, FOLDER_BATCH)
            theirs = endless(Loaded(opened, len(names), side), FOLDER_BATCH, workers)
            streams = {
                "ours, streamed": lambda mine=mine: take(mine, 4),
                "DataLoader, streamed": lambda theirs=theirs: take(theirs, 4),
            }
            streamed = medians(interleaved(streams, rounds))
            decoders = {
                "decoded by PIL": lambda slow=slow: [slow(k) for k in range(64)],
                "decoded by torchvision": lambda quick=quick: [quick(k) for k in range(64)],
            }
            decoded = medians(interleaved(decoders, rounds, given.clock))
            per_batch = streamed["ours, streamed"] / 4
            waits = [waited(mine, 2 * per_batch) for _ in range(rounds)]
            found[kind] = {
                **{name: 1e3 * sec / (4 * FOLDER_BATCH) for name, sec in streamed.items()},
                **{name: 1e3 * sec / 64 for name, sec in decoded.items()},
                "in the step, ms": 1e3 * statistics.median(waits),
            }
            mine.close()
    names = list(next(iter(found.values())))
    print(f"\nfolders, ms an image, {workers} workers; decoders alone, {given.clock} time\n")
    rows = [(kind, *(f"{row[name]:.2f}" for name in names)) for kind, row in found.items()]
    print(table(("folder", *names), rows))
    return found


def waited(batches: Iterator[Tensor], step_sec: float) -> float:
    """How long a batch is waited for after a step in which the device computes."""
    time.sleep(step_sec)
    start = time.perf_counter()
    next(batches)
    return time.perf_counter() - start


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="calls of each route")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--each", type=int, default=10, help="batches of a call")
    parser.add_argument("--files", type=int, default=256, help="in each folder")
    parser.add_argument("--of", choices=("memory", "folders", "both"), default="both")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    torch.set_num_threads(1)

    figures = {"workers": given.workers, "clock": given.clock, "torch": torch.__version__}
    if given.of != "folders":
        figures["memory"] = memory(given)
    if given.of != "memory":
        figures["folders"] = folders(given)
    write(given.json, figures)


if __name__ == "__main__":
    main()
