"""Stochastic solvers for few evaluations: the reverse-time SDE, one equation for every linear SDE.

In u = α x/σ², as a function of the signal-to-noise ratio w = α²/σ², the reverse-time SDE (Song et
al. 2021, eq. 6) of every linear SDE is

    du = D(x, t) dw + dB,        D = E[x_0 | x_t]    the denoised sample,

with a Brownian motion B in w: a bounded drift, and constant noise, so that Runge–Kutta methods for
additive noise take their simplest form. Written for x, a step from t to s is

    x_s = (r σ_s²/σ_t²) x_t + (α_s G²/σ_t²) D + (σ_s G/σ_t) z

with r and G of the transition p(x_t | x_s) = N(r x_s, G² I): ancestral sampling, without large
numbers or close differences. Over h = w_s − w_t the increment of B is √h z. Methods of strong
order 1.5 need its integral too, h^{3/2} (z/2 + ζ/√12), and draw a second normal ζ for it:
√(h/12) ζ is the space-time Lévy area.

Each step draws z once; `sra1` and `shark` then draw ζ.

Which to take: `sde_dpm_solver++`, which evaluates once a step and comes nearest to the
distribution at equal evaluations. `stochastic_heun`, `sra1` and `shark` evaluate twice; the strong
order of the last two counts where paths themselves are compared. All do better on a log-SNR grid
than on EDM's. With very few steps `shark` errs most: its shift leads far from where a state of
that time lies.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.noise import Noise, increment, increment_and_area
from score_sde.score import denoised_from_score
from score_sde.sde import Score
from score_sde.solvers.few_step.solver import grid_time
from score_sde.solvers.step import Step
from score_sde.tensor_ops import added, expand_to

_EARLIEST = 0.6  # for a node of the chain; nearer to 1/2 the shifts grow without bound


class StochasticSolver(Step):
    """What the solvers in u and w share."""

    grid = "log_snr"
    weak_order = 2

    def _along(
        self, x: Tensor, denoised: Tensor, z: Tensor, t: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The step from t to s with the drift `denoised`, and the same without its noise z."""
        r, G = self.sde.transition(t, s)
        before, after = self.sde.std(t), self.sde.std(s)
        keep, share = r * (after / before) ** 2, self.sde.mean_scale(s) * (G / before) ** 2
        x_mean = added(expand_to(keep, x) * x, expand_to(share, x) * denoised)
        return added(expand_to(after * G / before, x) * z, x_mean), x_mean

    def _denoised(self, x: Tensor, t: Tensor, score: Score) -> Tensor:
        return denoised_from_score(self.sde, x, score(x, t), t)


@dataclass(frozen=True)
class _Node:
    """Where the second stage stands, and the shifts by the area; each (B,)."""

    time: Tensor
    fraction: Tensor
    at_start: Tensor
    at_node: Tensor


