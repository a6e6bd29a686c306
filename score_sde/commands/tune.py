"""`--mode tune`: noise levels and the Langevin step computed from the training images."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from score_sde.atomic import cannot_write, check_writable, write_whole
from score_sde.config.build import Config, build_scaler, build_sde, build_sources
from score_sde.config.check import check_config
from score_sde.data.distances import LargestDistance, largest_distance
from score_sde.sde import SDE
from score_sde.solvers.noise_levels import (
    count_levels,
    ratio_of,
    snr_of_step,
    step_size,
    variance_kept,
)

FAR_BELOW = 0.5
"""A recipe is warned of whose sigma_max is less than this part of the largest distance."""

# What makes a recipe sample by annealed Langevin dynamics.
ANNEALED_LANGEVIN = {
    "sampling.method": "pc",
    "sampling.predictor": "none",
    "sampling.corrector": "ald",
}


@dataclass(frozen=True)
class NoiseLevels:
    """What the images ask for (Song & Ermon 2020, techniques 1, 2 and 4).

    Attributes:
        sigma_min: the recipe's smallest level.
        sigma_max: the largest distance, rounded up to three digits.
        num_scales: levels, both ends counted.
        ratio: of neighbouring levels.
        n_steps_each: Langevin steps at each level, the recipe's.
        step_size: ε, the step at level σ being ε σ²/σ_min².
        snr: the same in the recipe's terms, rounded to three digits.
        variance: after the steps of a level, in units of that level's.
    """

    sigma_min: float
    sigma_max: float
    num_scales: int
    ratio: float
    n_steps_each: int
    step_size: float
    snr: float
    variance: float


def tune(config: Config, workdir: Path) -> str:
    """Computes noise levels and the Langevin step, and writes them to WORKDIR/tune.json.

    Args:
        config: the recipe; its training images, its smallest level and its number of Langevin
            steps at each level count.
        workdir: made where missing; what else lies there is left alone.

    Returns:
        The results, for the screen, with the overrides as words of a command line.

    Raises:
        ValueError: a config that cannot run, or images that are all the same.
        OSError: missing images, or a work directory that cannot be written to.
    """
    check_config(config)
    path = workdir / "tune.json"
    _prepare(path)
    source, _ = build_sources(config)
    if len(source) < 2:
        raise ValueError("one image has no distance to another: give at least two training images")
    largest = largest_distance(source, config.seed)
    scale = build_scaler(config)
    span = (scale(torch.ones(())) - scale(torch.zeros(()))).item()
    distance = largest.distance * span
    if distance == 0:
        raise ValueError(f"all images of {source.info.name} are the same: give ones that differ")
    channels, height, width = source.info.shape
    lines = [
        *source.info.notes,
        f"images            {source.info.name}, {len(source):,} of {channels}x{height}x{width}",
        f"largest distance  {distance:.4g}, {_how(largest, span)}, where a pixel spans {span:g}"
        + (", flips left out" if config.data.random_flip else ""),
    ]
    report: dict[str, Any] = {
        "data": source.info.name,
        "num_images": len(source),
        "images_compared": largest.num_images,
        "largest_distance": distance,
        "at_most": largest.at_most * span,
        "exact": largest.exact,
        "overrides": {},
        "annealed_langevin": {},
        "warning": "",
    }
    sde = build_sde(config)
    if sde.has_chain and sde.network_output == "score":  # SMLD's chain of noise levels
        levels = _levels(config, distance, math.prod(source.info.shape))
        report |= {"levels": asdict(levels), "warning": _warning(config, distance)}
        report["overrides"], report["annealed_langevin"] = _overrides(config, levels)
        lines += _say_levels(config, levels, report)
    else:
        lines += [_say_end(sde, distance)]
    text = json.dumps(report, indent=2) + "\n"
    write_whole(path, lambda file: file.write(text.encode()), "--workdir")
    return "\n".join([*lines, f"written to {path}"])


def _levels(config: Config, distance: float, dimensions: int) -> NoiseLevels:
    sigma_min, steps = config.model.sigma_min, config.sampling.n_steps_each
    if distance <= sigma_min:
        raise ValueError(
            f"the largest distance between two images is {distance:.3g}, not above "
            f"config.model.sigma_min={sigma_min}: give images that differ, or lower sigma_min"
        )
    digit = 10.0 ** (math.floor(math.log10(distance)) - 2)
    sigma_max = float(f"{math.ceil(distance / digit) * digit:.3g}")
    num_scales = count_levels(sigma_min, sigma_max, dimensions)
    ratio = ratio_of(sigma_min, sigma_max, num_scales)
    epsilon = step_size(sigma_min, ratio, steps)
    return NoiseLevels(
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        num_scales=num_scales,
        ratio=ratio,
        n_steps_each=steps,
        step_size=epsilon,
        snr=float(f"{snr_of_step(epsilon, sigma_min):.3g}"),
        variance=variance_kept(epsilon / sigma_min**2, ratio, steps),
    )


def _overrides(config: Config, levels: NoiseLevels) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields to set, and those to set besides if annealed Langevin dynamics is to sample."""
    largest = {"model.sigma_max": levels.sigma_max}
    geometry = {"model.num_scales": levels.num_scales, "sampling.snr": levels.snr}
    if config.sampling.num_steps:
        geometry["sampling.num_steps"] = 0  # one step at each level
    others = {
        name: value
        for name, value in ANNEALED_LANGEVIN.items()
        if config.sampling[name.partition(".")[2]] != value
    }
    return (largest, geometry | others) if others else (largest | geometry, {})


