"""Rows of the schema: what follows from them, and what is asked of objects instead of names."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from ml_collections import ConfigDict

from models.utils import get_model
from sampling import get_corrector, get_predictor
from score_sde import sde as sde_room
from score_sde.commands import cli
from score_sde.commands.command import Mode
from score_sde.commands.first_screen import of_recipe_alone
from score_sde.commands.smoke import reduced
from score_sde.config import changes, history, listing, parts, schema
from score_sde.config.build import build_network
from score_sde.config.check import check_config, check_fields
from score_sde.config.history import leaves
from score_sde.config.holds import Names
from score_sde.config.schema import FIELDS, Field
from score_sde.data import open_source
from score_sde.likelihoods.divergence import hutchinson_probes
from score_sde.networks.layers import activation
from score_sde.objectives import make_objective
from score_sde.sde import SDES, VPSDE
from score_sde.solvers.grids import time_grid
from score_sde.tensor_ops import UnknownName, choose
from score_sde.training import make_optimizer

KARRAS = '''
import torch

from score_sde.config import parts
from score_sde.sde import SDE, SDES


class Karras(SDE):
    """Noise levels as times (Karras et al. 2022)."""

    name, T, prior_std, network_output = "karras", 80.0, 80.0, "score"

    def mean_scale(self, t):
        return torch.ones_like(t)

    def std(self, t):
        return t


SDES["karras"] = lambda model: Karras(model["num_scales"])


def get_config():
    """The recipe."""
    small = {"training.sde": "karras", "model.nf": 8, "model.ch_mult": (1, 2), "device": "cpu"}
    return parts.recipe(parts.NCSNPP, parts.DIGITS, parts.VE, parts.SMALL, small)
'''


@pytest.fixture
def rows(monkeypatch):
    """SDES, without the rows that a test adds once it is done."""
    before = dict(SDES)
    yield SDES
    SDES.clear()
    SDES.update(before)


def parsed(recipe, *words):
    return cli.parse(["main.py", f"--config={recipe}", "--mode=train", *words]).config


def vp(*words):
    return parsed("configs/vp/digits.py", *words)


def changed(written, config, allow=()):
    """What a run of this config changes of a checkpoint of step 7 with a written config."""
    saved = {"config": written, "step": 7, "versions": ""}
    return changes.of_fields(saved, Path("run/checkpoints/step_00000007.pt"), config, allow)


def test_the_page_of_fields_is_made_from_the_rows():
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == listing.page(), "run: python -m score_sde.config.listing > docs/config.md"


def test_every_default_may_be_held_and_every_field_has_a_group_and_help():
    for name, field in FIELDS.items():
        field.check(field.default, name)
        assert name.rpartition(".")[0] in schema.GROUPS
        assert field.help
        assert type(field.default) in (bool, int, float, str, tuple)


def test_help_needs_neither_a_recipe_nor_torch():
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from score_sde.commands import cli\n"
        "for word in ('--help', '--help_config'): assert cli.main(['main.py', word]) == 0\n"
        "assert cli.main(['main.py', '--mode=recipes']) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text in ("--mode", "--config.optim.lr=0.0002", "learning rate", "configs/vp/digits.py"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("sampling.eps=-1.0", "may not be negative"),
        ("sampling.eps=1.5", "sampling begins at 1 and ends there"),
        ("sampling.grid=log", "auto, uniform, log_snr, edm"),
        ("model.fourier_scale=inf", "a finite number"),
    ],
)
def test_a_field_is_refused_by_its_row(word, remedy):
    config = parsed("configs/ve/digits.py", f"--config.{word}") if "fourier" in word else None
    config = config or vp(f"--config.{word}")
    with pytest.raises(ValueError, match=remedy) as error:
        check_config(config)
    assert f"config.{word.partition('=')[0]}=" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("training.n_iters", 10.5, "a whole number"),
        ("optim.lr", "fast", "a number"),
        ("data.centered", 1, "True or False"),
        ("model.ch_mult", 2, "a tuple"),
        ("data.dataset", None, "text"),
        ("model.nonlinearity", [], "text"),
        ("training.n_iters", 10**30, "64 bits"),
    ],
)
def test_a_recipe_may_not_give_a_field_another_kind(name, value, remedy):
    with pytest.raises(ValueError, match=f"config.{name}=.*{remedy}"):
        FIELDS[name].check(value, f"config.{name}")


NAMED = [name for name, field in FIELDS.items() if isinstance(field.holds, Names)]
LIBRARY = {
    "data set": lambda name: open_source(
        name, "train", root="", image_size=(8, 8), num_channels=1
    ),
    "split": lambda name: open_source("digits", name, root="", image_size=(8, 8), num_channels=1),
    "objective": lambda name: make_objective(VPSDE(), objective=name),
    "times": lambda name: make_objective(VPSDE(), times=name),
    "grid": lambda name: time_grid(VPSDE(), 5, name),
    "optimiser": lambda name: make_optimizer([], name=name, lr=1e-3, beta1=0.9, eps=1e-8),
    "probes": lambda name: hutchinson_probes(name, (1,), torch.arange(2), seed=0),
    "nonlinearity": activation,
    "predictor of the front": get_predictor,
    "corrector of the front": get_corrector,
    "network of the front": get_model,
}


@pytest.mark.parametrize("name", NAMED)
def test_a_field_refuses_an_unknown_name_as_every_other_does(name):
    allowed = FIELDS[name].holds.allowed()
    with pytest.raises(UnknownName) as error:
        FIELDS[name].check(f"{allowed[0]}x", f"config.{name}")
    sentence = f"config.{name}='{allowed[0]}x': it must be one of {', '.join(allowed)}; did you"
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("what", LIBRARY)
def test_the_library_refuses_an_unknown_name_as_configs_do(what):
    with pytest.raises(UnknownName, match=r"='zzz': it must be one of [^;]*$"):
        LIBRARY[what]("zzz")


def test_a_row_that_is_added_later_is_found_and_listed(rows):
    with pytest.raises(UnknownName, match=r"one of vesde, vpsde, .*straightsde$"):
        choose(rows, "zzz", "training.sde")
    rows["zzz"] = rows["vesde"]
    assert choose(rows, "zzz", "training.sde") is rows["vesde"]
    with pytest.raises(UnknownName, match=r"straightsde, zzz; did you mean 'zzz'\?"):
        choose(rows, "ZZ", "training.sde")


@pytest.mark.parametrize("value", [None, {}, {"a": 1}, b"a", torch.tensor(1)])
def test_what_no_field_may_hold_is_refused_in_a_sentence(value):
    config = ConfigDict(vp().to_dict(), type_safe=False)
    for name, kept in leaves(config).items():
        group, _, leaf = name.rpartition(".")
        fields = config[group] if group else config
        fields[leaf] = value
        if name != "device" or isinstance(value, dict):
            with pytest.raises(ValueError, match=rf"config\.{name}.* (must be|is a group)"):
                check_fields(config)
        fields[leaf] = kept
    config.device = torch.device("cpu")
    check_fields(config)
    assert json.loads(history.to_json(config))["device"] == "cpu"


# ---- Fields of one's own, and fields that are added later ----


@pytest.mark.parametrize(
    "value", [object(), len, b"a", 1j, {1}, torch.ones(2), np.float32(0.1), [object()]]
)
def test_a_field_of_ones_own_holds_what_can_be_written_down(value):
    config = vp().unlock()
    config.mine = value
    with pytest.raises(ValueError, match=r"^config\.mine=.* write their config as JSON: give a"):
        check_fields(config)


def test_a_field_that_a_recipe_adds_is_kept_recorded_and_fixed(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from score_sde.config import parts\n\n\ndef get_config():\n    return parts.recipe("
        "parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL, {'model.rho': 7.0, 'data.side': 3})\n"
    )
    config, other = parsed(path), parsed(path, "--config.model.rho=5.0")
    check_config(config)
    assert of_recipe_alone(config) == "\nfields      of this recipe alone: data.side, model.rho"
    assert json.loads(history.to_json(config))["model"]["rho"] == 7.0
    assert other.model.rho == 5.0
    with pytest.raises(ValueError, match=r"model\.rho is 7\.0 there and 5\.0 here"):
        changed(history.to_json(config), other)
    # It belongs to what was trained; a run from before it has no value, and the recipe's counts.
    assert history.adopt(other, history.to_json(config), {}, path).model.rho == 7.0
    assert history.adopt(config, history.to_json(vp()), {}, path).model.rho == 7.0


def test_a_field_added_later_means_what_older_runs_did(tmp_path, monkeypatch):
    older = vp()
    written, digest = history.to_json(older), history.of_checkpoint(older)
    row = Field(0.5, "a new one", from_checkpoint="yes", older=0.0)
    monkeypatch.setitem(FIELDS, "training.novelty", row)
    monkeypatch.setitem(parts.COMMON, "training.novelty", row.default)
    new = vp()
    assert new.training.novelty == 0.5
    with pytest.raises(ValueError, match=r"novelty is 0\.0 there and 0\.5 here"):
        changed(written, new)
    same = vp("--config.training.novelty=0.0")
    assert changed(written, same) == []
    assert history.adopt(new, written, {}, tmp_path).training.novelty == 0.0
    # Digests, by which shards are found again, change only where the runs do.
    assert history.of_checkpoint(same) == digest
    assert history.of_checkpoint(new) == digest | {"training.novelty": 0.5}
    assert history.of_group(same, "training") == history.of_group(older, "training")


def test_what_a_resumed_run_may_change_is_as_before():
    free = {name for name, field in FIELDS.items() if field.resume == "free"}
    groups = {
        name
        for name in FIELDS
        if name.startswith(("sampling.", "eval.", "classifier.", "restore."))
    }
    assert free - groups == {
        "device",
        "data.root",
        "data.download",
        "training.activation_checkpointing",
        "training.n_iters",
        "training.log_freq",
        "training.eval_freq",
        "training.snapshot_freq",
        "training.snapshot_freq_for_preemption",
        "training.snapshot_sampling",
        "training.snapshot_images",
        "training.average_freq",
        "model.ema_length",
        "training.keep_checkpoints",
        "training.accumulation",
        "training.precision",
        "training.compile",
        "training.sharding",
        "training.checkpoint_format",
        "training.channels_last",
    }
    assert groups <= free


# ---- Objects are asked, not names ----


def test_an_sde_whose_networks_put_out_the_score_trains(rows, tmp_path):
    path = tmp_path / "karras.py"
    path.write_text(KARRAS)
    words = (
        "batch_size=8",
        "n_iters=20",
        "log_freq=20",
        "eval_freq=20",
        "snapshot_sampling=False",
    )
    command = ["main.py", f"--config={path}", "--mode=train", f"--workdir={tmp_path / 'run'}"]
    command += [f"--config.training.{word}" for word in words]
    assert cli.main([*command, "--config.optim.warmup=0"]) == 0
    curves = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    values = {name: row[name] for row in map(json.loads, curves) for name in row}
    # A network that answers 0 has half of 64 dimensions, 32.
    assert values["held_out_loss"] < 32
    assert values["grad_norm"] < 100


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("model.scale_by_sigma=False", "scale_by_sigma=False does not go with karras.*(True)"),
        ("model.embedding_type=positional", "set 'fourier'"),
        ("eval.bpd_eps=90.0", "ends at 80"),
    ],
)
def test_such_an_sde_is_led_to_what_its_networks_need(rows, word, remedy, tmp_path):
    path = tmp_path / "karras.py"
    path.write_text(KARRAS)
    check_config(parsed(path, "--config.model.beta_max=5000.0"))  # it has no such rate
    check_config(reduced(parsed(path)))
    with pytest.raises(ValueError, match=re.escape(remedy).replace(r"\.\*", ".*")):
        check_config(parsed(path, f"--config.{word}"))


def test_a_network_of_another_label_is_refused():
    words = ("--config.model.name=ddpm", "--config.model.nf=32")
    with pytest.raises(ValueError, match="given a noise level"):
        check_config(parsed("configs/ve/digits.py", *words))


def test_a_field_that_a_row_needs_and_the_recipe_lacks_is_named(monkeypatch):
    monkeypatch.setitem(sde_room.SDES, "odd", lambda model: model["oddity"])
    config = vp("--config.training.sde=odd")
    with pytest.raises(ValueError, match=r"config\.model\.oddity is missing, which 'odd' takes"):
        check_config(config)


def test_fields_that_a_config_of_2021_lacks_have_the_defaults_of_their_rows():
    config = vp()
    with config.unlocked():
        for name in ("num_classes", "fourier_scale"):
            del config.model[name]
    assert sum(p.numel() for p in build_network(config).parameters()) > 0


def test_smoke_takes_as_few_scales_as_the_sde_allows():
    assert reduced(vp()).model.num_scales == 25
    assert reduced(vp("--config.model.beta_max=400.0")).model.num_scales == 1000


# ---- Modes ----


def test_every_mode_of_ours_runs_under_torchrun():
    assert [name for name, m in cli.MODES.items() if not (m.several_processes or m.by_main)] == []


def test_a_mode_for_one_process_says_so_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setitem(cli.MODES, "mine", Mode(print, "one of a user's own"))
    assert cli.main(["main.py", "--config=configs/vp/digits.py", "--mode=mine"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("--mode mine runs in one process")
    assert "4" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mode=sample", "--num_samples=0"), "--num_samples=0: 0 is not a positive integer"),
        (("--mode=inpaint", "--completions=-1"), "--completions=-1: -1 is not a positive integer"),
        (("--mode=eval", "--wait=nan"), "--wait nan: give a number of minutes"),
        (("--mode=eval", "--wait=inf"), "--wait inf: give a number of minutes"),
        (("--mode=sampel",), "train|train_classifier|sample"),
    ],
)
def test_an_option_out_of_its_range_is_refused(words, said):
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        parsed("configs/vp/digits.py", *words)
    assert "\n" not in str(error.value)


def test_the_command_line_locks_the_config_and_modes_name_options_that_exist():
    assert vp().is_locked
    options = cli.parse(["main.py", "--mode=recipes"]).options
    for name, mode in cli.MODES.items():
        assert set(mode.options) <= options.keys(), name
        assert dataclasses.is_dataclass(mode)


# ---- Values at which nothing happens ----

ZERO_IS_FINE = {
    "classifier.dropout",
    "seed",
    "sampling.label",
    "training.p_mean",
    "optim.beta1",
    "optim.weight_decay",
    "model.dropout",
    "model.init_scale",
}
"""Numbers that may be 0 without a word about what it means."""


def refusal(config, name, value):
    """What is said of a field of a config that holds a value; empty where it may."""
    config = config.copy_and_resolve_references()
    group, _, leaf = name.rpartition(".")
    with config.unlocked():
        (config[group] if group else config)[leaf] = value
    try:
        check_fields(config)
    except ValueError as error:
        return str(error)
    return ""


def test_a_number_that_may_be_0_says_what_0_means_or_is_known_to_be_one():
    config = vp()
    checked_together = {"model.beta_min", "model.beta_max"}  # the SDE refuses them
    for name, field in FIELDS.items():
        if type(field.default) not in (int, float) or name in checked_together:
            continue
        fault = refusal(config, name, type(field.default)(0))
        meant = re.search(r"\b0[:;]", field.help) or field.default == 0
        fine = name in ZERO_IS_FINE or name.startswith("sampling.s_")
        assert fault or meant or fine or name == "data.test_fraction", name


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("optim.grad_clip", 0.0, "a negative one for no limit"),
        ("optim.grad_clip", -0.0, "a negative one for no limit"),
        ("optim.lr", 0.0, "above 0"),
        ("model.ema_rate", 1.0, "below 1"),
        ("model.dropout", 1.0, "below 1"),
        ("model.fourier_scale", 0.0, "other than 0"),
        ("model.sigma_min", 0.0, "above 0"),
        ("training.log_freq", 0, "for never, give more than training.n_iters"),
        ("training.snapshot_freq", 0, "for never, give more than training.n_iters"),
        ("training.snapshot_images", 0, "training.snapshot_sampling=False draws none"),
        ("sampling.snr", 0.0, "sampling.corrector=none"),
        ("sampling.n_steps_each", 0, "sampling.corrector=none"),
        ("eval.num_samples", 0, "eval.enable_sampling=False"),
    ],
)
def test_a_number_at_which_nothing_happens_is_refused_with_the_remedy(name, value, remedy):
    assert remedy in refusal(vp(), name, value)
