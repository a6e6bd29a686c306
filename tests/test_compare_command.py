"""`--mode compare`: honest counts, the same noise for all, resumed, refused in a sentence."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from score_sde.commands import cli, compare
from score_sde.config import presets
from score_sde.config.build import build_sampler, build_sde
from score_sde.config.presets import PRESETS, Row, as_row
from score_sde.evaluation import LeftOut, study
from score_sde.evaluation.subject import SampleSet
from score_sde.pictures import Panel, Points, quality_plot, sample_sheet
from score_sde.tensor_ops import UnknownName

SMALL = (*TINY, "--config.model.num_res_blocks=1", "--config.sampling.num_steps=7")


def words(workdir, *more, recipe="configs/vp/digits.py"):
    return ["main.py", f"--config={recipe}", f"--workdir={workdir}", *SMALL, *map(str, more)]


def small(config):
    """A preset of every kind of method, in few evaluations."""
    corrected = {"sampling.predictor": "euler_maruyama", "sampling.corrector": "langevin"}
    return [
        Row("ddim", "5", {"sampling.method": "ddim"}, 5),
        Row("heun", "6", {"sampling.method": "heun"}, 6),
        Row("pc", "3", {**corrected, "sampling.method": "pc", "sampling.num_steps": 3}),
        Row("ode", "0.1", presets._ode(0.1)),
        Row("as configured", ""),
    ]


@pytest.fixture(autouse=True)
def preset(request, monkeypatch):
    """A small preset, and a converged ODE that is quick; plots are drawn by one test alone."""
    monkeypatch.setitem(PRESETS, "small", small)
    monkeypatch.setattr(compare, "CONVERGED", 1e-3)
    if "rendered" not in request.fixturenames:
        monkeypatch.setattr("score_sde.pictures.study.save", lambda path, write: None)


@pytest.fixture
def rendered():
    """Draws plot and sheet."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compare") / "run"
    assert cli.main(words(workdir, "--mode=train")) == 0
    return workdir / "checkpoints" / "step_00000004.pt"


@pytest.fixture
def run(checkpoint, tmp_path):
    """Compares six samples of the checkpoint, and gives the report."""

    def compared(*more, preset="small", n=6, code=0, folder="here", given=checkpoint):
        workdir = tmp_path / folder
        asked = ["--mode=compare", f"--num_samples={n}", f"--preset={preset}", *more]
        asked += [f"--config.eval.stats_folder={checkpoint.parent}"]
        asked += [f"--checkpoint={given}"] if given else []
        assert cli.main(words(workdir, *asked)) == code
        reports = sorted((workdir / "compare").glob("*.json")) if code == 0 else []
        return json.loads(reports[0].read_text()) if reports else {}

    compared.folder = tmp_path / "here" / "compare"
    return compared


def watch(monkeypatch, before=lambda x: None):
    """Notes what the network is called with."""
    seen, original = [], compare.network_of

    def network_of(*given, **named):
        network = original(*given, **named)

        def note(_, inputs):
            before(inputs[0])
            seen.append(inputs[0].clone())

        network.register_forward_pre_hook(note)
        return network

    monkeypatch.setattr(compare, "network_of", network_of)
    return seen


def figures_of(report):
    """The rows but for the time that they took."""
    timeless = [{k: v for k, v in row.items() if k != "sec_per_image"} for row in report["rows"]]
    for row in timeless:
        for name in ("fd", "kd"):
            row[name] = {k: v for k, v in row[name].items() if not k.startswith("sec")}
    return timeless


def test_evaluations_are_those_that_the_network_made_and_all_begin_with_the_same_noise(
    run, monkeypatch
):
    seen, calls, original = watch(monkeypatch), {}, compare.Subject.draw_share

    def draw_share(subject, turn):
        start = len(seen)
        original(subject, turn)
        calls[turn] = seen[start:]

    monkeypatch.setattr(compare.Subject, "draw_share", draw_share)
    rows = run()["rows"]
    assert [row["series"] for row in rows] == ["converged ODE", *[r.series for r in small(None)]]
    for turn, row in enumerate(rows):
        torch.testing.assert_close(calls[turn][0], calls[0][0])
        if row["series"] in ("converged ODE", "ode"):
            # The solver goes on until the slowest sample is done.
            assert 6 < row["nfe"] <= len(calls[turn])
        else:
            assert row["nfe"] == len(calls[turn])
    assert [row["nfe"] for row in rows if row["budget"]] == [5, 5]
    assert [row["nfe"] for row in rows[3:4]] == [6]
    assert rows[-1]["nfe"] == 7


