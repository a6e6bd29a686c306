"""Training by several processes: the same run as by one, and how it ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY
from forked import Processes, group

from score_sde import checkpoints
from score_sde.parallel import Part, World
from score_sde.training import Share

pytestmark = pytest.mark.processes

STEPS = 20
# Ten images over three processes in two parts each: 2 + 2, 2 + 1 and 2 + 1 of them.
PLAIN = (
    *TINY,
    f"--config.training.n_iters={STEPS}",
    "--config.training.snapshot_freq=500",
    "--config.training.log_freq=5",
    "--config.training.eval_freq=10",
    "--config.training.batch_size=10",
    "--config.model.dropout=0.0",
    "--config.optim.lr=1e-3",
    "--config.optim.grad_clip=0.5",
)
MORE = (
    "--config.training.accumulation=2",
    "--config.training.augment=0.3",
    "--config.model.num_classes=10",
    "--config.model.label_dropout=0.3",
    "--config.model.ema_lengths=(0.1,)",
    "--config.data.uniform_dequantization=True",
)
CLASSIFIER = (
    "--config.classifier.nf=8",
    "--config.classifier.ch_mult=(1,2)",
    "--config.classifier.dropout=0.0",
)


class Runs:
    """Starts runs of digits, each in a folder of its name."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes, self.folder = processes, folder

    def start(self, name: str, size: int, *words: str) -> list[int]:
        given = ("--config=configs/vp/digits.py", *PLAIN)
        given += () if any(word.startswith("--mode") for word in words) else ("--mode=train",)
        given += (f"--workdir={self.folder / name}", *words)
        return self.processes.start_several(size, *given, out=self.folder / f"{name}.out")

    def make(self, name: str, size: int, *words: str) -> None:
        ends = self.ends(self.start(name, size, *words))
        assert ends == [0] * size, self.said(name)

    def alone(self, *words: str) -> str:
        """The name of the run of a single process, which is made once."""
        name = f"alone{len(words)}"
        if not (self.folder / name).exists():
            self.make(name, 1, *words)
        return name

    def ends(self, processes: Sequence[int], seconds: float = 120) -> list[int | None]:
        found = [self.processes.wait(process, seconds) for process in processes]
        for process in processes:
            for one in group(process):
                os.kill(one, signal.SIGKILL)
        return found

    def said(self, name: str) -> str:
        """What all processes have written to the screen."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob(f"{name}.out.*")))

    def state(self, name: str, step: int = STEPS) -> dict:
        return checkpoints.load(checkpoints.path_of(self.folder / name / "checkpoints", step))

    def metrics(self, name: str) -> list[dict]:
        text = (self.folder / name / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def wait_for_step(self, name: str, step: int) -> None:
        deadline = time.monotonic() + 100
        while max(checkpoints.steps(self.folder / name / "checkpoints"), default=0) < step:
            assert time.monotonic() < deadline, self.said(name)
            time.sleep(0.02)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[Runs]:
    with contextlib.closing(Processes()) as processes:
        yield Runs(processes, tmp_path_factory.mktemp("processes"))


def assert_same_run(one: dict, other: dict) -> None:
    """Weights, averages and moments agree up to the order of summation; the stream exactly."""
    pairs = [(one["network"], other["network"]), (one["ema"]["shadow"], other["ema"]["shadow"])]
    for length, average in one.get("averages", {}).items():
        pairs.append((average["shadow"], other["averages"][length]["shadow"]))
    for here, there in pairs:
        for name, value in here.items():
            assert (value.double() - there[name].double()).abs().max() <= 1e-5, name
    for name, moments in one["optimizer"].items():
        assert moments["step"] == other["optimizer"][name]["step"] == one["step"]
    assert one["step"] == other["step"]
    assert one["data"] == other["data"]
    assert all(torch.equal(v, other["rng"][k]) for k, v in one["rng"].items() if k == "cpu")


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ((), 2),
        (MORE, 3),
        pytest.param((), 3, marks=pytest.mark.slow),
        pytest.param(MORE, 2, marks=pytest.mark.slow),
    ],
)
def test_two_and_three_processes_make_the_run_of_one(runs, words, size):
    one, name = runs.alone(*words), f"run{len(words)}_{size}"
    runs.make(name, size, *words)
    assert_same_run(runs.state(one), runs.state(name))
    alone = runs.metrics(one)
    assert alone[-1]["held_out_loss"] > 0
    for here, there in zip(alone, runs.metrics(name), strict=True):
        assert here.keys() == there.keys()
        timed = {key for key in here if key.startswith("time/")} | {"images_per_sec"}
        for key in here.keys() - timed:
            assert here[key] == pytest.approx(there[key], rel=1e-5), key
    screens = [(runs.folder / f"{name}.out.{rank}").read_text() for rank in range(size)]
    assert f"10 images each{' in 2 parts' if words else ''}, shared by {size}" in screens[0]
    assert screens[1:] == [""] * (size - 1)


def test_a_run_goes_on_with_another_number_of_processes(runs):
    for size, steps in ((2, 7), (1, 12), (3, STEPS)):
        runs.make("resumed", size, *MORE, f"--config.training.n_iters={steps}")
    assert_same_run(runs.state(runs.alone(*MORE)), runs.state("resumed"))


@pytest.mark.parametrize(
    "parts", ["1", pytest.param("2", marks=pytest.mark.slow)], ids=["together", "in parts"]
)
def test_blocks_computed_again_by_two_processes_make_the_same_weights(runs, parts):
    """Bit for bit, dropout masks of their own included; a run may begin without."""
    words = ("--config.model.dropout=0.3", f"--config.training.accumulation={parts}")
    runs.make(f"kept{parts}", 2, *words, "--config.training.n_iters=5")
    again = "--config.training.activation_checkpointing=True"
    for steps, more in ((2, ()), (5, (again,))):
        runs.make(f"again{parts}", 2, *words, f"--config.training.n_iters={steps}", *more)
    assert "one block at a time" in runs.said(f"again{parts}")
    kept, made_again = (runs.state(f"{name}{parts}", 5) for name in ("kept", "again"))
    for name, value in kept["network"].items():
        assert torch.equal(value, made_again["network"][name]), name
    for name, value in kept["ema"]["shadow"].items():
        assert torch.equal(value, made_again["ema"]["shadow"][name]), name


@pytest.mark.slow
def test_a_classifier_trained_by_three_is_that_of_one(runs):
    words = ("--mode=train_classifier", *CLASSIFIER)
    for size in (1, 3):
        runs.make(f"classes{size}", size, *words)
    assert_same_run(runs.state("classes1/classifier"), runs.state("classes3/classifier"))


# ---- How it ends ----

ENDLESS = ("--config.training.n_iters=100000", "--config.training.snapshot_freq_for_preemption=5")


def interrupted(runs: Runs, name: str, size: int, send, *words: str) -> list[int | None]:
    started = runs.start(name, size, *ENDLESS, *words)
    runs.wait_for_step(name, 5)
    send(started)
    return runs.ends(started, 60)


def test_a_signal_to_one_process_ends_all_after_the_same_step(runs):
    ends = interrupted(runs, "one", 3, lambda started: os.kill(started[1], signal.SIGTERM))
    assert ends == [143] * 3, runs.said("one")
    step = max(checkpoints.steps(runs.folder / "one" / "checkpoints"))
    assert f"stopped by SIGTERM; step {step} is saved" in runs.said("one")
    assert runs.state("one", step)["step"] == step
    # No step is lost: what follows is the run as it would have been.
    runs.make("one", 2, f"--config.training.n_iters={step + 3}")
    runs.make("whole", 1, f"--config.training.n_iters={step + 3}")
    assert_same_run(runs.state("whole", step + 3), runs.state("one", step + 3))


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)],
)
def test_signals_to_all_at_different_moments_end_all_alike(runs, number, code):
    def send(started: list[int]) -> None:
        for process in reversed(started):
            os.kill(process, number)
            time.sleep(0.2)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    name = f"all{code}"
    assert interrupted(runs, name, 2, send) == [code] * 2, runs.said(name)
    assert runs.said(name).count("is saved, the same command resumes") == 1


@pytest.mark.parametrize("dead", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_process_that_dies_ends_the_run_in_a_sentence(runs, dead):
    name, began = f"dead{dead}", time.monotonic()
    ends = interrupted(runs, name, 3, lambda started: os.kill(started[dead], signal.SIGKILL))
    assert [ends[dead], *ends[:dead], *ends[dead + 1 :]] == [-9, 1, 1], runs.said(name)
    assert time.monotonic() - began < 60
    said = runs.said(name)
    assert said.count("a process of this run has ended") == 1, said
    assert "Traceback" not in said
    step = max(checkpoints.steps(runs.folder / name / "checkpoints"))
    runs.make(name, 2, f"--config.training.n_iters={step + 1}")


@pytest.mark.slow
def test_a_process_that_answers_no_more_ends_the_run_in_a_sentence(runs):
    """As where its machine has vanished: the connections stand, and nothing comes."""
    started = runs.start("silent", 3, *ENDLESS)
    runs.wait_for_step("silent", 5)
    os.kill(started[0], signal.SIGSTOP)  # through which all meet
    began = time.monotonic()
    assert [runs.processes.wait(process, 90) for process in started[1:]] == [1, 1]
    assert time.monotonic() - began < 60
    runs.ends(started[:1], 0)
    assert runs.said("silent").count("or its machine can't be reached") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--config.model.nosuch=1",), "has no such field"),
        (("--config.training.batch_size=2",), "leaves some of them without an image: use"),
        (("--config.data.dataset=folder", "--config.data.root=/nowhere"), "/nowhere"),
    ],
)
def test_a_mistake_is_told_once(runs, words, sentence):
    name = f"mistake{abs(hash(words))}"
    started = runs.start(name, 3, *words)
    assert runs.ends(started, 60) == [1] * 3
    said = runs.said(name)
    assert said.count(sentence) == 1, said
    assert sentence in (runs.folder / f"{name}.out.0").read_text()


@pytest.mark.slow
def test_a_work_directory_that_others_do_not_see_is_told_in_a_sentence(runs):
    # Each process in a current folder of its own, as on machines without a common disk.
    given = ("--config=configs/vp/digits.py", *PLAIN, "--mode=train")
    out = runs.folder / "unseen.out"
    started = runs.processes.start_several(
        2, *given, out=out, each=lambda rank: [f"--workdir={runs.folder / f'unseen{rank}'}"]
    )
    assert runs.ends(started, 60) == [1, 1]
    said = runs.said("unseen")
    assert said.count("does not see") == 1
    assert f"process 1 (on {os.uname().nodename}) of 2 does not see" in said
    assert "choose a --workdir on a disk that all machines share" in said


# ---- A share by itself ----


def test_dropout_masks_follow_step_and_rank_and_leave_the_stream_alone():
    def masks(step: int, rank: int) -> torch.Tensor:
        with Share(World(rank, 2), 4, seed=3).own_masks(step, torch.device("cpu")):
            return torch.rand(4)

    torch.manual_seed(0)
    first = masks(5, 0)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(first, masks(5, 0))
    assert not torch.equal(first, masks(5, 1))
    assert not torch.equal(first, masks(6, 0))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_part_of_the_noise_is_that_of_the_whole_batch(memory):
    x = torch.zeros(7, 3, 4, 4).contiguous(memory_format=memory)
    torch.manual_seed(1)
    whole = torch.empty_like(x).normal_()
    for rows in (range(3), range(3, 4), range(4, 7)):
        torch.manual_seed(1)
        part = Part(rows, 7).normal(x[rows.start : rows.stop])
        assert torch.equal(part, whole[rows.start : rows.stop])
        assert part.is_contiguous(memory_format=memory)


# ---- The launcher ----


@pytest.mark.slow
def test_torchrun_starts_a_run_again_that_lost_a_process(tmp_path):
    words = (
        "--config=configs/vp/digits.py",
        *PLAIN,
        "--mode=train",
        f"--workdir={tmp_path / 'run'}",
    )
    words += ("--config.training.n_iters=60", "--config.training.snapshot_freq_for_preemption=5")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    launcher += ["--max-restarts=1", "--standalone", "main.py"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "said", "w") as said:
        running = subprocess.Popen(
            [*launcher, *words], cwd=ROOT, env=environment, stdout=said, stderr=said
        )
    try:
        deadline = time.monotonic() + 200
        while not checkpoints.steps(tmp_path / "run" / "checkpoints"):
            assert time.monotonic() < deadline, (tmp_path / "said").read_text()
            time.sleep(0.1)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
        assert running.wait(400) == 0, (tmp_path / "said").read_text()
    finally:
        running.terminate()
        running.wait()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "resumed at step" in log
    assert checkpoints.steps(tmp_path / "run" / "checkpoints")[-1] == 60
