"""Shared fixtures: the reference numbers of the 2021 release, and their float comparison."""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Two processes share the tests (pytest-xdist); networks this small gain nothing from threads, and
# threads of several processes slow one another down. Processes that tests start follow suit.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TINY = (
    "--config.model.nf=8",
    "--config.model.ch_mult=(1,)",
    "--config.model.attn_resolutions=()",
    "--config.device=cpu",
    "--config.training.batch_size=8",
    "--config.training.n_iters=4",
    "--config.training.snapshot_freq=2",
    "--config.training.snapshot_sampling=False",
    "--config.optim.warmup=0",
)
"""What makes a recipe of digits a run of four steps in a second, with checkpoints at 2 and 4."""

LITTLE_BPD = (
    "--config.eval.batch_size=50",
    "--config.eval.bpd_batch_size=2",
    "--config.eval.bpd_images=6",
    "--config.eval.rtol=0.1",
    "--config.eval.atol=0.1",
    "--config.eval.bpd_eps=0.1",
)
"""What makes losses and bits/dim of `--mode eval` rough, and takes a second."""

TABLES = {
    "SDES": "score_sde.sde",
    "NETWORKS": "score_sde.networks.table",
    "CLASSIFIERS": "score_sde.networks.table",
    "PREDICTIONS": "score_sde.score",
    "OBJECTIVES": "score_sde.objectives",
    "PREDICTORS": "score_sde.solvers.predictors",
    "CORRECTORS": "score_sde.solvers.correctors",
    "FEW_STEP": "score_sde.solvers.few_step",
    "SAMPLERS": "score_sde.samplers",
    "ODE_SOLVERS": "score_sde.solvers.ode",
    "DATASETS": "score_sde.data",
    "FIGURES": "score_sde.evaluation",
    "TASKS": "score_sde.posteriors",
    "POSTERIORS": "score_sde.posteriors",
    "FITS": "score_sde.data",
    "MODES": "score_sde.commands.cli",
    "PRESETS": "score_sde.config.presets",
}
"""The tables that users add rows to, by their names, and the modules that hold them."""


@pytest.fixture(scope="session")
def rows_at_start() -> list[tuple[dict, dict]]:
    """Every table, and a copy of its rows before the first test."""
    tables = [getattr(importlib.import_module(place), name) for name, place in TABLES.items()]
    return [(table, dict(table)) for table in tables]


@pytest.fixture(autouse=True)
def same_rows_after(rows_at_start: list[tuple[dict, dict]]) -> Iterator[None]:
    """Takes out the rows that a test, a recipe of it or a fixture of its module added.

    A row that stayed would change later tests of the same process: with one more metric, for
    example, shards that were written without it are computed again.
    """
    yield
    for table, rows in rows_at_start:
        if table != rows:
            table.clear()
            table.update(rows)


def reference_dir() -> Path | None:
    """The folder `golden/` of reference numbers: SCORE_SDE_REFERENCE, or beside the repository."""
    given = os.environ.get("SCORE_SDE_REFERENCE")
    if given:
        # Who names a folder wants these tests run: a wrong name must not skip them.
        assert (Path(given) / "sde.json").is_file(), f"SCORE_SDE_REFERENCE={given}: no sde.json"
        return Path(given)
    beside = ROOT.parent / "shared" / "golden"
    return beside if (beside / "sde.json").is_file() else None


class Golden:
    """Reads `NAME.json` and `NAME.npz` of the reference folder, arrays as tensors.

    Files are read once. What is returned is the caller's own: a test may write into it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._texts: dict[str, str] = {}
        self._arrays: dict[str, dict[str, torch.Tensor]] = {}

    def json(self, name: str):
        if name not in self._texts:
            self._texts[name] = (self.folder / f"{name}.json").read_text()
        return json.loads(self._texts[name])

    def arrays(self, name: str) -> dict[str, torch.Tensor]:
        if name not in self._arrays:
            with np.load(self.folder / f"{name}.npz") as data:
                self._arrays[name] = {key: torch.from_numpy(data[key]) for key in data.files}
        return {key: value.clone() for key, value in self._arrays[name].items()}


@pytest.fixture(scope="session")
def golden() -> Golden:
    folder = reference_dir()
    if folder is None:
        pytest.skip("no reference numbers: set SCORE_SDE_REFERENCE to their folder")
    return Golden(folder)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Fails where the two differ by more than `tolerance` times the largest expected value."""
    expected = torch.as_tensor(expected)
    assert actual.shape == expected.shape, (
        f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    )
    scale = expected.double().abs().max().clamp_min(1e-30)
    worst = ((actual.double() - expected.double()).abs().max() / scale).item()
    assert worst <= tolerance, (
        f"differs by {worst:.2e} of the largest value, allowed {tolerance:.0e}"
    )


@pytest.fixture
def cuda():
    """A GPU that is not here, without gradients (`fake_device`)."""
    from fake_device import fake_device

    with fake_device("cuda") as device, torch.no_grad():
        yield device


@pytest.fixture
def meta():
    """A device without numbers that knows gradients, under the same guard."""
    from fake_device import fake_device

    with fake_device("meta") as device:
        yield device


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory) -> Path:
    """Random weights in the format of the real ones."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = FeatureExtractorInceptionV3("random", ["2048"], str(path))
    torch.save(network.state_dict(), path)
    return path