def test_a_report_has_every_figure_with_its_error(run, rendered):
    report = run()
    by_series = {row["series"]: row for row in report["rows"]}
    for row in report["rows"]:
        for name in ("fd", "kd", "brightness"):
            assert row[name]["n"] == 6
            assert row[name]["se"] > 0
        assert row["sec_per_image"] > 0
        # Distances are to what the samples should be: those of the ODE.
        assert ("to_converged" in row) == (row["series"] in ("ddim", "heun", "ode"))
        assert "within" not in row
    assert by_series["heun"]["to_converged"]["value"] < by_series["ddim"]["to_converged"]["value"]
    assert report["floor"]["of"] == "train images"
    assert report["floor"]["sets"] == 8
    assert report["floor"]["frechet"]["least"] < by_series["ddim"]["fd"]["value"]
    assert (report["preset"], report["step"], report["ema"]) == ("small", 4, True)
    names = {path.name for path in run.folder.iterdir()}
    assert {f"small_step_00000004{end}" for end in (".json", ".png", "_sheet.png")} <= names


def test_a_second_run_computes_nothing_and_another_question_is_not_confused(run, monkeypatch):
    first, seen = run(), watch(monkeypatch)
    assert figures_of(run()) == figures_of(first)
    assert seen == []
    other = run("--config.seed=1")
    assert seen
    assert all(
        row["fd"]["value"] != before["fd"]["value"]
        for row, before in zip(other["rows"], first["rows"], strict=True)
    )
    said = (run.folder.parent / "log.txt").read_text()
    assert said.count("replaces the report of a comparison with other options") == 1
    raw = run("--raw")
    assert raw["rows"][1]["fd"]["value"] != first["rows"][1]["fd"]["value"]


def test_what_ctrl_c_left_is_kept_and_the_rest_is_the_same(run, monkeypatch):
    first = run()
    with monkeypatch.context() as patch:
        left = iter(range(100))

        def stop(_):
            if next(left) == 60:
                raise KeyboardInterrupt

        watch(patch, stop)
        run(code=130, folder="stopped")
    seen = watch(monkeypatch)
    again = run(folder="stopped")
    assert figures_of(again) == figures_of(first)
    assert 0 < len(seen) < sum(row["nfe"] for row in first["rows"])


def curves(config):
    methods = ("ddim", "dpm_solver++")
    return [Row(m, str(n), {"sampling.method": m}, n) for m in methods for n in (5, 10, 20, 40)]


@pytest.mark.parametrize("kind", ["points", "classes"])
def test_on_an_exact_score_more_evaluations_come_closer_to_the_truth(kind, run, monkeypatch):
    monkeypatch.setitem(PRESETS, "curves", curves)
    monkeypatch.setattr(compare, "CONVERGED", 1e-5)
    monkeypatch.setattr(study, "REFERENCE_IMAGES", 500)
    report = run(f"--exact={kind}", preset="curves", n=100, given=None)
    distances = {}
    for row in report["rows"][1:]:
        distances.setdefault(row["series"], []).append(row["to_converged"]["value"])
    for values in distances.values():
        assert sorted(values, reverse=True) == values
        assert values[-1] < values[0] / 4
    assert distances["dpm_solver++"][-1] < distances["ddim"][-1] / 5
    converged, best = report["rows"][0], report["rows"][-1]
    for row in (converged, best):
        assert abs(row["within"]["value"] - 1) < 4 * row["within"]["se"] + 0.02
    assert report["floor"]["within"]["mean"] == pytest.approx(1, abs=0.1)
    assert report["floor"]["of"] == "exact draws"
    assert (report["exact"], report["std"]) == (kind, 0.1)
    assert report["rows"][1]["fd"]["against"] == 500
    # The converged samples are the truth: as far from the reference as exact draws are.
    floor = report["floor"]["frechet"]
    assert converged["fd"]["value"] < 2 * floor["most"]


