"""Recipes: the published values, networks that build, runs that go through, a list to read."""

import ast
import json
import re

import ml_collections
import pytest
from conftest import ROOT

from score_sde.commands import cli, recipes
from score_sde.commands.first_screen import of_recipe_alone
from score_sde.commands.smoke import reduced, synthetic_sources
from score_sde.commands.train import train
from score_sde.config import changes, history, parts
from score_sde.config.build import (
    build_objective,
    build_sde,
)
from score_sde.config.check import check_config
from score_sde.objectives import ScoreMatching

RECIPES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.glob("configs/*/**/*.py")
    if path.name != "__init__.py"
)
OURS = {
    "configs/ve/cifar10.py": "configs/ve/cifar10_ncsnpp_continuous.py",
    "configs/vp/cifar10.py": "configs/vp/cifar10_ddpmpp_continuous.py",
    "configs/subvp/cifar10.py": "configs/subvp/cifar10_ddpmpp_continuous.py",
    "configs/ve/digits.py": None,
    "configs/ve/colour_digits.py": None,
    "configs/vp/digits.py": None,
    "configs/vp/digits_conditional.py": None,
    "configs/vp/digits_4x4.py": None,
    "configs/vp/digits_upsampler.py": None,
    "configs/subvp/digits.py": None,
    "configs/vp/fashion_mnist.py": None,
    "configs/vp/fashion_mnist_upsampler.py": None,
    "configs/vp/custom_64.py": None,
    "configs/ve/custom_256.py": None,
    "configs/power_ve/digits.py": None,
    "configs/karras/digits.py": None,
    "configs/edm/digits.py": None,
    "configs/edm/fashion_mnist.py": None,
    "configs/edm/cifar10.py": None,
    "configs/edm/posters.py": None,
    "configs/cosine/digits.py": None,
    "configs/straight/digits.py": None,
}
"""The recipes that the 2021 release did not have; the short names with what they stand for."""
PUBLISHED = [recipe for recipe in RECIPES if recipe not in OURS]
ABOVE_64_PIXELS = [r for r in PUBLISHED if re.search("bedroom|church|celebahq|ffhq", r)]

# How the published values and ours differ, each with its reason.

EXEMPT = {
    "device": "the machine's own matter; `auto` here",
    "eval.enable_loss": "a bare evaluation computes what can be computed",
    "eval.enable_sampling": "a bare evaluation computes what can be computed",
    "eval.enable_bpd": "a bare evaluation computes what can be computed",
    "eval.begin_ckpt": "a bare evaluation takes the newest checkpoint",
    "eval.end_ckpt": "a bare evaluation takes the newest checkpoint",
}
DROPPED = {
    "data.tfrecords_path": "a path on the authors' machine",
    "model.attention_type": "no network read it",
    "model.conv_size": "no network read it",
    "model.interpolation": "no network read it",
    "model.sigma_begin": "nothing read it: model.sigma_max is meant",
}
DROPPED_BY_NETWORK = {
    "ncsnpp": {"model.normalization": "it is GroupNorm, whatever the config says"},
    "ddpm": {
        "model.normalization": "it is GroupNorm, whatever the config says",
        "model.embedding_type": "only NCSN++ has a choice",
    },
    "ncsn": {
        "model.dropout": "this network has none",
        "model.embedding_type": "only NCSN++ has a choice",
        "model.scale_by_sigma": "NCSN never divides by the level, NCSNv2 always",
    },
}
MENDED = {
    "ve/ncsn/celeba": (
        "training.loss stood where training.sde is read",
        {"training.loss": "vesde"},
        {"training.sde": "vesde"},
    ),
    "ve/ncsnv2/bedroom": (
        "continuouse, a slip of the pen, left the default True, which NCSNv2 cannot be trained by",
        {"training.continuouse": False, "training.continuous": True},
        {"training.continuous": False},
    ),
    "ve/celebahq_ncsnpp_continuous": (
        "written without the defaults, it lacked this field and eval.enable_*, which were read",
        {},
        {"eval.bpd_dataset": "test"},
    ),
    "ve/ffhq_ncsnpp_continuous": (
        "written without the defaults, it lacked this field and eval.enable_*, which were read",
        {},
        {"eval.bpd_dataset": "test"},
    ),
}
"""Recipe → the reason, what is given up of the original, and what takes its place."""


def published_name(recipe: str) -> str:
    return recipe.removeprefix("configs/").removesuffix(".py")


def family(network: str) -> str:
    return network if network in ("ncsnpp", "ddpm") else "ncsn"


