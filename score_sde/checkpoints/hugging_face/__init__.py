"""NCSN++ and DDPM as `UNet2DModel` of Hugging Face's diffusers.

`configuration` says how that class is told to compute the same, or why it cannot; `names`
translates the names of the weights.
"""

from score_sde.checkpoints.hugging_face.configuration import (
    CLASS_NAME,
    disagreements,
    unet2d_config,
)
from score_sde.checkpoints.hugging_face.names import to_ours, to_theirs

__all__ = ["CLASS_NAME", "disagreements", "to_ours", "to_theirs", "unet2d_config"]
