"""Networks by the names of the 2021 release; they live in `score_sde.networks`."""
