"""A vector field and its divergence from one evaluation, by probes or by the exact trace.

With probes ε of E[ε εᵀ] = I (Skilling 1989, Hutchinson 1990)

    div v = E[εᵀ (∂v/∂x) ε],

and the exact trace is such a product with each unit vector. Either way one evaluation of the field
is one forward pass and a vector-Jacobian product per probe, and its graph is dropped at once.

Symbols: x (B, ...) of any rank ≥ 2 with D numbers per sample; probes (K, B, ...).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from score_sde.noise import Stream, normal, rademacher
from score_sde.tensor_ops import check_name, sum_per_sample

HutchinsonType = Literal["Rademacher", "Gaussian"]


def hutchinson_probes(
    kind: HutchinsonType,
    shape: Sequence[int],
    index: Tensor,
    *,
    seed: int,
    n_probes: int = 1,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Probes as a function of (seed, sample index, probe).

    Args:
        kind: "Rademacher" (random signs, the smaller variance) or "Gaussian".
        shape: of one sample.
        index: int64 (N,) sample indices.
        seed: of the noise.
        n_probes: K, how many each sample gets.
        first: number of the first one, for further probes.
        dtype: float32 or float64.

    Returns:
        (K, N, *shape) on the device of `index`.

    Raises:
        ValueError: where the kind is unknown or K < 1.
    """
    check_kind(kind)
    if n_probes < 1:
        raise ValueError(f"n_probes={n_probes}: an estimate needs at least one probe")
    draw = rademacher if kind == "Rademacher" else normal
    numbers = range(first, first + n_probes)
    return torch.stack(
        [draw(seed, index, k, shape, stream=Stream.PROBE, dtype=dtype) for k in numbers]
    )


def value_and_divergence(
    field: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A vector field and its divergence, from one evaluation of the field.

    Args:
        field: (B, ...) → the same shape, each sample by itself.
        x: (B, ...) where.
        probes: (K, B, ...) for the mean of K estimates; None for the exact trace, which takes D
            vector-Jacobian products.

    Returns:
        The field (B, ...) and its divergence (B,), without their graph.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)
    vectors: Iterable[Tensor] = _unit_vectors(x) if probes is None else probes
    count = x[0].numel() if probes is None else len(probes)
    total = x.new_zeros(len(x))
    for k, vector in enumerate(vectors):
        (product,) = torch.autograd.grad(value, x, vector, retain_graph=k + 1 < count)
        total += sum_per_sample(product * vector)
    return value.detach(), total if probes is None else total / count


def check_kind(kind: str) -> None:
    """Refuses with an UnknownName a kind of probes that there is not."""
    check_name(kind, get_args(HutchinsonType), "hutchinson_type")


def _unit_vectors(x: Tensor) -> Iterator[Tensor]:
    for k in range(x[0].numel()):
        vector = torch.zeros_like(x)
        vector.flatten(1)[:, k] = 1
        yield vector
