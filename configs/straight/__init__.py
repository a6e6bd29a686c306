"""Recipes for the straight path of flow matching."""
