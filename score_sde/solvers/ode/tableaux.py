"""The Runge–Kutta methods that the adaptive solver knows, by their names in configs."""

from scipy.integrate import DOP853 as SCIPY_DOP853

from score_sde.solvers.ode.runge_kutta import RungeKutta

# Dormand and Prince (1980), table 2. The result is of order 5, the estimate how it differs from
# one of order 4.
DORMAND_PRINCE = RungeKutta(
    title="Dormand–Prince 5(4)",
    order=5,
    nodes=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    weights=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    errors=((-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40),),
    error_order=5,
)

# Tsitouras (2011), "Runge–Kutta pairs of order 5(4) satisfying only the first column simplifying
# assumption", table 1.
TSIT5 = RungeKutta(
    title="Tsitouras 5(4)",
    order=5,
    nodes=(0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    weights=(
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ),
        (
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ),
    ),
    errors=(
        (
            -0.00178001105222577714,
            -0.0008164344596567469,
            0.007880878010261995,
            -0.1447110071732629,
            0.5823571654525552,
            -0.45808210592918697,
            1 / 66,
        ),
    ),
    error_order=5,
)

# Hairer, Nørsett, Wanner I, II.5 and II.10: order 8, with estimates by results of orders 5 and 3
# that together are of order 8 in h. The numbers, of 20 digits each, are those that scipy has from
# Hairer's own code.
DOP853 = RungeKutta(
    title="Dormand–Prince 8(5,3)",
    order=8,
    nodes=(*map(float, SCIPY_DOP853.C[1:]), 1.0),
    weights=(
        *(tuple(map(float, row[:k])) for k, row in enumerate(SCIPY_DOP853.A[1:], 1)),
        tuple(map(float, SCIPY_DOP853.B)),
    ),
    errors=(tuple(map(float, SCIPY_DOP853.E5)), tuple(map(float, SCIPY_DOP853.E3))),
    error_order=8,
)

ODE_SOLVERS: dict[str, RungeKutta] = {"rk45": DORMAND_PRINCE, "tsit5": TSIT5, "dop853": DOP853}
"""Name in configs (`sampling.ode_solver`, `eval.ode_solver`) → table of a Runge–Kutta method."""
