"""What README and docs show in Python, run as it stands there: mostly pieces that are added."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TABLES
from PIL import Image
from problems import Gaussian

import score_sde
from configs.vp import digits
from score_sde.commands import cli
from score_sde.commands.train import train
from score_sde.evaluation import FIGURES, LeftOut
from score_sde.evaluation.report import table
from score_sde.networks.table import NETWORKS
from score_sde.objectives import make_objective
from score_sde.samplers import GridSampler
from score_sde.sde import SDE, VPSDE

README = (ROOT / "README.md").read_text()
EXTENDING = (ROOT / "docs" / "extending.md").read_text()
PAGES = README + EXTENDING + (ROOT / "docs" / "from_score_sde_pytorch.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGES, flags=re.DOTALL)
TINY = {
    "device": "cpu",
    "model.nf": 8,
    "model.ch_mult": (1, 2),
    "training.n_iters": 2,
    "training.batch_size": 4,
    "training.snapshot_sampling": False,
    "sampling.num_steps": 3,
    "optim.warmup": 0,
}


def code_of(name: str) -> str:
    """The one Python block that defines `name`, which is to be short."""
    (code,) = [block for block in BLOCKS if re.search(rf"^(class|def) {name}\b", block, re.M)]
    assert len([line for line in code.splitlines() if line.strip()]) < 20
    return code


def example(name: str) -> dict:
    """What the block that defines `name` defines."""
    defined: dict = {}
    exec(code_of(name), defined)
    return defined


def recipe(folder: Path, code: str, *parts: str, **fields: object) -> Path:
    """A recipe file with an example's code and row."""
    path = folder / "mine.py"
    laid = ", ".join([f"parts.{part}" for part in parts] + [repr(TINY | fields)])
    path.write_text(
        f"{code}\n\nfrom score_sde.config import parts\n\n\ndef get_config():\n"
        f"    return parts.recipe({laid})\n"
    )
    return path


VP_DIGITS = ("DDPMPP", "DIGITS", "VP", "SMALL")


def trains(path: Path, workdir: Path) -> Path:
    assert cli.main(["main.py", f"--config={path}", f"--workdir={workdir}", "--mode=train"]) == 0
    return workdir