def test_rows_that_a_checkpoint_does_not_allow_are_left_out_with_the_reason(run, monkeypatch):
    def rows(config):
        wider = Row("wider", "5", {"model.beta_max": 10.0, "sampling.method": "ddim"}, 5)
        costly = Row("heun", "2", {"sampling.method": "heun"}, 2)
        own = Row("ode", "5", {"sampling.method": "ode"}, 5)
        return [wider, costly, own, Row("ddim", "5", {"sampling.method": "ddim"}, 5)]

    monkeypatch.setitem(PRESETS, "some", rows)
    report = run(preset="some")
    assert [row["series"] for row in report["rows"]] == ["converged ODE", "ddim"]
    left_out = report["left_out"]
    assert "model.beta_max, which the checkpoint decides" in left_out["wider, 5"]
    assert "one step costs more than 2 evaluations" in left_out["heun, 2"]
    assert "chooses its own steps" in left_out["ode, 5"]
    # An exact score runs under any SDE; its samples are others than those of the converged ODE.
    monkeypatch.setattr(study, "REFERENCE_IMAGES", 100)
    report = run("--exact=points", preset="some", n=20, given=None, folder="exact")
    wider, ddim = report["rows"][1:]
    assert wider["series"] == "wider"
    assert "to_converged" not in wider
    assert "to_converged" in ddim


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["--preset=few"], "--preset='few': it must be one of few_steps, table1"),
        (["--num_samples=3"], "--num_samples 3: distances between sets of images need at least 4"),
        (["--exact=lines"], "--exact='lines': it must be one of points, classes"),
        (["--exact=points", "--raw"], "--exact takes no network"),
        (["--exact=points", "--exact_std=-1"], "--exact_std -1: give a number from 0.0001 on"),
        (["--exact=points", "--exact_std=1e-9"], "--exact_std 1e-09: give a number from 0.0001"),
        (["--exact_std=0.1"], "--exact_std belongs to --exact"),
        (["--preset=small"], "holds no checkpoint: train first"),
        (["--preset=small", "--checkpoint=nowhere.pt"], "nowhere.pt"),
        (["--preset=unknown_method", "--exact=points"], "milstone"),
    ],
)
def test_mistakes_are_told_in_a_sentence(given, what, tmp_path, monkeypatch, capsys):
    row = Row("milstone", "5", {"sampling.method": "milstone"}, 5)
    monkeypatch.setitem(PRESETS, "unknown_method", lambda config: [row])
    monkeypatch.setattr(study, "REFERENCE_IMAGES", 20)
    assert cli.main(words(tmp_path, "--mode=compare", *given)) == 1
    said = capsys.readouterr().err
    assert what in said
    assert len(said.splitlines()) == 1


def test_nothing_is_made_where_there_is_no_checkpoint(tmp_path):
    assert cli.main(words(tmp_path / "run", "--mode=compare")) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", ["ve/digits", "vp/digits", "subvp/digits"])
def test_a_method_takes_as_many_steps_as_fit_its_budget(recipe, tmp_path):
    config = cli.parse(words(tmp_path, "--mode=compare", recipe=recipe)).config
    sde, rows = build_sde(config), [row for row in PRESETS["few_steps"](config) if row.budget]
    assert {row.budget for row in rows} == {5, 8, 10, 15, 20, 50}
    ran = set()
    for row in rows:
        try:
            made = as_row(config, row)
        except UnknownName:
            raise
        except ValueError:
            continue  # it does not accept this SDE
        ran.add(row.series)
        assert build_sampler(made, sde).evaluations <= row.budget
        with made.unlocked():
            made.sampling.num_steps += 1
        assert build_sampler(made, sde).evaluations > row.budget
    assert ran >= {"ddim", "heun", "dpm_solver++"}


@pytest.mark.parametrize("name", ["few_steps", "table1", "figure3", "figure9", "student"])
def test_every_row_of_a_preset_runs(name, tmp_path):
    config = cli.parse(words(tmp_path, "--mode=compare")).config
    for row in PRESETS[name](config):
        made = as_row(config, row)
        assert build_sampler(made, build_sde(made))


