"""From a corpus to shards: the order of events."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from score_sde.atomic import shown
from score_sde.data.fits import Size
from score_sde.data.prepare.listing import Item, Listing, listed
from score_sde.data.prepare.pictures import (
    FITTED,
    Made,
    Maker,
    bytes_of,
    ground_in_words,
    is_png,
)
from score_sde.data.prepare.writing import SplitWriter, alone_in, begin, write_json
from score_sde.data.shards import FORMAT, INDEX
from score_sde.data.sources import default_workers
from score_sde.data.splits import held_out_of
from score_sde.data.workers import Workers
from score_sde.tensor_ops import check_name

TEST_FRACTION = 0.1
"""Share of images that are held out, where the corpus has no splits."""
SHARD_BYTES = 2**26
"""Decoded images of one shard: what is kept in memory, and done again after a kill."""
IMAGES_A_REQUEST = 16
ALONE_BELOW_BYTES = 8 * 2**20
"""Corpora of fewer bytes are decoded before worker processes have started."""
_LEAST_HELD_OUT = 19
"""Of so many images and more, at least one is held out by its number alone."""


class Bar(Protocol):
    """What shows the progress."""

    def update(self, n: int) -> object:
        """So many more are done."""
        ...


@dataclass(frozen=True)
class Prepared:
    """What was prepared.

    Attributes:
        root: the folder of the shards.
        index: what its `index.json` says.
    """

    root: Path
    index: dict[str, Any]


def prepare(
    source: Path,
    output: Path,
    size: Size,
    fit: str = "crop",
    ground: str = "white",
    *,
    bar: Callable[[int], AbstractContextManager[Bar]],
    shard_bytes: int = SHARD_BYTES,
    num_workers: int | None = None,
) -> Prepared:
    """Writes the images of a corpus into shards, or goes on with that.

    Args:
        source: a folder, a zip, a TFRecord file or a folder of these.
        output: the folder to write: new, empty, or begun by the same call.
        size: (H, W) of the images.
        fit: a name of `FITTED`.
        ground: colour behind transparent parts and around padded pictures.
        bar: total number of images → what shows the progress.
        shard_bytes: decoded images of one shard.
        num_workers: worker processes; by default one per core, at most eight.

    Raises:
        OSError: something is missing or can't be written, or another process is writing there.
        BeyondMemory: an image that takes more memory than is free now.
        ValueError: no corpus, or an unclear one; an output that holds something else.
    """
    check_name(fit, FITTED, "--fit")
    if output.resolve() == source.resolve() or source.resolve() in output.resolve().parents:
        raise ValueError(
            f"--output {shown(output)} lies in --input: choose a folder outside the images"
        )
    ground = ground_in_words(ground)
    corpus = listed(source)
    maker = Maker(corpus.read, size, fit, ground)
    if corpus.arrays:
        maker = _for_arrays(maker, corpus)
    dtype, channels = maker.like or ("uint8", 3)
    per_shard = max(1, shard_bytes // bytes_of((*size, channels), dtype))
    settings = {"size": list(size), "fit": fit, "ground": ground, "images_per_shard": per_shard}
    plan = _digest(settings, corpus)
    with alone_in(output):
        kept = begin(output, plan)
        there = {position for table in kept.values() for position in table["item"]}
        writers = {
            split: SplitWriter(output, split, per_shard, kept, plan) for split in ("train", "test")
        }
        problems = list(corpus.problems)
        missing = [item for position, item in enumerate(corpus.items) if position not in there]
        if num_workers is None:
            few = sum(item.size for item in missing) < ALONE_BELOW_BYTES
            num_workers = 0 if few else default_workers()
        with Workers(maker, num_workers) as workers, bar(len(corpus.items)) as shown_bar:
            made = _made(workers, missing)
            numbered = _numbered(corpus.items, there, made, problems, shown_bar)
            for split, image in _split(numbered):
                writers[split].add(*image)
            for writer in writers.values():
                writer.finish()
        if not any(writer.tables for writer in writers.values()):
            name, reason = problems[0]
            raise ValueError(
                f"none of the {len(problems):,} images of {shown(source)} can be read, first "
                f"{shown(name)} ({reason})"
            )
        kind = "arrays" if corpus.arrays and not is_png(dtype, channels) else "pictures"
        facts = {"kind": kind, "dtype": dtype, **settings}
        if kind == "arrays":
            facts["channels"] = channels
        index = _index(plan, facts, corpus, writers, problems)
        write_json(output / INDEX, index)
        return Prepared(output, index)


def _for_arrays(maker: Maker, corpus: Listing) -> Maker:
    """A maker that knows which type and channels the arrays have: those of the first."""
    for item in corpus.items:
        made = maker.one(item)
        if isinstance(made, Made):
            like = made.dtype, made.shape[2]
            return Maker(maker.read, maker.size, maker.fit, maker.ground, like)
    return maker


def _digest(settings: dict[str, Any], corpus: Listing) -> str:
    """A digest of all that decides what the shards hold, as far as the listing knows it."""
    digest = hashlib.sha256(json.dumps([FORMAT, settings, corpus.classes]).encode())
    for item in corpus.items:
        digest.update(
            json.dumps([item.name, item.size, item.mark, item.split, item.label]).encode()
        )
    return digest.hexdigest()[:16]


def _made(workers: Workers, items: list[Item]) -> Iterator[Made | str]:
    """The images of items, in order."""
    requests = (
        items[start : start + IMAGES_A_REQUEST] for start in range(0, len(items), IMAGES_A_REQUEST)
    )
    return itertools.chain.from_iterable(workers.map(requests))


_Image = tuple[int, int, Item, Made | None]
"""Number, position in the corpus, item, and what was made of it."""


def _numbered(
    items: list[Item],
    there: set[int],
    made: Iterator[Made | str],
    problems: list[tuple[str, str]],
    bar: Bar,
) -> Iterator[_Image]:
    """The images that can be read, with their running numbers; the others join the problems."""
    number = 0
    for position, item in enumerate(items):
        result = None if position in there else next(made)
        bar.update(1)
        if isinstance(result, str):
            problems.append((item.name, result))
            continue
        yield number, position, item, result
        number += 1


def _split(images: Iterable[_Image]) -> Iterator[tuple[str, _Image]]:
    """Each image with its split: that of the corpus, else by a hash of its number."""
    images = iter(images)
    first = list(itertools.islice(images, _LEAST_HELD_OUT))
    held_out = held_out_of([str(number) for number, *_ in first], TEST_FRACTION)
    for image, is_test in zip(first, held_out, strict=True):
        yield image[2].split or ("test" if is_test else "train"), image
    for image in images:
        (is_test,) = held_out_of([str(image[0])], TEST_FRACTION)
        yield image[2].split or ("test" if is_test else "train"), image


def _index(
    plan: str,
    facts: dict[str, Any],
    corpus: Listing,
    writers: dict[str, SplitWriter],
    problems: list[tuple[str, str]],
) -> dict[str, Any]:
    tables = [table for writer in writers.values() for _, table in writer.tables]
    labels = Counter(label for table in tables for label in table["label"])
    return {
        "format": FORMAT,
        "complete": True,
        "plan": plan,
        **facts,
        "policy": policy(facts["size"], facts["fit"], facts["ground"]),
        "range": [
            min(table["range"][0] for table in tables),
            max(table["range"][1] for table in tables),
        ],
        "enlarged": sum(table["enlarged"] for table in tables),
        "splits": {split: _of_split(writer) for split, writer in writers.items()},
        "splits_from": "its folders" if corpus.items[0].split else "a hash of the number",
        "classes": list(corpus.classes),
        "images_of_classes": [labels[number] for number in range(len(corpus.classes))],
        "labels_from": corpus.labels_from,
        "left_out": [list(problem) for problem in problems],
        "notes": list(corpus.notes),
    }


def _of_split(writer: SplitWriter) -> dict[str, Any]:
    return {
        "images": sum(len(table["number"]) for _, table in writer.tables),
        "shards": [
            {
                "name": name,
                "images": len(table["number"]),
                "bytes": table["size"],
                "sha256": table["sha256"],
            }
            for name, table in writer.tables
        ],
    }


def policy(size: Size, fit: str, ground: str) -> str:
    """How images came to their size, in words."""
    how = {
        "crop": "shorter side resized, centre crop",
        "pad": f"longer side resized, padded with {ground}",
    }
    return (
        f"prepared at {size[0]}x{size[1]} (antialiased bilinear, {how[fit]}, transparent parts on "
        f"{ground})"
    )
