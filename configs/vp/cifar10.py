"""Short for `configs/vp/cifar10_ddpmpp_continuous.py`, the VP recipe to begin with on CIFAR-10."""

from configs.vp.cifar10_ddpmpp_continuous import get_config

__all__ = ["get_config"]
