"""Processes that share one run: what each has of it, what they exchange, how they end."""

from score_sde.parallel.divided import count, divided_as, here, is_divided, rank, take_part, whole
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
    "count",
    "device_index",
    "divided_as",
    "fail",
    "gather_objects",
    "here",
    "init",
    "is_divided",
    "largest",
    "leave",
    "main_first",
    "on_this_machine",
    "rank",
    "rounds",
    "shard",
    "take_part",
    "together",
    "whole",
]
