"""Likelihoods and latents by the probability-flow ODE, and bounds on likelihoods.

`divergence` takes one forward pass and a vector-Jacobian product per probe; `flow` solves state
and log density together, in nats; `bounds` and `chain_bound` hold the bounds of the reverse-time
SDE and of DDPM's chain; `bits` turns nats into bits per dimension, or into nats in the units of
floats.
"""

from score_sde.likelihoods.bits import bin_width, bits_per_dim, nats_per_dim, unit_width
from score_sde.likelihoods.bounds import Bound, continuous_bound
from score_sde.likelihoods.chain_bound import discrete_bound
from score_sde.likelihoods.divergence import (
    HutchinsonType,
    hutchinson_probes,
    value_and_divergence,
)
from score_sde.likelihoods.flow import (
    LogLikelihood,
    Reconstruction,
    decode,
    encode,
    log_likelihood,
    reconstruct,
)

__all__ = [
    "Bound",
    "HutchinsonType",
    "LogLikelihood",
    "Reconstruction",
    "bin_width",
    "bits_per_dim",
    "continuous_bound",
    "decode",
    "discrete_bound",
    "encode",
    "hutchinson_probes",
    "log_likelihood",
    "nats_per_dim",
    "reconstruct",
    "unit_width",
    "value_and_divergence",
]
