"""What `--mode encode` and `--mode interpolate` share: the flow, and images as its latents."""

from collections.abc import Mapping

from torch import Tensor

from score_sde.config.build import Config, build_sde, field
from score_sde.sde import SDE


def with_flow(config: Config, overrides: Mapping[str, object], *, to_images: bool) -> Config:
    """A config that decodes by the adaptive ODE, where the command names no other method.

    Args:
        config: the recipe.
        overrides: fields given on the command line, which hold.
        to_images: images have been encoded and are to come back: nothing is denoised at the end,
            as the flow takes them as they are at its other end.
    """
    alone = config.copy_and_resolve_references()
    with alone.unlocked():
        if "sampling.method" not in overrides:
            alone.sampling.method = "ode"
        if to_images and "sampling.noise_removal" not in overrides:
            alone.sampling.noise_removal = False
    return alone


def check_encodes(config: Config) -> None:
    """Refuses a network that knows the times of a discrete chain only, which no flow walks.

    Raises:
        ValueError: it is one.
    """
    if build_sde(config).has_chain and not config.training.continuous:
        raise ValueError(
            "images are encoded by the probability-flow ODE, which asks for the score at any "
            "time, and this network knows the times of its discrete chain only: take one that "
            "was trained in continuous time (config.training.continuous=True)"
        )


def flow_options(config: Config, sde: SDE) -> dict[str, object]:
    """What `likelihoods.flow` takes of the group `sampling`."""
    sampling = config.sampling
    return {
        "rtol": sampling.rtol,
        "atol": sampling.atol,
        "eps": sampling.eps or sde.eps,
        "batch_size": sampling.batch_size,
        "max_steps": sampling.max_steps,
        "method": field(config, "sampling.ode_solver"),
        "control": field(config, "sampling.step_control"),
    }


def shown(sde: SDE, z: Tensor) -> Tensor:
    """Latents as pictures in [0, 1]: three standard deviations of the prior on either side."""
    return 0.5 + z / (6 * sde.prior_std)
