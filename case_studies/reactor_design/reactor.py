"""The truth: van de Vusse's reactions A -> B -> C and 2 A -> D in a cooled stirred tank, by scipy.

Per litre, with the dilution rate F/V = d, the feed's concentration c0 of A and temperature T0, the heat q taken away by
the jacket, and rates k_i = k_i0 exp(-E_i / T):

    dcA/dt = d (c0 - cA) - k1 cA - k3 cA^2
    dcB/dt = -d cB + k1 cA - k2 cB
    dT/dt  = d (T0 - T) - (q + k1 cA H1 + k2 cB H2 + k3 cA^2 H3) / (rho cp).

At rest cA and cB follow from T in closed form, so that steady states are the roots of dT/dt as a function of T alone.
In the window of this study there is one for every operating point (`count_steady_states`), and start-up leads to it.

Source: the benchmark of Chen, Kremling and Allgoewer, Nonlinear predictive control of a benchmark CSTR, ECC 1995, with
its constants; d = 14.19 1/h, c0 = 5.1 mol/L, T0 = 104.9 C and q = 111.35 kJ/(L h) lead to cA = 2.14, cB = 1.09 mol/L
and T = 114.2 C there. The feed is warmer here, at 110 C.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import elementwise

INPUTS = ("dilution", "feed", "cooling")  # 1/h, mol/L, kJ/(L h)
OUTPUTS = ("margin", "purity", "temperature")  # EUR/(L h), percent, C
LOWER, UPPER = np.array([5.0, 4.5, 0.0]), np.array([35.0, 5.7, 900.0])  # the benchmark's window

K1, E1 = 1.287e12, 9758.3  # 1/h, K; the same for B -> C
K3, E3 = 9.043e9, 8560.0  # L/(mol h), K
H1, H2, H3 = 4.2, -11.0, -41.85  # kJ/mol of A, B, A
RHO_CP = 0.9342 * 3.01  # kJ/(L K)
ZERO, FEED = 273.15, 110.0  # C, the feed's temperature
VALUE, RECOVERY, WASTE = 0.10, 0.02, 0.01  # EUR/mol of B sold, of A recovered, of C and D disposed of
RANGE = (-100.0, 300.0)  # C, beyond every steady state
HOURS = 20.0  # at least 100 mean residence times


def rates(temperature):
    """k1 and k3 at a temperature in C."""
    kelvin = temperature + ZERO
    return K1 * np.exp(-E1 / kelvin), K3 * np.exp(-E3 / kelvin)


def heating(temperature, c_a, c_b, x, feed):
    """dT/dt in K/h at operating points x (..., 3) with the feed's temperature."""
    dilution, _, cooling = np.moveaxis(np.asarray(x), -1, 0)
    k1, k3 = rates(temperature)
    heat = k1 * c_a * H1 + k1 * c_b * H2 + k3 * c_a**2 * H3
    return dilution * (feed - temperature) - (cooling + heat) / RHO_CP


def at_rest(temperature, x):
    """cA and cB for which dcA/dt = dcB/dt = 0 at this temperature."""
    dilution, feed, _ = np.moveaxis(np.asarray(x), -1, 0)
    k1, k3 = rates(temperature)
    c_a = 2 * dilution * feed / (dilution + k1 + np.sqrt((dilution + k1) ** 2 + 4 * k3 * dilution * feed))
    return c_a, k1 * c_a / (dilution + k1)


def outputs(x, c_a, c_b, temperature) -> np.ndarray:
    """What the plant is asked for, (..., 3): the margin before hires, B's share of all products, the temperature."""
    dilution = np.asarray(x)[..., 0]
    k1, k3 = rates(temperature)
    waste = (k1 * c_b + k3 * c_a**2 / 2) / dilution  # cC + cD
    margin = dilution * (VALUE * c_b - RECOVERY * c_a - WASTE * waste)
    return np.stack([margin, 100 * c_b / (c_b + waste), temperature + 0 * dilution], axis=-1)


def simulate(x) -> np.ndarray:
    """The outputs (3,) at an operating point (3,) after start-up: a vessel full of feed, left running for 20 h."""
    dilution, feed, _ = x = np.asarray(x, dtype=np.float64)

    def change(_, state):
        c_a, c_b, temperature = state
        k1, k3 = rates(temperature)
        to_d = k3 * c_a**2
        return [
            dilution * (feed - c_a) - k1 * c_a - to_d,
            -dilution * c_b + k1 * (c_a - c_b),
            heating(temperature, c_a, c_b, x, FEED),
        ]

    run = solve_ivp(change, (0.0, HOURS), [feed, 0.0, FEED], method="LSODA", rtol=1e-9, atol=1e-9)
    if not run.success or abs(np.array(change(0.0, run.y[:, -1]))).max() > 1e-3:
        raise RuntimeError(f"the reactor does not come to rest at {x}: {run.message}")
    return outputs(x, *run.y[:, -1])


def steady_state(x, feed: float = FEED) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """cA, cB and T at operating points (..., 3), from the root of dT/dt."""
    x = np.asarray(x, dtype=np.float64)

    def change(temperature, *point):
        point = np.stack(point, axis=-1)
        return heating(temperature, *at_rest(temperature, point), point, feed)

    root = elementwise.find_root(change, RANGE, args=tuple(np.moveaxis(x, -1, 0)))
    if not root.success.all():
        raise RuntimeError(f"no steady state between {RANGE[0]} and {RANGE[1]} C at {x[~root.success][:1]}")
    return *at_rest(root.x, x), root.x


def steady_outputs(x) -> np.ndarray:
    """The outputs (..., 3) at operating points (..., 3), as `simulate` finds them, but for many at once."""
    return outputs(x, *steady_state(x))


def cooling_for(dilution, feed, temperature):
    """The cooling, kJ/(L h), that holds the reactor at this temperature; below 0 it would have to be heated."""
    x = np.stack(np.broadcast_arrays(dilution, feed, 0.0), axis=-1)
    return RHO_CP * heating(temperature, *at_rest(temperature, x), x, FEED)


def count_steady_states(x) -> np.ndarray:
    """How many roots dT/dt has between -100 and 300 C, on a grid of 0.25 K, at operating points (N, 3)."""
    temperature = np.arange(RANGE[0], RANGE[1], 0.25)[:, None]
    signs = heating(temperature, *at_rest(temperature, x), x, FEED) > 0
    return (signs[1:] != signs[:-1]).sum(0)
