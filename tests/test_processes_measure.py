"""What several processes measure is what one measures; what is not shared is done once."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import LITTLE_BPD, TINY
from forked import Processes
from PIL import Image

from score_sde.commands import cli

pytestmark = pytest.mark.processes

RECIPE = """
from configs.vp.digits import get_config
from score_sde.commands import compare
from score_sde.config.presets import PRESETS, Row
from score_sde.pictures import plots, study

compare.CONVERGED = 1e-1
PRESETS["two"] = lambda config: [
    Row("ddim", "3", {"sampling.method": "ddim", "sampling.num_steps": 3}, 3),
    Row("heun", "4", {"sampling.method": "heun", "sampling.num_steps": 2}, 4),
]
# Sheets and plots take longer than what they show.
plots.save = study.save = lambda path, write: None
"""
TRAINED = """
from configs.ve.colour_digits import get_config
from score_sde.evaluation import classifier_training

classifier_training._MOST_STEPS = 3
"""
WORDS = {
    "stats": (),
    "eval": ("--config.eval.num_samples=40", "--config.sampling.batch_size=5"),
    "compare": ("--preset=two", "--num_samples=7", "--config.sampling.batch_size=2"),
}

Run = Callable[..., str]
"""Folder, number of processes and words → what the processes have printed."""


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with contextlib.closing(Processes()) as processes:

        def run(folder: Path, size: int, *words: object) -> str:
            folder.mkdir(exist_ok=True)
            started = processes.start_several(size, *words, out=folder / "said")
            ends = [processes.wait(process, 200) for process in started]
            said = [path.read_text() for path in sorted(folder.glob("said.*"))]
            assert ends == [0] * size, said
            assert not "".join(said[1:])
            return said[0]

        yield run


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a recipe of two quick rows to compare, and a run of it."""
    place = tmp_path_factory.mktemp("measured")
    (place / "recipe.py").write_text(RECIPE)
    given = (f"--config={place / 'recipe.py'}", f"--workdir={place / 'run'}", *TINY)
    assert cli.main(["main.py", *given, "--mode=train"]) == 0
    return place


@pytest.fixture(scope="module")
def made(run, place) -> Callable[[str, int], Path]:
    """Mode and number of processes → the folder of what they have made, once."""

    def made(mode: str, size: int) -> Path:
        folder = place / f"{mode}{size}"
        if not folder.exists():
            words = (f"--config={place / 'recipe.py'}", *TINY, *LITTLE_BPD, f"--mode={mode}")
            words += (f"--config.eval.stats_folder={folder / 'stats'}",)
            words += () if mode == "stats" else ("--config.sampling.num_steps=3",)
            if mode == "eval":
                words += (f"--workdir={place / 'run'}", f"--eval_folder={folder / 'eval'}")
            else:
                words += (f"--workdir={folder}",)
            if mode == "compare":
                words += (f"--checkpoint={place / 'run/checkpoints/step_00000004.pt'}",)
            run(folder, size, *words, *WORDS[mode])
        return folder

    return made


@pytest.mark.parametrize(("mode", "size"), [("stats", 2), ("eval", 3)])
def test_statistics_are_those_of_one_process_bit_for_bit(made, mode, size):
    alone, together = (
        {path.name: np.load(path) for path in (folder / "stats").iterdir()}
        for folder in (made("eval", 1), made(mode, size))
    )
    assert alone.keys() == together.keys()
    assert len(alone) == 2  # of both splits
    for name, arrays in alone.items():
        assert {"mu", "sigma", "pool_3"} <= set(arrays.files)
        for key in arrays.files:
            assert np.array_equal(arrays[key], together[name][key]), key


@pytest.mark.parametrize("size", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_figures_of_an_evaluation_are_those_of_one_process(made, size):
    """Statistics that nobody has computed before included."""
    alone, together = (
        json.loads((made("eval", k) / "eval/step_00000004.json").read_text()) for k in (1, size)
    )
    assert alone["left_out"] == together["left_out"] == {}
    figures = {name for name, x in alone.items() if isinstance(x, dict) and "value" in x}
    assert {"held_out_loss", "bits_per_dim", "bound", "fd", "nearest_train"} <= figures
    for name in figures:
        one, other = ({**report[name], "sec": 0} for report in (alone, together))
        assert one == other, name
    said = (made("eval", size) / "said.0").read_text()
    assert said.count("report:") == 1
    shards = [len([*(made("eval", k) / "eval").rglob("*.npz")]) for k in (1, size)]
    assert shards[0] == shards[1] > 10


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_a_comparison_is_that_of_one_process(made, size):
    alone, together = (
        json.loads(next((made("compare", k) / "compare").glob("*.json")).read_text())
        for k in (1, size)
    )
    assert len(alone["rows"]) == 3
    for one, other in zip(alone["rows"], together["rows"], strict=True):
        assert without_times(one) == without_times(other)
    assert alone["floor"] == together["floor"]


def without_times(figures: object) -> object:
    if isinstance(figures, dict):
        return {k: without_times(v) for k, v in figures.items() if not k.startswith("sec")}
    return figures


# ---- What is not shared ----


@pytest.mark.slow
def test_the_feature_network_is_trained_by_the_main_process_alone(run, tmp_path):
    (tmp_path / "recipe.py").write_text(TRAINED)
    folders = [tmp_path / str(size) for size in (1, 2)]
    for size, folder in enumerate(folders, 1):
        words = (f"--config={tmp_path / 'recipe.py'}", "--mode=stats", "--config.device=cpu")
        said = run(folder, size, *words, f"--config.eval.stats_folder={folder / 'stats'}")
        assert said.count("trained on 1,497 images") == 1
    one, two = ({path.name for path in (folder / "stats").iterdir()} for folder in folders)
    assert one == two  # names hold the digest of its weights
    assert len(one) == 3


def test_the_main_process_does_what_is_not_shared_while_the_others_wait(run, place, tmp_path):
    (tmp_path / "in").mkdir()
    for k, grey in enumerate((10, 200)):
        Image.new("L", (9, 9), grey).save(tmp_path / "in" / f"{k}.png")
    words = (f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--size=8")
    said = run(tmp_path / "a", 2, "--mode=prepare", *words)
    assert "1 images to train on and 1 held out" in said
    assert (tmp_path / "out" / "train-00000.tar").is_file()
    recipe = f"--config={place / 'recipe.py'}"
    said = run(tmp_path / "b", 2, recipe, "--mode=tune", f"--workdir={tmp_path / 'b'}")
    assert said.count("written to") == 1
    assert run(tmp_path / "c", 2, recipe, "--mode=tune", "--print_config").count("sigma_max") == 1


def test_smoke_is_shared_too(run, place, tmp_path):
    words = (f"--config={place / 'recipe.py'}", "--smoke", "--config.device=cpu")
    said = run(tmp_path, 2, *words)
    assert "shared by 2" in said
    assert "4 images" in said  # of the sampling
    assert said.count("report:") == 1
    folder = Path(said.split("all of this is written to ")[1].split(",")[0])
    assert not folder.exists()
