"""Sections of `benchmarks.gpu` that train: a network to keep, and a long run that is killed."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_given import Given, Rows
from score_sde import checkpoints
from score_sde.checkpoints.state import steps as saved_steps
from score_sde.commands import cli

Memory = tuple[int, int]
"""Bytes of the process on the host, and in use on the device."""


def words_of(given: Given, recipe: str, workdir: Path, steps: int, batch: int) -> list[str]:
    """A command line of training, tiny in a trial."""
    tiny = {"model.nf": 8, "model.ch_mult": "(1,)", "model.attn_resolutions": "()"}
    fields = {
        "device": given.device,
        "training.batch_size": batch,
        "training.n_iters": steps,
        "training.snapshot_freq": 2 if given.smoke else 2000,
        "training.snapshot_sampling": not given.smoke,
        **(tiny if given.smoke else {"training.precision": "bf16"}),
    }
    given_fields = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["main.py", f"--config={recipe}", f"--workdir={workdir}", *given_fields]


def ship(given: Given) -> Rows:
    """A small network trained to the end, its averaged weights kept in float16."""
    recipe = "vp/digits" if given.smoke else "vp/fashion_mnist"
    folder, steps = given.output / "ship", 4 if given.smoke else 40_000
    words = words_of(given, recipe, folder / "run", steps, 8 if given.smoke else 128)
    start = time.perf_counter()
    if code := cli.main([*words, "--mode=train"]):
        raise RuntimeError(f"training ended with {code}")
    seconds = time.perf_counter() - start
    last = max(saved_steps(folder / "run" / "checkpoints"))
    state = checkpoints.load(checkpoints.path_of(folder / "run" / "checkpoints", last))
    shadow = state["ema"]["shadow"]
    half = {name: v.half() if v.is_floating_point() else v for name, v in shadow.items()}
    torch.save({"weights": half, "config": state["config"]}, folder / "weights.pt")
    for mode in () if given.smoke else ("sample", "eval"):
        cli.main([*words, f"--mode={mode}"])
    size = (folder / "weights.pt").stat().st_size / 1e6
    return [{"recipe": recipe, "steps": last, "s": round(seconds, 1), "MB": round(size, 2)}]


def long(given: Given) -> Rows:
    """Training at CIFAR's size, killed once and resumed, with the memory of the second part.

    Half of `--minutes` is before the kill; in a trial it comes with the first checkpoint.
    """
    folder, steps = given.output / "long", 30 if given.smoke else 1_000_000
    recipe = "vp/digits" if given.smoke else "ve/colour_digits"
    words = words_of(given, recipe, folder, steps, 8 if given.smoke else 128)
    if not given.smoke:
        words += ["--config.model.nf=128", "--config.data.image_size=32"]
    half = 30 * given.minutes

    def saved() -> int:
        return max(saved_steps(folder / "checkpoints"), default=0)

    _watched(given, words, lambda s: saved() > 0 and (given.smoke or s > half), signal.SIGKILL)
    killed = saved()
    memory = _watched(given, words, lambda s: not given.smoke and s > half, signal.SIGTERM)
    settled = memory[len(memory) // 2 :]  # what was allocated once is there by then
    growth = {
        f"{where}, GB": " to ".join(f"{read / 1e9:.3f}" for read in (values[0], values[-1]))
        for where, values in zip(("host", "device"), zip(*settled, strict=True), strict=True)
    }
    return [{"recipe": recipe, "killed at": killed, "resumed to": saved(), **growth}]


def _train(words: Sequence[str], log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(cli.main([*words, "--mode=train"]))


def _watched(
    given: Given, words: Sequence[str], ends: Callable[[float], bool], by: signal.Signals
) -> list[Memory]:
    """A training process to its end, or until it is ended by a signal; its memory on the way."""
    # A fork is quick, but must not meet threads or CUDA.
    quick = given.device == "cpu" and torch.get_num_threads() == 1
    context: Any = multiprocessing.get_context("fork" if quick else "spawn")
    process = context.Process(target=_train, args=(words, given.output / "long.txt"))
    process.start()
    start, readings = time.monotonic(), [(0, 0)]
    while process.is_alive():
        if ends(time.monotonic() - start) and process.pid is not None:
            os.kill(process.pid, by)
            process.join()
            break
        readings.append((_resident(process.pid), _in_use(given.device)))
        time.sleep(0.02 if given.smoke else 2)
    return readings


def _resident(pid: int | None) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _in_use(device: str) -> int:
    if device == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free
