"""The samplers of the 2021 release, by its names: thin fronts of `GridSampler` and `solvers.ode`.

They repeat what its published numbers rest on: steps of the paper's own chain (Euler–Maruyama
steps by T/N), norms of the Langevin step averaged over the batch, one error norm for the whole
batch in the ODE, and noise drawn in the same order. `nfe` is the number of network evaluations
really made.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models._release import complete
from models._steps import (
    CORRECTORS,
    PREDICTORS,
    AncestralSamplingPredictor,
    AnnealedLangevinDynamics,
    Corrector,
    EulerMaruyamaPredictor,
    LangevinCorrector,
    NoneCorrector,
    NonePredictor,
    Predictor,
    ReverseDiffusionPredictor,
    Update,
    as_step,
    class_of,
    get_corrector,
    get_predictor,
    register_corrector,
    register_predictor,
)
from models.utils import get_score_fn
from score_sde.noise import Noise, torch_noise
from score_sde.samplers.grid import CountedScore, GridSampler
from score_sde.sde import SDE, Score
from score_sde.solvers import correctors, predictors
from score_sde.solvers.grids import paper_grid
from score_sde.solvers.ode import Status, solve, solve_scipy

__all__ = [
    "CORRECTORS",
    "PREDICTORS",
    "AncestralSamplingPredictor",
    "AnnealedLangevinDynamics",
    "Corrector",
    "EulerMaruyamaPredictor",
    "LangevinCorrector",
    "NoneCorrector",
    "NonePredictor",
    "Predictor",
    "ReverseDiffusionPredictor",
    "get_corrector",
    "get_ode_sampler",
    "get_pc_sampler",
    "get_predictor",
    "get_sampling_fn",
    "register_corrector",
    "register_predictor",
    "shared_corrector_update_fn",
    "shared_predictor_update_fn",
]

Scaler = Callable[[Tensor], Tensor]
SamplingFn = Callable[..., tuple[Tensor, int]]


def shared_predictor_update_fn(
    x: Tensor,
    t: Tensor,
    sde: SDE,
    model: nn.Module,
    predictor: Any,
    probability_flow: bool,
    continuous: bool,
) -> Update:
    """One update of a predictor's class (or name; None leaves x) with a network's score."""
    score = get_score_fn(sde, model, train=False, continuous=continuous)
    kind = class_of(get_predictor, predictor, "predictor")
    step = as_step(kind, sde, (probability_flow,), None)
    return step.step(x, t, None, score, torch_noise(x.device))


def shared_corrector_update_fn(
    x: Tensor,
    t: Tensor,
    sde: SDE,
    model: nn.Module,
    corrector: Any,
    continuous: bool,
    snr: float,
    n_steps: int,
) -> Update:
    """One update of a corrector's class (or name; None leaves x) with a network's score."""
    score = get_score_fn(sde, model, train=False, continuous=continuous)
    kind = class_of(get_corrector, corrector, "corrector")
    step = as_step(kind, sde, (snr, n_steps), None)
    return step.step(x, t, None, score, torch_noise(x.device))


def get_pc_sampler(
    sde: SDE,
    shape: Sequence[int],
    predictor: Any,
    corrector: Any,
    inverse_scaler: Scaler,
    snr: float,
    n_steps: int = 1,
    probability_flow: bool = False,
    continuous: bool = False,
    denoise: bool = True,
    eps: float = 1e-3,
    device: torch.device | str | None = None,
    *,
    noise: Noise | None = None,
) -> SamplingFn:
    """The predictor–corrector sampler (Song et al. 2021, algorithms 1 to 3).

    Args:
        sde: the forward SDE; its N is the number of steps.
        shape: (B, ...) of the batch that is drawn.
        predictor: a class, called as `Predictor` is, or its name; None for none.
        corrector: a class, called as `Corrector` is, or its name; None for none.
        inverse_scaler: from the network's range to that of the data.
        snr: signal-to-noise ratio of the corrector.
        n_steps: corrector steps at each time.
        probability_flow: steps of the ODE instead of the SDE.
        continuous: the network was trained on continuous times.
        denoise: returns the mean of the last step.
        eps: the last time.
        device: where to draw; the network's by default, and for our recipes' "auto".
        noise: a shape gives standard normal noise, called in the order of the 2021 release: the
            prior, then at each time the corrector's draws and the predictor's. torch's global
            generator by default.

    Returns:
        fn(model) → (images, nfe); the model is a network, or a score of the library, (x, t) → the
        shape of x (guided, exact, or of a network with labels), which `continuous` does not
        concern.

    Raises:
        ValueError: where a name is unknown, or the combination has no meaning.
    """
    steps = (predictor, corrector, snr, n_steps, probability_flow, denoise, eps, noise)
    paper_sampler(sde, *steps)  # what does not fit is refused now

    @torch.no_grad()
    def pc_sampler(model: nn.Module | Score) -> tuple[Tensor, int]:
        place = device_of(model) if device in (None, "auto") else device
        x = draw_prior(sde, shape, noise).to(place)
        score = score_of(sde, model, continuous)
        # Made now, as the SDE's N may have been changed.
        x, nfe = paper_sampler(sde, *steps).run(x, score, placed(noise, place))
        return inverse_scaler(x), nfe

    return pc_sampler


def paper_sampler(
    sde: SDE,
    predictor: Any,
    corrector: Any,
    snr: float,
    n_steps: int,
    probability_flow: bool,
    denoise: bool,
    eps: float,
    noise: Noise | None,
) -> GridSampler:
    """The loop of `get_pc_sampler`, which explains the arguments: its steps, grid and draws."""
    predict = class_of(get_predictor, predictor, "predictor")
    correct = class_of(get_corrector, corrector, "corrector")
    return GridSampler(
        sde,
        paper_grid(sde, eps),
        as_step(predict, sde, (probability_flow,), noise),
        as_step(correct, sde, (snr, n_steps), noise),
        chain=True,
        denoise=denoise,
    )


def get_ode_sampler(
    sde: SDE,
    shape: Sequence[int],
    inverse_scaler: Scaler,
    denoise: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
    eps: float = 1e-3,
    device: torch.device | str | None = None,
    *,
    noise: Noise | None = None,
) -> SamplingFn:
    """The probability-flow sampler (Song, eq. 13), with one error norm for the whole batch.

    The state is float64 where the device has it; the network is evaluated in float32, on
    continuous times.

    Args:
        sde: the forward SDE.
        shape: (B, ...) of the batch that is drawn.
        inverse_scaler: from the network's range to that of the data.
        denoise: ends with the mean of one reverse-diffusion step at eps.
        rtol: relative tolerance.
        atol: absolute tolerance.
        method: "RK45", solved on the device, or another method of `scipy.integrate.solve_ivp`,
            solved by scipy.
        eps: where the solution ends.
        device: where to draw; the network's by default, and for our recipes' "auto".
        noise: as in `get_pc_sampler`: the prior, then one draw for the denoising step.

    Returns:
        fn(model, z=None) → (images, nfe); the model is a network, or a score of the library, as in
        `get_pc_sampler`; z (B, ...) is a latent to begin from instead of the prior's draw.
    """

    @torch.no_grad()
    def ode_sampler(model: nn.Module | Score, z: Tensor | None = None) -> tuple[Tensor, int]:
        place = device_of(model) if device in (None, "auto") else device
        x = draw_prior(sde, shape, noise) if z is None else z
        score = CountedScore(score_of(sde, model, continuous=True))
        x = _solve_jointly(sde, score, x.to(place, torch.float32), eps, rtol, atol, method)
        if denoise:
            t = x.new_full((len(x),), eps)
            last = ReverseDiffusionPredictor(sde, score)
            last.noise = placed(noise, place)
            x = last.update_fn(x, t)[1]
        return inverse_scaler(x), score.calls

    return ode_sampler


def get_sampling_fn(
    config: Any, sde: SDE, shape: Sequence[int], inverse_scaler: Scaler, eps: float
) -> SamplingFn:
    """The sampler that a config of the 2021 release asks for.

    Args:
        config: read for sampling.method ("pc" or "ode"), predictor, corrector, snr, n_steps_each,
            probability_flow and noise_removal, and training.continuous.
        sde: the forward SDE.
        shape: (B, ...) of the batch that is drawn.
        inverse_scaler: from the network's range to that of the data.
        eps: the last time.

    Returns:
        fn(model) → (images, nfe), on the network's device.

    Raises:
        ValueError: where the method is another one.
    """
    whole: Any = complete(config)
    sampling = whole.sampling
    method = sampling.method.lower()
    if method == "ode":
        return get_ode_sampler(sde, shape, inverse_scaler, sampling.noise_removal, eps=eps)
    if method != "pc":
        raise ValueError(
            f"sampling.method={sampling.method!r}: get_sampling_fn knows 'pc' and 'ode'; "
            "other methods are samplers of score_sde.config.build.build_sampler"
        )
    return get_pc_sampler(
        sde,
        shape,
        _name(predictors.PREDICTORS | PREDICTORS, sampling.predictor),
        _name(correctors.CORRECTORS | CORRECTORS, sampling.corrector),
        inverse_scaler,
        sampling.snr,
        n_steps=sampling.n_steps_each,
        probability_flow=sampling.probability_flow,
        continuous=whole.training.continuous,
        denoise=sampling.noise_removal,
        eps=eps,
    )


def _solve_jointly(
    sde: SDE, score: Score, x: Tensor, eps: float, rtol: float, atol: float, method: str
) -> Tensor:
    def drift(x: Tensor, t: Tensor, index: Tensor) -> Tensor:
        return sde.reverse(score, probability_flow=True).sde(x, t)[0]

    # MPS has no float64.
    state = x if x.device.type == "mps" else x.double()
    solver = (
        partial(solve, norm="joint") if method == "RK45" else partial(solve_scipy, method=method)
    )
    result = solver(drift, state, sde.T, eps, rtol=rtol, atol=atol, eval_dtype=x.dtype)
    if (result.status != Status.DONE).any():
        raise ArithmeticError(
            f"the ODE solver {method} stopped at t={result.t[0].item():.3g}, before eps={eps}: "
            "the network's output is not finite or too steep there; check its weights, or raise "
            "eps or the tolerances"
        )
    return result.y.to(x.dtype)


def _name(table: Mapping[str, Any], given: str) -> str:
    """A recipe's name, which the release reads in lower case."""
    return given if given in table else given.lower()


