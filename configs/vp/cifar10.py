"""Short for `configs/vp/cifar10_ddpmpp_continuous.py`, the first VP recipe for CIFAR-10."""

from configs.vp.cifar10_ddpmpp_continuous import get_config

__all__ = ["get_config"]
