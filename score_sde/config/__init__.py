"""From a config to objects, and every check that a config needs.

`parts` is what recipes are composed of, `build` holds one `build_*` per concept, `check` what must
hold between fields, `history` how configs are written down, compared and taken over from a
checkpoint.
"""
