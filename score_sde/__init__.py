"""Score-based generative modelling through stochastic differential equations.

The library: SDEs, networks, objectives, samplers, likelihoods and the command line. `sde`, `score`
and `noise` hold the ideas that the others are made of; docs/design.md says what lies where.
`score_sde.load` gives a trained network with all that belongs to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ml_collections import ConfigDict

    from score_sde.commands.load import Loaded

__version__ = "0.1.0"


def load(
    workdir_or_file: str | Path,
    config: ConfigDict | str | Path | None = None,
    *,
    device: str = "",
    raw: bool = False,
) -> Loaded:
    """A trained network, with the SDE, score and sampler that belong to it.

        trained = score_sde.load("runs/vp/digits")
        images = trained.draw(16)  # in [0, 1], (16, 1, 8, 8)
        gradient = trained.score(2 * images - 1, torch.full((16,), 0.1))  # ∇ log p_t at t = 0.1

    Args:
        workdir_or_file: a work directory, whose newest checkpoint is taken; a checkpoint of ours
            or of the 2021 release, NCSN or NCSNv2; or a folder of diffusers.
        config: a recipe, or its name ("ve/cifar10"). A checkpoint of ours knows the config of its
            run; from a recipe it then takes sampler, seed and device. Others need the recipe that
            they were trained with.
        device: "auto", "cpu", "cuda", ...; the recipe's by default, without a recipe "auto".
        raw: the weights as trained instead of their moving average.

    Raises:
        OSError: there is no such file.
        ValueError: there is no checkpoint, or it is damaged, or does not fit the recipe.
    """
    from score_sde.commands.load import load

    return load(workdir_or_file, config, device=device, raw=raw)
