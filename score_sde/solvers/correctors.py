"""Correctors: Langevin steps that leave the time alone and bring samples closer to p_t.

Each of `n_steps` inner steps is

    x ← x + ε ∇ log p_t(x) + √(2ε) z

and correctors differ in the step size ε (Song et al. 2021, appendix G). `snr` is the paper's
signal-to-noise ratio r: how long the step along the score is, compared with the noise. The paper's
VE recipes tune it: 0.16 on CIFAR-10, 0.17 on CelebA, 0.075 and 0.15 on larger images. α is
`SDE.chain_alpha`: 1 for VE, 1 − β_i of the chain for VP and sub-VP (as in the code of 2021; the
paper prints the product of these).
"""

import math
from abc import abstractmethod
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from score_sde.noise import Noise
from score_sde.sde import SDE, Score
from score_sde.solvers.step import Step
from score_sde.tensor_ops import added, expand_to, norm_per_sample

Norms = Literal["sample", "batch"]

OWN_NORMS_FROM = 64
"""Numbers per sample from which its own norms rule the step; see `LangevinCorrector`."""


class Corrector(Step):
    """What correctors share.

    Args:
        sde: the forward SDE.
        snr: signal-to-noise ratio of the step size.
        n_steps: inner steps at each time, one evaluation each.
        norms: whose norms rule the step size of Langevin's corrector. With "sample" each sample
            has its own, or in few dimensions those expected of it, so that no sample depends on
            another; "batch" takes means over the batch, as the paper does.

    Raises:
        ValueError: where a value is out of its range.
    """

    arguments: ClassVar = {"snr": "snr", "n_steps": "n_steps_each", "norms": "norms"}

    def __init__(
        self, sde: SDE, snr: float = 0.16, n_steps: int = 1, norms: Norms = "sample"
    ) -> None:
        super().__init__(sde)
        if snr <= 0:
            raise ValueError(
                f"snr={snr}: the signal-to-noise ratio of a corrector must be positive"
            )
        if n_steps < 1:
            raise ValueError(
                f"n_steps={n_steps}: a corrector takes at least one; 'none' takes none"
            )
        if norms not in get_args(Norms):
            raise ValueError(f"norms={norms!r}: it must be 'sample' or 'batch'")
        self.snr, self.norms = snr, norms
        self.n_steps = self.evaluations = n_steps

    @abstractmethod
    def step_size(self, grad: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """ε of one inner step: the score and the noise, both (B, ...), and t (B,) → (B,)."""

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Takes all inner steps at time t; see `Step.step`."""
        x_mean = x
        for _ in range(self.n_steps):
            grad, z = score(x, t), noise(x.shape)
            step_size = expand_to(self.step_size(grad, z, t), x)
            x_mean = added(step_size * grad, x)
            x = added((2 * step_size).sqrt() * z, x_mean)
        return x, x_mean

    def _annealed(self, t: Tensor) -> Tensor:
        """2 α (snr σ(t))²."""
        return 2 * self.sde.chain_alpha(t) * (self.snr * self.sde.std(t)) ** 2


class LangevinCorrector(Corrector):
    """ε = 2 α (snr ‖z‖ / ‖∇ log p_t‖)² (Song, algorithms 4 and 5).

    A Langevin step keeps p_t only where ε does not depend on x and z. A sample's own norms do, by
    a share of about √(2/D) in D dimensions; in one or two, where the score may vanish,
    ‖z‖²/‖∇ log p_t‖² does not even have a mean, and the variances of samples come out several
    times too large. A cap leaves much of that, as what lies below it depends on x as before. So
    with fewer than `OWN_NORMS_FROM` numbers per sample norms="sample" takes what is expected of
    them, √D for the noise and √D/σ for the score (its largest root mean square, reached where
    the data are points): the step of annealed Langevin dynamics. From there on, as for every
    image, the norms are the sample's own (docs/design.md, section 4, has what was measured).
    """

    name = "langevin"

    def step_size(self, grad: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """ε from the norms of score and noise."""
        if self.norms == "sample" and math.prod(grad.shape[1:]) < OWN_NORMS_FROM:
            return self._annealed(t)
        grad_norm, noise_norm = norm_per_sample(grad), norm_per_sample(z)
        if self.norms == "batch":
            grad_norm, noise_norm = grad_norm.mean(), noise_norm.mean()
        # Where the score vanishes it gives no scale for the step, and none is taken.
        ratio = torch.where(grad_norm > 0, noise_norm / grad_norm, torch.zeros_like(grad_norm))
        return 2 * self.sde.chain_alpha(t) * (self.snr * ratio) ** 2


class AnnealedLangevinDynamics(Corrector):
    """ε = 2 α (snr σ(t))², the step of NCSN (Song & Ermon 2019, algorithm 1)."""

    name = "ald"

    def step_size(self, grad: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """ε from the noise level alone."""
        return self._annealed(t)


class NoneCorrector(Step):
    """Leaves the samples as they are; heeds none of the arguments it shares with the others."""

    name = "none"
    evaluations = 0

    def __init__(
        self, sde: SDE, snr: float = 0.16, n_steps: int = 1, norms: Norms = "sample"
    ) -> None:
        super().__init__(sde)

    @property
    def deterministic(self) -> bool:
        """It adds nothing."""
        return True

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Returns x twice."""
        return x, x


CORRECTORS: dict[str, type[Corrector] | type[NoneCorrector]] = {
    LangevinCorrector.name: LangevinCorrector,
    AnnealedLangevinDynamics.name: AnnealedLangevinDynamics,
    NoneCorrector.name: NoneCorrector,
}
"""Name in configs (`sampling.corrector`) → class; see `step.make_step`."""
