"""All that wants a GPU, in one command: correctness, training, sampling, bits/dim, a long run.

    python -m benchmarks.gpu                                 # all but --full
    python -m benchmarks.gpu --only correct,train --rounds 10
    python -m benchmarks.gpu --device cpu --smoke            # a trial of every section, in seconds

`correct` holds a device against the CPU (`benchmarks.gpu_checks`; `pytest -m gpu` holds the
release's networks too). `train` times training steps by precision, compiled or not, beside the
naive formulation and diffusers where they are installed; `sample` the samplers, with the share of
the time that is not the network's; `bpd` bits/dim against the release's route by scipy. `ship`
trains a small recipe and keeps its averaged weights in float16; `long` trains at CIFAR's size,
watches the memory, is killed once and resumed. Of each the floating-point operations are counted
(`FlopCounterMode`), so that a time can be read as a share of what the card does in matrix
products, which is measured in the same run. A section that fails is told, and the next one begins.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_checks, gpu_runs, gpu_speed
from benchmarks.gpu_given import Given, Rows, product_rate
from benchmarks.gpu_speed import told
from benchmarks.timing import table, write
from score_sde.config.build import allow_tf32


def correct(given: Given) -> Rows:
    """How far the device is off the CPU."""
    allow_tf32(False)
    rows = []
    for name, check in gpu_checks.CHECKS.items():

        def held(check: gpu_checks.Check = check) -> dict[str, Any]:
            found = check.measure(given.device)
            return {"off": found, "limit": check.limit, "holds": found <= check.limit}

        rows.append(told({"check": name}, held))
    return rows


SECTIONS: dict[str, Callable[[Given], Rows]] = {
    "correct": correct,
    "train": gpu_speed.train,
    "sample": gpu_speed.sample,
    "bpd": gpu_speed.bpd,
    "ship": gpu_runs.ship,
    "long": gpu_runs.long,
}
"""Name for `--only` → the section, which gives rows of figures by their titles."""


def as_text(rows: Rows) -> str:
    """Rows as a table in Markdown, with the titles of all of them."""
    titles = list(dict.fromkeys(title for row in rows for title in row))
    return table(titles, [[row.get(title, "") for title in titles] for row in rows])


def main(words: Sequence[str] | None = None) -> int:
    """Runs the sections and writes `gpu.json` and `gpu.md`; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by commas")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a trial")
    parser.add_argument("--smoke", action="store_true", help="everything tiny")
    parser.add_argument("--full", action="store_true", help="batch 512, layouts, the deep recipe")
    parser.add_argument("--rounds", type=int, default=10, help="calls of each that is timed")
    parser.add_argument("--minutes", type=float, default=8.0, help="of the long run")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="folder for files")
    given = parser.parse_args(words)
    names = given.only.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        sys.stderr.write(f"--only {unknown[0]}: the sections are {', '.join(SECTIONS)}\n")
        return 1
    if given.device != "cpu" and not torch.cuda.is_available():
        sys.stderr.write(
            "there is no CUDA device here: run this where there is one, or try it out with "
            "--device cpu --smoke\n"
        )
        return 1
    given.output.mkdir(parents=True, exist_ok=True)
    rate = product_rate(given.device, given.smoke)
    rounds = 1 if given.smoke else given.rounds
    options = Given(
        given.device, given.smoke, given.full, rounds, given.minutes, given.output, rate
    )
    card = torch.cuda.get_device_name() if given.device != "cpu" else "cpu"
    found: dict[str, Any] = {"device": card, "torch": torch.__version__}
    found["products, TFLOP/s"] = round(rate / 1e12, 3)
    texts = [f"# {card}, torch {torch.__version__}: products at {rate / 1e12:.3g} TFLOP/s"]
    for name in names:
        found[name] = SECTIONS[name](options)
        texts.append(f"## {name}\n\n{as_text(found[name])}")
        print(texts[-1], flush=True)
        # After each section, as the time on a shared machine may run out.
        write(given.output / "gpu.json", found)
        (given.output / "gpu.md").write_text("\n\n".join(texts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