def draw_prior(sde: SDE, shape: Sequence[int], noise: Noise | None) -> Tensor:
    """The prior's draw, of a class whose `prior_sampling` may know no `noise=`.

    Raises:
        ValueError: it knows none, and noise is given.
    """
    if noise is None:
        return sde.prior_sampling(shape)
    if "noise" not in inspect.signature(sde.prior_sampling).parameters:
        raise ValueError(
            f"noise= is given, but prior_sampling of {type(sde).__name__} draws by itself: let it "
            "take noise=None, a function from a shape to normal noise, or leave noise= out"
        )
    return sde.prior_sampling(shape, noise=noise)


def score_of(sde: SDE, model: Any, continuous: bool) -> Score:
    """The score to draw by: a network's, in evaluation mode, or one of the library as it is."""
    if hasattr(model, "eval"):
        model.eval()
    return get_score_fn(sde, model, train=False, continuous=continuous)


def device_of(model: Any) -> torch.device:
    """Where the tensors of a network are, or of the one inside a score; the CPU if it has none."""
    while not hasattr(model, "parameters"):
        inside = getattr(model, "score", None) or getattr(model, "net", None)
        if inside is None:
            break
        model = inside
    of = (getattr(model, name, tuple)() for name in ("parameters", "buffers"))
    tensor = next(itertools.chain.from_iterable(of), None)
    return torch.device("cpu") if tensor is None else tensor.device


def placed(noise: Noise | None, device: torch.device | str) -> Noise:
    """The noise on a device; None is torch's global generator."""
    if noise is None:
        return torch_noise(device)
    return lambda shape: noise(shape).to(device)
