"""The README's metric, as it stands there, through the command line."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT

from score_sde.commands import cli
from score_sde.evaluation import FIGURES, LeftOut
from score_sde.evaluation.report import table

TINY = (
    "--config.model.nf=8",
    "--config.model.ch_mult=(1,)",
    "--config.model.attn_resolutions=()",
    "--config.device=cpu",
    "--config.training.batch_size=8",
    "--config.training.n_iters=2",
    "--config.training.snapshot_freq=1",
    "--config.training.snapshot_sampling=False",
    "--config.eval.enable_bpd=False",
    "--config.eval.enable_loss=False",
    "--config.eval.num_samples=120",
    "--config.sampling.num_steps=2",
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe file that holds the README's code."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (code,) = [block for block in blocks if "FIGURES[" in block]
    assert len(code.splitlines()) < 20
    path = tmp_path_factory.mktemp("metric") / "bright.py"
    path.write_text(code)
    return path


@pytest.fixture(autouse=True)
def same_table_after():
    before = dict(FIGURES)
    yield
    FIGURES.clear()
    FIGURES.update(before)


def run(recipe, mode, *more):
    workdir = recipe.parent / "run"
    stats = f"--config.eval.stats_folder={recipe.parent / 'stats'}"
    words = ["main.py", f"--config={recipe}", f"--workdir={workdir}", f"--mode={mode}", stats]
    return cli.main([*words, *TINY, *more])


@pytest.fixture(scope="module")
def trained(recipe):
    assert run(recipe, "train") == 0
    return recipe


def report(recipe, *more):
    assert run(recipe, "eval", *more) == 0
    return json.loads((recipe.parent / "run" / "eval" / "step_00000002.json").read_text())


def test_a_row_from_a_recipe_is_in_report_and_table(trained, capsys):
    # The samples of an evaluation before the row was added are drawn again.
    plain = trained.with_name("plain.py")
    plain.write_text("from configs.vp.digits import get_config\n")
    FIGURES.pop("mean_brightness", None)
    first = report(plain)
    assert "mean_brightness" not in first
    capsys.readouterr()
    figures = report(trained)
    figure = figures["mean_brightness"]
    assert figure["n"] == 120
    assert figure["given_up"] == 0
    assert 0 < figure["value"] < 1
    assert 0 < figure["se"] < 0.1
    assert {**figures["fd"], "sec": 0} == {**first["fd"], "sec": 0}
    # All samples count, not only the first hundred, whose images are kept.
    (folder,) = (trained.parent / "run" / "eval" / "shards").glob("samples_*")
    values = [np.load(path)["each mean_brightness"] for path in sorted(folder.iterdir())]
    assert figure["value"] == pytest.approx(np.concatenate(values).mean())
    text = capsys.readouterr().out
    assert re.search(r"mean_brightness +0\.\d{4} ± 0\.\d{4} \(120 samples, 2 eval", text)
    both = table([figures, {**figures, "step": 3}])
    assert "mean_brightness" in both.splitlines()[0]
    assert not both.splitlines()[1].endswith("*")  # neither high nor low is better


def test_a_row_is_any_function_of_the_subject(trained):
    def absent(subject):
        raise LeftOut("there is no moon")

    page = (ROOT / "docs" / "evaluation.md").read_text()
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    FIGURES["tide"] = absent
    figures = report(trained)
    assert figures["score_norm"]["n"] == 100
    assert 0 < figures["score_norm"]["value"] < 10
    assert figures["left_out"]["tide"] == "there is no moon"


def test_what_is_no_figure_is_refused_in_one_sentence(trained, capsys):
    FIGURES["half"] = lambda subject: 0.5
    assert run(trained, "eval") == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith(
        "FIGURES['half'] gave 0.5: a figure is a dict with value, se and n"
    )
