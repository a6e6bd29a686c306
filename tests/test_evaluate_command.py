"""`--mode eval`: figures against closed forms, resumed, shared between processes, refused."""

import hashlib
import itertools
import json
import math
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import LITTLE_BPD, ROOT, TINY
from PIL import Image
from problems import Gaussian
from spoilt import SPOILT, spoil
from torch import nn

from configs.vp import digits as digits_recipe
from score_sde import checkpoints, evaluation, noise
from score_sde.commands import cli, in_turn
from score_sde.commands import evaluate as evaluation_run
from score_sde.config import subject
from score_sde.config.build import open_split
from score_sde.data import MemorySource, dequantise, open_source
from score_sde.evaluation import likelihood, quality, report
from score_sde.evaluation.figures import compute
from score_sde.evaluation.shards import Shards
from score_sde.logbook import Logbook
from score_sde.objectives import elbo_weights
from score_sde.parallel import World
from score_sde.samplers import Samples
from score_sde.sde import VPSDE
from score_sde.tensor_ops import expand_to

SMALL = (
    *TINY,
    "--config.model.num_res_blocks=1",
    *LITTLE_BPD,
    "--config.eval.enable_sampling=False",
)


def words(workdir, *more, recipe="configs/vp/digits.py"):
    return ["main.py", "--config", recipe, f"--workdir={workdir}", *SMALL, *map(str, more)]


SAMPLES = (
    "--config.eval.enable_sampling=True",
    "--config.eval.enable_bpd=False",
    "--config.eval.enable_loss=False",
    "--config.eval.num_samples=40",
    "--config.sampling.num_steps=3",
    "--config.sampling.batch_size=5",
)
EVERYTHING = (*SAMPLES[:1], *SAMPLES[3:])


def stats(folder):
    return f"--config.eval.stats_folder={folder}"


@pytest.fixture(autouse=True)
def unrendered(request, monkeypatch):
    """The sheet of a report is composed but not rendered, which takes longer than its figures.

    The fixture `evaluated`, which comes before, and tests that ask for `rendered` render theirs.
    """
    if "rendered" not in request.fixturenames:
        monkeypatch.setattr("score_sde.pictures.plots.save", lambda path, write: None)


