"""Rows that are added from outside: functions, partials, and what is no row of its table."""

from functools import partial

import pytest
import torch
from conftest import ROOT

from score_sde.commands import cli
from score_sde.config import parts, subject
from score_sde.config.build import build_network, build_objective, build_sampler, build_sde
from score_sde.data import DATASETS, MemorySource, open_source
from score_sde.evaluation.code import fingerprint
from score_sde.networks.table import NETWORKS
from score_sde.objectives import OBJECTIVES, NoisePrediction, ScoreMatching
from score_sde.samplers import SAMPLERS
from score_sde.sde import SDES
from score_sde.solvers.correctors import CORRECTORS
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.predictors import PREDICTORS

EULER, LANGEVIN, HEUN = PREDICTORS["euler_maruyama"], CORRECTORS["langevin"], FEW_STEP["heun"]


def config_with(**fields):
    small = {"device": "cpu", "model.num_scales": 6, "model.beta_max": 5.0}
    small |= {"sampling.num_steps": 3, "sampling.predictor": "euler_maruyama"}
    names = {name.replace("__", "."): value for name, value in fields.items()}
    return parts.recipe(parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL, small | names)


def drawn(config):
    sampler = build_sampler(config, build_sde(config))
    index = torch.arange(2)
    (samples,) = sampler.draw(
        lambda _: lambda x, t: -x, index, (1, 4, 4), seed=0, batch_size=2, device="cpu"
    )
    return samples.x


@pytest.mark.parametrize(
    ("table", "row", "as_row", "as_class"),
    [
        (PREDICTORS, partial(EULER), {"predictor": "mine"}, {"predictor": "euler_maruyama"}),
        (
            PREDICTORS,
            partial(EULER, probability_flow=True),
            {"predictor": "mine"},
            {"predictor": "euler_maruyama", "probability_flow": True},
        ),
        (PREDICTORS, lambda sde: EULER(sde), {"predictor": "mine"}, {}),
        (
            CORRECTORS,
            partial(LANGEVIN, snr=0.3),
            {"corrector": "mine", "n_steps_each": 2},
            {"corrector": "langevin", "snr": 0.3, "n_steps_each": 2},
        ),
        (FEW_STEP, lambda sde: HEUN(sde), {"method": "mine"}, {"method": "heun"}),
        (
            FEW_STEP,
            partial(HEUN, s_churn=1.0),
            {"method": "mine"},
            {"method": "heun", "s_churn": 1.0},
        ),
    ],
)
def test_a_step_may_be_a_function(monkeypatch, table, row, as_row, as_class):
    monkeypatch.setitem(table, "mine", row)
    mine, expected = config_with(), config_with()
    mine.sampling.update(as_row)
    expected.sampling.update(as_class)
    assert torch.equal(drawn(mine), drawn(expected))


def test_what_a_function_leaves_out_is_not_taken_for_heeded(monkeypatch):
    monkeypatch.setitem(PREDICTORS, "mine", lambda sde: EULER(sde))
    config = config_with(sampling__predictor="mine", sampling__probability_flow=True)
    with pytest.raises(ValueError, match="mine has no form for the ODE"):
        drawn(config)
    monkeypatch.setitem(FEW_STEP, "mine", partial(HEUN, s_churn=1.0))
    config = config_with(sampling__method="mine")
    config.training.update(continuous=False, time_sampling="uniform")
    with pytest.raises(ValueError, match=r"s_churn=1.0 leads to times between"):
        drawn(config)


@pytest.mark.parametrize(
    ("table", "field", "build"),
    [
        (SDES, "training__sde", build_sde),
        (NETWORKS, "model__name", build_network),
        (OBJECTIVES, "training__objective", lambda c: build_objective(c, build_sde(c))),
        (PREDICTORS, "sampling__predictor", drawn),
        (CORRECTORS, "sampling__corrector", drawn),
        (FEW_STEP, "sampling__method", drawn),
        (SAMPLERS, "sampling__method", drawn),
    ],
)
def test_what_is_no_row_of_its_table_is_refused_in_a_sentence(monkeypatch, table, field, build):
    monkeypatch.setitem(table, "mine", lambda *_, **__: "nothing")
    with pytest.raises(ValueError, match=r"'nothing' where .* give"):
        build(config_with(**{field: "mine"}))


@pytest.mark.parametrize("kind", [ScoreMatching, NoisePrediction])
def test_a_class_that_takes_the_options_for_a_flag_is_no_objective(monkeypatch, kind):
    monkeypatch.setitem(OBJECTIVES, "mine", kind)
    config = config_with(training__objective="mine")
    with pytest.raises(ValueError, match=r"does not take options.*lambda sde, options"):
        build_objective(config, build_sde(config))


