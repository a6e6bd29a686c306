"""Short for `configs/subvp/cifar10_ddpmpp_continuous.py`, the first sub-VP recipe for CIFAR-10."""

from configs.subvp.cifar10_ddpmpp_continuous import get_config

__all__ = ["get_config"]
