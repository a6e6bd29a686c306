"""Solvers for few evaluations, on every linear SDE, by their names in configs.

`solver` says what the deterministic ones share; `single_step` holds those that remember nothing,
`multistep` those that remember the steps before, `stochastic` those that add noise.
"""

from score_sde.solvers.few_step.multistep import DPMSolverPP2M
from score_sde.solvers.few_step.single_step import DDIM, Heun
from score_sde.solvers.few_step.solver import FewStepSolver
from score_sde.solvers.few_step.stochastic import (
    SRA1,
    SDEDPMSolverPP2M,
    ShARK,
    StochasticHeun,
)
from score_sde.solvers.predictors import MilsteinPredictor
from score_sde.solvers.step import Step

FEW_STEP: dict[str, type[Step]] = {
    DDIM.name: DDIM,
    Heun.name: Heun,
    DPMSolverPP2M.name: DPMSolverPP2M,
    StochasticHeun.name: StochasticHeun,
    SRA1.name: SRA1,
    ShARK.name: ShARK,
    SDEDPMSolverPP2M.name: SDEDPMSolverPP2M,
    MilsteinPredictor.name: MilsteinPredictor,
}
"""Name in configs (`sampling.method`) → class; see `step.make_step`."""

__all__ = [
    "DDIM",
    "FEW_STEP",
    "SRA1",
    "DPMSolverPP2M",
    "FewStepSolver",
    "Heun",
    "SDEDPMSolverPP2M",
    "ShARK",
    "StochasticHeun",
]
