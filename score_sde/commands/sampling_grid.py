"""The grid that is optimised for a network, kept beside its checkpoint."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from score_sde import atomic
from score_sde.commands.origin import origin_of
from score_sde.config import schema
from score_sde.config.build import Config, build_device, build_sampler, build_sde, optimise_grid
from score_sde.samplers.optimised_grid import RUNS
from score_sde.solvers.few_step import FEW_STEP
from score_sde.solvers.step import arguments_of


def times_of(
    config: Config, network: nn.Module, checkpoint: Path, report: Callable[[str], None]
) -> Tensor | None:
    """The times of `sampling.grid=optimised`: as kept, or found now, and kept where better.

    They lie beside the checkpoint, in `step_00001000.grid_unipc_10_89abcdef.json`, which ends in
    digits of weights and settings. Where that folder can't be written to they are found again
    next time.

    Args:
        config: of the network.
        network: with its weights in place.
        checkpoint: the file, or folder, of the weights.
        report: is given a sentence about what was found.

    Returns:
        (num_steps + 1,). None where the config names another grid, or a method that chooses its
        own times, which passes over the field.

    Raises:
        ValueError: as `build.optimise_grid`.
    """
    sampling, sde = config.sampling, build_sde(config)
    if sampling.grid != "optimised" or build_sampler(config, sde).num_steps is None:
        return None
    key = _key(config, network)
    checkpoint = checkpoint.resolve()  # of "." the name too
    name = f"{checkpoint.stem}.grid_{sampling.method}_{sampling.num_steps}_{key[:8]}.json"
    path = checkpoint.with_name(name)
    kept = _kept(path, key, sampling.num_steps, (sde.T, sampling.eps or sde.eps))
    if kept is not None:
        report(f"the grid is that of {path}")
        return kept
    began = time.monotonic()
    quiet = not sys.stderr.isatty()
    with tqdm(total=RUNS, unit="run", desc="fitting a grid", disable=quiet, leave=False) as bar:
        found = optimise_grid(config, network, sde, build_device(config), bar.update)
    errors = (
        f"{found.error:.4g} from the converged ODE's images, and {found.log_snr_error:.4g} with"
    )
    seconds = time.monotonic() - began
    if not found.better:
        report(
            f"an optimised grid, found in {seconds:.0f} s, leads {errors} the grid log_snr on "
            "other noise: log_snr is taken"
        )
        return found.times
    report(f"an optimised grid, found in {seconds:.0f} s, leads {errors} the grid log_snr")
    content = {
        "key": key,
        "times": found.times.tolist(),
        "error": found.error,
        "log_snr_error": found.log_snr_error,
    }
    try:
        atomic.write(path, lambda file: file.write(json.dumps(content).encode()))
    except OSError as error:
        report(f"the grid could not be kept in {path} ({error.strerror}): it holds for this run")
    return found.times


def _key(config: Config, network: nn.Module) -> str:
    """A digest of what a grid depends on: weights, and the settings that the fit heeds."""
    heeded = arguments_of(FEW_STEP[config.sampling.method]).values()
    heeded = {"method", "num_steps", "eps", "noise_removal", "threshold", *heeded}
    heeded |= {"label", "guidance", "guidance_interval"}
    heeded |= {"classifier", "classifier_scale", "guide"}
    alone, defaults = config.copy_and_resolve_references(), schema.defaults("sampling")
    with alone.unlocked():
        alone.sampling.update({k: v for k, v in defaults.items() if k not in heeded})
    return origin_of(alone, network.state_dict(), seed=0)  # it suits every seed


def _kept(path: Path, key: str, num_steps: int, ends: tuple[float, float]) -> Tensor | None:
    try:
        content = atomic.read_json(path)
        times = torch.tensor(content["times"], dtype=torch.float32)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # not there, or not ours
        return None
    if content.get("key") != key or times.shape != (num_steps + 1,):
        return None
    whole = (times.diff() < 0).all() and torch.equal(times[[0, -1]], torch.tensor(ends))
    return times if whole else None
