"""Networks and scores by the 2021 release's names; the logic is in `score_sde`."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np
import torch
from torch import Tensor, nn

from models._release import FromConfig, complete, defined_again, finish, take_release_names
from models.ddpm import DDPM
from models.ncsnpp import NCSNpp
from models.ncsnv2 import NCSN, NCSNv2, NCSNv2_128, NCSNv2_256
from score_sde.config.build import build_device, build_network
from score_sde.networks.table import NETWORKS
from score_sde.score import NetworkScore
from score_sde.sde import SDE, Score
from score_sde.tensor_ops import choose

_OURS: dict[str, type[FromConfig]] = {
    kind.model_name: kind for kind in (NCSNpp, DDPM, NCSN, NCSNv2, NCSNv2_128, NCSNv2_256)
}
_REGISTERED: dict[str, Callable[[Any], nn.Module]] = dict(_OURS)


def register_model(cls: Any = None, *, name: str | None = None) -> Any:
    """Makes a class whose constructor takes a config a `model.name`; a decorator, or a call.

    Args:
        cls: the class.
        name: what configs call it; the class's own name by default.

    Raises:
        ValueError: there is another network of this name.
    """

    def register(cls: Any) -> Any:
        key = cls.__name__ if name is None else name
        again = key in _REGISTERED and defined_again(_REGISTERED[key], cls)
        if not again and (key in _REGISTERED or key in NETWORKS):
            raise ValueError(f"there is a network {key!r} already: give another name")
        _REGISTERED[key] = cls
        return cls

    return register if cls is None else register(cls)


def get_model(name: str) -> Callable[[Any], nn.Module]:
    """The class, or function, that makes the network of this name from a config.

    Raises:
        UnknownName: there is none; lists those that there are.
    """
    # _build makes what was put into the library's own table.
    return choose(dict.fromkeys(NETWORKS, _build) | _REGISTERED, name, "model.name")


def _build(config: Any) -> nn.Module:
    """The library's network of a config as the class of the front, on the config's device."""
    net = build_network(complete(config))
    for kind in _OURS.values():
        if type(net) in kind.__mro__[1:]:
            net.__class__ = kind
            break
    finish(net)
    return net


def create_model(config: Any) -> nn.Module:
    """The network of a config, on its device, called as net(x, cond).

    The device that "auto" stands for is written into `config.device`.

    Raises:
        ValueError: an unknown name, or options that the network refuses.
    """
    kind, device = get_model(config.model.name), build_device(complete(config))
    ours = kind is _OURS.get(config.model.name)
    make = _build if ours else kind
    net = make(config).to(device)
    if make is not _build and not isinstance(net, FromConfig):  # a class of a user's
        take_release_names(net)
    _write_device(config, device)
    return net


def _write_device(config: Any, device: torch.device) -> None:
    known = config.get("device")
    if isinstance(config, ml_collections.FrozenConfigDict) or known in (device, str(device)):
        return
    unlocked = config.unlocked() if hasattr(config, "unlocked") else contextlib.nullcontext()
    with unlocked:
        config["device"] = str(device) if isinstance(known, str) else device


def get_model_fn(model: nn.Module, train: bool = False) -> Callable[..., Tensor]:
    """A network in training or evaluation mode.

    Returns:
        model_fn(x, labels, label=None) → the network's output, with the shape of x (B, ...);
        `labels` (B,) say the noise level, `label` the class. The mode is set before each call,
        since others may have changed it in between.
    """

    def model_fn(x: Tensor, labels: Tensor, *label: Tensor) -> Tensor:
        if getattr(model, "training", None) is not train:
            model.train() if train else model.eval()
        return model(x, labels, *label)

    return model_fn


def get_score_fn(
    sde: SDE, model: nn.Module | Score, train: bool = False, continuous: bool = False
) -> Score:
    """The score that a network stands for; a score of the library is one already.

    Args:
        sde: the SDE that the network was trained for.
        model: called as model(x, cond). What is no network (it has no mode to set by `eval()`),
            such as a `score_sde.score.GuidedScore` or an exact score, is called as model(x, t) and
            given back as it is.
        train: training mode; evaluation mode otherwise.
        continuous: trained on continuous times; False for the chains of SMLD and DDPM.

    Returns:
        score_fn(x, t) → ∇ log p_t(x), with the shape of x.
    """
    if not isinstance(model, nn.Module) and not hasattr(model, "eval"):
        return model
    network: Any = model
    return NetworkScore(get_model_fn(network, train), sde, continuous)


def get_sigmas(config: Any) -> np.ndarray:
    """The noise levels of SMLD from the largest down: (config.model.num_scales,), float64."""
    model = config.model
    return np.exp(np.linspace(np.log(model.sigma_max), np.log(model.sigma_min), model.num_scales))


def get_ddpm_params(config: Any) -> dict[str, Any]:
    """DDPM's tables for 1,000 steps, float64 (1000,) by name, as of `sde_lib.VPSDE`."""
    steps = 1000
    model = config.model
    first, last = model.beta_min / model.num_scales, model.beta_max / model.num_scales
    betas = np.linspace(first, last, steps, dtype=np.float64)
    total = np.cumprod(1 - betas)
    return {
        "betas": betas,
        "alphas": 1 - betas,
        "alphas_cumprod": total,
        "sqrt_alphas_cumprod": np.sqrt(total),
        "sqrt_1m_alphas_cumprod": np.sqrt(1 - total),
        "beta_min": first * (steps - 1),
        "beta_max": last * (steps - 1),
        "num_diffusion_timesteps": steps,
    }


def to_flattened_numpy(x: Tensor) -> np.ndarray:
    """A tensor of any shape → its numbers in a row, for solvers of scipy."""
    return x.detach().cpu().numpy().reshape(-1)


def from_flattened_numpy(x: np.ndarray, shape: Sequence[int]) -> Tensor:
    """The inverse of `to_flattened_numpy`, on the CPU."""
    return torch.from_numpy(x.reshape(tuple(shape)))
