"""Weights under the names of the 2021 release."""

from score_sde.checkpoints.release_2021 import dump, load

__all__ = ["dump", "load"]
