"""Recipes for the sub-VP SDE."""