def samples(path: Path, workdir: Path) -> None:
    drawn = path.parent / "images"
    words = [f"--config={path}", f"--workdir={workdir}", f"--output={drawn}", "--num_samples=2"]
    assert cli.main(["main.py", *words, "--mode=sample"]) == 0
    assert len(list(drawn.iterdir())) == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The work directory of a run without additions."""
    folder = tmp_path_factory.mktemp("plain")
    return trains(recipe(folder, "", *VP_DIGITS), folder / "run")


def test_the_two_commands_come_first():
    first = re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)[0].splitlines()
    assert first[0].startswith("pip install -r requirements.txt && python main.py")
    assert first[1].startswith("pip install -r requirements-dev.txt && ")
    assert README.index("```") < 100


def test_pictures_and_files_that_it_names_exist():
    links, recipes = r"\]\(([^\s)#]+)", r"`(configs/\S+?\.py)`"
    for path in re.findall(links, README) + re.findall(recipes, README):
        assert (ROOT / path).is_file(), path


def test_every_table_is_named_with_its_place():
    for name, place in TABLES.items():
        assert f"`{place}.{name}`" in EXTENDING
        assert isinstance(getattr(importlib.import_module(place), name), dict)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("EvenSNR", {"training.sde": "even_snr"}),
        ("Convolutions", {"model.name": "convolutions"}),
        ("Huber", {"training.objective": "huber"}),
        ("Difference", {"model.prediction": "difference"}),
        ("stripes", {"data.dataset": "stripes"}),
    ],
)
def test_a_row_in_a_recipe_trains_and_samples(name, fields, tmp_path):
    path = recipe(tmp_path, code_of(name), *VP_DIGITS, **fields)
    samples(path, trains(path, tmp_path / "run"))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("StochasticMidpoint", {"sampling.predictor": "stochastic_midpoint"}),
        ("Midpoint", {"sampling.method": "midpoint"}),
        ("SharedSteps", {"sampling.corrector": "shared", "sampling.n_steps_each": 2}),
    ],
)
def test_a_step_in_a_recipe_samples(name, fields, trained, tmp_path):
    samples(recipe(tmp_path, code_of(name), *VP_DIGITS, **fields), trained)


@pytest.mark.parametrize("field", ["sampling.method=ode_rk32", "sampling.ode_solver=rk32"])
def test_an_adaptive_sampler_or_its_method_in_a_recipe_samples(field, trained, tmp_path):
    (code,) = [block for block in BLOCKS if "ODE_SOLVERS[" in block]
    name, _, value = field.partition("=")
    fields = {"sampling.method": "ode", "sampling.rtol": 1e-2, "sampling.atol": 1e-2, name: value}
    samples(recipe(tmp_path, code, *VP_DIGITS, **fields), trained)


def test_a_step_of_no_arguments_serves_as_a_predictor_too(trained, tmp_path):
    code = code_of("Midpoint") + (
        "\nfrom score_sde.solvers.predictors import PREDICTORS\n"
        'PREDICTORS["midpoint"] = Midpoint\n'
    )
    path = recipe(tmp_path, code, *VP_DIGITS, **{"sampling.predictor": "midpoint"})
    samples(path, trained)


def test_a_task_in_a_recipe_restores(trained, tmp_path):
    fields = {"restore.task": "columns", "restore.noise": 0.05}
    path = recipe(tmp_path, code_of("column_means"), *VP_DIGITS, **fields)
    words = [f"--config={path}", f"--workdir={trained}", f"--output={tmp_path / 'out'}"]
    assert cli.main(["main.py", *words, "--mode=restore", "--num_samples=1"]) == 0
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["task"], told["posterior"], told["completions"]) == ("columns", "pigdm", 4)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Weighted", {"restore.posterior": "weighted", "restore.noise": 0.05}),
        ("stretched", {"sampling.fit": "stretch"}),
    ],
)
def test_a_way_of_restoring_in_a_recipe_restores(name, fields, trained, tmp_path):
    Image.fromarray(np.full((10, 20), 99, dtype=np.uint8)).save(tmp_path / "wide.png")
    path = recipe(tmp_path, code_of(name), *VP_DIGITS, **fields)
    words = [f"--config={path}", f"--workdir={trained}", f"--output={tmp_path / 'out'}"]
    words += [f"--input={tmp_path / 'wide.png'}", "--completions=1", "--mode=restore"]
    assert cli.main(["main.py", *words]) == 0
    assert np.asarray(Image.open(tmp_path / "out" / "000000.png")).shape == (8, 8)


def test_a_mode_in_a_recipe_runs(tmp_path, capsys):
    path = recipe(tmp_path, code_of("count"), *VP_DIGITS)
    assert cli.main(["main.py", f"--config={path}", "--mode=count"]) == 0
    assert re.fullmatch(r"\d+ weights", capsys.readouterr().out.strip())
    # It heeds no option that its row does not name, and other recipes do not have it.
    assert cli.main(["main.py", f"--config={path}", "--mode=count", "--raw"]) == 1
    assert "--raw has no use in --mode count" in capsys.readouterr().err


@pytest.fixture(scope="module")
def evaluate(trained, tmp_path_factory):
    """Evaluates 120 samples of that run by a recipe, and gives the report.

    All in one folder, so that shards of one evaluation are there for the next.
    """
    folder = tmp_path_factory.mktemp("evaluation")

    def run(recipe, code=0):
        words = [f"--config={recipe}", f"--workdir={trained}", f"--eval_folder={folder}"]
        words += [f"--config.eval.enable_{part}=False" for part in ("bpd", "loss")]
        words += [f"--config.eval.stats_folder={folder / 'stats'}", "--config.device=cpu"]
        words += ["--config.eval.num_samples=120", "--config.sampling.num_steps=2"]
        assert cli.main(["main.py", *words, "--mode=eval"]) == code
        return json.loads((folder / "step_00000002.json").read_text()) if code == 0 else {}

    run.shards = folder / "shards"
    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A recipe file without additions."""
    path = tmp_path_factory.mktemp("plain recipe") / "plain.py"
    path.write_text("from configs.vp.digits import get_config\n")
    return path


