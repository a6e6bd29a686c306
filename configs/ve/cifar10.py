"""Short for `configs/ve/cifar10_ncsnpp_continuous.py`, the first VE recipe for CIFAR-10."""

from configs.ve.cifar10_ncsnpp_continuous import get_config

__all__ = ["get_config"]
