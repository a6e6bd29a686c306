"""NCSN++ and a training step written the obvious way, for others to be measured against.

The network of `ve/cifar10_ncsnpp_continuous` (Song et al. 2021, appendix H) as one writes it down
from the paper, one formula an operation: images channels-first; the FIR filter as zeros put
between the pixels, padding, and one convolution of each channel by itself (Karras et al. 2020);
attention as two products with a softmax between; a parameter at a time in optimiser, clipping and
average. Convolutions, group normalisation and the nonlinearity are torch's own. Parameters are
registered in the order of `score_sde.networks`, so that `take_weights` makes it the same function.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS = (1.0, 3.0, 3.0, 1.0)


def group_norm(channels: int) -> nn.GroupNorm:
    """NCSN++'s groups."""
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def joined(x: Tensor, h: Tensor) -> Tensor:
    """(x + h)/√2."""
    return (x + h) / math.sqrt(2)


def filtered(x: Tensor, gain: float, up: int, down: int, before: int, after: int) -> Tensor:
    """Zeros between pixels, padding, the filter, every `down`-th pixel, of (B, C, H, W)."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height, 1, width, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1))
    x = x.reshape(batch * channels, 1, height * up, width * up)
    x = F.pad(x, (before, after, before, after))
    taps = torch.tensor(TAPS, dtype=x.dtype, device=x.device)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2 * gain
    x = F.conv2d(x, kernel.flip(0, 1)[None, None])[:, :, ::down, ::down]
    return x.reshape(batch, channels, *x.shape[2:])


class Projection(nn.Module):
    """A product over the channels: (B, C, H, W) → (B, C', H, W)."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels_in) / channels_in**0.5)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return torch.einsum("oc,bchw->bohw", self.weight, x) + self.bias[:, None, None]


class Residual(nn.Module):
    """BigGAN's block: with `change` +1 it doubles the sides, with −1 it halves them."""

    def __init__(self, channels_in: int, channels: int, temb: int, change: int = 0) -> None:
        super().__init__()
        self.change = change
        self.norm_0 = group_norm(channels_in)
        self.conv_0 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.dense = nn.Linear(temb, channels)
        self.norm_1 = group_norm(channels)
        self.dropout = nn.Dropout(0.1)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        same = channels_in == channels and not change
        self.shortcut = nn.Identity() if same else Projection(channels_in, channels)

    def resampled(self, x: Tensor) -> Tensor:
        """Doubled, halved or as it is."""
        if self.change > 0:
            return filtered(x, 4.0, 2, 1, 2, 1)
        return filtered(x, 1.0, 1, 2, 1, 1) if self.change else x

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """(B, C, H, W) and (B, E) → (B, C', H', W')."""
        h = self.resampled(F.silu(self.norm_0(x)))
        h = self.conv_0(h) + self.dense(temb)[:, :, None, None]
        h = self.conv_1(self.dropout(F.silu(self.norm_1(h))))
        return joined(self.shortcut(self.resampled(x)), h)


class Attention(nn.Module):
    """Over all pixels, of one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.query, self.key = Projection(channels, channels), Projection(channels, channels)
        self.value, self.out = Projection(channels, channels), Projection(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → its like."""
        batch, channels, height, width = x.shape
        h = self.norm(x)
        weights = torch.einsum("bchw,bcij->bhwij", self.query(h), self.key(h)) / channels**0.5
        weights = F.softmax(weights.reshape(batch, height, width, -1), dim=-1)
        weights = weights.reshape(batch, height, width, height, width)
        return joined(x, self.out(torch.einsum("bhwij,bcij->bchw", weights, self.value(h))))


class Pyramid(nn.Module):
    """The image beside: the filter, then a convolution of stride 2, joined with h."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, stride=2)

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        """(B, C, H, W) and (B, C', H/2, W/2) → the latter's like."""
        return joined(self.conv(filtered(pyramid, 1.0, 1, 1, 2, 2)), h)


class NCSNpp(nn.Module):
    """The network; images of `side` pixels and 3 channels in [0, 1], cond is σ.

    Args:
        nf: width of level 0.
        ch_mult: width of each level in units of nf.
        num_res_blocks: of a level on the way down.
        side: of the images; levels of 16 pixels have attention.
    """

    def __init__(
        self,
        nf: int = 128,
        ch_mult: Iterable[int] = (1, 2, 2, 2),
        num_res_blocks: int = 4,
        side: int = 32,
    ) -> None:
        super().__init__()
        temb, widths = 4 * nf, [nf * mult for mult in ch_mult]
        last = len(widths) - 1
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.randn(nf) * 16)
        self.dense_0, self.dense_1 = nn.Linear(2 * nf, temb), nn.Linear(temb, temb)
        self.conv_in = nn.Conv2d(3, nf, 3, padding=1)
        skips, pyramid, self.down = [nf], 3, nn.ModuleList()
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                self.down.append(Residual(skips[-1], width, temb))
                if side >> level == 16:
                    self.down.append(Attention(width))
                skips.append(width)
            if level < last:
                self.down.append(Residual(width, width, temb, change=-1))
                self.down.append(Pyramid(pyramid, width))
                skips.append(width)
                pyramid = width
        width = skips[-1]
        middle = [Residual(width, width, temb), Attention(width), Residual(width, width, temb)]
        self.middle, self.up = nn.ModuleList(middle), nn.ModuleList()
        for level in range(last, -1, -1):
            for _ in range(num_res_blocks + 1):
                self.up.append(Residual(width + skips.pop(), widths[level], temb))
                width = widths[level]
            if side >> level == 16:
                self.up.append(Attention(width))
            if level:
                self.up.append(Residual(width, width, temb, change=1))
        self.norm = group_norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(B, 3, H, W) and σ (B,) → the score's like of x."""
        phases = 2 * math.pi * torch.log(cond)[:, None] * self.frequencies
        embedded = torch.cat([torch.sin(phases), torch.cos(phases)], dim=1)
        temb = F.silu(self.dense_1(F.silu(self.dense_0(embedded))))
        pyramid = 2 * x - 1
        h = self.conv_in(pyramid)
        skips = [h]
        for part in self.down:
            if isinstance(part, Attention):
                h = part(skips.pop())
            elif isinstance(part, Pyramid):
                h = pyramid = part(pyramid, skips.pop())
            else:
                h = part(h, temb)
            skips.append(h)
        for part in self.middle:
            h = part(h) if isinstance(part, Attention) else part(h, temb)
        for part in self.up:
            if isinstance(part, Attention):
                h = part(h)
            else:
                h = part(h if part.change else torch.cat([h, skips.pop()], dim=1), temb)
        return self.conv_out(F.silu(self.norm(h))) / cond[:, None, None, None]


@torch.no_grad()
def take_weights(naive: nn.Module, network: nn.Module) -> None:
    """Copies weights and frequencies in their order, which is the same in both."""
    mine = [*naive.parameters(), *naive.buffers()]
    theirs = [*network.parameters(), *(b for n, b in network.named_buffers() if "kernel" not in n)]
    for target, value in zip(mine, theirs, strict=True):
        target.copy_(value.reshape(target.shape))


class Step:
    """A training step of denoising score matching on VE, a parameter at a time.

    Args:
        network: called net(x, σ), gives the score.
        sigmas: smallest and largest σ.
    """

    def __init__(self, network: nn.Module, sigmas: tuple[float, float] = (0.01, 50.0)) -> None:
        self.network, self.sigmas = network, sigmas
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=2e-4, eps=1e-8, foreach=False, fused=False
        )
        self.average = [p.detach().clone() for p in network.parameters()]

    def __call__(self, x_0: Tensor) -> Tensor:
        """One update with a batch (B, 3, H, W); the loss."""
        low, high = self.sigmas
        t = torch.rand(len(x_0), device=x_0.device) * (1 - 1e-5) + 1e-5
        sigma = low * (high / low) ** t
        z = torch.randn_like(x_0)
        score = self.network(x_0 + sigma[:, None, None, None] * z, sigma)
        losses = 0.5 * (score * sigma[:, None, None, None] + z).square().sum(dim=(1, 2, 3))
        loss = losses.mean()
        self.optimizer.zero_grad()
        loss.backward()
        parameters = list(self.network.parameters())
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=False)
        self.optimizer.step()
        with torch.no_grad():
            for mean, parameter in zip(self.average, parameters, strict=True):
                mean.sub_((1 - 0.999) * (mean - parameter))
        return loss.detach()
