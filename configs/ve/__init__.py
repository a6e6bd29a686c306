"""Recipes for the variance-exploding SDE."""
