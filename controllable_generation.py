"""Inpainting and colourisation by the names of the 2021 release.

What both rest on is in `score_sde.samplers.completion`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sampling import Scaler, device_of, draw_prior, paper_sampler, placed, score_of
from score_sde.noise import Noise
from score_sde.samplers.completion import Known, Replacement, known_gray, known_pixels
from score_sde.samplers.grid import GridSampler
from score_sde.sde import SDE


def get_pc_inpainter(
    sde: SDE,
    predictor: Any,
    corrector: Any,
    inverse_scaler: Scaler,
    snr: float,
    n_steps: int = 1,
    probability_flow: bool = False,
    continuous: bool = False,
    denoise: bool = True,
    eps: float = 1e-5,
    *,
    noise: Noise | None = None,
    parity: bool = False,
) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Inpainting by the predictor–corrector sampler (Song et al. 2021, appendix I.2).

    Known pixels begin clean, and have the noise of the time at which a step begins.

    Args:
        sde: the forward SDE; its N is the number of steps.
        predictor: see `sampling.get_pc_sampler`, like the next seven.
        corrector: see there.
        inverse_scaler: see there.
        snr: see there.
        n_steps: see there.
        probability_flow: see there.
        continuous: see there.
        denoise: returns the mean of the last step.
        eps: the last time.
        noise: see there. Order of the draws: the prior; then at each time the corrector's and one
            for the known pixels, the predictor's and another for the known pixels.
        parity: repeats a fault of the 2021 release: the hidden pixels keep the noise of the last
            step whatever `denoise` says.

    Returns:
        fn(model, data, mask) → images: data (B, C, H, W) as the network sees them, of which hidden
        pixels are never looked at; mask 1 where they are known, of a shape that broadcasts.
    """
    steps = (predictor, corrector, snr, n_steps, probability_flow, denoise, eps, noise)
    run = _Released(partial(paper_sampler, sde, *steps), sde, continuous, noise, parity)

    @torch.no_grad()
    def pc_inpainter(model: nn.Module, data: Tensor, mask: Tensor) -> Tensor:
        known = known_pixels(data.to(device_of(model)), mask)
        return inverse_scaler(run(model, known, known.put(run.prior(known), known.value)))

    return pc_inpainter


def get_pc_colorizer(
    sde: SDE,
    predictor: Any,
    corrector: Any,
    inverse_scaler: Scaler,
    snr: float,
    n_steps: int = 1,
    probability_flow: bool = False,
    continuous: bool = False,
    denoise: bool = True,
    eps: float = 1e-5,
    *,
    noise: Noise | None = None,
    parity: bool = False,
) -> Callable[[nn.Module, Tensor], Tensor]:
    """Colourisation by the predictor–corrector sampler (Song et al. 2021, appendix I.3).

    Arguments and draws are those of `get_pc_inpainter`, with the grey component in the place of
    the known pixels. `parity` also repeats that the prior's noise leaks into the grey component at
    the start.

    Returns:
        fn(model, gray_scale_img) → images; gray_scale_img (B, 3, H, W) as the network sees it, the
        grey image in each channel. Of colours in it nothing but their mean is looked at.
    """
    steps = (predictor, corrector, snr, n_steps, probability_flow, denoise, eps, noise)
    run = _Released(partial(paper_sampler, sde, *steps), sde, continuous, noise, parity)

    @torch.no_grad()
    def pc_colorizer(model: nn.Module, gray_scale_img: Tensor) -> Tensor:
        known = known_gray(gray_scale_img.to(device_of(model)))
        prior = run.prior(known)
        x = known.put(prior, known.value)
        if parity:  # the grey component's mask, on the red channel
            x = torch.where(known.mask, 0.0, prior) + known.put(torch.zeros_like(x), known.value)
        return inverse_scaler(run(model, known, x))

    return pc_colorizer


class _Released:
    """What the release's inpainter and colouriser have in common."""

    def __init__(
        self,
        make: Callable[[], GridSampler],
        sde: SDE,
        continuous: bool,
        noise: Noise | None,
        parity: bool,
    ) -> None:
        make()  # what does not fit is refused now
        self.make, self.sde = make, sde
        self.continuous, self.noise, self.parity = continuous, noise, parity

    def prior(self, known: Known) -> Tensor:
        x = draw_prior(self.sde, known.value.shape, self.noise)
        return x.to(known.value.device)

    def __call__(self, model: nn.Module, known: Known, x: Tensor) -> Tensor:
        noise = placed(self.noise, x.device)
        keep = Replacement(self.sde, known, noise, as_released=True)

        def constraint(
            x: Tensor, x_mean: Tensor, t: Tensor, t_next: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            return keep(x, x if self.parity else x_mean, t, t_next)

        score = score_of(self.sde, model, self.continuous)
        return self.make().run(x, score, noise, constraint=constraint)[0]
