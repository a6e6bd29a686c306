"""Solvers for few evaluations, on every linear SDE, by their names in configs.

`solver` says what the deterministic ones share; `single_step` holds those that remember nothing.
Of those that remember the steps before, `multistep` has the ones that interpolate denoised samples
and `adams_bashforth` the ones that extrapolate noise estimates, with `weights` of both.
`stochastic` has those that add noise.
"""

from score_sde.solvers.few_step.adams_bashforth import DEIS, IPNDM
from score_sde.solvers.few_step.multistep import DPMSolverPP2M, DPMSolverPP3M, UniPC, UniPC2
from score_sde.solvers.few_step.single_step import DDIM, DPMSolver2, Heun
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
    DPMSolver2.name: DPMSolver2,
    DPMSolverPP2M.name: DPMSolverPP2M,
    DPMSolverPP3M.name: DPMSolverPP3M,
    UniPC.name: UniPC,
    UniPC2.name: UniPC2,
    DEIS.name: DEIS,
    IPNDM.name: IPNDM,
    StochasticHeun.name: StochasticHeun,
    SRA1.name: SRA1,
    ShARK.name: ShARK,
    SDEDPMSolverPP2M.name: SDEDPMSolverPP2M,
    MilsteinPredictor.name: MilsteinPredictor,
}
"""Name in configs (`sampling.method`) → class; see `step.make_step`."""

__all__ = [
    "DDIM",
    "DEIS",
    "FEW_STEP",
    "IPNDM",
    "SRA1",
    "DPMSolver2",
    "DPMSolverPP2M",
    "DPMSolverPP3M",
    "FewStepSolver",
    "Heun",
    "SDEDPMSolverPP2M",
    "ShARK",
    "StochasticHeun",
    "UniPC",
    "UniPC2",
]
