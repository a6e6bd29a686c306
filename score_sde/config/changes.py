"""What a run changes on its way: which fields and images may differ from its checkpoint's.

Rows of `schema` say which fields of a resumed run may differ freely, which where `--allow` names
them, and which never; the word `data` allows other images. A run that is changed goes on with its
weights, optimiser and average, and takes its next images where it stood in their endless order.

The checkpoints of a run hold its changes (in the entry `versions`), config.json a copy of them. So
a run that is killed before its first save after a change is as if it had not been changed, and the
same command changes it again.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from score_sde.atomic.weights import listed
from score_sde.config.build import Config, build_parameterisation, build_sde, empty_network
from score_sde.config.history import from_json, leaves, to_json
from score_sde.config.schema import FIELDS
from score_sde.data import DatasetInfo
from score_sde.tensor_ops import check_name

IMAGES = "data"
"""What --allow calls other images, and the fields that choose them."""

_LINE = "changes "  # of the entry `versions`


@dataclass(frozen=True)
class Change:
    """One change of a run.

    Attributes:
        step: updates that were made before it.
        field: dotted name of the field; "data" for the images.
        before: what it was; of images, which they were.
        after: what it is since.
    """

    step: int
    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        what = "the images" if self.field == IMAGES else self.field
        return f"changed from step {self.step} on: {what}, from {self.before!r} to {self.after!r}"


def plain(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Changes as JSON has them."""
    return [asdict(change) for change in changes]


def as_line(changes: Sequence[Change]) -> str:
    """Changes as a line of a checkpoint's entry `versions`; empty where there are none."""
    return f"{_LINE}{json.dumps(plain(changes))}" if changes else ""


def of_checkpoint(saved: Mapping[str, Any]) -> list[Change]:
    """The changes that a checkpoint's run has made, the first one first."""
    lines = saved["versions"].splitlines()
    line = next((line for line in lines if line.startswith(_LINE)), f"{_LINE}[]")
    try:
        changes = [Change(**row) for row in json.loads(line.removeprefix(_LINE))]
    except (TypeError, ValueError):
        return []  # somebody's own text
    return [change for change in changes if isinstance(change.field, str)]


def images_seen(saved: Mapping[str, Any]) -> int:
    """Place in the endless order of images at which a checkpoint's run goes on.

    Earlier versions counted steps, and a run had one batch size.
    """
    seen = saved["data"].get("images_seen")
    if isinstance(seen, int) and seen >= 0:
        return seen
    return saved["step"] * from_json(saved["config"]).training.batch_size


def check_allowed(allow: Collection[str], config: Config) -> None:
    """Refuses names for --allow that allow nothing.

    Raises:
        ValueError: an unknown name, with the nearest; a field that no run changes; a field that
            chooses images.
    """
    takes = [*(name for name, field in FIELDS.items() if field.resume == "on_request"), IMAGES]
    for name in allow:
        if name in takes or _is_free(name):
            continue
        if name in FIELDS and FIELDS[name].resume == "images":
            raise ValueError(f"--allow {name}: it chooses the images, so give --allow {IMAGES}")
        if name in FIELDS or name in leaves(config):
            raise ValueError(
                f"--allow {name}: no run changes it on its way; give another --workdir to train "
                "with another value, and --init_from CHECKPOINT to begin with weights that fit "
                f"(--allow takes {', '.join(takes)})"
            )
        check_name(name, takes, "--allow")


def unneeded(allow: Collection[str], changes: Sequence[Change]) -> list[str]:
    """A sentence for each name of --allow that changes nothing now."""
    changed = {_word_for(change.field) for change in changes}
    return [
        f"--allow {name}: it may change without"
        if _is_free(name)
        else f"--allow {name}: nothing changes by it"
        for name in allow
        if name not in changed
    ]


