"""What notebooks written for the 2021 release call: losses and steps by the original's names.

They are thin: the objectives are in `score_sde.objectives`, optimiser and schedule in
`score_sde.training`.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models._optimizer import fit_state
from models._release import complete
from models.utils import get_model_fn
from score_sde.objectives.chain import SMLD, NoisePrediction
from score_sde.objectives.choice import make_objective
from score_sde.objectives.losses import Objective, ScoreMatching
from score_sde.objectives.times import UniformTimes
from score_sde.sde import SDE, VESDE, VPSDE

LossFn = Callable[..., Tensor]
"""loss_fn(model, batch, *, t=None, noise=None): batch (B, ...) → the mean loss, a scalar."""


def get_sde_loss_fn(
    sde: SDE,
    train: bool,
    reduce_mean: bool = True,
    continuous: bool = True,
    likelihood_weighting: bool = True,
    eps: float = 1e-5,
) -> LossFn:
    """Denoising score matching at uniform times in [eps, T] (Song, eq. 7).

    Returns:
        loss_fn(model, batch, *, t=None, noise=None), which puts the model into training or
        evaluation mode first. `t` (B,) are times and `noise` is standard normal with the shape of
        `batch`; what is not given is drawn from torch's global generator, times first.
    """
    times = UniformTimes(sde, eps)
    make = partial(ScoreMatching, sde, continuous, reduce_mean, likelihood_weighting, times)
    return _loss_fn(make, train)


def get_smld_loss_fn(vesde: VESDE, train: bool, reduce_mean: bool = False) -> LossFn:
    """Score matching on SMLD's chain; as `get_sde_loss_fn`, with `t` the int64 labels."""
    return _loss_fn(partial(SMLD, vesde, reduce_mean), train)


def get_ddpm_loss_fn(vpsde: VPSDE, train: bool, reduce_mean: bool = True) -> LossFn:
    """Noise prediction on DDPM's chain; as `get_sde_loss_fn`, with `t` the int64 steps."""
    return _loss_fn(partial(NoisePrediction, vpsde, reduce_mean), train)


def _loss_fn(make: Callable[[], Objective], train: bool) -> LossFn:
    make()  # what does not fit is refused now

    def loss_fn(
        model: nn.Module, batch: Tensor, *, t: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        objective = make()  # anew, as tables of the SDE may have been replaced
        model.train() if train else model.eval()
        t = objective.times(len(batch), batch.device) if t is None else t
        noise = torch.randn_like(batch) if noise is None else noise
        return objective(get_model_fn(model, train), batch, t, noise).mean()

    return loss_fn


def get_optimizer(config: Any, params: Iterable[Any]) -> torch.optim.Optimizer:
    """The optimiser of `config.optim`.

    It also takes the entry `optimizer` of the release's file by `load_state_dict`, where the
    parameters are those of the file's network in their order.

    Args:
        config: its `optim` is read.
        params: parameters, pairs of a name and one, or groups as torch takes them.

    Raises:
        ValueError: an unknown `config.optim.optimizer`.
    """
    from score_sde.training import make_optimizer

    optim: Any = complete(config).optim
    groups = list(params)
    if not groups or not isinstance(groups[0], Mapping):
        groups = [{"params": groups}]
    number = itertools.count()
    named = [
        [one if isinstance(one, tuple) else (str(next(number)), one) for one in _listed(group)]
        for group in groups
    ]
    optimizer = make_optimizer(
        named[0],
        name=optim.optimizer,
        lr=optim.lr,
        beta1=optim.beta1,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        amsgrad=optim.amsgrad,
    )
    optimizer.param_groups[0].update({k: v for k, v in groups[0].items() if k != "params"})
    for group, pairs in zip(groups[1:], named[1:], strict=True):
        optimizer.add_param_group({**group, "params": pairs})
    optimizer.register_load_state_dict_pre_hook(fit_state)
    return optimizer


def _listed(group: Mapping[str, Any]) -> list[Any]:
    params = group["params"]
    return [params] if isinstance(params, Tensor) else list(params)


def optimization_manager(config: Any) -> Callable[..., None]:
    """One optimiser step with the warm-up and the clipping of `config.optim`.

    Returns:
        optimize_fn(optimizer, params, step, lr=..., warmup=..., grad_clip=...). `step` counts the
        updates made before, so that the first one has a learning rate of 0 where there is a
        warm-up; without one the optimiser's own rate stays. A negative `grad_clip` is none.
    """
    from score_sde.training import learning_rate

    optim: Any = complete(config).optim

    def optimize_fn(
        optimizer: torch.optim.Optimizer,
        params: Any,
        step: int,
        lr: float = optim.lr,
        warmup: int = optim.warmup,
        grad_clip: float = optim.grad_clip,
    ) -> None:
        if warmup > 0:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, lr, warmup)
        if grad_clip >= 0:
            torch.nn.utils.clip_grad_norm_(params, max_norm=grad_clip)
        optimizer.step()

    return optimize_fn


def get_step_fn(
    sde: SDE,
    train: bool,
    optimize_fn: Callable[..., None] | None = None,
    reduce_mean: bool = False,
    continuous: bool = True,
    likelihood_weighting: bool = False,
) -> Callable[..., Tensor]:
    """One step of training, or of evaluation with the averaged weights.

    Args:
        sde: the forward process.
        train: whether to train.
        optimize_fn: what `optimization_manager` gives; needed for training.
        reduce_mean: mean over the dimensions of a sample; otherwise half their sum.
        continuous: continuous times; False for the chains of SMLD (VE) and DDPM (VP).
        likelihood_weighting: λ = g² instead of σ².

    Returns:
        step_fn(state, batch, *, t=None, noise=None) → the mean loss, a scalar. `state` is a dict
        of `model`, `optimizer`, `ema` and `step`; training changes them all.

    Raises:
        ValueError: options that exclude each other, or training without `optimize_fn`.
    """
    make = partial(
        make_objective,
        sde,
        continuous=continuous,
        reduce_mean=reduce_mean,
        likelihood_weighting=likelihood_weighting,
    )
    loss_fn = _loss_fn(make, train)
    if not train:
        return _evaluation_step(loss_fn)
    if optimize_fn is None:
        raise ValueError(
            "optimize_fn=None: training needs what optimization_manager(config) gives"
        )
    return _training_step(loss_fn, optimize_fn)


def _training_step(loss_fn: LossFn, optimize_fn: Callable[..., None]) -> Callable[..., Tensor]:
    def step_fn(state: dict[str, Any], batch: Tensor, **draws: Tensor) -> Tensor:
        model = state["model"]
        state["optimizer"].zero_grad()
        loss = loss_fn(model, batch, **draws)
        loss.backward()
        optimize_fn(state["optimizer"], model.parameters(), step=state["step"])
        state["step"] += 1
        state["ema"].update(model.parameters())
        return loss.detach()

    return step_fn


def _evaluation_step(loss_fn: LossFn) -> Callable[..., Tensor]:
    @torch.no_grad()
    def step_fn(state: dict[str, Any], batch: Tensor, **draws: Tensor) -> Tensor:
        model, ema = state["model"], state["ema"]
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
        loss = loss_fn(model, batch, **draws)
        ema.restore(model.parameters())
        return loss

    return step_fn
