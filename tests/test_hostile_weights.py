"""What lies where weights should be is refused by every reader in one sentence, and never run.

The table READERS holds every entry point that takes a file of weights; FORMATS what such a file
may be. A row added to either is held to all kinds of `hostile_weights`.
"""

import copy
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_weights import odd_files, odd_values, replaced
from torch import nn

import score_sde
import utils
from score_sde import atomic, checkpoints
from score_sde.atomic.weights import fit, misfit
from score_sde.checkpoints import hugging_face
from score_sde.commands import cli, in_turn, weights
from score_sde.commands import train as training_run
from score_sde.config import history
from score_sde.config.build import build_state, empty_network, open_split
from score_sde.evaluation.classifier import Classifier
from score_sde.training import TrainState

RECIPE = (
    "--config=configs/vp/ddpm/cifar10.py",
    "--config.model.nf=32",
    "--config.model.ch_mult=(1,)",
    "--config.model.num_res_blocks=1",
    "--config.model.attn_resolutions=()",
    "--config.data.dataset=digits",
    "--config.data.image_size=8",
    "--config.data.num_channels=1",
    "--config.training.batch_size=4",
    "--config.training.n_iters=1",
    "--config.training.snapshot_sampling=False",
    "--config.sampling.num_steps=2",
    "--config.device=cpu",
)


@pytest.fixture(scope="module")
def config():
    return cli.parse(["main.py", "--mode=train", *RECIPE]).config


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> dict[str, Any]:
    """The content of a whole file of each format."""
    folder = tmp_path_factory.mktemp("whole")
    state = build_state(config)
    for weight in state.network.parameters():
        weight.grad = torch.ones_like(weight)
    state.optimizer.step()
    state.step = 1
    extra = {
        "rng": checkpoints.rng_state(),
        "data": {"step": 1, "fingerprint": open_split(config, "train").info.fingerprint},
        "config": history.to_json(config),
        "versions": "",
    }
    ours = {**copy.deepcopy(state.state_dict()), **extra}
    settings = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    network = empty_network(config)
    checkpoints.save_published(folder / "theirs.pth", ours, network, settings)
    options = weights.network_options(config)
    checkpoints.save_folder(folder / "folder", ours["network"], network, options)
    own = {
        "model": ours["network"],
        "ema": {"decay": 0.9, "num_updates": 1, "shadow_params": list(state.ema.shadow_params)},
        "optimizer": state.optimizer.state_dict(),
        "step": 1,
    }
    return {
        "ours": ours,
        "theirs": torch.load(folder / "theirs.pth", weights_only=True),
        "own loop": own,
        "folder": hugging_face.to_theirs(network, ours["network"]),
        "config.json": (folder / "folder" / "config.json").read_text(),
        "classifier": classifier(),
    }


def classifier() -> dict[str, Any]:
    buffer = io.BytesIO()
    network = Classifier("some", (1, 8, 8), 3)
    names = ("dataset", "shape", "num_outputs", "labelled")
    torch.save(
        {**{name: getattr(network, name) for name in names}, "weights": network.state_dict()},
        buffer,
    )
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


class Case:
    """A file, and what a reader needs besides it."""

    def __init__(self, config: Any, state: TrainState, path: Path) -> None:
        self.config, self.state, self.path = config, state, path

    def beside(self, name: str) -> Path:
        return self.path.with_name(name)


def drawn_from(case: Case, *, raw: bool = False) -> nn.Module:
    """As `--mode sample` and `complete` do, before anything is drawn."""
    config, path, state = weights.open_checkpoint(case.config, case.path, case.path.parent)
    return weights.network_of(config, state, path, raw=raw)


def evaluated(case: Case) -> nn.Module:
    given = in_turn.read_given(case.path, case.config)
    words = {"given": given, "wait_sec": 0.0, "world": None, "log": None}
    ((path, state, _),) = in_turn.in_turn(case.config, case.path.parent, **words)
    return weights.network_of(case.config, state, path)


def resumed(case: Case) -> None:
    """As `--mode train` does, before data are read: the file is the newest of a run."""
    folder = case.beside("run") / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    ours = folder / "step_00000001.pt"
    ours.unlink(missing_ok=True)
    os.link(case.path, ours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "build_state", lambda config: case.state)
        try:
            training_run.train(case.config, case.beside("run"), quiet=True)
        except ValueError as error:  # it is known there by another name
            raise ValueError(str(error).replace(str(ours), str(case.path))) from error


