"""`--mode plot`: what is drawn and written is what was logged and evaluated."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from score_sde.commands import cli
from score_sde.commands.plot import COLUMNS, distinguishing, plot
from score_sde.logbook import Logbook
from score_sde.pictures.curves import Line, side_by_side, smoothing


def run_with(folder: Path, losses, figures=(), eval_folder="eval", raw="") -> Path:
    """A work directory with losses from step 1 on, and a report for each (step, figures)."""
    with Logbook(folder, tensorboard=False, quiet=True) as log:
        for step, loss in enumerate(losses, 1):
            log.scalars(step, {"loss": loss, "loss_by_level/0": 2 * loss})
    (folder / eval_folder).mkdir(exist_ok=True)
    for step, report in figures:
        path = folder / eval_folder / f"step_{step:08d}{raw}.json"
        path.write_text(json.dumps({"step": step, **report}))
    return folder


def fd(value, se, n=100):
    figure = {"name": "FD-digits", "against": "digest", "split": "test"}
    return {"fd": {"value": value, "se": se, "n": n, **figure}, "seed": 3}


def table(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def read(*words) -> int:
    return cli.main(["main.py", "--mode=plot", *map(str, words)])


def test_the_numbers_are_those_logged_and_reported(tmp_path, capsys):
    losses = [1 / 3, math.nan, 1e-9]
    one = run_with(tmp_path / "vp" / "digits", losses, [(3, fd(2.5, 0.1)), (2, fd(7.25, None))])
    other = run_with(tmp_path / "ve" / "digits", [0.5])
    output = tmp_path / "out" / "plot.png"
    assert read(f"--runs={one},{other}", "--curves=loss,fd", f"--output={output}") == 0
    said = capsys.readouterr().out
    assert f"drawn in {output}" in said
    assert f"{other} has no eval/fd" in said
    rows = table(output.with_suffix(".csv"))
    assert tuple(rows[0]) == COLUMNS
    cells = [(row["curve"], row["run"], row["step"], row["value"], row["se"]) for row in rows]
    assert cells == [
        ("loss", str(one), "1", repr(1 / 3), ""),
        ("loss", str(one), "2", "", ""),
        ("loss", str(one), "3", "1e-09", ""),
        ("loss", str(other), "1", "0.5", ""),
        ("eval/fd", str(one), "2", "7.25", ""),
        ("eval/fd", str(one), "3", "2.5", "0.1"),
    ]
    assert {row["of"] for row in rows} == {"", "FD-digits, 100 against test images"}
    with Image.open(output) as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in ((31, 119, 180), (255, 127, 14)):  # both runs are there
        assert (colours == colour).all(axis=1).sum() > 10


def test_a_run_of_an_earlier_version_is_drawn_from_the_command_line_alone(tmp_path):
    earlier, output = ROOT / "tests" / "earlier_run", tmp_path / "plot.svg"
    words = ("--curves=loss_by_level,bits_per_dim,eval/held_out_loss", f"--output={output}")
    assert read(f"--workdir={earlier}", *words) == 0
    text, rows = output.read_text(), table(tmp_path / "plot.csv")
    assert text.rstrip().endswith("</svg>")
    logged = [json.loads(line) for line in (earlier / "metrics.jsonl").read_text().splitlines()]
    for k in range(5):
        name = f"loss_by_level/{k}"
        expected = [(str(entry["step"]), repr(entry[name])) for entry in logged if name in entry]
        found = [(row["step"], row["value"]) for row in rows if row["curve"] == name]
        assert found == expected != []
    report = json.loads((earlier / "eval" / "step_00000004.json").read_text())
    for name in ("bits_per_dim", "held_out_loss"):
        (row,) = [row for row in rows if row["curve"] == f"eval/{name}"]
        figure = report[name]
        assert (float(row["value"]), float(row["se"])) == (figure["value"], figure["se"])


def test_what_was_measured_in_other_ways_is_a_line_of_its_own(tmp_path):
    run = run_with(tmp_path / "run", [1.0], [(1, fd(9.0, 1.0, n=50)), (2, fd(4.0, 0.5))])
    run_with(run, [], [(2, fd(3.0, 0.5))], eval_folder="eval_ode")
    run_with(run, [], [(2, fd(5.0, 0.5))], raw="_raw")
    plot([run], ["fd"], tmp_path / "a.png")
    lines = {(row["of"], row["from"]): row["value"] for row in table(tmp_path / "a.csv")}
    hundred = "FD-digits, 100 against test images"
    assert lines == {
        ("FD-digits, 50 against test images", "eval"): "9.0",
        (hundred, "eval"): "4.0",
        (hundred, "eval of the raw weights"): "5.0",
        (hundred, "eval_ode"): "3.0",
    }


def test_losses_of_other_objectives_are_told_apart(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "score_sde.commands.plot.side_by_side", lambda path, panels, *more: drawn.append(panels)
    )
    runs = {}
    for name, sde, mean in (("a", "vpsde", False), ("b", "vesde", False), ("c", "vpsde", True)):
        runs[name] = run_with(tmp_path / name, [1.0, 0.5])
        training = {"sde": sde, "continuous": True, "reduce_mean": mean}
        config = {"training": training, "model": {"prediction": "auto"}}
        (runs[name] / "config.json").write_text(json.dumps({"config": config}))
    said = plot([runs["a"], runs["b"], runs["c"]], ["loss"], tmp_path / "a.png")
    assert "loss is not the same quantity in all runs" in said
    notes = [line.more for line in drawn[-1]["loss"]]
    assert notes == ["vpsde", "vesde", "vpsde mean over dimensions"]
    alike = plot([runs["a"]], ["loss"], tmp_path / "a.png")
    assert "quantity" not in alike
    assert [line.more for line in drawn[-1]["loss"]] == [""]


def test_reports_of_a_cascade_stand_beside_those_from_test_images(tmp_path):
    run = run_with(
        tmp_path / "run", [1.0], [(2, {**fd(3.0, 0.5), "low_resolution": "test_images"})]
    )
    beside = {**fd(5.0, 0.5), "low_resolution": "base_0123abcd"}
    run_with(run, [], [(2, beside)], raw="_base_0123abcd")
    plot([run], ["fd"], tmp_path / "a.png")
    values = {row["from"]: row["value"] for row in table(tmp_path / "a.csv")}
    assert values == {"eval from test images": "3.0", "eval from base 0123abcd": "5.0"}


def test_a_name_is_a_metric_before_it_is_a_figure(tmp_path):
    figure = {"loss": {"value": 5.0, "se": 1.0, "n": 2}, "fd": {"value": 1.0, "se": 0.1, "n": 2}}
    run = run_with(tmp_path / "run", [1.0], [(1, figure)])
    plot([run], ["loss", "fd", "eval/loss"], tmp_path / "a.png")
    rows = [(row["curve"], row["value"]) for row in table(tmp_path / "a.csv")]
    assert rows == [("loss", "1.0"), ("eval/fd", "1.0"), ("eval/loss", "5.0")]
    plot([run], [], tmp_path / "a.png")  # by default
    assert {row["curve"] for row in table(tmp_path / "a.csv")} == {"loss", "eval/fd"}


def test_runs_are_called_by_the_shortest_ends_that_differ():
    def called(*paths):
        return distinguishing([Path(path) for path in paths])

    assert called("runs/vp/digits", "runs/ve/digits") == ["vp/digits", "ve/digits"]
    assert called("runs/vp/digits", "runs/ve/cifar10") == ["digits", "cifar10"]
    assert called("runs/a", "runs/a/a") == ["runs/a", "a/a"]
    assert called("runs/vp/digits") == ["digits"]


def test_a_noisy_line_is_smoothed_and_a_smooth_one_is_not():
    smooth = [1 / (1 + k) for k in range(400)]
    noisy = [value * (1 + 0.3 * (-1) ** k) for k, value in enumerate(smooth)]
    assert smoothing(smooth) == 1
    assert smoothing(noisy) == 20
    assert smoothing(noisy[:39]) == 1


def test_the_legend_says_what_is_drawn_and_axes_suit_the_values(tmp_path, monkeypatch):
    panels = []
    monkeypatch.setattr(
        "score_sde.pictures.curves.save", lambda path, write: panels.append(write.__closure__)
    )
    steps = list(range(100))
    noisy = [10 ** (-k / 50) * (1 + 0.1 * (-1) ** k) for k in steps]
    side_by_side(
        tmp_path / "a.png",
        {
            "loss": [Line("a", steps, noisy), Line("b", [1, 2], [math.nan, math.inf])],
            "fd": [Line("a", [1, 2], [1.5, 2.0], [0.1, 0.2], "eval_ode")],
        },
    )
    (figure,) = [cell.cell_contents for cell in panels[0] if hasattr(cell.cell_contents, "axes")]
    legends = [[t.get_text() for t in axes.get_legend().get_texts()] for axes in figure.axes]
    assert legends == [
        ["a, running mean of 5 points", "b, nothing finite"],
        ["a, eval_ode, ± standard error"],
    ]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    raw, mean = figure.axes[0].lines[:2]
    assert raw.get_ydata().tolist() == noisy
    assert mean.get_ydata()[-1] == pytest.approx(sum(noisy[-5:]) / 5)
    (bars,) = figure.axes[1].containers
    (segments,) = bars.lines[2]
    assert [segment[:, 1].tolist() for segment in segments.get_segments()] == [
        pytest.approx([1.4, 1.6]),
        pytest.approx([1.8, 2.2]),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--runs={}/none"],
            "none: it holds no run (no metrics.jsonl, no eval/step_*.json);",
        ),
        (["--runs={}/run", "--curves=los"], "one of loss, loss_by_level/0, eval/fd; did you mean"),
        (["--runs={}/run", "--output={}/a.jpg"], "a.jpg: name a file that ends in .png or .pdf"),
        (["--runs={}/poor"], "--curves: name some of those that there are, grad_norm"),
        (["--runs={}/nan", "--output={}/b.png"], "there are no finite values to draw"),
        (["--runs={}/torn", "--output={}/b.png"], "cannot be read as JSON"),
        (["--runs="], "it is empty"),
        (["--runs=,"], "it names nothing; give work directories, as runs/vp/digits"),
        ([], "--runs runs: it holds no run"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(
    tmp_path, capsys, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    run_with(tmp_path / "run", [1.0], [(1, fd(9.0, 1.0))])
    run_with(tmp_path / "nan", [math.nan])
    run_with(tmp_path / "torn", [1.0])
    (tmp_path / "torn" / "eval" / "step_00000001.json").write_text('{"fd": ')
    with Logbook(tmp_path / "poor", tensorboard=False, quiet=True) as log:
        log.scalars(1, {"grad_norm": 1.0})
    assert read(*(word.format(tmp_path) for word in words)) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("*.png"))


def test_only_what_this_mode_wrote_is_replaced(tmp_path, capsys):
    run_with(tmp_path / "run", [1.0, 2.0])
    given = ["main.py", "--mode=plot", f"--runs={tmp_path / 'run'}"]
    (tmp_path / "data.csv").write_text("a,b\n")
    assert cli.main([*given, f"--output={tmp_path / 'data.png'}"]) == 1
    assert "data.csv exists and is no plot of this mode" in capsys.readouterr().err
    assert (tmp_path / "data.csv").read_text() == "a,b\n"
    assert not (tmp_path / "data.png").exists()
    for _ in range(2):
        assert cli.main([*given, f"--output={tmp_path / 'mine.png'}"]) == 0