def config_of(recipe: str, *words: str) -> cli.Command:
    return cli.parse(["main.py", "--config", recipe, "--mode=train", *words])


def leaves(config, prefix="config."):
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_consistent(recipe):
    config = config_of(recipe).config
    check_config(config)
    check_config(reduced(config))
    assert of_recipe_alone(config) == ""


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_leaf_can_be_overridden(recipe):
    config = config_of(recipe).config
    changed = {
        bool: lambda v: not v,
        int: lambda v: v + 1,
        float: lambda v: 2 * v + 0.5,
        str: lambda v: v + "x",
        tuple: lambda v: (*v, 3),
    }
    found = dict(leaves(config))
    words = []
    for name, value in found.items():
        assert type(value) in changed, f"{name} is a {type(value).__name__}"
        words.append(f"--{name}={changed[type(value)](value)}")
    overridden = dict(leaves(config_of(recipe, *words).config))
    for name, value in found.items():
        assert overridden[name] == changed[type(value)](value), name
        assert type(overridden[name]) is type(value), name


def test_real_numbers_can_be_given_to_real_fields():
    words = ("--config.optim.weight_decay=0.01", "--config.model.sigma_max=48.5")
    config = config_of("configs/ve/cifar10.py", *words).config
    assert (config.optim.weight_decay, config.model.sigma_max) == (0.01, 48.5)


def test_a_config_is_locked():
    config = config_of("configs/ve/cifar10.py").config
    with pytest.raises(AttributeError):
        config.model.nff = 3


def test_a_part_may_not_change_a_type():
    with pytest.raises(TypeError, match=r"model\.sigma_max"):
        parts.recipe(parts.VE, {"model.sigma_max": 50})


def test_every_published_recipe_is_here(golden):
    published = golden.json("configs")["configs"].keys()
    assert {published_name(recipe) for recipe in PUBLISHED} == published


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_published_values(golden, recipe):
    name = published_name(recipe)
    published = golden.json("configs")["configs"][name]
    ours = {key.removeprefix("config."): v for key, v in leaves(config_of(recipe).config)}
    theirs = dict(leaves(ml_collections.ConfigDict(published), ""))
    _, given_up, instead = MENDED.get(name, ("", {}, {}))
    without_effect = DROPPED | DROPPED_BY_NETWORK[family(ours["model.name"])]
    for key, value in given_up.items():
        assert theirs.pop(key) == value, f"{key} needs no mending"
    for key, value in instead.items():
        assert key not in theirs, f"{key} needs no mending"
        assert ours[key] == value, key
    for key, value in theirs.items():
        if key in without_effect:
            assert key not in ours, f"{key} has an effect after all"
        elif key not in EXEMPT:
            expected = tuple(value) if isinstance(value, list | tuple) else value
            assert ours[key] == expected, key


def test_the_lists_of_differences_hold_nothing_superfluous(golden):
    published = golden.json("configs")["configs"]
    fields = {
        name: dict(leaves(ml_collections.ConfigDict(config), ""))
        for name, config in published.items()
    }
    assert MENDED.keys() <= published.keys()
    assert DROPPED.keys() | EXEMPT.keys() <= set().union(*fields.values())
    for network, names in DROPPED_BY_NETWORK.items():
        members = [config for config in fields.values() if family(config["model.name"]) == network]
        assert names.keys() <= set().union(*members), network


@pytest.mark.parametrize(("short", "whole"), [pair for pair in OURS.items() if pair[1]])
def test_a_short_name_is_the_whole_recipe(short, whole):
    assert config_of(short).config == config_of(whole).config


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_docstring_tells_command_and_cost(golden, recipe):
    text = ast.get_docstring(ast.parse((ROOT / recipe).read_text("utf-8")))
    training = config_of(recipe).config.training
    parameters = golden.json("params")[published_name(recipe)] / 1e6
    assert "Published: " in text
    assert f"Command:   python main.py --config {recipe} --mode train\n" in text
    assert f"Cost:      {parameters:.1f} M parameters" in text
    steps, images = re.search(r"([\d.]+) M steps\s+of (\d+)", text).groups()
    assert (float(steps) * 1e6 + 1, int(images)) == (training.n_iters, training.batch_size)


def goes_through(config, workdir) -> None:
    """Trains two steps on random images, and draws with the recipe's own sampler."""
    train(config, workdir, sources=synthetic_sources(config), quiet=True)
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in logged if "loss" in row}
    assert losses.keys() == {1, 2}
    # The sampler of the last step: there is no picture where a sample is not finite.
    assert (workdir / "samples" / "step_00000002.png").is_file()