def restored(case: Case) -> None:
    state = case.state
    parts = {"model": state.network, "ema": state.ema, "optimizer": state.optimizer, "step": 0}
    utils.restore_checkpoint(case.path, parts)


def statistics(case: Case) -> None:
    Classifier.load(case.path)


ANY = ("ours", "theirs", "own loop", "folder")
PUBLISHED = ("theirs", "own loop")
# Each reader with the formats that it takes.
READERS: dict[str, tuple[Callable[[Case], object], tuple[str, ...]]] = {
    "sample": (drawn_from, ANY),
    "sample --raw": (lambda case: drawn_from(case, raw=True), ANY),
    "eval": (evaluated, ANY),
    "convert": (lambda case: weights.convert(case.path, case.beside("a.pt"), case.config), ANY),
    "convert to a folder": (
        lambda case: weights.convert(case.path, case.beside("a"), case.config),
        ANY,
    ),
    "init_from": (lambda case: weights.begin_from(case.path, case.config, case.state), ANY),
    "resume": (resumed, ("ours",)),
    "load": (lambda case: score_sde.load(case.path, case.config), ANY),
    "load_official": (lambda case: checkpoints.load_official(case.path, case.config), PUBLISHED),
    "restore_checkpoint": (restored, ("ours", "theirs")),
    "classifier": (statistics, ("classifier",)),
}
PAIRS = [(reader, kind) for reader, (_, formats) in READERS.items() for kind in formats]
# Where a weight and what goes with it lie, and the readers that need it there.
PLACES: dict[str, dict[tuple[Any, ...], tuple[str, ...]]] = {
    "ours": {
        ("network", "conv_in.weight"): ("sample --raw", "resume", "restore_checkpoint"),
        ("ema", "shadow", "conv_in.weight"): ("sample", "eval", "convert", "init_from", "load"),
        ("optimizer", "conv_in.weight", "exp_avg_sq"): ("convert", "resume"),
        ("rng", "cpu"): ("resume",),
        ("rng",): ("resume",),
    },
    "theirs": {
        ("model", "module.all_modules.3.Conv_0.weight"): ("sample", "load_official"),
        ("ema", "shadow_params", 3): ("sample", "eval", "init_from"),
        ("optimizer", "state", 3, "exp_avg"): ("convert", "restore_checkpoint"),
    },
    "own loop": {("ema", "shadow_params", 3): ("load",)},
    "folder": {("conv_in.weight",): ("sample", "convert to a folder")},
    "classifier": {
        ("weights", "hidden.weight"): ("classifier",),
        ("num_outputs",): ("classifier",),
    },
}


@pytest.fixture(scope="module")
def state(config) -> TrainState:
    return build_state(config)


@pytest.fixture
def case_of(config, state, whole, tmp_path):
    def make(kind: str, content: Any = None) -> Case:
        path = tmp_path / ("file.bin" if kind == "folder" else "file.pth")
        (tmp_path / "config.json").write_text(whole["config.json"])
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(whole[kind] if content is None else content, path)
        return Case(config, state, path)

    return make


def refusal(read: Callable[[Case], object], case: Case) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        read(case)
    said = str(caught.value)
    assert case.path.name in said
    assert "\n" not in said
    assert "weights_only" not in said  # torch's advice is how to run it after all
    assert len(said) < 3000
    return said


@pytest.mark.parametrize(("reader", "kind"), PAIRS)
def test_whole_files_are_taken(case_of, reader, kind):
    READERS[reader][0](case_of(kind))


@pytest.mark.parametrize(
    ("kind", "place", "reader"),
    [
        (kind, place, reader)
        for kind, places in PLACES.items()
        for place, readers in places.items()
        for reader in readers
    ],
)
def test_what_is_no_weight_is_refused_by_its_file(case_of, whole, kind, place, reader):
    value = whole[kind]
    for key in place:
        value = value[key]
    weight = value if torch.is_tensor(value) else torch.zeros(3)
    values = odd_values(weight)
    for odd in ("text", "sparse", "nan", "whole numbers"):
        refusal(READERS[reader][0], case_of(kind, replaced(whole[kind], place, values[odd])))


