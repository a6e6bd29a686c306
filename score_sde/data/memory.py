"""What a user's file may claim: no more than the memory that is there."""

import os
from contextlib import suppress

LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says what a container may take (cgroup v2, v1)."""


def installed_bytes() -> float:
    """All memory of the machine, in bytes; infinite where the system doesn't tell."""
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float("inf")


def free_bytes() -> float:
    """Memory that can still be taken, in bytes; infinite where the system doesn't tell."""
    free = float("inf")
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo") as lines:
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
    if free == float("inf"):  # other systems
        free = installed_bytes()
    for name in LIMIT_FILES:
        with suppress(OSError, ValueError), open(name) as file:  # "max" is no number
            free = min(free, int(file.read()))
    return free


class BeyondMemory(ValueError):  # noqa: N818, it says what happened
    """Something would take more than the memory that is free now; elsewhere it might fit."""


def refuse_beyond_memory(what: str, needed: int) -> None:
    """Refuses what would fill the memory, before any of it is taken.

    Args:
        what: the thing and its size, the beginning of the sentence.
        needed: bytes that it takes.

    Raises:
        BeyondMemory: it exceeds the free memory.
    """
    free = free_bytes()
    if needed > free:
        raise BeyondMemory(
            f"{what} would take {needed / 2**30:,.1f} GiB of memory, of which {free / 2**30:,.1f} "
            "are free: make it smaller"
        )