class _TwoStages(StochasticSolver):
    """D at t, and at a node m that stands at the fraction θ of the step's h.

    The stages are weighted 1 − b and b with b = 1/(2θ). Beside its increment θ √h z, the node is
    shifted by `at_node` √(h/12) ζ, and x before the first evaluation by `at_start` √(h/12) ζ. The
    order conditions for additive noise (Rößler 2010) on these two, a and c, are

        (1 − b) a + b c = 1                  strong order 1.5: the integral of the path
        (1 − b) a² + b c² = 6 (1 − θ)        that, and weak order 2: the integral of its square

    which have a solution where 1/2 < θ ≤ 5/6.

    On a discrete chain the node moves to the nearest level, and a and c follow from these at its
    own θ. Beyond 5/6 the second holds alone. Where no level is near the step's later part, the
    node is its end: Heun's method.
    """

    evaluations = 2
    fraction: ClassVar[float]
    at_start: ClassVar[float] = 0.0
    at_node: ClassVar[float] = 0.0

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """One step of two evaluations; see `Step.step`."""
        s = grid_time(self, t_next)
        z, zeta = self._draw(noise, x, t, s)
        node = self._node(t, s)

        # √(h/12) ζ, in units of x at time t. Before a step to the level 0, where h is infinite,
        # there is none.
        r, G = self.sde.transition(t, s)
        after = self.sde.std(s)
        area = self.sde.std(t) * G / (r * after * math.sqrt(12))
        area = torch.where(after > 0, area, torch.zeros_like(area)) * node.at_start
        first = self._denoised(x + expand_to(area, x) * zeta, t, score)

        root = node.fraction.sqrt()
        shift = expand_to(node.at_node / (root * math.sqrt(12)), x) * zeta
        at_node, _ = self._along(x, first, expand_to(root, x) * z + shift, t, node.time)
        second = self._denoised(at_node, node.time, score)

        # On the level 0 there is nothing to denoise, and Euler's step is exact there.
        second = torch.where(expand_to(after > 0, x), second, first)
        weight = expand_to(0.5 / node.fraction, x)
        return self._along(x, first + weight * (second - first), z, t, s)

    def _draw(self, noise: Noise, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return increment_and_area(noise, x.shape, t, s, self.sde.snr)

    def _node(self, t: Tensor, s: Tensor) -> _Node:
        before, after = self.sde.noise_level(t), self.sde.noise_level(s)
        kept = (after / before) ** 2
        level = after / (self.fraction + (1 - self.fraction) * kept).sqrt()
        time = self.sde.time_of_noise_level(level)
        if not self.on_chain:
            given = (self.fraction, self.at_start, self.at_node)
            return _Node(time, *(torch.full_like(t, value) for value in given))
        time = self.node(time)
        level = self.sde.noise_level(time)
        fraction = (after / level) ** 2 * (1 - (level / before) ** 2) / (1 - kept)
        late = fraction >= _EARLIEST
        time = torch.where(late, time, s)
        fraction = torch.where(late, fraction, torch.ones_like(fraction)).clamp_max(1)
        return _Node(time, fraction, *_shifts(fraction))


def _shifts(fraction: Tensor) -> tuple[Tensor, Tensor]:
    """a and c of `_TwoStages` for a node at θ between 1/2 and 1, θ and both (B,)."""
    b = 0.5 / fraction
    # The mean of a and c under the weights is 1, their variance the rest of the second condition.
    variance = (5 - 6 * fraction).clamp_min(0)
    mean = (6 * (1 - fraction)).sqrt().clamp_max(1)
    ratio = ((1 - b) / b).sqrt()
    return mean - variance.sqrt() / ratio, mean + variance.sqrt() * ratio


class StochasticHeun(_TwoStages):
    """Heun's method with the noise of the step in its second stage: strong order 1, weak order 2.

    θ = 1 of `_TwoStages`, where no shift meets its first condition, and none is made.
    """

    name = "stochastic_heun"
    strong_order = 1.0
    fraction = 1.0

    def _draw(self, noise: Noise, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        z = increment(noise, x.shape, t, s, self.sde.snr)
        return z, torch.zeros_like(z)

    def _node(self, t: Tensor, s: Tensor) -> _Node:
        return _Node(s, torch.ones_like(t), torch.zeros_like(t), torch.zeros_like(t))


class SRA1(_TwoStages):
    """SRA1: strong order 1.5 for additive noise, weak order 2.

    Rößler 2010, "Runge–Kutta methods for the strong approximation of solutions of stochastic
    differential equations". θ = 3/4, and the node is shifted by 3/2 of the integral of the path
    over the step.
    """

    name = "sra1"
    strong_order = 1.5
    fraction, at_start, at_node = 3 / 4, 0.0, 3 / 2


class ShARK(_TwoStages):
    """Shifted additive-noise Runge–Kutta: strong order 1.5, weak order 2.

    Foster, dos Reis & Strange 2024, "High order splitting methods for SDEs satisfying a
    commutativity condition". θ = 5/6, and both stages are shifted by the area.
    """

    name = "shark"
    strong_order = 1.5
    fraction, at_start, at_node = 5 / 6, 1.0, 1.0


class SDEDPMSolverPP2M(StochasticSolver):
    """SDE-DPM-Solver++(2M): multistep, one evaluation a step (Lu et al. 2022b).

    D is carried on by its change since the step before, with λ = log(α/σ):

        D_t + (D_t − D_before) (λ_s − λ_t) / (2 (λ_t − λ_before)).

    The first step has nothing to remember, and takes D_t.
    """

    name = "sde_dpm_solver++"
    strong_order = 1.0
    remembers = 2
    _memory: tuple[Tensor, Tensor] | None = None

    def begin(self, num_steps: int) -> None:
        """Forgets the steps of an earlier run."""
        self._memory = None

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """One step of one evaluation; see `Step.step`."""
        s = grid_time(self, t_next)
        z = increment(noise, x.shape, t, s, self.sde.snr)
        denoised = blend = self._denoised(x, t, score)
        h = torch.log(self.sde.noise_level(t) / self.sde.noise_level(s))
        if self._memory is not None:
            before, h_before = self._memory
            # A step to the level 0 is infinitely long, and Euler's is exact there.
            weight = torch.where(torch.isfinite(h), h / (2 * h_before), torch.zeros_like(h))
            blend = denoised + expand_to(weight, x) * (denoised - before)
        self._memory = denoised, h
        return self._along(x, blend, z, t, s)
