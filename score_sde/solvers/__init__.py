"""One step of everything that turns noise into data.

`step` says what a step is; `predictors` and `correctors` hold the paper's, `few_step` those for a
few evaluations, `ode` the adaptive solver, `grids` the times between
which steps are taken. The loop that takes the steps is in `samplers`.
"""
