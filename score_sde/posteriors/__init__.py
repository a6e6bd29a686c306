"""Linear inverse problems: from a score of images to one of images that fit a measurement.

`measurements`: y = A x + noise, with adjoint, pseudo-inverse and noise level.
"""
