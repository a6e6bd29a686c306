"""The moving average by the name of the 2021 release."""

from score_sde.networks.ema import ExponentialMovingAverage

__all__ = ["ExponentialMovingAverage"]
