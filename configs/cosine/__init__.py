"""Recipes for the cosine schedule, in continuous time."""
