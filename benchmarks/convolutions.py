"""The rate at which this machine computes a network's convolutions, one by one and nothing else.

The floor of an evaluation or of a training step: each convolution that the network makes (shape,
stride, padding) is timed by itself, forward, its gradient of the data and that of the weights,
with images and weights channels-last and channels-first. The FIR filters, which convolve each
channel by itself, are not among them.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import interleaved, medians

PASSES = ("forward", "data", "weights")
LAYOUTS = {"channels_last": torch.channels_last, "channels_first": torch.contiguous_format}


@dataclass(frozen=True)
class Convolution:
    """One shape: the input's and the weight's, and how it is convolved."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def flops(self) -> int:
        """Operations of one pass; a multiplication and an addition are two."""
        sides = [
            (side + 2 * pad - taps) // step + 1
            for side, pad, taps, step in zip(
                self.x[2:], self.padding, self.weight[2:], self.stride, strict=True
            )
        ]
        out, into, *taps = self.weight
        return 2 * self.x[0] * out * into * taps[0] * taps[1] * sides[0] * sides[1]


class _Record(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Convolution] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding, _, transposed, _, groups = args
            if groups == 1 and not transposed:
                shape = tuple(x.shape), tuple(weight.shape), tuple(stride), tuple(padding)
                self.found[Convolution(*shape)] += 1
        return func(*args, **(kwargs or {}))


def convolutions_of(evaluate: Callable[[], object]) -> Counter[Convolution]:
    """How often an evaluation makes each convolution."""
    with torch.no_grad(), _Record() as record:
        evaluate()
    return record.found


def _passes(conv: Convolution, layout: torch.memory_format) -> Iterator[Callable[[], object]]:
    x = torch.randn(conv.x).contiguous(memory_format=layout)
    weight = torch.randn(conv.weight).contiguous(memory_format=layout)
    rest = conv.stride, conv.padding, (1, 1), False, (0, 0), 1
    with torch.no_grad():
        grad = torch.randn_like(torch.ops.aten.convolution.default(x, weight, None, *rest))

    def forward() -> Tensor:
        return torch.ops.aten.convolution.default(x, weight, None, *rest)

    def backward(mask: tuple[bool, bool, bool]) -> Callable[[], object]:
        return lambda: torch.ops.aten.convolution_backward.default(
            grad, x, weight, None, *rest, mask
        )

    return iter((forward, backward((True, False, False)), backward((False, True, False))))


def measured(
    found: Counter[Convolution], rounds: int, clock: str = "wall"
) -> list[dict[str, Any]]:
    """One row for each convolution: its count, GFLOP, and seconds by layout and pass."""
    rows = []
    with torch.no_grad():
        for conv, count in found.items():
            routes = {
                f"{name}/{kind}": run
                for name, layout in LAYOUTS.items()
                for kind, run in zip(PASSES, _passes(conv, layout), strict=True)
            }
            seconds = medians(interleaved(routes, rounds, clock))
            shape = f"{conv.x} by {conv.weight}, stride {conv.stride[0]}"
            rows.append(
                {"shape": shape, "count": count, "gflop": conv.flops / 1e9, "seconds": seconds}
            )
    return rows


def floor(rows: list[dict[str, Any]], layout: str, passes: tuple[str, ...] = PASSES) -> float:
    """Seconds of all convolutions together; layout "fastest" takes the faster one of each."""
    total = 0.0
    for row in rows:
        for kind in passes:
            seconds = {name: row["seconds"][f"{name}/{kind}"] for name in LAYOUTS}
            total += row["count"] * (
                min(seconds.values()) if layout == "fastest" else seconds[layout]
            )
    return total


def rates(rows: list[dict[str, Any]], layout: str) -> dict[str, float]:
    """GFLOP/s of each pass over the whole network."""
    work = sum(row["count"] * row["gflop"] for row in rows)
    return {kind: work / floor(rows, layout, (kind,)) for kind in PASSES}
