"""How a network is told the time, and how its output is read.

By the papers' conventions (prediction "auto") a network is given a *label* and puts out

    SDE      trained on        label       output
    VE       continuous time   σ(t)        score (the network divides by σ)
    VE       SMLD's chain      N − 1 − k   score; label 0 is the largest noise
    VP       continuous time   999 t/T     noise
    VP       DDPM's chain      k           noise, α and σ from the chain's tables
    sub-VP   always            999 t/T     noise

SDEs without a chain that have been added since go as VE in continuous time or as sub-VP, as their
`network_output` says: σ^t and Karras' as VE, the cosine and the straight path as sub-VP.

A network that was trained on a chain knows its N noise levels and no others. k is the step whose
time (`SDE.chain_times`) is nearest to t.

Any other output goes with any SDE (`predictions`). A network on a chain keeps the chain's labels;
in continuous time it is told what it takes:

    takes                        label
    a noise level ("sigma")      σ(t)/α(t), of whose logarithm it makes features
    a number      ("number")     999 t/T where the SDE's own networks put out the noise; else, and
                                 for EDM on every SDE, 100 ln(σ/α)

EDM's c_noise is ¼ ln(σ/α). Sines and cosines whose fastest turns by 1 rad per unit can't tell such
numbers apart, so it is given times 400: a factor of e in the noise level is then 100 units. DDPM's
999 t spends 104 on one, as VP's levels run from 0.01 to 150.
"""

from collections.abc import Callable

from torch import Tensor

from score_sde.score.predictions import PREDICTIONS, Affine, ChainScales, Prediction, Scales
from score_sde.sde import SDE
from score_sde.tensor_ops import choose, expand_to

TimeLabel = Callable[[SDE, Tensor], Tensor]
"""An SDE and times (B,) → what a network is given for them, (B,)."""

_PER_E = 100.0  # units of a label for a factor of e in the noise level


def std_label(sde: SDE, t: Tensor) -> Tensor:
    """σ(t)."""
    return sde.std(t)


def level_label(sde: SDE, t: Tensor) -> Tensor:
    """σ(t)/α(t)."""
    return sde.noise_level(t)


def log_level_label(sde: SDE, t: Tensor) -> Tensor:
    """100 ln(σ/α), 400 times EDM's c_noise."""
    return _PER_E * sde.noise_level(t).log()


def time_label(sde: SDE, t: Tensor) -> Tensor:
    """999 t/T."""
    # DDPM's networks count 1,000 steps; in continuous time its label goes on between them.
    return t * 999 / sde.T


def smld_label(sde: SDE, t: Tensor) -> Tensor:
    """N − 1 − k with the chain's step k at time t, int64."""
    return (sde.N - 1 - sde.chain_position(t)).round().long()


def ddpm_label(sde: SDE, t: Tensor) -> Tensor:
    """The chain's step at time t, in its dtype."""
    return sde.chain_position(t)


class Parameterisation:
    """How a network is told the time, and how its output is read.

    Args:
        sde: the SDE that the network was trained for.
        prediction: what it puts out.
        time_label: what it is given for the time.
        on_chain: whether it knows the steps of the SDE's discrete chain only.
    """

    def __init__(
        self, sde: SDE, prediction: Prediction, time_label: TimeLabel, on_chain: bool = False
    ) -> None:
        self.sde, self.prediction = sde, prediction
        self.time_label, self.on_chain = time_label, on_chain

    def label(self, t: Tensor) -> Tensor:
        """The time label of a network: (B,) → (B,)."""
        return self.time_label(self.sde, t)

    def scales(self, t: Tensor) -> Scales:
        """α, σ and their rates at times t (B,)."""
        if self.on_chain:
            return ChainScales(self.sde, self.sde.index(t), t)
        return Scales(self.sde, t)

    def score(self, t: Tensor) -> Affine:
        """The score, of a state and an output at times t (B,)."""
        return self.prediction.score(self.scales(t))

    def noise(self, t: Tensor) -> Affine:
        """E[z | x], of a state and an output at times t (B,)."""
        return self.prediction.noise(self.scales(t))

    def denoised(self, t: Tensor) -> Affine:
        """E[x_0 | x], of a state and an output at times t (B,)."""
        return self.prediction.denoised(self.scales(t))

    def target(self, x_0: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """What the output is trained towards, for data x_0 and noise z at times t (B,)."""
        return self.prediction.target(self.scales(t), x_0, z)

    def input(self, x: Tensor, t: Tensor) -> Tensor:
        """The state as the network is given it, with the shape of x; t (B,)."""
        scale = self.prediction.input_scale(self.scales(t))
        return x if scale is None else expand_to(scale, x) * x


class ContinuousScore(Parameterisation):
    """VE in continuous time: the label is σ(t), the output the score."""

    def __init__(self, sde: SDE) -> None:
        super().__init__(sde, PREDICTIONS["score"](), std_label)


class DiscreteScore(Parameterisation):
    """SMLD: the label counts noise levels from the largest down, the output is the score."""

    def __init__(self, sde: SDE) -> None:
        super().__init__(sde, PREDICTIONS["score"](), smld_label, on_chain=True)


class ContinuousNoise(Parameterisation):
    """VP and sub-VP in continuous time: the label is 999 t/T, the output −σ(t) times the score."""

    def __init__(self, sde: SDE) -> None:
        super().__init__(sde, PREDICTIONS["noise"](), time_label)


class DiscreteNoise(Parameterisation):
    """DDPM: the label is the step, the output −σ_i times the score with σ_i from the chain."""

    def __init__(self, sde: SDE) -> None:
        super().__init__(sde, PREDICTIONS["noise"](), ddpm_label, on_chain=True)


def parameterisation(
    sde: SDE,
    continuous: bool = True,
    prediction: str = "auto",
    *,
    takes: str | None = None,
    sigma_data: float = 0.5,
) -> Parameterisation:
    """How a network of an SDE is told the time, and how its output is read.

    Args:
        sde: says whether its networks put out the score or the noise, and whether it has a chain.
        continuous: trained on continuous times; False for SMLD and DDPM. Ignored where there is no
            chain (sub-VP).
        prediction: a name of `PREDICTIONS`, or "auto" for the papers' convention.
        takes: what the network takes for the time, its `cond_kind`, "sigma" or "number"; by
            default what networks of the SDE take by the papers' convention.
        sigma_data: standard deviation of the data, of EDM's prediction.

    Raises:
        UnknownName: there is no such prediction.
        ValueError: a prediction that a chain does not know.
    """
    on_chain, own = sde.has_chain and not continuous, sde.network_output
    if prediction == "auto":
        if own == "score":
            return DiscreteScore(sde) if on_chain else ContinuousScore(sde)
        return DiscreteNoise(sde) if on_chain else ContinuousNoise(sde)
    read = choose(PREDICTIONS, prediction, "model.prediction")(sigma_data)
    if not on_chain:
        takes = takes or ("sigma" if own == "score" else "number")
        number = log_level_label if read.by_level or own == "score" else time_label
        return Parameterisation(sde, read, level_label if takes == "sigma" else number)
    if not read.on_chains:
        allowed = ", ".join(name for name, row in PREDICTIONS.items() if row.on_chains)
        raise ValueError(
            f"model.prediction={prediction!r} needs continuous times, and the discrete chain of "
            f"{sde.name} has none: take {allowed} or auto, or set training.continuous=True"
        )
    return Parameterisation(sde, read, smld_label if own == "score" else ddpm_label, True)
