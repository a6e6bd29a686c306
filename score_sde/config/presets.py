"""What `--mode compare` draws with: methods and budgets, by the names of `--preset`.

A preset gives rows; a row is a place on a curve: the curve's name, what stands under the point,
and the config's fields that make it. Budgets are evaluations of the network, and a method takes as
many steps as fit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from score_sde.config.build import Config, build_sampler, build_sde
from score_sde.samplers import GridSampler
from score_sde.solvers.few_step import FEW_STEP


@dataclass(frozen=True)
class Row:
    """One way to draw the samples.

    Attributes:
        series: the method, which is a curve of the plot and a line of the sheet.
        at: where on it, such as the budget, a number of steps or a tolerance; empty for a method
            that stands alone.
        fields: the config's fields that differ from the command's, by dotted name.
        budget: evaluations of the network that it may cost; 0 where the fields say all.
    """

    series: str
    at: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    budget: int = 0


CONVERGED_ODE = "converged ODE"
BUDGETS = (5, 8, 10, 15, 20, 50)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
SNRS = (0.05, 0.1, 0.16, 0.3)
SIGMAS = (5.0, 10.0, 25.0)
TEMPERATURES = (0.6, 0.8, 0.9, 1.0, 1.1, 1.2)


def few_steps(config: Config) -> list[Row]:
    """Every solver of `FEW_STEP` at few evaluations, beside the predictor and as configured."""
    rows = []
    for method in FEW_STEP:
        fields = {"sampling.method": method}
        rows += [Row(method, str(budget), fields, budget) for budget in BUDGETS]
    predictor = config.sampling.predictor
    if predictor != "none":
        fields = {"sampling.method": "pc", "sampling.corrector": "none"}
        rows += [Row(predictor, str(budget), fields, budget) for budget in BUDGETS]
    return [*rows, Row("as configured", "")]


def table1(config: Config) -> list[Row]:
    """Table 1 of Song et al. 2021: predictors without and with a corrector, and it alone.

    P1000, P2000, C2000 and PC1000 there; 1,000 here is `sampling.num_steps`.
    """
    n = _steps(config)
    corrector = config.sampling.corrector
    corrector = "langevin" if corrector == "none" else corrector
    rows = []
    for series, predictor, flow in (
        ("ancestral sampling", "ancestral_sampling", False),
        ("reverse diffusion", "reverse_diffusion", False),
        ("probability flow", "reverse_diffusion", True),
    ):
        step = {"sampling.predictor": predictor, "sampling.probability_flow": flow}
        rows += [
            Row(series, f"P{n}", _pc(n, **step)),
            Row(series, f"P{2 * n}", _pc(2 * n, **step)),
            Row(series, f"PC{n}", _pc(n, **step, **{"sampling.corrector": corrector})),
        ]
    alone = {"sampling.predictor": "none", "sampling.corrector": corrector}
    alone["sampling.probability_flow"] = False
    return [*rows, Row("corrector alone", f"C{2 * n}", _pc(2 * n, **alone))]


def figure3(config: Config) -> list[Row]:
    """Figure 3 of Song et al. 2021: the adaptive ODE at tolerances from 1e-1 to 1e-5."""
    return [Row("ode", f"{tol:g}", _ode(tol)) for tol in TOLERANCES]


def figure9(config: Config) -> list[Row]:
    """Figure 9 of Song et al. 2021: the same computation, split between predictor and corrector.

    Down go the shares of the corrector, across the evaluations of the network.
    """
    most = _steps(config)
    corrector = config.sampling.corrector
    corrector = "langevin" if corrector == "none" else corrector
    predictor = config.sampling.predictor
    predictor = "reverse_diffusion" if predictor == "none" else predictor
    rows = []
    for budget in dict.fromkeys(max(4, most // part) for part in (8, 4, 2, 1)):
        # Of n + 1 evaluations a step spends n on its corrector.
        for n in (0, 1, 3):
            fields = _pc(budget // (n + 1), **{"sampling.predictor": predictor})
            if n:
                fields |= {"sampling.corrector": corrector, "sampling.n_steps_each": n}
            rows.append(Row(f"corrector {100 * n // (n + 1)} %", f"{budget}", fields))
        alone = {"sampling.predictor": "none", "sampling.corrector": corrector}
        alone |= {"sampling.n_steps_each": 1, "sampling.probability_flow": False}
        rows.append(Row("corrector 100 %", f"{budget}", _pc(budget, **alone)))
    return rows


def temperature(config: Config) -> list[Row]:
    """Images of the ODE from the same latents, scaled by temperatures (Song 2021, section 4.3)."""
    return [
        Row(f"temperature {scale:g}", "", _ode(1e-4) | {"sampling.temperature": scale})
        for scale in TEMPERATURES
    ]


def student(config: Config) -> list[Row]:
    """PC, Euler–Maruyama, Milstein and the ODE over steps, snr and σ, for colour statistics.

    The σ of g(t) = σ^t belongs to the SDE: these rows run with exact scores, which have no
    network.
    """
    n = _steps(config)
    steps = [max(1, n // 4), max(1, n // 2), n]
    euler = {"sampling.predictor": "euler_maruyama", "sampling.probability_flow": False}
    rows = [Row("Euler–Maruyama", str(k), _pc(k, **euler)) for k in steps]
    milstein = {**euler, "sampling.predictor": "milstein"}
    rows += [Row("Milstein", str(k), _pc(k, **milstein)) for k in steps]
    for snr in SNRS:
        langevin = {**euler, "sampling.corrector": "langevin", "sampling.snr": snr}
        rows += [Row(f"PC, snr {snr:g}", str(k), _pc(k, **langevin)) for k in steps]
    rows += [Row("ODE", f"{tol:g}", _ode(tol)) for tol in (1e-3, 1e-5)]
    for sigma in SIGMAS:
        sde = {"training.sde": "powervesde", "model.sigma": sigma}
        corrected = {**euler, "sampling.corrector": "langevin"}
        rows += [Row(f"Euler–Maruyama, σ {sigma:g}", str(k), sde | _pc(k, **euler)) for k in steps]
        rows += [Row(f"PC, σ {sigma:g}", str(k), sde | _pc(k, **corrected)) for k in steps]
        rows.append(Row(f"ODE, σ {sigma:g}", "1e-05", sde | _ode(1e-5)))
    return rows


PRESETS: dict[str, Callable[[Config], list[Row]]] = {
    "few_steps": few_steps,
    "table1": table1,
    "figure3": figure3,
    "figure9": figure9,
    "temperature": temperature,
    "student": student,
}
"""Name (`--preset`) → the config as the command gives it → rows."""


def converged(rows: Sequence[Row], tolerance: float) -> Row:
    """The adaptive ODE that rows are measured by, finer than all of them and than a tolerance."""
    finest = min((row.fields.get("sampling.rtol", 1.0) for row in rows), default=1.0)
    return Row(CONVERGED_ODE, "", _ode(min(tolerance, finest / 10)))


def _steps(config: Config) -> int:
    return config.sampling.num_steps or build_sde(config).N


def _pc(steps: int, **fields: Any) -> dict[str, Any]:
    none = {"sampling.method": "pc", "sampling.corrector": "none", "sampling.num_steps": steps}
    return none | fields


def _ode(tolerance: float) -> dict[str, Any]:
    return {"sampling.method": "ode", "sampling.rtol": tolerance, "sampling.atol": tolerance}


def as_row(config: Config, row: Row) -> Config:
    """The config of a row, locked, with as many steps as its budget allows.

    Raises:
        UnknownName: a name that no table has.
        ValueError: the method does not run on this SDE, or one step costs more than the budget.
    """
    made = config.copy_and_resolve_references()
    with made.unlocked():
        for name, value in row.fields.items():
            group, _, leaf = name.rpartition(".")
            made[group][leaf] = value
    if row.budget:
        _fit_budget(made, row.budget)
    return made.lock()


def _fit_budget(config: Config, budget: int) -> None:
    """Sets `sampling.num_steps` to the most steps that cost no more evaluations than that."""
    # Guided scores evaluate two networks, if not at all times, and a classifier is one more.
    each = 1 if config.sampling.get("guidance", 1.0) in (0, 1) else 2
    each += bool(config.sampling.get("classifier") and config.sampling.get("classifier_scale", 1))
    sde = build_sde(config)
    for steps in range(budget, 0, -1):
        with config.unlocked():
            config.sampling.num_steps = steps
        sampler = build_sampler(config, sde)
        if not isinstance(sampler, GridSampler):
            raise ValueError("it chooses its own steps, and so keeps to no budget")
        if each * sampler.evaluations <= budget:
            return
    raise ValueError(f"one step costs more than {budget} evaluations")
