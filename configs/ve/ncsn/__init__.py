"""Recipes for NCSN (Song & Ermon 2019), and for its techniques of 2020 one by one."""
