"""Short for `configs/subvp/cifar10_ddpmpp_continuous.py`, the sub-VP recipe to begin with on CIFAR-10."""

from configs.subvp.cifar10_ddpmpp_continuous import get_config

__all__ = ["get_config"]
