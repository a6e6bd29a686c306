"""Checkpoints: ours, and those of the 2021 release and of NCSN and NCSNv2 before it.

`files` reads and writes without running code or losing what was there, `state` is our format,
`published` translates the others, `hugging_face` the folders of diffusers.
"""

from score_sde.checkpoints.files import CheckpointError
from score_sde.checkpoints.hugging_face.folder import (
    fingerprint,
    from_folder,
    from_folder_marked,
    is_part,
    save_folder,
)
from score_sde.checkpoints.published import (
    from_published,
    is_published,
    load_official,
    save_published,
)
from score_sde.checkpoints.state import (
    KEYS,
    check_complete,
    checked,
    delete_old,
    fitted,
    load,
    load_any,
    load_marked,
    newest,
    path_of,
    restore_rng,
    rng_state,
    save,
    save_as,
    steps,
)

__all__ = [
    "KEYS",
    "CheckpointError",
    "check_complete",
    "checked",
    "delete_old",
    "fingerprint",
    "fitted",
    "from_folder",
    "from_folder_marked",
    "from_published",
    "is_part",
    "is_published",
    "load",
    "load_any",
    "load_marked",
    "load_official",
    "newest",
    "path_of",
    "restore_rng",
    "rng_state",
    "save",
    "save_as",
    "save_folder",
    "save_published",
    "steps",
]