def of_fields(
    saved: Mapping[str, Any], path: Path, config: Config, allow: Collection[str] = ()
) -> list[Change]:
    """The fields that a resumed run changes.

    Args:
        saved: the newest checkpoint of its work directory.
        path: where it lies.
        config: of this run.
        allow: names of fields, and "data".

    Raises:
        ValueError: fields that differ and may not; names up to three, and what to write instead.
    """
    before, now = from_json(saved["config"]), from_json(to_json(config))
    there, here = leaves(before), leaves(now)
    differing = [
        name
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name) and not _is_free(name)
    ]
    refused = [name for name in differing if _word_for(name) not in allow]
    if refused:
        since = {change.field: change.step for change in of_checkpoint(saved)}
        words = [
            f"{name} is {there.get(name, 'absent')!r} there"
            + (f" (since step {since[name]})" if name in since else "")
            + f" and {here.get(name, 'absent')!r} here"
            for name in refused
        ]
        raise ValueError(
            f"{path.parent.parent} holds checkpoints of another run: {listed(words, 3)}; "
            + _remedy(refused, there, path, before, now)
        )
    return [Change(saved["step"], name, there[name], here[name]) for name in differing]


def of_images(
    saved: Mapping[str, Any], path: Path, info: DatasetInfo, allow: Collection[str] = ()
) -> list[Change]:
    """The change of images that a resumed run makes, if any.

    Where the run ended at an image that could not be read (`unreadable`), other images of the
    same number are taken for those of before, repaired; that counts as a change, too.

    Args:
        saved: the newest checkpoint of its work directory; converted ones know no images.
        path: where it lies.
        info: the training images of this run.
        allow: names of fields, and "data".

    Raises:
        ValueError: other images, which are not allowed.
    """
    written = saved["data"]
    before = written.get("fingerprint", info.fingerprint)
    if before == info.fingerprint:
        return []
    repaired = "unreadable" in written and written.get("num_images") == info.num_images
    if not repaired and IMAGES not in allow:
        raise ValueError(
            f"{path.parent.parent} holds checkpoints of other images than the "
            f"{info.num_images:,} of {info.name} here: set data.root to those it began with, "
            f"add --allow {IMAGES} to go on with these, or choose another --workdir"
        )
    name, count = from_json(saved["config"]).data.dataset, written.get("num_images")
    return [
        Change(
            saved["step"],
            IMAGES,
            _images(name, count, before),
            _images(info.name, info.num_images, info.fingerprint),
        )
    ]


def _images(name: str, count: int | None, fingerprint: str) -> str:
    return f"{name}{f', {count} images' if count else ''}, fingerprint {fingerprint}"


def _is_free(name: str) -> bool:
    return name in FIELDS and FIELDS[name].resume == "free"


def _word_for(name: str) -> str:
    """What --allow calls a field that a resumed run may change; empty for all others.

    Fields that are unknown to the schema belong to what was trained.
    """
    if name == IMAGES:
        return IMAGES
    kind = FIELDS[name].resume if name in FIELDS else "never"
    return {"on_request": name, "images": IMAGES}.get(kind, "")


def _remedy(
    refused: Sequence[str], there: Mapping[str, Any], path: Path, before: Config, now: Config
) -> str:
    """What to write instead of a command that changes what it may not."""
    never = [name for name in refused if not _word_for(name)]
    if not never:
        as_it_was = " ".join(f"--config.{name}={there[name]}" for name in refused)
        words = ",".join(sorted({_word_for(name) for name in refused}))
        return (
            f"give {as_it_was} to resume it as it is, --allow {words} to go on with what is here, "
            "or choose another --workdir"
        )
    begin = f", with --init_from {path} to begin with its weights" if _fit(before, now) else ""
    return (
        f"no run changes {listed(never, 3)} on its way: repeat the first command to resume it, or "
        f"choose another --workdir{begin}"
    )


def _fit(before: Config, now: Config) -> bool:
    """Whether weights of one config are a beginning for the other: same shapes, same output."""
    try:
        shapes = [
            {name: value.shape for name, value in empty_network(config).state_dict().items()}
            for config in (before, now)
        ]
        outputs = [
            build_parameterisation(config, build_sde(config)).prediction.name
            for config in (before, now)
        ]
    except (ValueError, AttributeError, KeyError):
        return False  # a network or SDE that only its own recipe knows
    return shapes[0] == shapes[1] and outputs[0] == outputs[1]
