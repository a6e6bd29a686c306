"""Predictors: one step of the reverse-time SDE, from t down to t_next.

From Song et al. 2021, section 4.2 and appendices E and F. With r and G of the transition p(x_t |
x_s) = N(r x_s, G² I) and ∇ the score at (x_t, t), a step from t to s is

    Euler–Maruyama       x_s = x_t − [f − g² ∇] (t − s) + g √(t − s) z
    reverse diffusion    x_s = x_t − (r − 1) x_t + G² ∇ + G z   (Song, eq. 46)
    ancestral            x_s = (x_t + G² ∇) / r + std z         (Song, appendix F)

where `SDE.ancestral_step` gives the std. The score lives in the reverse drift, hence it stands
inside the means. With `probability_flow` half of it enters and no noise (Song, eq. 13): a
first-order step of the ODE.

On the paper's own chain (t_next None) r and G come from its table of N scales, and Euler–Maruyama
steps by T/N.
"""

from typing import ClassVar

import torch
from torch import Tensor

from score_sde.noise import Noise, increment
from score_sde.sde import SDE, Score
from score_sde.solvers.step import Step, arguments_of
from score_sde.tensor_ops import added, expand_to


class Predictor(Step):
    """What predictors share.

    Args:
        sde: the forward SDE.
        probability_flow: steps of the probability-flow ODE instead of the reverse-time SDE.
    """

    weak_order = 1
    strong_order = 1.0
    arguments: ClassVar = {"probability_flow": "probability_flow"}

    def __init__(self, sde: SDE, probability_flow: bool = False) -> None:
        super().__init__(sde)
        self.probability_flow = probability_flow
        if probability_flow:
            self.order, self.weak_order, self.strong_order = self.weak_order, None, None

    def _add_noise(
        self, x_mean: Tensor, std: Tensor, t: Tensor, t_next: Tensor | None, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        if self.probability_flow:
            return x_mean, x_mean
        z = increment(noise, x_mean.shape, t, t_next)
        return added(expand_to(std, x_mean) * z, x_mean), x_mean


class EulerMaruyamaPredictor(Predictor):
    """Euler–Maruyama on the reverse-time SDE: strong order 1, of 1/2 where noise depends on x."""

    name = "euler_maruyama"
    chain_steps = True
    order_on_any_noise: ClassVar[float] = 0.5

    def __init__(self, sde: SDE, probability_flow: bool = False) -> None:
        super().__init__(sde, probability_flow)
        if sde.noise_depends_on_x and not probability_flow:
            self.strong_order = self.order_on_any_noise

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """One step; see `Step.step`."""
        dt = self._length(t, t_next)
        drift, diffusion = self.sde.reverse(score, self.probability_flow).sde(x, t)
        std = expand_to(diffusion, x) * expand_to(dt.sqrt(), x)
        return self._add_noise(x - drift * expand_to(dt, x), std, t, t_next, noise)

    def _length(self, t: Tensor, t_next: Tensor | None) -> Tensor:
        return torch.full_like(t, self.sde.T / self.sde.N) if t_next is None else t - t_next


class MilsteinPredictor(EulerMaruyamaPredictor):
    """Milstein's method (Milstein 1974): Euler–Maruyama's step and ½ g ∂g/∂x (ΔW² − Δt).

    The term, added last, is that of noise which depends on the state, and makes strong order 1 of
    Euler–Maruyama's 0.5 there, as on geometric Brownian motion. No linear SDE has such noise: g(t)
    has no derivative in x, and the step *is* Euler–Maruyama's, to the last bit. The SDE is asked
    (`SDE.noise_depends_on_x`); where it says so, g has the shape of x, and that of each number
    depends on that number alone.
    """

    name = "milstein"
    order_on_any_noise = 1.0

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """One step; see `Step.step`."""
        if self.probability_flow or not self.sde.noise_depends_on_x:
            return super().step(x, t, t_next, score, noise)
        z = increment(noise, x.shape, t, t_next)
        x_next, x_mean = super().step(x, t, t_next, score, lambda shape: z)
        # Also where a caller has switched gradients off, or is in inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            at = x.detach().clone().requires_grad_()
            _, g = self.sde.sde(at, t.clone())
            (slope,) = torch.autograd.grad(g.sum(), at)
        half = 0.5 * expand_to(self._length(t, t_next), x)
        return x_next + half * g.detach() * slope * (z**2 - 1), x_mean


class ReverseDiffusionPredictor(Predictor):
    """The forward process discretised, then reversed (Song, eq. 46)."""

    name = "reverse_diffusion"
    chain_steps = True

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """One step; see `Step.step`."""
        f, G = self.sde.reverse(score, self.probability_flow).discretize(x, t, t_next)
        return self._add_noise(x - f, G, t, t_next, noise)


class AncestralSamplingPredictor(Predictor):
    """Ancestral sampling of SMLD's and DDPM's chains, and its like on every linear SDE and grid.

    Raises:
        ValueError: with `probability_flow`, which it has no form for.
    """

    name = "ancestral_sampling"
    chain_steps = True
    arguments: ClassVar = {}

    def __init__(self, sde: SDE, probability_flow: bool = False) -> None:
        if probability_flow:
            raise ValueError(
                "ancestral_sampling draws from p(x_s | x_t) and has no probability_flow=True: for "
                f"the ODE take {' or '.join(flow_predictors())}"
            )
        super().__init__(sde)

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """One step; see `Step.step`."""
        r, G, std = self.sde.ancestral_step(t, t_next)
        # A scale with β = 1 (r = 0) forgets everything: x_s is not known from x_t and is drawn
        # afresh.
        rate = torch.where(r > 0, 1 / r, torch.zeros_like(r))
        x_mean = expand_to(rate, x) * (x + expand_to(G**2, x) * score(x, t))
        return self._add_noise(x_mean, std, t, t_next, noise)


class NonePredictor(Predictor):
    """Leaves the samples as they are."""

    name = "none"
    chain_steps = True
    arguments: ClassVar = {}
    weak_order = strong_order = None
    evaluations = 0

    @property
    def deterministic(self) -> bool:
        """It adds nothing."""
        return True

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Returns x twice."""
        return x, x


PREDICTORS: dict[str, type[Predictor]] = {
    EulerMaruyamaPredictor.name: EulerMaruyamaPredictor,
    ReverseDiffusionPredictor.name: ReverseDiffusionPredictor,
    AncestralSamplingPredictor.name: AncestralSamplingPredictor,
    MilsteinPredictor.name: MilsteinPredictor,
    NonePredictor.name: NonePredictor,
}
"""Name in configs (`sampling.predictor`) → class; see `step.make_step`."""


def flow_predictors() -> list[str]:
    """The rows of `PREDICTORS` that have a form for the probability-flow ODE."""
    return [name for name, kind in PREDICTORS.items() if "probability_flow" in arguments_of(kind)]
