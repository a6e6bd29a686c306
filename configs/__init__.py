"""Recipes: each module has `get_config()`, which gives a config composed of `parts`."""