def test_table_1_takes_the_steps_of_the_paper(tmp_path):
    config = cli.parse(words(tmp_path, "--mode=compare")).config
    with config.unlocked():
        config.sampling.num_steps = 1000
    sde, cost, alone = build_sde(config), {}, "corrector alone"
    for row in PRESETS["table1"](config):
        sampler = build_sampler(as_row(config, row), sde)
        cost.setdefault(row.series, {})[row.at] = sampler.evaluations
        assert (sampler.corrector.name == "none") == (row.at in ("P1000", "P2000"))
        assert sampler.predictor.deterministic == (row.series in ("probability flow", alone))
    predictors = {"P1000": 1000, "P2000": 2000, "PC1000": 2000}
    assert cost.pop(alone) == {"C2000": 2000}
    assert cost == dict.fromkeys(
        ("ancestral sampling", "reverse diffusion", "probability flow"), predictors
    )


def test_the_students_rows_are_told_apart_by_steps_snr_and_sigma(tmp_path):
    config = cli.parse(words(tmp_path, "--mode=compare")).config
    with config.unlocked():
        config.sampling.num_steps = 100
    rows = {(row.series, row.at): as_row(config, row) for row in PRESETS["student"](config)}
    assert len(rows) == len(PRESETS["student"](config))
    for (series, at), made in rows.items():
        sde = build_sde(made)
        sampler = build_sampler(made, sde)
        name, _, rest = series.partition(", ")
        if name == "ODE":
            assert (sampler.rtol, sampler.atol) == (float(at), float(at))
        else:
            assert sampler.num_steps == int(at)
            assert int(at) in (25, 50, 100)
            kind = "milstein" if name == "Milstein" else "euler_maruyama"
            corrector = "langevin" if name == "PC" else "none"
            assert (sampler.predictor.name, sampler.corrector.name) == (kind, corrector)
        if rest.startswith("snr"):
            assert sampler.corrector.snr == float(rest.split()[1])
        if rest.startswith("σ"):
            assert (sde.name, sde.sigma) == ("powervesde", float(rest.split()[1]))
        else:
            assert sde.name == "vpsde"


def sample_set(x, index):
    x = torch.as_tensor(x, dtype=torch.float32)
    return SampleSet(x, x, None, {}, {}, torch.as_tensor(index), x)


def test_the_distance_to_the_converged_images_is_that_of_the_same_samples():
    x = torch.rand(4, 1, 2, 2)
    off = x[[0, 1, 3]] + torch.tensor([0.1, 0.2, 0.4])[:, None, None, None]
    figure = study.distance_to(sample_set(off, [0, 1, 3]), sample_set(x[:3], [0, 1, 2]))
    assert figure["n"] == 2  # samples 2 and 3 were given up on one side
    assert figure["value"] == pytest.approx(0.15)
    with pytest.raises(LeftOut):
        study.distance_to(sample_set(x[:1], [0]), sample_set(x[1:2], [1]))


def test_warmth_is_red_minus_blue_as_the_image_is_seen():
    x = torch.zeros(2, 3, 2, 2)
    x[0, 0], x[1, 2] = 0.5, 2.0  # a value beyond 1 is shown as 1
    colours = study._colours(study._channels(x).numpy())
    assert colours["mean_red"].tolist() == [0.5, 0]
    assert colours["warmth"].tolist() == [0.5, -1]
    grey = study._colours(study._channels(x[:, :1]).numpy())
    assert grey["brightness"].tolist() == [0.5, 0]


def test_a_sheet_has_the_same_samples_down_the_methods(tmp_path, rendered):
    white, black = torch.ones(3, 1, 8, 8), torch.zeros(3, 1, 8, 8)
    cells = {("a", "5"): white, ("b", "5"): black, ("b", "10"): white, ("all", ""): black}
    sample_sheet(tmp_path / "sheet.png", "three samples", cells)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    dark = 3 * 32 * 32
    # Of b one strip of three, of all two: what lies between them, and labels, is little.
    assert 3 * dark < (pixels < 10).sum() < 3.2 * dark
    with pytest.raises(ValueError, match="no samples"):
        sample_sheet(tmp_path / "none.png", "", {})


def test_a_plot_takes_figures_that_are_zero_or_below(tmp_path, rendered):
    curves = {f"m{k}": Points([5, 10], [0.1 - k, 0.2], [0.1, 0.0]) for k in range(20)}
    panels = [Panel("distance", curves, (0.1, 0.2, "truth"))] * 3
    quality_plot(tmp_path / "plot.png", "many", panels)
    assert Image.open(tmp_path / "plot.png").size[0] > 1000
    with pytest.raises(ValueError, match="nothing to draw"):
        quality_plot(tmp_path / "none.png", "", [])
