"""`score_sde.load`: a trained network for use in Python, from whatever holds its weights."""

import copy
import runpy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from score_sde import pictures
from score_sde.commands import recipes
from score_sde.commands.sampling_grid import times_of
from score_sde.commands.weights import network_of, open_checkpoint
from score_sde.config.build import (
    Config,
    build_device,
    build_inverse_scaler,
    build_sampler,
    build_score,
    build_sde,
    data_range,
    draw,
)
from score_sde.config.check import check_config
from score_sde.config.holds import expanded
from score_sde.data import from_unit
from score_sde.samplers import Sampler
from score_sde.sde import SDE, Score
from score_sde.tensor_ops import check_name


@dataclass(frozen=True, repr=False)
class Loaded:
    """A trained network and what it is used with.

    Attributes:
        config: network, data and SDE of the checkpoint, the other fields as asked for.
        network: with its averaged weights, on its device, in evaluation mode.
        sde: the forward SDE that it was trained for.
        score: (x, t) → ∇ log p_t(x), with x as the network sees it: images in [0, 1] are scaled to
            [−1, 1] where `config.data.centered`. Of a network with classes it is that of no class,
            which training teaches it only with `model.label_dropout`: see `score_of`.
        sampler: of `config.sampling` as it was asked for; `drawing_by` gives another, and so does
            `dataclasses.replace(loaded, sampler=…)` with one of your own.
        path: the file or folder that the weights come from.
        step: updates that they were trained for.
    """

    config: Config
    network: nn.Module
    sde: SDE
    score: Score
    sampler: Sampler
    path: Path
    step: int

    def __repr__(self) -> str:
        """In one line, where a notebook would show hundreds of the network and the config."""
        method = self.config.sampling.method
        what = f"{self.config.model.name}, {self.sde.name}, drawing by {method}"
        return f"{self.path}, step {self.step}: {what}"

    def score_of(self, label: Tensor) -> Score:
        """The score given classes, int64 (B,), for networks that were trained with them."""
        return build_score(self.config, self.network, self.sde, label)

    def drawing_by(self, **sampling: object) -> "Loaded":
        """The same network with another sampler, as `--config.sampling.…` asks for one.

            few = trained.drawing_by(method="unipc", num_steps=19)

        Args:
            **sampling: fields of the config's group `sampling`.

        Raises:
            ValueError: a field that there is not, or a sampler that cannot run.
        """
        config = copy.deepcopy(self.config)
        for name, value in sampling.items():
            check_name(name, config.sampling.keys(), "a field of config.sampling")
            try:
                config.sampling[name] = value
            except TypeError as error:
                was = self.config.sampling[name]
                raise ValueError(
                    f"config.sampling.{name}={value!r}: this field takes a value of type "
                    f"{type(was).__name__}, as {was!r}"
                ) from error
        check_config(config)
        return _with(config, self.network, self.sde, self.path, self.step)

    def draw(self, n: int, seed: int | None = None) -> Tensor:
        """Draws images by `sampler`: those of `--mode sample`, before they are rounded to uint8.

        Args:
            n: how many; image k is the same however many are drawn. Where the network has
                classes, image k is of class k modulo their number, unless `sampling.label` names
                one; they are led to it as `sampling.guidance` says.
            seed: of the noise; that of the config by default.

        Returns:
            Float images in [0, 1], (n, C, H, W), on the network's device; of a network of floats
            in the units of its data, and not clipped. Where an adaptive
            sampler gives up on one, it is what was reached, and a warning says so.

        Raises:
            ValueError: n below 1, or pixels that are not finite.
        """
        if n < 1:
            raise ValueError(f"n={n}: draw at least one image")
        config, device = self.config, build_device(self.config)
        index, sampler = torch.arange(n), self.sampler
        parts = draw(config, self.network, self.sde, index, device, sampler=sampler, seed=seed)
        inverse_scale, images = build_inverse_scaler(self.config), list[Tensor]()
        range = data_range(self.config)
        for part in parts:
            pictures.check_finite(part.x)
            if part.status is not None and part.status.any():
                lost = part.index[part.status != 0].tolist()
                warnings.warn(
                    f"the sampler gave up on images {lost[:8]}, which are what it had reached: "
                    "raise sampling.max_steps or the tolerances",
                    stacklevel=2,
                )
            unit = inverse_scale(part.x)
            images.append(from_unit(unit, range) if range else unit.clamp(0, 1))
        return torch.cat(images)


def load(
    workdir_or_file: str | Path, config: Any = None, *, device: str = "", raw: bool = False
) -> Loaded:
    """See `score_sde.load`."""
    path = expanded(workdir_or_file)
    recipe = _get_config(config) if isinstance(config, str | Path) else config
    checkpoint = None if (path / "checkpoints").is_dir() else path
    adopted, path, state = open_checkpoint(recipe, checkpoint, path)
    if device or recipe is None:  # the device of the run may not be here
        adopted.device = device or "auto"
    network = network_of(adopted, state, path, raw=raw)
    return _with(adopted, network, build_sde(adopted), path, state["step"])


def _with(config: Config, network: nn.Module, sde: SDE, path: Path, step: int) -> Loaded:
    times = times_of(config, network, path, lambda sentence: None)
    score, sampler = build_score(config, network, sde), build_sampler(config, sde, times)
    return Loaded(config, network, sde, score, sampler, path, step)


def _get_config(name: str | Path) -> Config:
    """The config of a recipe, named as on the command line."""
    return runpy.run_path(str(recipes.find(str(name))))["get_config"]()
