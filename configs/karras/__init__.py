"""Recipes for the SDE of Karras et al. 2022, σ(t) = t."""
