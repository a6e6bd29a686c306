"""Checkpoints: ours, and those of the 2021 release and of NCSN and NCSNv2 before it.

`files` reads and writes without running code or losing what was there, `state` is our format,
`sharded` the same as a folder,
`averages` the snapshots that averages of other lengths are made of, `behind` writes while a run
goes on, `published` translates the other formats, `hugging_face` the folders of diffusers.
"""

from score_sde.checkpoints.averages import (
    delete_snapshots_after,
    load_snapshot,
    save_snapshot,
    snapshot_of,
)
from score_sde.checkpoints.behind import Saves
from score_sde.checkpoints.files import CheckpointError
from score_sde.checkpoints.generators import restore_rng, rng_state
from score_sde.checkpoints.hugging_face.folder import (
    from_folder,
    is_part,
    save_folder,
)
from score_sde.checkpoints.published import (
    from_published,
    is_published,
    load_official,
    save_published,
)
from score_sde.checkpoints.sharded import is_folder as is_sharded
from score_sde.checkpoints.state import (
    KEYS,
    check_complete,
    checked,
    delete_old,
    fitted,
    load,
    load_any,
    load_with_fingerprint,
    newest,
    path_of,
    save,
    save_as,
    save_shards,
    steps,
)

__all__ = [
    "KEYS",
    "CheckpointError",
    "Saves",
    "check_complete",
    "checked",
    "delete_old",
    "delete_snapshots_after",
    "fitted",
    "from_folder",
    "from_published",
    "is_part",
    "is_published",
    "is_sharded",
    "load",
    "load_any",
    "load_official",
    "load_snapshot",
    "load_with_fingerprint",
    "newest",
    "path_of",
    "restore_rng",
    "rng_state",
    "save",
    "save_as",
    "save_folder",
    "save_published",
    "save_shards",
    "save_snapshot",
    "snapshot_of",
    "steps",
]
