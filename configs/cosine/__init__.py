"""Recipes for the variance-preserving SDE."""