def test_a_metric_in_a_recipe_is_in_report_and_table(evaluate, plain, tmp_path, capsys):
    (code,) = [block for block in BLOCKS if "FIGURES[" in block]
    assert len(code.splitlines()) < 20
    path = tmp_path / "bright.py"
    path.write_text(f"{code}\nfrom configs.vp.digits import get_config\n")
    # The samples of an evaluation before the row was added are drawn again.
    first = evaluate(plain)
    assert "mean_brightness" not in first
    capsys.readouterr()
    figures = evaluate(path)
    figure = figures["mean_brightness"]
    assert figure["n"] == 120
    assert figure["given_up"] == 0
    assert 0 < figure["value"] < 1
    assert 0 < figure["se"] < 0.1
    assert {**figures["fd"], "sec": 0} == {**first["fd"], "sec": 0}
    # All samples count, not only the first hundred, whose images are kept.
    (folder,) = evaluate.shards.glob("samples_*")
    shards = [np.load(file) for file in sorted(folder.iterdir())]
    (kept,) = [name for name in shards[0] if name.startswith("each mean_brightness")]
    values = np.concatenate([shard[kept] for shard in shards])
    assert figure["value"] == pytest.approx(values.mean())
    text = capsys.readouterr().out
    assert re.search(r"mean_brightness +0\.\d{4} ± 0\.\d{4} \(120 samples, 2 eval", text)
    both = table([figures, {**figures, "step": 3}])
    assert "mean_brightness" in both.splitlines()[0]
    assert not both.splitlines()[1].endswith("*")  # neither high nor low is better
    # What an earlier version of the function gave is not taken for what it gives now.
    path.write_text(path.read_text().replace("/ 255", "/ 2550"))
    assert evaluate(path)["mean_brightness"]["value"] == pytest.approx(figure["value"] / 10)


def test_a_metric_is_any_function_of_the_subject(evaluate, plain):
    def absent(subject):
        raise LeftOut("there is no moon")

    page = (ROOT / "docs" / "evaluation.md").read_text()
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    FIGURES["tide"] = absent
    figures = evaluate(plain)
    assert figures["score_norm"]["n"] == 100
    assert 0 < figures["score_norm"]["value"] < 10
    assert figures["left_out"]["tide"] == "there is no moon"


def test_what_is_no_figure_is_told_and_costs_no_other_figure(evaluate, plain):
    FIGURES["half"] = lambda subject: 0.5
    FIGURES["tensors"] = lambda subject: {"value": torch.tensor(2.0), "se": np.float32(1), "n": 3}
    report = evaluate(plain)
    assert (report["tensors"]["value"], report["tensors"]["se"]) == (2, 1)
    assert report["left_out"]["half"].startswith(
        "FIGURES['half'] gave 0.5: a figure is a dict with value, se and n"
    )
    assert report["fd"]["n"] == 120


def test_a_mode_that_names_an_option_of_its_own_is_told_to_take_a_field(tmp_path, capsys):
    row = "from score_sde.commands.cli import MODES, Mode\n"
    row += "MODES['ladder'] = Mode(print, 'climb', options=('rungs',))"
    path = recipe(tmp_path, row, *VP_DIGITS)
    assert cli.main(["main.py", f"--config={path}", "--mode=ladder"]) == 1
    assert "--config.ladder.rungs" in capsys.readouterr().err


def test_a_run_whose_recipe_adds_the_network_is_loaded_with_it(tmp_path):
    path = recipe(tmp_path, code_of("Convolutions"), *VP_DIGITS, **{"model.name": "convolutions"})
    workdir = trains(path, tmp_path / "run")
    assert score_sde.load(workdir, str(path)).draw(1).shape == (1, 1, 8, 8)
    del NETWORKS["convolutions"]
    with pytest.raises(ValueError, match="name the recipe too"):
        score_sde.load(workdir)


@pytest.mark.parametrize("name", ["StochasticMidpoint", "Midpoint"])
def test_added_steps_walk_a_discrete_chain_by_its_own_times(name, tmp_path):
    code = code_of(name).replace("FEW_STEP", "PREDICTORS").replace("few_step", "predictors")
    label = {"StochasticMidpoint": "stochastic_midpoint", "Midpoint": "midpoint"}[name]
    fields = {"training.continuous": False, "training.time_sampling": "uniform"}
    fields |= {"model.num_scales": 30, "sampling.num_steps": 0, "sampling.predictor": label}
    path = recipe(tmp_path, code, *VP_DIGITS, **fields)
    samples(path, trains(path, tmp_path / "run"))