def choices(recipe: str) -> tuple:
    """The fields that choose what is computed; the other ones are names, numbers and sizes."""
    names = ("data.dataset", "data.category", "data.root", "device", "eval.")
    return tuple(
        (key, value)
        for key, value in leaves(config_of(recipe).config, "")
        if type(value) in (bool, str, tuple) and not key.startswith(names)
    )


def each_once() -> list:
    """The published recipes; those that choose what an earlier one chooses are marked slow."""
    seen: set[tuple] = set()
    cases = []
    for recipe in PUBLISHED:
        chosen = choices(recipe)
        cases.append(pytest.param(recipe, marks=[pytest.mark.slow] if chosen in seen else []))
        seen.add(chosen)
    return cases


@pytest.mark.parametrize("recipe", each_once())
def test_recipe_trains_and_draws_at_reduced_width(recipe, tmp_path):
    config = config_of(recipe).config
    small = reduced(config)
    for field in ("method", "predictor", "corrector", "probability_flow", "noise_removal"):
        assert small.sampling[field] == config.sampling[field], field
    goes_through(small, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ABOVE_64_PIXELS)
def test_recipe_trains_and_draws_at_full_image_size(recipe, tmp_path):
    config = config_of(recipe).config
    small = reduced(config)
    assert config.data.image_size > small.data.image_size
    with small.unlocked():
        small.data.image_size = config.data.image_size
    goes_through(small, tmp_path)


CHAIN = ("--config.training.continuous=False", "--config.training.time_sampling=uniform")
UNIFORM = ("--config.training.time_sampling=uniform",)


@pytest.mark.parametrize(("name", "words"), [("likelihood", UNIFORM), ("elbo", CHAIN)])
def test_training_for_likelihood_goes_through(name, words, tmp_path):
    words = (f"--config.training.objective={name}", *words)
    config = config_of("configs/vp/digits.py", *words).config
    check_config(config)
    goes_through(reduced(config), tmp_path)


@pytest.mark.parametrize(
    ("recipe", "name", "words", "remedy"),
    [
        ("vp", "vlb", UNIFORM, "must be one of auto, score_matching"),
        ("vp", "elbow", UNIFORM, "did you mean 'elbo'"),
        ("vp", "elbo", UNIFORM, "training.continuous=False"),
        ("subvp", "simple", CHAIN, "training.sde='vpsde'"),
        ("vp", "likelihood", CHAIN, "'elbo'"),
        (
            "ve",
            "likelihood",
            ("--config.training.time_sampling=stratified",),
            "training.time_sampling='importance'",
        ),
        (
            "ve",
            "score_matching",
            (*UNIFORM, "--config.training.likelihood_weighting=True"),
            "training.likelihood_weighting=False",
        ),
    ],
)
def test_options_that_contradict_the_objective_are_refused(recipe, name, words, remedy):
    words = (f"--config.training.objective={name}", *words)
    config = config_of(f"configs/{recipe}/digits.py", *words).config
    with pytest.raises(ValueError, match=re.escape(remedy)) as error:
        check_config(config)
    assert f"training.objective='{name}'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_from_before_objectives_had_names_is_the_same_experiment(tmp_path):
    config = config_of("configs/vp/digits.py").config
    written = json.loads(history.to_json(config))
    assert written["training"].pop("objective") == "auto"
    saved = {"config": json.dumps(written), "step": 7, "versions": ""}
    path = tmp_path / "checkpoints" / "step_00000007.pt"
    changes.of_fields(saved, path, config)
    assert history.adopt(config, json.dumps(written), {}, tmp_path) == config
    with config.unlocked():
        config.training.objective = "likelihood"
    with pytest.raises(ValueError, match=r"training.objective is 'auto' there and 'likelihood'"):
        changes.of_fields(saved, path, config)
    # A config of the 2021 release, too, trains as it says.
    with config.unlocked():
        del config.training["objective"]
    changes.of_fields(saved, path, config)
    assert isinstance(build_objective(config, build_sde(config)), ScoreMatching)


def test_mode_recipes_lists_every_recipe(capsys):
    assert list(recipes.catalogue()) == RECIPES
    for words in (["--mode", "recipes"], ["--mode=recipes"]):
        assert cli.main(["main.py", *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == RECIPES
        assert max(map(len, lines)) < 150
        for line in lines:
            first = ast.get_docstring(ast.parse((ROOT / line.split()[0]).read_text("utf-8")))
            assert line.endswith(first.splitlines()[0])
