"""Files: written so that they appear whole or not at all, and read where they are files at all."""

from score_sde.atomic.reading import (
    LONGEST_SHOWN,
    MOST_READ_WHOLE,
    expanded,
    open_regular,
    read_json,
    read_whole,
    regular_file,
    shown,
)
from score_sde.atomic.tensors import (
    RunsCodeError,
    UnreadableError,
    begins_as_safetensors,
    read_tensors,
    tensor_of,
)
from score_sde.atomic.writing import (
    cannot_write,
    check_writable,
    claimed,
    flush_folder,
    lock,
    sweep,
    temporary,
    write,
    write_whole,
)

__all__ = [
    "LONGEST_SHOWN",
    "MOST_READ_WHOLE",
    "RunsCodeError",
    "UnreadableError",
    "begins_as_safetensors",
    "cannot_write",
    "check_writable",
    "claimed",
    "expanded",
    "flush_folder",
    "lock",
    "open_regular",
    "read_json",
    "read_tensors",
    "read_whole",
    "regular_file",
    "shown",
    "sweep",
    "temporary",
    "tensor_of",
    "write",
    "write_whole",
]