@pytest.fixture
def rendered():
    """Renders the sheet of every report."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("eval") / "run"
    assert cli.main(words(workdir, "--mode=train")) == 0
    return workdir


@pytest.fixture(scope="module")
def evaluated(trained):
    """The folder of an evaluation with every figure, and its statistics; not to be changed."""
    folder = trained / "evaluated"
    evaluate(trained, folder, *EVERYTHING, stats(folder / "stats"))
    return folder


@pytest.fixture
def again(trained, evaluated, tmp_path):
    """Evaluates once more, in a copy of that folder."""
    folder = shutil.copytree(evaluated, tmp_path / "again")

    def run(*more):
        return evaluate(trained, folder, *EVERYTHING, stats(folder / "stats"), *more)

    run.folder = folder
    return run


def evaluate(workdir, folder, *more):
    assert cli.main(words(workdir, "--mode=eval", f"--eval_folder={folder}", *more)) == 0
    return read(folder)


def read(folder, name="step_00000004"):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    text = (folder / f"{name}.json").read_text()
    return json.loads(text, parse_constant=refuse)


FIGURES = ("held_out_loss", "bound", "bound_train", "bits_per_dim", "bits_per_dim_train")
OF_SAMPLES = ("fd", "kd", "precision", "recall", "score", "nearest_train")


def without_sec(figure):
    """A figure but for the time that it took."""
    return {key: value for key, value in figure.items() if key != "sec"}


def test_a_bare_evaluation_writes_every_figure_with_its_error(trained, evaluated):
    report = read(evaluated)
    assert report["step"] == 4
    path = checkpoints.path_of(trained / "checkpoints", 4)
    assert report["weights"] == checkpoints.load_with_fingerprint(path)[1]
    assert report["held_out_loss"]["n"] == 300
    assert sum(level["n"] for level in report["held_out_loss"]["by_level"]) == 300
    assert report["bound"]["n"] == 6
    assert (evaluated / "step_00000004.png").is_file()
    for name in FIGURES[3:]:
        figure = report[name]
        assert (figure["n"], figure["given_up"], figure["levels"]) == (6, 0, 17)
        assert figure["se"] > 0
        assert figure["nfe"] >= 8
    assert report["bits_per_dim"]["split"] == "test"
    assert report["bits_per_dim_train"]["split"] == "train"
    assert report["ema"] is True
    assert report["versions"]["torch"] == torch.__version__.partition("+")[0]
    log = (trained / "log.txt").read_text()
    assert all(name in log for name in FIGURES)
    assert "±" in log


def test_the_same_evaluation_is_not_computed_again_and_another_is(
    trained, evaluated, again, capsys
):
    first, folder = read(evaluated), again.folder
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    same = again()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")} == files
    few = ("--config.eval.bpd_images=2", "--config.eval.bpd_batch_size=2")
    fewer = evaluate(trained, folder, *few)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")} == files
    assert "replaces the report of an evaluation with other options" in capsys.readouterr().out
    evaluate(trained, folder, *few, "--raw")
    raw = read(folder, "step_00000004_raw")
    assert read(folder) == fewer
    assert "replaces" not in capsys.readouterr().out
    other_seed = evaluate(trained, folder, *few, "--config.seed=1")
    for name in FIGURES:
        assert same[name] == first[name]  # the time that it took included
        assert raw[name]["value"] != fewer[name]["value"]
        assert other_seed[name]["value"] != fewer[name]["value"]


def test_what_a_kill_left_is_kept_and_the_rest_recomputed(evaluated, again):
    first = read(evaluated)
    shards = sorted(again.folder.rglob("loss_*/*.npz"))
    kept = shards[1].stat().st_mtime_ns
    shards[0].unlink()
    min(again.folder.rglob("samples_*/*.npz")).unlink()
    shards[2].with_name("half.npz.123.tmp").write_bytes(b"half")
    report = again()
    assert shards[1].stat().st_mtime_ns == kept
    for name in (*FIGURES, *OF_SAMPLES):
        assert without_sec(report[name]) == without_sec(first[name])
    other = again("--config.sampling.num_steps=4", "--config.eval.enable_bpd=False")
    assert other["fd"]["value"] != first["fd"]["value"]


def test_an_evaluation_that_is_killed_goes_on_to_the_same_numbers(trained, evaluated, tmp_path):
    folder, whole = tmp_path / "killed", read(evaluated)
    process = subprocess.Popen(
        [sys.executable, *words(trained, "--mode=eval", f"--eval_folder={folder}")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 120
    while not list(folder.rglob("bits_*/000000_2.npz")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read().decode()[-2000:]
        time.sleep(0.01)
    process.kill()
    process.communicate()
    left = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    assert 0 < len(left) < len(list((evaluated / "shards").rglob("*.npz"))) - 8  # of samples
    assert not list(folder.glob("*.json"))
    report = evaluate(trained, folder)
    assert {path: path.stat().st_mtime_ns for path in left} == left
    for name in FIGURES:
        assert without_sec(report[name]) == without_sec(whole[name])


def test_the_batch_size_changes_nothing_but_rounding(trained, tmp_path):
    few = ("--config.eval.rtol=1e-3", "--config.eval.atol=1e-3", "--config.eval.bpd_dataset=test")
    names = (*FIGURES[:2], FIGURES[3])
    reports = [
        evaluate(
            trained,
            tmp_path / str(size),
            f"--config.eval.batch_size={20 * size}",
            f"--config.eval.bpd_batch_size={size}",
            "--config.eval.bpd_images=3",
            *few,
        )
        for size in (1, 2, 64)
    ]
    # Rounding in the network decides on steps, so that the ODE's figures agree to its tolerance.
    for name, allowed in zip(names, (1e-6, 1e-6, 1e-3), strict=True):
        values = [each[name]["value"] for each in reports]
        assert max(values) - min(values) < allowed * abs(values[0]), name


def digits(split):
    return open_source("digits", split, root="", image_size=(8, 8), num_channels=1)


def test_part_of_a_data_set_is_a_sample_of_it_and_the_same_for_ever():
    source = digits("train")
    some, more = likelihood.subset(source, 300), likelihood.subset(source, 400)
    assert torch.equal(more[:300], some)
    assert len(some.unique()) == 300
    assert some.max() > 1400  # of 1,497
    # All of them begin with the same ones, so that neither computes what the other has.
    everything = likelihood.subset(source, 5000)
    assert torch.equal(everything[:400], more)
    assert everything.sort().values.tolist() == list(range(1497))


class Exact(nn.Module):
    """A network whose score is that of data N(0.1, 0.25 I)."""

    def __init__(self):
        super().__init__()
        self.data = Gaussian(VPSDE(), 0.1, 0.25)

    def forward(self, x, c):
        return -expand_to(self.data.sde.std(c / 999), x) * self.data.score(x, c / 999)


def test_bits_per_dim_are_those_of_the_exact_density(trained, tmp_path, monkeypatch):
    net = Exact()
    monkeypatch.setattr(evaluation_run, "network_of", lambda *_, **__: net)
    report = evaluate(
        trained,
        tmp_path,
        "--config.eval.rtol=1e-6",
        "--config.eval.atol=1e-6",
        "--config.eval.bpd_draws=3",
        "--config.eval.bpd_eps=1e-5",
    )
    source = digits("test")
    index = likelihood.subset(source, 6)
    images = source.images(index)
    bits = []
    for draw in range(3):
        u = noise.uniform(42, index, draw, (1, 8, 8), stream=noise.Stream.DEQUANTISE)
        x = 2 * dequantise(images, 17, u) - 1
        logp = net.data.logp(x.double(), torch.zeros(6, dtype=torch.float64))
        bits.append(-logp / (64 * math.log(2)) - math.log2(2 / 17))
    bits = torch.stack(bits)
    figure = report["bits_per_dim"]
    # The prior stands in for p_T and the flow begins at 1e-5: a part in a thousand.
    assert figure["value"] == pytest.approx(bits.mean().item(), rel=1e-3)
    assert figure["se"] == pytest.approx((bits.mean(0).std() / 6**0.5).item(), rel=1e-2)
    expected = (bits.var(0) / 3).sum().sqrt().item() / 6
    assert figure["se_draws"] == pytest.approx(expected, rel=1e-2)


def test_several_checkpoints_make_a_table_with_the_best_marked(trained, again, capsys):
    folder = again.folder
    more = (f"--eval_folder={folder}", "--config.eval.end_ckpt=4", "--config.eval.begin_ckpt=2")
    assert cli.main(words(trained, "--mode=eval", *more)) == 0
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert [each["step"] for each in reports] == [2, 4]
    table = capsys.readouterr().out.splitlines()[-3:]
    columns = table[0].split()[1:]
    assert set(columns) == set(FIGURES)
    for k, name in enumerate(columns):
        values = [each[name]["value"] for each in reports]
        for line, value in zip(table[1:], values, strict=True):
            cell = f"{value:.4f} ± "
            assert cell in line
            after = line.split("±")[k + 1].split()[0]
            assert after.endswith("*") == (value == min(values))


def test_the_best_of_a_table_is_the_lowest_or_the_highest_as_it_should_be():
    def figure(value):
        return {"value": value, "se": 0.1, "n": 9}

    reports = [
        {"step": 1, "fid": figure(3.0), "precision": figure(0.5), "nearest_train": figure(1.0)},
        {"step": 2, "fid": figure(2.0), "precision": figure(0.9), "is": figure(9.0)},
    ]
    title, first, second = report.table(reports).splitlines()
    assert title.split() == ["step", "fid", "precision", "nearest_train", "is"]
    assert first.split() == "1 3.0000 ± 0.1000 0.5000 ± 0.1000 1.0000 ± 0.1000 –".split()
    assert second.split() == "2 2.0000 ± 0.1000* 0.9000 ± 0.1000* – 9.0000 ± 0.1000*".split()
    assert len(title.rstrip()) <= len(first) == len(second)


# ---- Checkpoints that are still to come ----


@pytest.fixture
def coming(trained, tmp_path, monkeypatch):
    """A work directory into which a checkpoint is put at each of the given looks."""
    workdir, folder = tmp_path / "run", tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    steps, now = [], [0.0]

    def sleep(seconds):
        now[0] += seconds
        if steps and steps[0]:
            source = checkpoints.path_of(trained / "checkpoints", steps[0])
            shutil.copy(source, folder / "half")
            (folder / "half").rename(checkpoints.path_of(folder, steps[0]))
        steps[:1] = []

    monkeypatch.setattr(in_turn, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0]))

    def run(*come, more=(), code=0):
        steps[:] = come
        given = (
            "--config.eval.enable_bpd=False",
            "--config.eval.batch_size=300",
            "--wait=1",
            *more,
        )
        assert cli.main(words(workdir, "--mode=eval", *given)) == code
        return [path.name for path in sorted((workdir / "eval").glob("*.json"))], now[0]

    return run


def test_checkpoints_are_waited_for_until_the_runs_last(coming, capsys):
    reports, waited = coming(0, 2, 0, 0, 4)
    assert reports == ["step_00000002.json", "step_00000004.json"]
    assert waited == 5 * in_turn.POLL_SEC  # and no longer: step 4 is the last of the run
    said = capsys.readouterr().out
    assert "waiting for a checkpoint" in said
    assert "1 min at most" in said


def test_nothing_is_waited_for_after_the_last_step_of_a_run(coming):
    reports, waited = coming(4, more=["--config.eval.end_ckpt=9999"])
    assert reports == ["step_00000004.json"]
    assert waited == in_turn.POLL_SEC


def test_a_damaged_checkpoint_is_passed_over_and_told_once(coming, trained, tmp_path, capsys):
    folder = tmp_path / "run" / "checkpoints"
    checkpoints.path_of(folder, 3).write_bytes(b"no checkpoint")
    reports, _ = coming(2, 0, 4)
    assert reports == ["step_00000002.json", "step_00000004.json"]
    assert capsys.readouterr().out.count("passed over") == 1


def test_waiting_has_an_end(coming, capsys):
    reports, waited = coming(2)
    assert reports == ["step_00000002.json"]
    assert waited == in_turn.POLL_SEC + 60
    assert "no checkpoint after step 2 in 1 min" in capsys.readouterr().out


def test_waiting_in_vain_is_one_sentence(coming, capsys):
    assert coming(code=1) == ([], 60)
    errors = capsys.readouterr().err
    assert "holds no checkpoint in 1 min" in errors
    assert errors.count("\n") == 1


def test_waiting_keeps_to_the_steps_asked_for(coming):
    reports, waited = coming(2, 4, more=["--config.eval.begin_ckpt=3", "--config.eval.end_ckpt=4"])
    assert reports == ["step_00000004.json"]
    assert waited == 2 * in_turn.POLL_SEC


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--config.eval.begin_ckpt=7"], "has no checkpoint of a step from eval.begin_ckpt=7"),
        (["--config.eval.bpd_dataset=tests"], "did you mean 'test'?"),
        (["--config.eval.hutchinson_type=gaussian"], "did you mean 'Gaussian'?"),
        (["--config.eval.begin_ckpt=5", "--wait=1e-3"], "eval.end_ckpt=the last in 0 s"),
        (["--wait=-1"], "give a number of minutes from 0 up"),
        (["--wait=1", "--checkpoint=x.pt"], "leave --checkpoint out"),
        (["--config.eval.begin_ckpt=3", "--config.eval.end_ckpt=2"], "lies after"),
        (["--config.model.nf=16"], "contradicts"),
        (["--config.training.objective=score_matching"], "contradicts"),
        (["--config.eval.bpd_eps=2.0"], "config.eval.bpd_eps=2: the flow begins there"),
        (["--config.eval.enable_loss=False", "--config.eval.enable_bpd=False"], "set one of them"),
        (["--config.eval.bpd_images=-1"], "may not be negative"),
        (["--config.eval.begin_ckpt=-1"], "may not be negative"),
    ],
)
def test_a_mistake_is_one_sentence(trained, tmp_path, capsys, more, sentence):
    assert cli.main(words(trained, "--mode=eval", f"--eval_folder={tmp_path}", *more)) == 1
    errors = capsys.readouterr().err
    assert sentence in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_without_checkpoints_is_refused_and_left_alone(tmp_path, capsys):
    for workdir in (tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty" / "checkpoints").mkdir(parents=True, exist_ok=True)
        assert cli.main(words(workdir, "--mode=eval")) == 1
        assert "holds no checkpoint: train first" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["empty", "checkpoints"]


def test_mistakes_are_told_before_a_checkpoint_is_waited_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(in_turn, "time", None)
    for mistake, sentence in (
        ("bpd_dataset=tests", "did you mean 'test'?"),
        ("inception_path=nowhere.pth", "no Inception weights at nowhere.pth"),
        ("reference=nowhere.npz", "no reference statistics at nowhere.npz"),
    ):
        wrong = ("--wait=600", f"--config.eval.{mistake}", "--config.eval.enable_sampling=True")
        assert cli.main(words(tmp_path / "run", "--mode=eval", *wrong)) == 1
        assert sentence in capsys.readouterr().err


def folder_of(path, source, numbers):
    path.mkdir()
    for k, image in zip(numbers, source.images(torch.tensor(numbers)), strict=True):
        Image.fromarray((image[0] * 15).numpy()).save(path / f"{k:04d}.png")
    return path


def test_images_are_those_that_the_checkpoint_was_trained_with(tmp_path, capsys):
    # A share of a folder is held out by the names of its files; the command need not repeat it.
    here = folder_of(tmp_path / "here", digits("train"), range(40))
    folder = ("--config.data.dataset=folder", "--config.data.random_flip=False")
    given = (*folder, f"--config.data.root={here}", "--config.data.test_fraction=0.3")
    workdir = tmp_path / "run"
    assert cli.main(words(workdir, "--mode=train", *given)) == 0
    config = cli.parse(words(workdir, *given, "--mode=eval")).config
    trained_on = len(open_split(config, "train"))
    few = "--config.eval.bpd_images=1"
    report = evaluate(workdir, tmp_path / "eval", few)
    assert report["held_out_loss"]["n"] == 40 - trained_on
    assert report["trained_on_these_images"] is True
    other = ("--config.data.test_fraction=0.5", f"--eval_folder={tmp_path / 'other'}")
    assert cli.main(words(workdir, "--mode=eval", *folder, *other)) == 1
    assert "test_fraction=0.5 contradicts" in capsys.readouterr().err
    # A folder may have moved, which is said on the command line; but it should be the same one.
    moved = here.rename(tmp_path / "moved")
    root = f"--config.data.root={moved}"
    assert evaluate(workdir, tmp_path / "eval", few, root)["trained_on_these_images"] is True
    folder_of(tmp_path / "new", digits("train"), range(50))
    root = f"--config.data.root={tmp_path / 'new'}"
    assert evaluate(workdir, tmp_path / "eval", few, root)["trained_on_these_images"] is False
    assert "not those that the checkpoint was trained on" in capsys.readouterr().out


def test_discrete_chains_say_why_they_have_no_bits_per_dim(tmp_path):
    workdir, folder = tmp_path / "run", tmp_path / "eval"
    chain = ("--config.training.continuous=False", "--config.training.time_sampling=uniform")
    chain += ("--config.model.num_scales=20", "--config.model.beta_max=10.0")
    chain += ("--config.sampling.num_steps=5",)
    assert cli.main(words(workdir, "--mode=train", *chain)) == 0
    # The checkpoint says all but the steps to sample with.
    report = evaluate(workdir, folder, *chain[-1:], "--config.eval.bpd_images=4")
    assert "discrete chain" in report["left_out"]["bits_per_dim"]
    assert report["bound"]["model"] == "DDPM's chain"
    assert report["bound"]["n"] == 4
    assert report["held_out_loss"]["n"] == 300


# ---- Samples ----


@pytest.fixture
def sampled(trained, tmp_path):
    def run(*more, code=0, folder="eval"):
        given = (*SAMPLES, stats(tmp_path / "stats"), f"--eval_folder={tmp_path / folder}", *more)
        assert cli.main(words(trained, "--mode=eval", *given)) == code
        return read(tmp_path / folder) if code == 0 else None

    return run


def test_samples_are_measured_by_the_network_for_digits(evaluated):
    report = read(evaluated)
    assert report["fd"]["name"] == "FD-digits"
    assert report["fd"]["n"] == 40
    assert report["fd"]["against"] == 300
    assert report["fd"]["nfe"] == 3
    assert report["fd"]["split"] == "test"
    assert report["fd"]["value"] > 10  # untrained
    assert report["fd"]["se"] > 0
    assert {"kd", "precision", "recall", "score"} <= report.keys()
    near = report["nearest_train"]
    assert near["value"] > near["of_test"]["value"] > 0  # noise is far from any digit
    assert "fid" not in report
    # The images are those of `--mode sample`, and their distance is that of the files.
    shards = [np.load(path) for path in sorted(evaluated.rglob("samples_*/*.npz"))]
    assert [len(shard["index"]) for shard in shards] == [5] * 8
    images = torch.from_numpy(np.concatenate([shard["images"] for shard in shards]))
    network = evaluation.digits_classifier()
    (reference,) = (evaluated / "stats").glob("*test*.npz")
    own = evaluation.Reference.load(reference)
    moments = evaluation.collect(network, [images]).moments
    distance = evaluation.frechet_distance(own.mu, own.sigma, moments.mu, moments.sigma)
    assert report["fd"]["value"] == pytest.approx(distance, rel=1e-6)  # float32 features


@pytest.fixture
def drawn(monkeypatch):
    """Puts a function of sample indices in the place of drawing."""

    def draws(images):
        monkeypatch.setattr(
            subject,
            "draw",
            lambda config, network, sde, index, device: iter(
                [Samples(index, images(index), torch.zeros_like(index))]
            ),
        )

    return draws


def stored(split):
    """Images of a split by index, as the network sees them."""
    source = digits(split)
    return lambda index: source.images(index).float() / 8 - 1


def test_test_images_are_near_themselves(sampled, drawn):
    drawn(stored("test"))
    report = sampled("--config.eval.num_samples=300")
    assert abs(report["fd"]["value"]) < 1e-6
    assert report["precision"]["value"] == report["recall"]["value"] == 1
    near = report["nearest_train"]
    assert near["value"] == pytest.approx(near["of_test"]["value"])


def test_a_memory_of_the_training_set_is_seen(sampled, drawn):
    drawn(stored("train"))
    near = sampled()["nearest_train"]
    assert near["value"] < 1e-3 * near["of_test"]["value"]


def test_a_wrong_reference_is_refused_before_data_are_read(sampled, tmp_path, capsys, monkeypatch):
    sampled("--config.eval.reference_split=train")
    (train,) = (tmp_path / "stats").glob("*train*.npz")
    sampled(f"--config.eval.reference={train}", code=1, folder="wrong")
    error = capsys.readouterr().err
    assert "the split of the reference is train and of the samples test" in error

    def unread(*_):
        raise AssertionError("data were read before what is wrong was told")

    monkeypatch.setattr(evaluation_run, "open_split", unread)
    sampled(f"--config.eval.reference={train}", code=1, folder="wrong")
    assert "the split of the reference is train" in capsys.readouterr().err
    sampled("--config.eval.features=classifier", "--config.eval.reference=x.npz", code=1)
    assert "no reference statistics at x.npz" in capsys.readouterr().err
    sampled("--config.eval.reference=nowhere.npz", code=1, folder="wrong")
    assert "no reference statistics at nowhere.npz" in capsys.readouterr().err
    sampled("--config.eval.features=inception", code=1, folder="wrong")
    error = capsys.readouterr().err
    assert "weights-inception-2015-12-05-6726825d.pth" in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "wrong").rglob("*.npz"))


def test_a_reference_that_fits_is_taken(evaluated, again):
    first = read(evaluated)
    (test,) = (again.folder / "stats").glob("*test*.npz")
    given = again(f"--config.eval.reference={test}", "--config.eval.enable_bpd=False")
    for name in OF_SAMPLES:
        assert without_sec(given[name]) == without_sec(first[name])


def test_stats_train_a_network_where_there_is_none(tmp_path, capsys):
    given = ("--mode=stats", stats(tmp_path), "--config.device=cpu")
    recipe = ["main.py", "--config=configs/ve/colour_digits.py"]
    assert cli.main([*recipe, *given]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("classifier-colour_digits: trained on 1,497 images")
    share = float(said[0].split("it classifies ")[1].split("%")[0])
    assert share > 95
    assert [line.split(":")[0] for line in said[1:]] == ["train", "test"]
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 3
    assert cli.main([*recipe, *given]) == 0  # what is there is used
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


def test_without_a_feature_network_the_rest_is_computed(trained, tmp_path):
    workdir, recipe = tmp_path / "run", "configs/ve/colour_digits.py"
    more = (*SAMPLES, stats(tmp_path / "none"), "--config.eval.enable_loss=True")
    assert cli.main(words(workdir, "--mode=train", recipe=recipe)) == 0
    assert cli.main(words(workdir, "--mode=eval", *more, recipe=recipe)) == 0
    report = json.loads((workdir / "eval" / "step_00000004.json").read_text())
    assert "train one with --mode stats" in report["left_out"]["samples"]
    assert report["held_out_loss"]["n"] == 300


@pytest.mark.parametrize(
    ("count", "missing"), [(1, "samples"), (3, "precision"), (4, "score"), (10, "")]
)
def test_few_samples_leave_out_what_they_cannot_tell(sampled, count, missing):
    report = sampled(f"--config.eval.num_samples={count}")
    assert any(missing in name for name in report["left_out"]) == bool(missing)
    assert ("fd" in report, "score" in report) == (count > 1, count >= 10)
    assert ("kd" in report, "precision" in report) == (count > 3, count > 3)


def test_samples_that_are_no_numbers_are_not_counted(sampled, drawn):
    whole = stored("test")

    def half(index):
        x = whole(index)
        x[index % 2 == 1, :, 3] = math.nan
        return x

    drawn(half)
    report = sampled("--config.eval.num_samples=300")
    assert (report["fd"]["n"], report["fd"]["given_up"]) == (150, 150)
    assert report["precision"]["value"] == 1
    assert report["nearest_train"]["n"] == 150

    drawn(lambda index: torch.full((len(index), 1, 8, 8), math.nan))
    report = sampled("--config.eval.num_samples=20", "--config.seed=1")
    assert report["left_out"]["samples"] == "only 0 of 20 are finite images: check the weights"


def test_a_network_that_gives_no_numbers_leaves_the_rest_of_a_report(
    trained, tmp_path, monkeypatch, capsys, rendered
):
    class Broken(nn.Module):
        def forward(self, x, c):
            return x * math.nan

    monkeypatch.setattr(evaluation_run, "network_of", lambda *_, **__: Broken())
    report = evaluate(trained, tmp_path)
    assert report["held_out_loss"]["value"] is None
    assert "no image" in report["left_out"]["bits_per_dim"]
    assert "not finite" in capsys.readouterr().out


def test_a_published_file_is_evaluated_and_its_recipe_counts(trained, evaluated, tmp_path):
    published, folder = tmp_path / "checkpoint_4.pth", tmp_path / "eval"
    ours = checkpoints.path_of(trained / "checkpoints", 4)
    convert = ["main.py", "--mode=convert", f"--checkpoint={ours}", f"--output={published}"]
    assert cli.main(convert) == 0
    first, names = read(evaluated), (*FIGURES[:2], FIGURES[3])
    more = (f"--checkpoint={published}", "--config.eval.bpd_dataset=test")
    given = evaluate(trained, folder, *more)
    for name in names:
        assert given[name]["value"] == pytest.approx(first[name]["value"], rel=1e-6)
    # The file says nothing of the SDE: with another one no result of the first may be taken.
    other = evaluate(trained, folder, *more, "--config.model.beta_max=10.0")
    for name in names:
        assert other[name]["value"] != given[name]["value"]


def test_the_whole_way_with_weights_of_inception(random_inception, sampled, monkeypatch):
    digest = hashlib.sha256(random_inception.read_bytes()).hexdigest()
    monkeypatch.setattr(
        "score_sde.evaluation.features._INCEPTION_DIGEST", digest[:8]
    )  # as if genuine

    def few(config, split):
        source, index = digits(split), torch.arange(5)
        info = replace(source.info, num_images=5)
        return MemorySource(info, source.images(index), source.labels(index))

    monkeypatch.setattr(evaluation_run, "open_split", few)
    assert quality.RESAMPLES // 4 == 5
    monkeypatch.setattr(quality, "RESAMPLES", 8)
    given = f"--config.eval.inception_path={random_inception}"
    report = sampled(given, "--config.eval.num_samples=20")
    names = {"fid": "FID", "kid": "KID", "is": "IS", "nearest_train": "nearest-inception"}
    for name, said in names.items():
        assert report[name]["name"].startswith(said)
        assert math.isfinite(report[name]["value"])  # random weights hardly tell images apart
        assert report[name]["se"] >= 0
    assert report["fid"]["network_fingerprint"] == digest[:16]
    assert (report["fid"]["against"], report["fid"]["resamples"]) == (5, 2)
    assert {"precision", "recall"} <= report.keys()
    assert not {"fd", "kd", "score"} & report.keys()


def shards(tmp_path, **facts):
    log = Logbook(tmp_path / "log", tensorboard=False, quiet=True)
    return Shards(tmp_path / "shards", facts, World(), log)


def test_results_of_earlier_versions_count(tmp_path):
    """Folders as the first version with this format named them; FORMAT says when to change it."""
    config = cli.parse(
        [
            *("main.py", "--config=configs/vp/digits.py", "--mode=eval", "--config.model.nf=8"),
            *("--config.device=cpu", "--config.eval.num_samples=100"),
            *("--config.eval.bpd_images=50", "--config.eval.rtol=1e-2", "--config.eval.atol=1e-2"),
            *("--config.sampling.num_steps=5", stats(tmp_path / "stats")),
        ]
    ).config

    class Zero(nn.Module):
        def forward(self, x, c):
            return 0 * x

    compute(
        subject.build_subject(
            config,
            Zero(),
            {split: digits(split) for split in ("train", "test")},
            subject.build_references(config),
            shards(tmp_path, weights="df1db27cc1c81af4", ema=True),
        )
    )
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [
        "bits_8a021bfe51610183",
        "bits_e3c2bffe52a8da5c",
        "bound_41ad15dc04d1d27d",
        "bound_ff7f2ff208bce526",
        "loss_124ed983b4f7920d",
        "samples_7ddf803bf561907d",
    ]


@pytest.mark.parametrize("reduce_mean", [False, True])
@pytest.mark.parametrize("objective", ["elbo", "simple"])
def test_the_held_out_loss_of_a_bound_is_in_nats_per_dimension(objective, reduce_mean, tmp_path):
    config = digits_recipe.get_config()
    with config.unlocked():
        config.training.update(
            objective=objective, continuous=False, time_sampling="uniform", reduce_mean=reduce_mean
        )
        config.model.num_scales = 50
        config.device = "cpu"
    built = subject.build_subject(
        config,
        lambda x, c: 0 * x,
        {"test": digits("test")},
        subject.build_references(config),
        shards(tmp_path),
    )
    figure = likelihood.held_out_loss(built)
    # The noise itself is the error: each dimension has mean square 1, at every step.
    weights = elbo_weights(built.sde) if objective == "elbo" else torch.ones(1)
    assert figure["value"] == pytest.approx(weights.sum().item(), abs=4 * figure["se"])
    assert figure["se"] < 0.02 * figure["value"]


def test_a_spoilt_evaluation_comes_to_the_same_report(evaluated, again):
    first, kinds = read(evaluated), itertools.cycle(SPOILT)
    for path in sorted(again.folder.rglob("*.npz")):
        spoil(path, next(kinds))
    (again.folder / "step_00000004.json").write_text("[1, NaN]")
    report = again()
    for name in (*FIGURES, *OF_SAMPLES):
        assert without_sec(report[name]) == without_sec(first[name])
