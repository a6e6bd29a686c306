"""Imports like the release's `op`, CUDA kernels whose work plain PyTorch does here."""

from models._moved import refuse

__getattr__ = refuse(__name__, "take upfirdn2d of score_sde.networks.resampling, in plain PyTorch")
