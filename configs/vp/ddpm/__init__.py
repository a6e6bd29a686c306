"""Recipes for DDPM (Ho et al. 2020) and its network."""
