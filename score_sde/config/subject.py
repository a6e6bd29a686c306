"""Config → what an evaluation takes. Below this layer nothing sees a config."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde.config import history
from score_sde.config.build import (
    Config,
    Given,
    GivenFor,
    build_device,
    build_inverse_scaler,
    build_objective,
    build_sampler,
    build_scaler,
    build_score_for,
    build_sde,
    check_guides,
    data_range,
    data_root,
    draw,
    drawn_classes,
    field,
    given_of,
    held_out_inputs,
    image_shape,
    led_by,
    num_classes,
    proportional_labels,
    sample_labels,
    upsampling_factor,
)
from score_sde.config.holds import FilePath, expanded
from score_sde.config.schema import FIELDS
from score_sde.data import Source
from score_sde.evaluation.code import fingerprint
from score_sde.evaluation.figures import each_sample
from score_sde.evaluation.references import References
from score_sde.evaluation.shards import Shards
from score_sde.evaluation.subject import Labels, Subject
from score_sde.samplers import Samples
from score_sde.sde import SDE
from score_sde.solvers.correctors import OWN_NORMS_FROM
from score_sde.solvers.ode import ODE_SOLVERS


def _options(config: Config) -> dict[str, Any]:
    """The fields of the group `eval` by their names within it, paths as they are meant."""
    options = config.eval.to_dict()
    for name in options:
        row = FIELDS.get(f"eval.{name}")
        if row is not None and isinstance(row.holds, FilePath) and options[name]:
            options[name] = str(expanded(options[name]))
    return options


def build_references(
    config: Config, say: Callable[[str], None] = lambda sentence: None
) -> References:
    """The feature network and the statistics of the config's data set; `say` as there."""
    return References(
        options=_options(config),
        dataset=config.data.dataset,
        category=field(config, "data.category"),
        root=Path(data_root(config)),
        shape=image_shape(config),
        device=build_device(config),
        seed=config.seed,
        say=say,
        range=data_range(config),
    )


def build_subject(
    config: Config,
    network: nn.Module,
    sources: Mapping[str, Source],
    references: References,
    shards: Shards,
    times: Tensor | None = None,
    given: GivenFor | None = None,
) -> Subject:
    """A checkpoint as figures are computed of it.

    Args:
        config: of the checkpoint, with the evaluation's own options.
        network: with its weights in place.
        sources: images by split.
        references: as `build_references` gives them.
        shards: where results are kept; its facts, which say which weights these are, are joined by
            those of the config.
        times: that samples are drawn at, instead of those that the config names.
        given: what samples of a network that upsamples are drawn from; by default the means of
            blocks of test images.
    """
    sde, device = build_sde(config), build_device(config)
    given = given or _of_test_images(config, sources)
    # Images that a network upsamples are of classes of their own.
    labels, more = _labels(config, sources) if given is None else (None, {})
    how: dict[str, Any] = {"labels": labels} if more else {}
    if times is not None:
        how["sampler"] = build_sampler(config, sde, times)

    def drawn(index: Tensor) -> Iterator[Samples]:
        if given is None:
            return draw(config, network, sde, index, device, **how)
        return draw(config, network, sde, index, device, given=given.of(index), **how)

    facts = {
        "seed": config.seed,
        "device": device.type,
        "arithmetic": "float32",
        "recipe": history.of_checkpoint(config),  # which a published file does not hold
        **_code_of(config, "training.sde", "model.name", "model.prediction", "training.objective"),
    }
    return Subject(
        network=network,
        sde=sde,
        device=device,
        seed=config.seed,
        options=_options(config),
        sampling=config.sampling.to_dict(),
        continuous=config.training.continuous,
        num_classes=num_classes(config),
        scale=build_scaler(config),
        inverse_scale=build_inverse_scaler(config),
        score_for=partial(build_score_for, config, network, sde),
        draw=drawn,
        labels=labels,
        num_steps=lambda: build_sampler(config, sde).num_steps,
        draw_facts=_draw_facts(config, sde)
        | ({} if times is None else {"times": times.tolist()})
        | ({} if given is None else dict(given.facts))
        | more,
        given="" if given is None else given.words,
        held_out_inputs=held_out_inputs(config),
        objective=build_objective(config, sde),
        sources=sources,
        references=references,
        shards=replace(shards, facts={**shards.facts, **facts}),
        each_sample=each_sample(),
    )