@pytest.mark.parametrize("kind", odd_values(torch.zeros(3, 4)))
def test_no_odd_value_is_a_weight(kind):
    weight = torch.zeros(3, 4)
    value = odd_values(weight)[kind]
    assert misfit(value, (3, 4), torch.float32)
    with pytest.raises(ValueError, match=r"the file does not fit .*a\.weight ") as caught:
        fit({"a.weight": weight}, {"a.weight": value}, "the file")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_other_precisions_and_prefixes_are_taken(dtype, prefix):
    weight = torch.tensor([[0.1, -2.0]])
    given = {f"{prefix}a.{prefix}weight": weight.to(dtype)}
    taken = fit({"a.weight": torch.zeros(1, 2, device="meta")}, given, "the file")
    assert list(taken) == ["a.weight"]
    assert torch.equal(taken["a.weight"], weight.to(dtype).float())


@pytest.mark.parametrize("lacking", [("optimizer",), ("optimizer", "rng", "data", "versions")])
@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_weights_without_an_optimizer_do_but_for_training(case_of, whole, kind, lacking):
    content = {key: value for key, value in whole[kind].items() if key not in lacking}
    for reader in ("sample", "sample --raw", "eval", "convert", "init_from", "load"):
        READERS[reader][0](case_of(kind, content))
    said = refusal(READERS["restore_checkpoint"][0], case_of(kind, content))
    assert "lacks the entry optimizer" in said
    if kind == "ours":
        assert "--init_from" in refusal(READERS["resume"][0], case_of(kind, content))


def test_an_optimizer_that_made_no_step_is_taken_with_a_word(case_of, whole):
    content = copy.deepcopy(whole["theirs"])
    content["optimizer"]["state"] = {}
    case = case_of("theirs", content)
    with pytest.warns(UserWarning, match="an optimizer without state: it begins anew"):
        READERS["restore_checkpoint"][0](case)
    assert not any(case.state.optimizer.state.values())


def test_a_file_that_is_replaced_while_it_is_read_is_one_of_the_two(tmp_path, monkeypatch):
    path, other = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"a": torch.zeros(3)}, path)
    torch.save({"a": torch.ones(3)}, other)
    first = hashlib.sha256(path.read_bytes()).hexdigest()
    read = torch.load

    def replaced_meanwhile(*args, **options):
        os.replace(other, path)
        return read(*args, **options)

    monkeypatch.setattr(torch, "load", replaced_meanwhile)
    content, digest = atomic.read_tensors(path)
    assert digest == first
    assert not content["a"].any()


def test_one_file_of_safetensors_is_read_beside_its_configuration(case_of, whole, tmp_path):
    safetensors_torch = pytest.importorskip("safetensors.torch")
    case = case_of("folder")
    data = safetensors_torch.save({name: value.half() for name, value in whole["folder"].items()})
    case.path = tmp_path / "any name.safetensors"
    case.path.write_bytes(data)
    for reader in ("sample", "convert", "init_from"):
        READERS[reader][0](case)
    case.beside("config.json").unlink()
    assert f"name the file or its folder {tmp_path}" in refusal(READERS["sample"][0], case)


def test_every_reader_has_places_that_are_tried():
    tried = {
        reader for places in PLACES.values() for readers in places.values() for reader in readers
    }
    assert tried == READERS.keys()


@pytest.fixture(scope="module")
def others(whole, tmp_path_factory) -> tuple[dict[str, bytes], Path]:
    """Files of other kinds, and the file that code in them would make."""
    victim, buffer = tmp_path_factory.mktemp("victim") / "file", io.BytesIO()
    torch.save(whole["classifier"], buffer)
    made = odd_files(buffer.getvalue(), whole["classifier"], victim)
    return {name: make() for name, make in made.items()}, victim


@pytest.mark.parametrize("reader", READERS)
def test_files_of_other_kinds_are_refused_and_nothing_is_run(case_of, others, reader):
    read, kinds = READERS[reader]
    contents, victim = others
    for content in contents.values():
        refusal(read, case_of(kinds[0], content))
        assert not victim.exists()
