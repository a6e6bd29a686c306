"""Recipes for the SDE with g(t) = σ^t."""
