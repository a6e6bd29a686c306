"""`--mode prepare`: a corpus of the user's own → shards to train on."""

import re
import shlex
from pathlib import Path
from typing import Any

from score_sde.atomic import shown
from score_sde.data.prepare import prepare as write_shards
from score_sde.data.shards import INDEX
from score_sde.logbook import progress_bar

FEW = 5
"""How many of what is left out are told; the index lists all."""
MOST_PIXELS = 65536
"""Of a side."""


def prepare(
    source: Path | None, output: Path | None, size: str | None, fit: str, ground: str
) -> str:
    """Prepares a corpus.

    Args:
        source: a folder, a zip or TFRecords.
        output: the folder to write.
        size: as `64`, or `96x64` for height and width.
        fit: `crop` or `pad`.
        ground: a colour.

    Returns:
        What was done, in sentences.

    Raises:
        OSError, ValueError: as `score_sde.data.prepare.prepare` does; or an option is missing.
    """
    if source is None or output is None or size is None:
        raise ValueError(
            "--mode prepare takes --input, --output and --size: give all three, such as "
            "--input posters/ --output prepared/ --size 64"
        )
    done = write_shards(
        source, output, sides(size), fit, ground, bar=lambda total: progress_bar(total, "image")
    )
    return _told(done.root, done.index)


def sides(size: str) -> tuple[int, int]:
    """(H, W) of `64` or `96x64`.

    Raises:
        ValueError: it is neither.
    """
    match = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", size)
    height, width = (int(side) for side in (match[1], match[2] or match[1])) if match else (0, 0)
    if not (1 <= height <= MOST_PIXELS and 1 <= width <= MOST_PIXELS):
        raise ValueError(
            f"--size {size[:40]}: give a number of pixels, as 64, or height x width, as 96x64"
        )
    return height, width


def _told(root: Path, index: dict[str, Any]) -> str:
    train, test = (index["splits"][split] for split in ("train", "test"))
    shards = len(train["shards"]) + len(test["shards"])
    lines = [
        f"{shown(root)} holds {train['images']:,} images to train on and {test['images']:,} held "
        f"out (by {index['splits_from']}), in {shards} shard(s); {index['policy']}"
    ]
    if index["kind"] == "arrays":
        low, high = index["range"]
        lines.append(
            f"they are arrays of {index['channels']} channels of {index['dtype']}, from {low:g} "
            f"to {high:g}, kept as they are"
        )
    if index["enlarged"]:
        lines.append(f"{index['enlarged']:,} of them were smaller and are enlarged")
    if classes := index["classes"]:
        counts = zip(classes, index["images_of_classes"], strict=True)
        few = ", ".join(f"{shown(name)} {count:,}" for name, count in [*counts][:12])
        more = ", ..." if len(classes) > 12 else ""
        lines.append(f"{len(classes)} classes from {index['labels_from']}: {few}{more}")
    else:
        lines.append(
            "no classes: there is no file of labels, and the images don't lie one folder deep in "
            "several folders"
        )
    if left_out := index["left_out"]:
        few = "; ".join(f"{shown(name)} ({reason})" for name, reason in left_out[:FEW])
        more = "; ..." if len(left_out) > FEW else ""
        lines.append(
            f"{len(left_out):,} that can't be read are left out: {few}{more}; all are listed in "
            f"{shown(root / INDEX)}"
        )
    lines += index["notes"]
    height, width = index["size"]
    more = f" --config.data.image_width={width}" if width != height else ""
    if index["kind"] == "arrays":
        more += f" --config.data.num_channels={index['channels']}"
    place = shlex.quote(shown(root))
    lines.append(
        f"train on them with --config.data.dataset=shards --config.data.root={place} "
        f"--config.data.image_size={height}{more}"
    )
    if classes:
        told = f"--config.model.num_classes={len(classes)}"
        lines.append(f"a network that is told the class also takes {told}")
    return "\n".join(lines)
