"""Recipes: each composes, is checked, and has every leaf open to the command line."""

import ml_collections
import pytest
from conftest import ROOT

import assembly
import main
from configs import parts

RECIPES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.glob("configs/*/**/*.py")
    if path.name != "__init__.py"
)


def config_of(recipe: str, *words: str) -> main.Command:
    return main.parse(["main.py", "--config", recipe, "--mode=train", *words])


def leaves(config, prefix="config."):
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_consistent(recipe):
    config = config_of(recipe).config
    assembly.check(config)
    assembly.check(assembly.reduced(config))


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


def test_published_recipes_hold_the_original_values(golden):
    renamed = {"device"}  # machine-dependent in the original
    dropped = {"model.attention_type", "model.conv_size"}  # never read by the original
    published = golden.json("configs")["configs"]
    tested = 0
    for recipe in RECIPES:
        name = recipe.removeprefix("configs/").removesuffix(".py")
        if name not in published:
            continue
        ours = {key.removeprefix("config."): v for key, v in leaves(config_of(recipe).config)}
        theirs = dict(leaves(ml_collections.ConfigDict(published[name]), ""))
        for key, value in theirs.items():
            if key in renamed | dropped:
                continue
            expected = tuple(value) if isinstance(value, list | tuple) else value
            assert ours[key] == expected, f"{name}: {key}"
        tested += 1
    assert tested
