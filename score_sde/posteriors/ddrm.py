"""DDRM: a step that treats each coordinate of a measurement by itself (Kawar et al. 2022).

"Denoising Diffusion Restoration Models". With A = U S Vᵀ, y says of the coordinate i of Vᵀ x_0 the
value ȳ_i = (Uᵀ y)_i/s_i, off by noise of std τ_i = σ_i/s_i. With l = σ/α the noise level, x̄ the
coordinates of x_t/α_t and d those of the denoised image x̂, a step goes to the level l' with

    s_i = 0      d + √(1 − η²) (l'/l) (x̄ − d)      and noise of std η l'
    l' < τ_i     d + √(1 − η²) (l'/τ_i) (ȳ − d)    and noise of std η l'
    l' ≥ τ_i     d + η_b (ȳ − d)                   and noise of variance l'² − η_b² τ_i²

(their section 3, written for every linear SDE): each leaves x̄' distributed about x_0 as it should
be at the level l', for the right x̂. The posterior's moments are not: on the example of `scores`,
with 100 steps even in log-SNR, the mean is off by 0.12 and the variances by 62 %, all too small
(`tests/test_ddrm.py`).

Symbols as in `sde` and `measurements`.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from score_sde.noise import Noise, SampleNoise
from score_sde.posteriors.measurements import Measurement
from score_sde.samplers import GridSampler, OnStep, Samples
from score_sde.samplers.grid import batches
from score_sde.score import ScoreFor, denoised_from_score, evaluations_at
from score_sde.sde import SDE, Score
from score_sde.solvers.few_step.solver import grid_time
from score_sde.solvers.step import Step
from score_sde.tensor_ops import expand_to


class DDRM(Step):
    """A step of DDRM for the samples whose measurements it is given.

    Args:
        sde: the forward SDE.
        measurement: what y is of x_0.
        y: (B, ...) the measurements of the samples in their order.
        eta: η from 0 to 1, how much of the noise of coordinates that y does not rule is fresh.
        eta_b: η_b from 0 to 1, how far those that it does rule follow it.

    Raises:
        ValueError: a measurement whose decomposition is not known, or η or η_b outside of [0, 1].
    """

    name = "ddrm"
    grid = "log_snr"

    def __init__(
        self,
        sde: SDE,
        measurement: Measurement,
        y: Tensor,
        eta: float = 0.85,
        eta_b: float = 1.0,
    ) -> None:
        super().__init__(sde)
        refusal, spectral = self.measures(measurement), measurement.spectral
        if refusal is not None or spectral is None:
            raise ValueError(f"ddrm does not run on {measurement.name}: {refusal}")
        if not (0 <= eta <= 1 and 0 <= eta_b <= 1):
            raise ValueError(f"eta={eta:g}, eta_b={eta_b:g}: both lie between 0 and 1")
        self.measurement, self.y, self.eta, self.eta_b = spectral, y, eta, eta_b

    @staticmethod
    def measures(measurement: Measurement) -> str | None:
        """None where it runs on this measurement, else the reason why it does not."""
        if measurement.spectral is not None:
            return None
        return "it needs a singular value decomposition; take pigdm or moment_matching"

    def start(self, x: Tensor, t: Tensor) -> Tensor:
        """A draw from the prior with what y says: N(ȳ, l² − τ²) where l ≥ τ, in coordinates.

        Args:
            x: (B, ...) a draw from the prior.
            t: (B,) the first time.
        """
        alpha, level = self._scales(x, t)
        z = self.measurement.to_spectrum(x / self.sde.prior_std)
        value, tau, seen = self._said(z)
        level = expand_to(level, z)
        ruled = seen & (level >= tau)
        mean, variance = torch.where(ruled, value, 0.0), level**2
        variance = torch.where(ruled, variance - tau**2, variance)
        return alpha * self.measurement.from_spectrum(mean + variance.sqrt() * z)

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor | None, score: Score, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """One step; see `Step.step`."""
        s = grid_time(self, t_next)
        alpha, level = self._scales(x, s)
        mean, std = self._arrive(x, t, level, score)
        z = self.measurement.to_spectrum(noise(x.shape))
        noisy = self.measurement.from_spectrum(mean + std * z)
        return alpha * noisy, alpha * self.measurement.from_spectrum(mean)

    def end(self, x: Tensor, t: Tensor, score: Score) -> Tensor:
        """The step to no noise at all: ȳ where it has none, the denoised image elsewhere."""
        mean, _ = self._arrive(x, t, torch.zeros_like(t), score)
        return self.measurement.from_spectrum(mean)

    def _arrive(
        self, x: Tensor, t: Tensor, arrival: Tensor, score: Score
    ) -> tuple[Tensor, Tensor]:
        """Mean and std of the coordinates of x_s/α_s at the noise level `arrival`, (B,)."""
        alpha, level = self._scales(x, t)
        d = self.measurement.to_spectrum(denoised_from_score(self.sde, x, score(x, t), t))
        c = self.measurement.to_spectrum(x / alpha)
        value, tau, seen = self._said(c)
        level, arrival = expand_to(level, c), expand_to(arrival, c)
        ruled = seen & (arrival >= tau)
        kept = (1 - self.eta**2) ** 0.5
        # Where τ is 0 the coordinate is ruled, and the quotient is not used.
        off = torch.where(seen, (value - d) / tau, (c - d) / level)
        mean = (1 - self.eta_b) * d + self.eta_b * value
        mean = torch.where(ruled, mean, d + kept * arrival * off)
        variance = (arrival**2 - (self.eta_b * tau) ** 2).clamp_min(0)
        return mean, torch.where(ruled, variance.sqrt(), self.eta * arrival)

    def _said(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ȳ, τ and whether s > 0, of the shape of coordinates; ȳ and τ are 0 where it is not."""
        c = self.measurement.measured_to_spectrum(self.y.to(like))
        gains = self.measurement.gains(c).expand(c.shape)
        seen = gains > 0
        tau = self.measurement.noise_variance(c).sqrt() / gains
        return torch.where(seen, c / gains, 0.0), torch.where(seen, tau, 0.0), seen

    def _scales(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """α, broadcasting over x, and the noise level (B,)."""
        return expand_to(self.sde.mean_scale(t), x), self.sde.noise_level(t)


def draw_ddrm(
    sde: SDE,
    times: Tensor,
    score_for: ScoreFor,
    step_for: Callable[[Tensor], DDRM],
    index: Tensor,
    shape: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    on_step: OnStep | None = None,
) -> Iterator[Samples]:
    """Draws by DDRM; measured coordinates without noise end as they were measured.

    `times` are a grid as `GridSampler` takes it, and `step_for` gives the step that has the
    measurements of samples by their indices, int64 (b,). All else is as in `Sampler.draw`.
    """
    for part in batches(index, batch_size, device):
        noise, score, step = SampleNoise(seed, part, dtype=dtype), score_for(part), step_for(part)
        sampler = GridSampler(sde, times, step, denoise=False)
        x = sde.prior_sampling((len(part), *shape), noise=noise)
        first, last = (x.new_full((len(part),), sampler.times[k]) for k in (0, -1))
        x, nfe = sampler.run(step.start(x, first), score, noise, on_step=on_step)
        nfe = nfe + evaluations_at(score, last)
        with torch.no_grad():
            x = step.end(x, last, score)
        yield Samples(part, x, torch.zeros_like(part) + nfe)
