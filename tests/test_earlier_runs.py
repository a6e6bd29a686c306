"""Work directories of earlier versions: they resume, and their shards count.

`earlier_run/` was written at commit 2d2ee8d, before the library became a package: four steps of
training and an evaluation, and the checkpoint that the same code wrote when it went on to step 6.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from score_sde.commands import cli

EARLIER = Path(__file__).with_name("earlier_run")
RECIPE = ["main.py", f"--config={ROOT / 'configs' / 'vp' / 'digits.py'}"]
TRAINED = [
    "--config.model.nf=8",
    "--config.model.ch_mult=(1,)",
    "--config.model.attn_resolutions=()",
    "--config.training.batch_size=8",
    "--config.training.time_sampling=uniform",
    "--config.training.snapshot_sampling=False",
]
EVALUATED = [
    "--config.eval.num_samples=20",
    "--config.eval.bpd_images=6",
    "--config.eval.bpd_dataset=test",
    "--config.eval.rtol=0.1",
    "--config.eval.atol=0.1",
    "--config.eval.batch_size=100",
    "--config.eval.bpd_batch_size=6",
    "--config.sampling.num_steps=3",
    "--config.sampling.batch_size=10",
]


@pytest.fixture
def workdir(tmp_path) -> Path:
    return Path(shutil.copytree(EARLIER, tmp_path / "run"))


def test_an_earlier_run_resumes_as_it_would_have_gone_on(workdir):
    command = [*RECIPE, "--mode=train", f"--workdir={workdir}", *TRAINED]
    assert cli.main([*command, "--config.training.n_iters=6"]) == 0
    there = torch.load(EARLIER / "went_on_to_step_6.pt", weights_only=True)
    here = torch.load(workdir / "checkpoints" / "step_00000006.pt", weights_only=True)
    assert here.keys() == there.keys()
    assert list(here["network"]) == list(there["network"])
    torch.testing.assert_close(here["network"], there["network"])
    torch.testing.assert_close(here["ema"]["shadow"], there["ema"]["shadow"])
    torch.testing.assert_close(here["optimizer"], there["optimizer"])
    torch.testing.assert_close(here["rng"]["cpu"], there["rng"]["cpu"], rtol=0, atol=0)


def test_shards_of_an_earlier_evaluation_count(workdir, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shards = sorted((workdir / "eval" / "shards").rglob("*.npz"))
    before = {path: path.stat().st_mtime_ns for path in shards}
    stats = f"--config.eval.stats_folder={tmp_path / 'stats'}"
    command = [*RECIPE, "--mode=eval", f"--workdir={workdir}", *EVALUATED, stats]
    assert cli.main(command) == 0
    after = {path: path.stat().st_mtime_ns for path in (workdir / "eval").rglob("*.npz")}
    assert after == before
    there = json.loads((EARLIER / "eval" / "step_00000004.json").read_text())
    here = json.loads((workdir / "eval" / "step_00000004.json").read_text())
    figures = [name for name, row in there.items() if isinstance(row, dict) and "value" in row]
    assert {"held_out_loss", "bits_per_dim", "bound", "fd"} <= set(figures)
    for name in figures:
        for key in ("value", "se"):
            assert here[name][key] == pytest.approx(there[name][key], rel=1e-5), (name, key)
