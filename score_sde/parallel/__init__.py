"""Processes that share one run: their numbers and shares, what they exchange, how they end."""

from score_sde.parallel.ends import fail, together
from score_sde.parallel.watch import attend
from score_sde.parallel.world import (
    Part,
    World,
    barrier,
    check_agreed,
    check_seen_by_all,
    device_index,
    gather_objects,
    init,
    largest,
    leave,
    main_first,
    on_this_machine,
    rounds,
    shard,
)

__all__ = [
    "Part",
    "World",
    "attend",
    "barrier",
    "check_agreed",
    "check_seen_by_all",
    "device_index",
    "fail",
    "gather_objects",
    "init",
    "largest",
    "leave",
    "main_first",
    "on_this_machine",
    "rounds",
    "shard",
    "together",
]