PIXELS = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("row", "remedy"),
    [
        (lambda r: [PIXELS], "such as score_sde.data.MemorySource"),
        (lambda r: MemorySource(r.info(6, "d"), PIXELS.float()), "float32 of shape"),
        (lambda r: MemorySource(r.info(5, "d"), PIXELS), r"shape \(5, 1, 4, 4\) is needed"),
        (
            lambda r: MemorySource(r.info(6, "d", class_names=("a",)), PIXELS, torch.arange(6)),
            "from 0 to 5, and it has 1 classes",
        ),
    ],
)
def test_a_data_set_that_is_not_as_it_says_is_refused(monkeypatch, row, remedy):
    monkeypatch.setitem(DATASETS, "mine", row)
    with pytest.raises(ValueError, match=remedy):
        open_source("mine", "train", root=".", image_size=(4, 4), num_channels=1)


def test_a_mode_that_is_a_bare_function_is_refused(monkeypatch, capsys):
    monkeypatch.setitem(cli.MODES, "mine", print)
    assert cli.main(["main.py", "--config=vp/digits", "--mode=mine"]) == 1
    assert "MODES['mine'] is <built-in function print>: give Mode(" in capsys.readouterr().err


REGISTERS = """
import sampling
from score_sde.config import parts, subject


@sampling.register_predictor(name="registered_by_a_recipe")
class Mine(sampling.Predictor):
    def update_fn(self, x, t):
        return x * 0 + SHADE, x * 0 + SHADE


@sampling.register_corrector(name="registered_by_a_recipe")
class Other(sampling.Corrector):
    def update_fn(self, x, t):
        return x, x


def get_config():
    return parts.recipe(
        parts.DDPMPP, parts.DIGITS, parts.VP, parts.SMALL, {"model.beta_max": 5.0},
        {"device": "cpu", "model.num_scales": 6, "sampling.num_steps": 0},
        {"sampling.predictor": "registered_by_a_recipe"},
        {"sampling.corrector": "registered_by_a_recipe"},
    )
"""


def test_a_recipe_may_register_and_is_run_again_and_again(monkeypatch, tmp_path):
    import sampling

    monkeypatch.syspath_prepend(ROOT)
    for name, table in (("PREDICTORS", PREDICTORS), ("CORRECTORS", CORRECTORS)):
        monkeypatch.setattr(f"models._steps.{name}", dict(getattr(sampling, name)))
        monkeypatch.setitem(table, "registered_by_a_recipe", None)
        del table["registered_by_a_recipe"]
    path = tmp_path / "mine.py"
    for shade in (0.25, 0.5):  # the second time the recipe says something else
        path.write_text(REGISTERS.replace("SHADE", str(shade)))
        word = "--config.sampling.n_steps_each=2"
        command = cli.parse(["main.py", f"--config={path}", "--mode=train", word])
        assert torch.equal(drawn(command.config), torch.full((2, 1, 4, 4), shade))


CODE = """
import functools
import torch
from score_sde.sde import SDE

RATE = 2.0


def helper(t):
    return RATE * t


class Mine(SDE):
    name = "mine"

    def mean_scale(self, t):
        return torch.ones_like(t)

    def std(self, t):
        return helper(t) if t in {"a", "b"} else [x for x in t]


row = lambda model: Mine(model["num_scales"])
partly = functools.partial(row, {"num_scales": 3})
thing = Mine(3)
"""


def test_a_fingerprint_follows_what_users_write_and_nothing_else():
    def of(code, name):
        defined: dict = {"__name__": "recipe_of_a_user"}
        exec(code, defined)
        return fingerprint(defined[name])

    changes = [("2.0", "2.5"), ("RATE * t", "RATE - t"), ("ones", "zeros"), ('"b"', '"c"')]
    for name in ("row", "partly", "thing", "Mine"):
        assert of(CODE, name) == of(CODE + "\nother = 3", name) != ""
        assert len({of(CODE, name), *(of(CODE.replace(*change), name) for change in changes)}) == 5
    for table in (SDES, NETWORKS, OBJECTIVES, PREDICTORS, CORRECTORS, FEW_STEP, SAMPLERS):
        assert {fingerprint(row) for row in table.values()} == {""}


def test_samples_of_an_earlier_version_of_a_step_are_not_taken(monkeypatch):
    def facts(factor):
        class Mine(EULER):
            def step(self, x, t, t_next, score, noise):
                return factor * x, x

        monkeypatch.setitem(PREDICTORS, "mine", Mine)
        config = config_with(sampling__predictor="mine")
        return subject._draw_facts(config, build_sde(config))

    assert facts(1.0) == facts(1.0) != facts(2.0)


def test_samples_that_langevin_steps_of_own_norms_drew_in_few_dimensions_are_not_taken():
    def facts(**fields):
        config = config_with(sampling__corrector="langevin", **fields)
        return subject._draw_facts(config, build_sde(config))

    assert "norms" not in facts()  # 8 x 8
    assert facts(data__image_size=4)["norms"] == "expected"
    assert "norms" not in facts(data__image_size=4, sampling__norms="batch")
    assert "norms" not in facts(data__image_size=4, sampling__method="heun")
