"""From a config to objects, and every check that a config needs.

`build` holds one `build_*` per concept, `check` what must hold between fields, `provenance` how
configs are written down, compared and taken over from a checkpoint.
"""

from assembly.build import (
    Config,
    allow_tf32,
    build_device,
    build_network,
    build_objective,
    build_sampler,
    build_score,
    build_sde,
    build_sources,
    build_state,
    build_train_step,
    channels_last,
    compiled,
    image_shape,
    synthetic_sources,
)
from assembly.check import check, check_data, reduced
from assembly.provenance import (
    adopt,
    of_checkpoint,
    record,
    refuse_other_data,
    refuse_other_run,
    to_json,
    versions,
)

__all__ = [
    "Config",
    "adopt",
    "allow_tf32",
    "build_device",
    "build_network",
    "build_objective",
    "build_sampler",
    "build_score",
    "build_sde",
    "build_sources",
    "build_state",
    "build_train_step",
    "channels_last",
    "check",
    "check_data",
    "compiled",
    "image_shape",
    "of_checkpoint",
    "record",
    "reduced",
    "refuse_other_data",
    "refuse_other_run",
    "synthetic_sources",
    "to_json",
    "versions",
]
