"""Likelihoods and latents by the probability-flow ODE, and bounds on likelihoods.

`divergence` takes one forward pass and a vector-Jacobian product per probe; `flow` solves state
and log density together, in nats; `bounds` and `chain_bound` hold the bounds of the reverse-time
SDE and of DDPM's chain; `bits` turns nats into bits per dimension; `original` holds
`get_likelihood_fn` of the 2021 release.
"""

from likelihood.bits import bin_width, bits_per_dim
from likelihood.bounds import Bound, continuous_bound
from likelihood.chain_bound import discrete_bound
from likelihood.divergence import HutchinsonType, hutchinson_probes, value_and_divergence
from likelihood.flow import LogLikelihood, decode, encode, log_likelihood
from likelihood.original import get_likelihood_fn

__all__ = [
    "Bound",
    "HutchinsonType",
    "LogLikelihood",
    "bin_width",
    "bits_per_dim",
    "continuous_bound",
    "decode",
    "discrete_bound",
    "encode",
    "get_likelihood_fn",
    "hutchinson_probes",
    "log_likelihood",
    "value_and_divergence",
]