def _warning(config: Config, distance: float) -> str:
    sigma_max = config.model.sigma_max
    if sigma_max >= FAR_BELOW * distance:
        return ""
    return (
        f"config.model.sigma_max={sigma_max:g} is less than half the largest distance between "
        f"two images, {distance:.3g}: samples may lack variety; set it as below"
    )


def _say_levels(config: Config, levels: NoiseLevels, report: dict[str, Any]) -> list[str]:
    model, sampling = config.model, config.sampling
    lines = [
        f"sigma_max         {levels.sigma_max:g} (the recipe: {model.sigma_max:g})",
        f"levels            {levels.num_scales:,} down to {levels.sigma_min:g}, ratio "
        f"{levels.ratio:.4f} (the recipe: {model.num_scales:,})",
        f"Langevin step     {levels.step_size:.2g}, snr {levels.snr:g}, with "
        f"{levels.n_steps_each} at each level (the recipe: {sampling.snr:g}); "
        f"they leave {levels.variance:.3f} times its variance",
    ]
    if report["warning"]:
        lines.append(f"warning: {report['warning']}")
    lines += ["overrides:", _words(report["overrides"])]
    if report["annealed_langevin"]:
        pair = f"{sampling.predictor} and {sampling.corrector}"
        method = pair if sampling.method == "pc" else sampling.method
        lines += [
            f"The recipe samples by {method}; levels and step are those of annealed Langevin "
            "dynamics. To train for that, also:",
            _words(report["annealed_langevin"]),
        ]
    return lines


def _say_end(sde: SDE, distance: float) -> str:
    level = sde.noise_level(torch.tensor([sde.T], dtype=torch.float64)).item()
    return (
        f"{sde.name} has no chain of noise levels to choose: its noise level σ/α ends at "
        f"{level:.4g}, {level / distance:.2g} times the largest distance. Levels and Langevin "
        "step are computed for SMLD's chain (vesde) only."
    )


def _how(largest: LargestDistance, span: float) -> str:
    if largest.exact:
        return "exact"
    words = [] if largest.whole else [f"in a random sample of {largest.num_images:,}"]
    if largest.distance != largest.at_most:
        words.append(f"search cut short, at most {largest.at_most * span:.4g}")
    return ", ".join(words)


def _words(overrides: dict[str, Any]) -> str:
    return " ".join(f"--config.{name}={value}" for name, value in overrides.items())


def _prepare(path: Path) -> None:
    try:
        check_writable(path)
    except OSError as error:
        raise cannot_write(path, error, "--workdir") from error
