"""Replacement for any measurement without noise whose singular value decomposition is known.

The noise of p(x_t | x_0) is independent and of one size in every orthonormal basis, so that what
Song et al. 2021, appendix I.2, do with pixels holds for the coordinates Vᵀ x of A = U S Vᵀ: those
that are measured are replaced after each step, at the sample's noise level, and end as they were
measured. Masks and grey are two of the rows.
"""

import torch
from torch import Tensor

from score_sde.posteriors.measurements import Measurement


class Replaced:
    """What a measurement says of images, as `samplers.completion` takes it.

    Args:
        measurement: without noise, its decomposition known.
        y: (B, ...) the measurements of the samples in their order.

    Attributes:
        value: (B, C, H, W) the smallest images that fit y, which are 0 where nothing is known.

    Raises:
        ValueError: a measurement with noise, or one whose decomposition is not known.
    """

    def __init__(self, measurement: Measurement, y: Tensor) -> None:
        refusal, spectral = self.accepts(measurement), measurement.spectral
        if refusal is not None or spectral is None:
            raise ValueError(f"replacement does not run on {measurement.name}: {refusal}")
        self.measurement, self.value = spectral, spectral.pseudo_inverse(y)

    @staticmethod
    def accepts(measurement: Measurement) -> str | None:
        """None where it runs on this measurement, else the reason why it does not."""
        if measurement.spectral is None:
            return "it needs a singular value decomposition; take pigdm or moment_matching"
        if measurement.spectral.noise_free:
            return None
        return (
            "it keeps what is measured as it is, and this has noise; take ddrm, pigdm or "
            "moment_matching"
        )

    def put(self, x: Tensor, value: Tensor) -> Tensor:
        """The images x with what is measured of `value`, as x."""
        c = self.measurement.to_spectrum(x)
        known = self.measurement.gains(c) > 0
        return self.measurement.from_spectrum(
            torch.where(known, self.measurement.to_spectrum(value), c)
        )
