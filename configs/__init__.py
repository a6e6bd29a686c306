"""Recipes: each module has `get_config()`, which gives a locked config composed of `parts`."""
