"""Score-based generative modelling through stochastic differential equations.

The library: SDEs, networks, objectives, samplers, likelihoods and the command line. `sde`, `score`
and `noise` hold the ideas that the others are made of; docs/design.md says what lies where.
"""

__version__ = "0.1.0"
