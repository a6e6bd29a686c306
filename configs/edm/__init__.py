"""Recipes trained as in EDM (Karras et al. 2022)."""
