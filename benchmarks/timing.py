"""What the benchmarks of speed share: interleaved measurements, their medians, tables.

Every round calls each route once, in turn, so that what else the machine does meets all alike.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
"""Of `--clock`: on a busy machine the time of the thread itself tells more, with one thread."""


def interleaved(
    routes: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: str = "wall",
    after: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each call, `rounds` of each route, after one call each that is not counted.

    `after` follows each call, and is not counted either.
    """
    now = CLOCKS[clock]
    times: dict[str, list[float]] = {name: [] for name in routes}
    for round_ in range(rounds + 1):
        for name, route in routes.items():
            start = now()
            route()
            if round_:
                times[name].append(now() - start)
            after()
    return times


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of each route, in seconds."""
    return {name: statistics.median(values) for name, values in times.items()}


def spread(seconds: Sequence[float], digits: int = 0) -> str:
    """The median in milliseconds, with the least and the largest."""
    least, middle, largest = (
        f"{1e3 * value:.{digits}f}"
        for value in (min(seconds), statistics.median(seconds), max(seconds))
    )
    return f"{middle} ({least} to {largest})"


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Writes figures as JSON, where a file is named."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")
