"""Resuming on purpose: what a run may change on its way (--allow), and that advice holds."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY
from PIL import Image

from score_sde import checkpoints
from score_sde.commands import advice, cli
from score_sde.commands import train as training_run
from score_sde.config import changes, history
from score_sde.config.build import (
    build_objective,
    build_scaler,
    build_sde,
    build_sources,
    build_state,
    build_train_step,
)
from score_sde.config.schema import FIELDS
from score_sde.data import StreamingSource, open_source, train_batches

OTHER = ("--config.optim.lr=1e-4", "--config.training.batch_size=12")
PATH = Path("run/checkpoints/step_00000007.pt")
REQUESTED = [name for name, field in FIELDS.items() if field.resume == "on_request"]
OF_IMAGES = [name for name, field in FIELDS.items() if field.resume == "images"]
NEVER = [name for name, field in FIELDS.items() if field.resume == "never"]


def command(workdir: Path, steps: int, *words: object) -> list[str]:
    given = ("--mode=train", f"--workdir={workdir}", f"--config.training.n_iters={steps}")
    given += ("--config.training.snapshot_freq=500",)  # checkpoints are at the end alone
    return ["main.py", "--config=configs/vp/digits.py", *TINY, *given, *map(str, words)]


def config_of(*words: object):
    return cli.parse(command(Path("run"), 4, *words)).config


def other_value(value: object) -> object:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, 1)
    return f"{value}x" if isinstance(value, str) else type(value)(value * 2 + 1)  # type: ignore


def saved_as(config, **more: object) -> dict:
    """What is asked of a checkpoint of step 7 with this config."""
    return {"step": 7, "config": history.to_json(config), "versions": "", "data": {}, **more}


def with_field(config, name: str, value: object):
    changed = config.copy_and_resolve_references()
    group, _, leaf = name.rpartition(".")
    with changed.unlocked():
        (changed[group] if group else changed)[leaf] = value
    return changed


# ---- Which fields ----


@pytest.mark.parametrize("name", [*REQUESTED, *OF_IMAGES])
def test_a_field_changes_by_the_word_of_its_row_and_by_no_other(name):
    config = config_of()
    before = history.leaves(config)[name]
    changed = with_field(config, name, other_value(before))
    word = changes.IMAGES if name in OF_IMAGES else name
    assert changes.of_fields(saved_as(config), PATH, changed, [word]) == [
        changes.Change(7, name, before, other_value(before))
    ]
    others = {*REQUESTED, changes.IMAGES} - {word}
    with pytest.raises(ValueError, match=f"--allow {re.escape(word)} to go on") as error:
        changes.of_fields(saved_as(config), PATH, changed, others)
    assert f"give --config.{name}={before} to resume it as it is" in str(error.value)


def test_network_sde_and_shape_never_change_whatever_is_allowed():
    config = config_of()
    everything = [*REQUESTED, changes.IMAGES]
    fields = history.leaves(config)
    for name in (name for name in NEVER if name in fields):
        changed = with_field(config, name, other_value(fields[name]))
        with pytest.raises(ValueError, match=f"no run changes {re.escape(name)} on its way"):
            changes.of_fields(saved_as(config), PATH, changed, everything)
        with pytest.raises(ValueError, match="no run changes it on its way"):
            changes.check_allowed([name], config)
    assert {"model.nf", "training.sde", "data.image_size", "training.continuous"} <= {*NEVER}


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("model.dropout", 0.3, True),
        ("model.beta_max", 10.0, True),
        ("model.nf", 16, False),
        ("training.sde", "vesde", False),
        ("data.image_size", 16, True),
        ("data.num_channels", 3, False),
    ],
)
def test_weights_are_offered_as_a_beginning_where_they_fit(name, value, fits):
    config = config_of()
    with pytest.raises(ValueError, match="another --workdir") as error:
        changes.of_fields(saved_as(config), PATH, with_field(config, name, value))
    assert (f"--init_from {PATH}" in str(error.value)) == fits


def test_of_several_fields_every_word_is_named():
    config = config_of()
    changed = config_of(*OTHER, "--config.optim.grad_clip=-1.0", "--config.optim.beta1=0.5")
    with pytest.raises(ValueError, match="and 1 more") as error:
        changes.of_fields(saved_as(config), PATH, changed)
    words = "--allow optim.beta1,optim.grad_clip,optim.lr,training.batch_size to go on"
    assert words in str(error.value)
    assert len(changes.of_fields(saved_as(config), PATH, changed, REQUESTED)) == 4


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["optim.lrr"], "--allow='optim.lrr': it must be one of"),
        (["batch_size"], "did you mean 'training.batch_size'?"),
        (["optim.lr", "images"], "--allow='images': it must be one of"),
        (["model.nf"], "--init_from CHECKPOINT"),
        (["data.dataset"], "give --allow data"),
    ],
)
def test_a_word_that_allows_nothing_is_refused(names, said):
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        changes.check_allowed(names, config_of())
    assert "\n" not in str(error.value)


def test_words_come_between_commas_or_in_several_options():
    words = ["--allow=optim.lr, data", "--allow", "training.batch_size"]
    given = cli.parse(command(Path("run"), 4, *words)).options["allow"]
    assert given == [["optim.lr", "data"], ["training.batch_size"]]
    for empty in ("--allow=", "--allow=,"):
        with pytest.raises(ValueError, match="allow"):
            cli.parse(command(Path("run"), 4, empty))
    with pytest.raises(ValueError, match="--allow has no use in --mode sample"):
        cli.parse([*command(Path("run"), 4, "--allow=optim.lr"), "--mode=sample"])


def test_the_place_in_the_data_of_earlier_runs_follows_from_their_steps():
    saved = saved_as(config_of(), data={"step": 7, "fingerprint": "ab"})
    assert changes.images_seen(saved) == 7 * 8
    assert changes.images_seen({**saved, "data": {"images_seen": 60}}) == 60


# ---- A run ----


@pytest.fixture(scope="module")
def began(tmp_path_factory) -> Path:
    """A run of four steps."""
    workdir = tmp_path_factory.mktemp("run") / "work"
    assert cli.main(command(workdir, 4)) == 0
    return workdir


@pytest.fixture
def workdir(began, tmp_path) -> Path:
    return Path(shutil.copytree(began, tmp_path / "work"))


def final(workdir: Path, step: int) -> dict:
    return checkpoints.load(checkpoints.path_of(workdir / "checkpoints", step))


def assert_same_weights(one: dict, other: dict) -> None:
    for entry in (lambda s: s["network"], lambda s: s["ema"]["shadow"]):
        assert all(torch.equal(value, entry(other)[name]) for name, value in entry(one).items())


def by_hand(*stages: tuple[object, int]) -> dict:
    """Steps under one config after another, the images in one order."""
    first = stages[0][0]
    torch.manual_seed(first.seed)
    state, sde, source = build_state(first), build_sde(first), build_sources(first)[0]
    place = 0
    for config, steps in stages:
        size, scale = config.training.batch_size, build_scaler(config)
        update = build_train_step(config, build_objective(config, sde))
        batches = train_batches(
            source,
            batch_size=size,
            seed=config.seed,
            start=place,
            random_flip=config.data.random_flip,
            dequantise=config.data.uniform_dequantization,
        )
        for _ in range(steps):
            image = next(batches)["image"]
            update(state, scale(image).contiguous(memory_format=torch.channels_last))
        place += size * steps
    return state.state_dict()


def test_a_changed_run_equals_two_stages_by_hand_and_goes_on_without_being_asked(workdir, capsys):
    allowed = ("--allow", "optim.lr,training.batch_size,training.n_iters,optim.eps")
    assert cli.main(command(workdir, 7, *OTHER, *allowed)) == 0
    assert_same_weights(final(workdir, 7), by_hand((config_of(), 4), (config_of(*OTHER), 3)))
    assert final(workdir, 7)["data"]["images_seen"] == 4 * 8 + 3 * 12
    written = json.loads((workdir / "config.json").read_text())
    assert written["changes"] == [
        {"step": 4, "field": "optim.lr", "before": 2e-3, "after": 1e-4},
        {"step": 4, "field": "training.batch_size", "before": 8, "after": 12},
    ]
    assert written["config"]["optim"]["lr"] == 1e-4
    log = (workdir / "log.txt").read_text()
    assert "changed from step 4 on: optim.lr, from 0.002 to 0.0001" in log
    assert "--allow training.n_iters: it may change without" in log
    assert "--allow optim.eps: nothing changes by it" in log
    # Later runs: the new values are the run's own, the recipe's old ones would be a change again.
    assert cli.main(command(workdir, 8, *OTHER)) == 0
    assert json.loads((workdir / "config.json").read_text())["changes"] == written["changes"]
    capsys.readouterr()
    assert cli.main(command(workdir, 9)) == 1
    said = capsys.readouterr().err
    assert "optim.lr is 0.0001 there (since step 4) and 0.002 here" in said
    assert "give --config.optim.lr=0.0001 --config.training.batch_size=12" in said
    assert "--allow optim.lr,training.batch_size to go on with what is here" in said
    assert not checkpoints.path_of(workdir / "checkpoints", 9).exists()
    assert cli.main(command(workdir, 9, *allowed)) == 0
    steps = [row["step"] for row in json.loads((workdir / "config.json").read_text())["changes"]]
    assert steps == [4, 4, 8, 8]


def test_a_kill_between_the_record_and_the_first_save_changes_nothing(workdir, monkeypatch):
    words = (*OTHER, "--allow=optim.lr", "--allow=training.batch_size")

    def killed(run: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "run_loop", killed)
        assert cli.main(command(workdir, 6, *words)) == 130
    recorded = (workdir / "config.json").read_text()
    assert cli.main(command(workdir, 6, *words)) == 0
    assert (workdir / "config.json").read_text() == recorded
    assert_same_weights(final(workdir, 6), by_hand((config_of(), 4), (config_of(*OTHER), 2)))


def test_a_word_for_a_run_that_has_not_begun_changes_nothing(began, tmp_path):
    assert cli.main(command(tmp_path, 4, "--allow=optim.lr,data")) == 0
    assert_same_weights(final(tmp_path, 4), final(began, 4))
    assert "changes" not in json.loads((tmp_path / "config.json").read_text())


# ---- Images ----


def streamed(root: Path) -> StreamingSource:
    source = open_source(
        "folder",
        "train",
        root=root,
        image_size=(8, 8),
        num_channels=1,
        test_fraction=0.0,
        memory_limit_bytes=0,
    )
    assert isinstance(source, StreamingSource)
    source._num_workers = 0  # workers take seconds to start
    return source


def train_on(root: Path, workdir: Path, steps: int, allow: tuple[str, ...] = ()) -> None:
    words = (f"--config.data.root={root}", "--config.data.dataset=folder")
    config = cli.parse(command(workdir, steps, *words)).config
    sources = streamed(root), build_sources(config_of())[1]
    training_run.train(config, workdir, sources=sources, allow=allow, quiet=True)


def test_a_run_that_meets_a_bad_file_goes_on_after_a_repair_or_a_removal(tmp_path):
    root, work = tmp_path / "images", tmp_path / "work"
    root.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(24):
        pixels = torch.randint(256, (8, 8), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(root / f"{number:02}.png")
    train_on(root, tmp_path / "undisturbed", 6)
    batches = train_batches(streamed(root), batch_size=8, seed=42)
    second = [next(batches)["index"] for _ in range(2)][1]
    path = sorted(root.iterdir())[int(second[3])]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + whole[-12:])  # it ends as a whole one does
    with pytest.raises(ValueError, match=re.escape(path.name)) as error:
        train_on(root, work, 6)
    assert "step 1 is saved" in str(error.value)
    assert "with --allow data" in str(error.value)
    assert str(error.value) in (work / "log.txt").read_text()
    assert final(work, 1)["step"] == 1
    path.write_bytes(whole)
    train_on(root, work, 6)
    assert_same_weights(final(work, 6), final(tmp_path / "undisturbed", 6))
    # A set of other images is another one, whether one is gone or another is there instead.
    path.unlink()
    with pytest.raises(ValueError, match="add --allow data to go on with these"):
        train_on(root, work, 7)
    train_on(root, work, 7, allow=("data",))
    train_on(root, work, 8)
    assert final(work, 8)["data"]["images_seen"] == 64
    last = json.loads((work / "config.json").read_text())["changes"][-1]
    assert (last["step"], last["field"]) == (6, "data")
    assert last["before"].startswith("folder, 24 images, fingerprint ")
    assert last["after"].startswith("folder, 23 images, fingerprint ")


# ---- Advice ----


def test_the_advice_after_a_divergence_is_taken(workdir, capsys):
    far = ("--config.optim.lr=1e30", "--config.optim.grad_clip=-1.0")
    given = (*far, "--allow=optim.lr,optim.grad_clip")
    assert cli.main(command(workdir, 30, *given)) == 1
    said = capsys.readouterr().err
    words = re.findall(r"--(?:allow|config)[. =]\S+", said.rpartition("left out")[2])
    words = [word.rstrip(",").replace("--allow ", "--allow=") for word in words]
    assert words == ["--allow=optim.lr", "--config.optim.lr=0.0002"]
    assert "left out: repeat the command" in (workdir / "log.txt").read_text()
    assert cli.main(command(workdir, 8, *given, *words)) == 0


def test_where_the_newest_checkpoint_is_lost_an_earlier_one_is_named(workdir, tmp_path, capsys):
    far = ("--config.optim.lr=1e30", "--config.optim.grad_clip=-1.0")
    given = (*far, "--config.training.snapshot_freq_for_preemption=1")
    assert cli.main(command(workdir, 30, *given, "--allow=optim.lr,optim.grad_clip")) == 1
    said = capsys.readouterr().err.rpartition("left out")[2]
    path, lower = re.search(r"--init_from (\S+), .* (--config\.optim\.lr=\S+),", said).groups()
    assert "another --workdir" in said
    assert Path(path).name == "step_00000004.pt"
    assert cli.main(command(tmp_path / "next", 4, *given, lower, f"--init_from={path}")) == 0


@pytest.mark.parametrize(
    ("batch", "parts", "said"),
    [
        (8, 1, "accumulation=2,"),
        (9, 3, "accumulation=9,"),
        (1, 1, "1 part(s): set --config.training.activation_checkpointing=True"),
    ],
)
def test_the_advice_on_memory_divides_the_batch_and_names_the_option(batch, parts, said):
    words = [f"--config.training.batch_size={batch}", f"--config.training.accumulation={parts}"]
    text = advice.less_memory(config_of(*words))
    assert said in text
    assert "--allow training.batch_size" in text
    kept = config_of(*words, "--config.training.activation_checkpointing=True")
    assert "activation_checkpointing" not in advice.less_memory(kept)
