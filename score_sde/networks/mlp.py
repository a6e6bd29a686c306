"""A small time-conditioned perceptron for points, signals and whatever else is no image."""

from torch import Tensor, nn

from score_sde.networks.blocks import Conditioning
from score_sde.networks.layers import activation, dense, embedding_and_sigma
from score_sde.tensor_ops import expand_to


class MLPBlock(nn.Module):
    """Normalise, add the condition, activate, transform, beside a shortcut."""

    def __init__(self, width: int, act: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.condition = dense(width, width)
        self.act = act
        self.dense = dense(width, width)

    def forward(self, h: Tensor, temb: Tensor) -> Tensor:
        """(B, width) and (B, width) → (B, width)."""
        return h + self.dense(self.act(self.norm(h) + self.condition(temb)))


class MLP(nn.Module):
    """Residual perceptron on all features of a sample; it starts as almost 0.

    Args:
        num_features: Numbers per sample: x may be (B, num_features) or any (B, ...) of that size.
        width: Width of the hidden layers.
        num_blocks: Number of hidden layers.
        embedding_type: "fourier" (cond is σ > 0) or "positional" (cond is a time or step index).
        fourier_scale: Standard deviation of the Fourier frequencies.
        num_classes: Number of class labels; with any, label None means the null class, index
            `num_classes`.
        nonlinearity: "swish", "relu", "elu" or "lrelu".
        scale_by_sigma: Whether the output is divided by the noise level: by cond itself
            ("fourier"), or by the entry cond (truncated) of the descending geometric table
            ("positional").
        sigma_min: Smallest σ of that table.
        sigma_max: Largest σ of that table.
        num_scales: Length of that table.

    Raises:
        ValueError: An option is not known.
    """

    def __init__(
        self,
        *,
        num_features: int,
        width: int = 128,
        num_blocks: int = 3,
        embedding_type: str = "positional",
        fourier_scale: float = 1.0,
        num_classes: int = 0,
        nonlinearity: str = "swish",
        scale_by_sigma: bool = False,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_scales: int = 1000,
    ) -> None:
        super().__init__()
        act = activation(nonlinearity)
        self.embedding, noise_level = embedding_and_sigma(
            embedding_type, width, fourier_scale, (sigma_min, sigma_max, num_scales)
        )
        self.cond_kind = self.embedding.cond_kind
        self.conditioning = Conditioning(
            self.embedding.features, width, act=act, num_classes=num_classes
        )
        self.dense_in = dense(num_features, width)
        self.blocks = nn.ModuleList(MLPBlock(width, act) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(width)
        self.dense_out = dense(width, num_features, init_scale=0.0)
        self.noise_level = noise_level if scale_by_sigma else None

    def pieces(self) -> list[nn.Module]:
        """What is computed one after the other, each with weights of its own."""
        return list(self.blocks)

    def forward(self, x: Tensor, cond: Tensor, label: Tensor | None = None) -> Tensor:
        """Applies the network.

        Args:
            x: (B, ...) with `num_features` numbers per sample.
            cond: (B,) the noise level, as a label.
            label: int64 (B,) classes; None is the null class.

        Returns:
            The shape and dtype of `x`.

        Raises:
            ValueError: Labels are given to a network without classes.
        """
        temb = self.conditioning(self.embedding(cond), label)
        h = self.dense_in(x.flatten(1))
        for block in self.blocks:
            h = block(h, temb)
        out = self.dense_out(self.norm(h)).reshape(x.shape)
        if self.noise_level is not None:
            out = out / expand_to(self.noise_level(cond), out)
        return out.to(x.dtype)