def test_a_recipe_is_a_file(tmp_path, monkeypatch):
    (code,) = [block for block in BLOCKS if "parts.recipe(" in block]
    (tmp_path / "wide.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    words = [f"--config.{name}={value}" for name, value in TINY.items() if name != "model.nf"]
    assert cli.main(["main.py", "--config=wide.py", "--mode=train", *words]) == 0
    written = json.loads((tmp_path / "runs" / "wide" / "config.json").read_text())
    assert written["config"]["model"]["nf"] == 64


def test_the_added_sde_has_its_drift_and_diffusion_by_differentiation():
    sde: SDE = example("EvenSNR")["EvenSNR"](N=1000)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    variance = torch.sigmoid(20 * t - 10)
    torch.testing.assert_close(sde.mean_rate(t), -10 * variance)
    torch.testing.assert_close(sde.diffusion_squared(t), 20 * variance)
    torch.testing.assert_close(sde.time_of_noise_level(sde.noise_level(t)), t)


@pytest.mark.parametrize("reduce_mean", [True, False])
def test_the_added_objective_costs_hubers_loss_per_dimension(reduce_mean):
    example("Huber")
    objective = make_objective(VPSDE(), objective="huber", reduce_mean=reduce_mean)
    x_0, z = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.6)
    z[1] = 3.0
    # A network that sees no noise errs by all of it: z²/2 up to 1, and |z| − 1/2 beyond.
    losses = objective(lambda x, cond: torch.zeros_like(x), x_0, torch.full((2,), 0.5), z)
    torch.testing.assert_close(losses * objective.per_dimension(48), torch.tensor([0.18, 2.5]))


def test_the_added_solver_converges_at_its_order():
    midpoint = example("Midpoint")["Midpoint"]
    sde = VPSDE()
    problem = Gaussian(sde, mean=0.3, variance=0.25)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def error(steps: int) -> float:
        times = torch.linspace(1.0, 0.1, steps + 1, dtype=torch.float64)
        sampler = GridSampler(sde, times, midpoint(sde))
        end, _ = sampler.run(x, problem.score, noise=lambda shape: torch.zeros(*shape))
        exact = problem.flow(x, torch.ones(9).double(), torch.full((9,), 0.1).double())
        return (end - exact).abs().max().item()

    orders = torch.log2(torch.tensor(error(40) / error(80)))
    assert abs(orders.item() - midpoint.order) < 0.15


def test_the_added_predictor_has_its_weak_order():
    # The score of N(0, s²) is linear, so that a step is x ← a x + b z + c z', with its two draws,
    # and variances follow.
    step = example("StochasticMidpoint")["StochasticMidpoint"](VPSDE())
    problem = Gaussian(step.sde, variance=0.25)
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()

    def error(steps: int) -> float:
        times = torch.linspace(1.0, 0.1, steps + 1, dtype=torch.float64)
        variance = problem.moments(times[:1], one)[1]
        for t, t_next in zip(times[:-1, None], times[1:, None], strict=True):
            a, _ = step.step(one, t, t_next, problem.score, lambda _: zero)
            variance = a**2 * variance
            for draws in ((one, zero), (zero, one)):
                noise = iter(draws)
                b, _ = step.step(zero, t, t_next, problem.score, lambda _, of=noise: next(of))
                variance += b**2
        return (variance - problem.moments(times[-1:], one)[1]).abs().item()

    order = torch.log2(torch.tensor(error(320) / error(640))).item()
    assert abs(order - step.weak_order) < 0.15


def test_the_notebook_example_runs_on_a_trained_network(tmp_path, monkeypatch):
    (code,) = [block for block in BLOCKS if "create_model" in block]
    config = digits.get_config()
    with config.unlocked():
        config.training.update(n_iters=1, batch_size=4, snapshot_sampling=False)
    monkeypatch.chdir(tmp_path)
    train(config, Path("runs/vp/digits"), quiet=True)
    saved = Path("runs/vp/digits/checkpoints/step_00000001.pt")
    saved.rename(saved.with_name("step_00002000.pt"))
    defined: dict = {}
    exec(code.replace("N=1000", "N=25"), defined)
    assert defined["images"].shape == defined["gradient"].shape == (16, 1, 8, 8)
    assert defined["evaluations"] == 25
    assert defined["gradient"].isfinite().all()


@pytest.mark.parametrize("mode", ["train", "sample"])
def test_commands_name_modes_that_exist(mode):
    assert mode in cli.MODES
    assert f"--mode {mode}" in README
