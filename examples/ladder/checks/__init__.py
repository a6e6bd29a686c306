"""Checks of the ladder's exercises: each looks at an answer and says one sentence on it.

The sentence begins with "Right", with "Not yet" and the reason where an answer is wrong, or with
"Not answered yet". A typical mistake is told apart by what it gives.
"""

from checks.from_langevin_to_chains import (
    check_denoised,
    check_dsm_target,
    check_elbo_weight,
    check_farthest_pair,
    check_langevin_steps,
    check_largest_step,
    check_number_of_levels,
    check_posterior_variance,
    check_stationary_variance,
    check_weighting,
)
from checks.from_sdes_to_posteriors import (
    check_bits_per_dim,
    check_drift_and_diffusion,
    check_evaluations,
    check_guided_score,
    check_heun,
    check_order,
    check_posterior,
    check_reverse_diffusion,
    check_reverse_drifts,
    check_scaled_density,
)

__all__ = [
    "check_bits_per_dim",
    "check_denoised",
    "check_drift_and_diffusion",
    "check_dsm_target",
    "check_elbo_weight",
    "check_evaluations",
    "check_farthest_pair",
    "check_guided_score",
    "check_heun",
    "check_langevin_steps",
    "check_largest_step",
    "check_number_of_levels",
    "check_order",
    "check_posterior",
    "check_posterior_variance",
    "check_reverse_diffusion",
    "check_reverse_drifts",
    "check_scaled_density",
    "check_stationary_variance",
    "check_weighting",
]
