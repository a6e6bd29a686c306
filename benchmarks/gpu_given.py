"""What the sections of `benchmarks.gpu` are given, and how they measure."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from score_sde.config.build import Config, image_shape

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Given:
    """What sections are given: the device, the size of everything, and where files go."""

    device: str
    smoke: bool
    full: bool
    rounds: int
    minutes: float
    output: Path
    rate: float  # of matrix products, in FLOP/s

    def recipe(self, name: str) -> Config:
        """A recipe on the device, narrow in a trial."""
        config = importlib.import_module(f"configs.{name.replace('/', '.')}").get_config()
        config.device, config.training.compile = self.device, "off"
        if self.smoke:
            config.model.nf, config.model.ch_mult, config.model.num_res_blocks = 8, (1, 1), 1
            config.model.num_scales, config.data.image_size = 20, 8
            config.model.attn_resolutions, config.model.beta_max = (4,), 5.0
        return config

    def images(self, config: Config, count: int) -> Tensor:
        """Noise in the place of images: (count, C, H, W)."""
        return torch.rand(count, *image_shape(config), device=self.device)

    def seconds(self, call: Callable[[], object], warm: int = 3) -> float:
        """Of a call, the middle of `rounds`, after some that are not counted."""
        for _ in range(min(warm, 1) if self.smoke else warm):
            call()
        times = []
        for _ in range(self.rounds):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2]

    def wait(self) -> None:
        """Until the device has done what it was asked."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def share(self, flops: float, seconds: float) -> dict[str, float]:
        """Operations, their rate, and its share of that of matrix products."""
        rate = flops / seconds
        figures = {"gflop": flops / 1e9, "tflop/s": rate / 1e12, "share": rate / self.rate}
        return {name: float(f"{value:.3g}") for name, value in figures.items()}


def flops_of(call: Callable[[], object]) -> int:
    """Floating-point operations of a call: of products and convolutions, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def product_rate(device: str, smoke: bool) -> float:
    """FLOP/s of bf16 matrix products (float32 on the CPU), the best of several sizes."""
    sides = (256,) if smoke else (4096, 8192)
    best, dtype = 0.0, torch.float32 if device == "cpu" else torch.bfloat16
    for side in sides:
        a = torch.randn(side, side, device=device, dtype=dtype)
        given = Given(device, smoke, False, 5, 0.0, Path(), 1.0)
        best = max(best, 2 * side**3 / given.seconds(lambda a=a: a @ a))
    return best