def _labels(config: Config, sources: Mapping[str, Source]) -> tuple[Labels | None, dict[str, Any]]:
    """The classes that samples are drawn of, by index, and what of them names their shards."""
    in_turn, train = sample_labels(config), sources.get("train")
    drawn = config.eval.enable_sampling and field(config, "sampling.label") < 0
    if in_turn is None or field(config, "eval.labels") == "equal" or not drawn or train is None:
        return in_turn, {}
    classes = drawn_classes(config)
    if train.info.num_classes != classes:
        raise ValueError(
            f"config.eval.labels='proportional': the training images of {train.info.name} are of "
            f"{train.info.num_classes} classes and samples are drawn of {classes}: set 'equal'"
        )
    counts = train.labels(torch.arange(len(train))).bincount(minlength=classes)
    return proportional_labels(counts, config.seed), {"labels": counts.tolist()}


def _of_test_images(config: Config, sources: Mapping[str, Source]) -> GivenFor | None:
    """Means of blocks of test images, sample k from test image k mod their number."""
    if not upsampling_factor(config):
        return None
    test = sources["test"]

    @cache
    def given() -> Given | None:
        return given_of(config, test, config.eval.num_samples)

    return GivenFor(
        lambda index: given(), "means of test images", {"given": test.info.fingerprint}
    )


def _draw_facts(config: Config, sde: SDE) -> dict[str, Any]:
    """What samples depend on beside the checkpoint; it names the folder of their shards.

    Where later code draws other samples for some settings, an entry for these alone says so: what
    was kept of them is then computed again, and nothing else is.
    """
    check_guides(config, sde)
    # Of a classifier or guide the digest of its file counts, not its place.
    facts: dict[str, Any] = {
        "sampling": {**history.of_group(config, "sampling"), **led_by(config)}
    }
    facts |= _code_of(config, "sampling.method", "sampling.predictor", "sampling.corrector")
    if (solver := field(config, "sampling.ode_solver")) != "rk45":
        facts["ode_solver"] = repr(ODE_SOLVERS[solver])
    sampling, continuous = config.sampling, config.training.continuous
    pc = sampling.method == "pc"
    if sde.has_chain and sde.network_output == "noise" and not continuous:
        # A network of DDPM's chain, away from the steps of the whole chain: its noise levels were
        # taken for those of the continuous SDE.
        whole_chain = pc and sampling.num_steps in (0, sde.N)
        changed = not whole_chain or sampling.predictor == "euler_maruyama"
        changed = changed or sampling.corrector == "ald"
    else:
        # The Langevin step's α_i is now that of the nearest step of the chain, not of the lower.
        changed = pc and sampling.corrector in ("langevin", "ald") and hasattr(sde, "alphas")
    facts |= {"levels": "of the nearest step"} if changed else {}
    few = math.prod(image_shape(config)) < OWN_NORMS_FROM and sampling.norms == "sample"
    # The Langevin step of so few pixels had each sample's own norms.
    langevin = pc and sampling.corrector == "langevin"
    return facts | ({"norms": "expected"} if few and langevin else {})


def _code_of(config: Config, *fields: str) -> dict[str, str]:
    """Fingerprints of the rows that a user has added and these fields name."""
    codes = dict[str, str]()
    for name in fields:
        holds: Any = FIELDS[name].holds
        codes[f"code of {name}"] = fingerprint(holds.row(field(config, name)))
    return {name: code for name, code in codes.items() if code}
