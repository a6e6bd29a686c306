"""What rows of the reference numbers were made with: the rows, their network, their draws."""

import pytest
from conftest import Golden, reference_dir
from torch import nn

from score_sde.tensor_ops import expand_to


class AnalyticNet(nn.Module):
    """The network that makes the score that of data N(mu, 0.25 I); counts its calls."""

    def __init__(self, sde, mu, continuous):
        super().__init__()
        self.sde, self.mu, self.continuous, self.calls = sde, mu, continuous, 0

    def forward(self, x, c):
        self.calls += 1
        if self.sde.name == "vesde":
            sigma = c if self.continuous else self.sde.discrete_sigmas.flip(0)[c]
            return -(x - self.mu) / expand_to(0.25 + sigma**2, x)
        if self.continuous or self.sde.name == "subvpsde":
            m, s = self.sde.mean_scale(c / 999), self.sde.std(c / 999)
        else:
            k = c.long()
            m, s = self.sde.sqrt_alphas_cumprod[k], self.sde.sqrt_1m_alphas_cumprod[k]
        m, s = expand_to(m, x), expand_to(s, x)
        return s * (x - m * self.mu) / (0.25 * m**2 + s**2)


class Bank:
    """Hands out recorded draws in order."""

    def __init__(self, draws):
        self.draws, self.used = draws, 0

    def __call__(self, shape):
        draw = self.draws[self.used]
        assert tuple(shape) == tuple(draw.shape)
        self.used += 1
        return draw


def golden_rows(name):
    """Rows with numbers; none where the reference folder is absent, and the fixture then skips."""
    folder = reference_dir()
    if folder is None:
        return [pytest.param(None, id="reference-absent")]
    rows = Golden(folder).json(name)["rows"]
    return [pytest.param(row, id=row["key"]) for row in rows if "original fails" not in row]
