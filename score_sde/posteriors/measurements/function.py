"""A measurement by any linear function; its adjoint by differentiation.

Symbols as in `measurement`.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.noise import normal
from score_sde.posteriors.conjugate_gradients import conjugate_gradients
from score_sde.posteriors.measurements.measurement import Measurement
from score_sde.tensor_ops import expand_to


class LinearFunction(Measurement):
    """y = function(x) + n, for a function that is linear and can be differentiated.

    The adjoint is the gradient of ⟨y, function(x)⟩. Pseudo-inverse and `solve` take as many
    evaluations as conjugate gradients need to a relative residual of a thousand roundings, and at
    most `max_iterations`.

    Args:
        shape: (C, H, W) of one image.
        std: standard deviation of the noise.
        function: (B, C, H, W) → (B, ...), each sample by itself.
        max_iterations: of conjugate gradients.

    Raises:
        ValueError: as `Measurement`; where it is first used, a function that is not linear.
    """

    name = "function"
    arguments: ClassVar = ("function",)

    def __init__(
        self,
        shape: Sequence[int],
        std: float,
        function: Callable[[Tensor], Tensor],
        *,
        max_iterations: int = 1000,
    ) -> None:
        super().__init__(shape, std)
        self.function, self.max_iterations = function, max_iterations
        self._checked = False

    def forward(self, x: Tensor) -> Tensor:
        """See `Measurement.forward`."""
        self._check(x)
        return self.function(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """See `Measurement.adjoint`."""
        self._check(y)
        # Also where a caller has switched gradients off, or is in inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            at = torch.zeros(len(y), *self.shape, dtype=y.dtype, device=y.device)
            value = self.function(at.requires_grad_())
            (pulled,) = torch.autograd.grad(value, at, y.detach().clone())
        return pulled

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """See `Measurement.pseudo_inverse`; AᵀA x = Aᵀy is solved within the range of Aᵀ."""
        return self._solved(lambda x: self.adjoint(self.forward(x)), self.adjoint(y))

    def solve(self, y: Tensor, r2: Tensor | float) -> Tensor:
        """See `Measurement.solve`; where there is no noise, for y in the range of A."""
        r2 = expand_to(torch.as_tensor(r2, dtype=y.dtype, device=y.device), y)
        return self._solved(lambda v: r2 * self.forward(self.adjoint(v)) + self.std**2 * v, y)

    def _solved(self, operator: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
        tolerance = 1e3 * torch.finfo(b.dtype).eps
        return conjugate_gradients(
            operator, b, tolerance=tolerance, max_iterations=self.max_iterations
        )[0]

    @torch.no_grad()
    def _check(self, like: Tensor) -> None:
        if self._checked:
            return
        z = [4 * normal(0, torch.arange(2), draw, self.shape).to(like) for draw in (0, 1)]
        parts = [self.function(part) for part in z]
        error = (self.function(z[0] + z[1]) - parts[0] - parts[1]).abs().max()
        if not bool(error <= 1e-3 * torch.stack([part.abs().max() for part in parts]).max()):
            raise ValueError(
                f"a measurement by {self.function!r:.80}, which is not linear: f(a + b) differs "
                f"from f(a) + f(b) by {error.item():.3g}; give one that is"
            )
        self._checked = True
