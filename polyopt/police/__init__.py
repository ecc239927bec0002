"""Networks that are affine on a region, at every step of their training, or on many regions at once.

`POLICE` wraps a torch module; `jacobian` is the slope and offset that it has on the region, and `set_affine` makes them
what one wants. `MPOLICE` is a torch module that keeps constraints on many regions, trained and proven. Its step is
`enforce`, which gives each region a linear piece of its own: layer by layer with `solve_layer`, whose problem
`layer_miqp` writes down for other solvers; `separable` says whether it can be done.
"""

from polyopt.police.constraints import AffineConstraint, SlopeConstraint
from polyopt.police.enforce import enforce
from polyopt.police.fitting import Fitting
from polyopt.police.fold import Shift
from polyopt.police.last_layer import InfeasibleConstraints
from polyopt.police.layer_miqp import layer_miqp
from polyopt.police.module import POLICE
from polyopt.police.mpolice import MPOLICE
from polyopt.police.report import EnforcementError, LayerReport, Report
from polyopt.police.separable import Cut, Separability, separable
from polyopt.police.slope import AffineMap, jacobian, set_affine
from polyopt.police.solve_layer import LayerSolution, solve_layer

__all__ = [
    "MPOLICE",
    "POLICE",
    "AffineConstraint",
    "AffineMap",
    "Cut",
    "EnforcementError",
    "Fitting",
    "InfeasibleConstraints",
    "LayerReport",
    "LayerSolution",
    "Report",
    "Separability",
    "Shift",
    "SlopeConstraint",
    "enforce",
    "jacobian",
    "layer_miqp",
    "separable",
    "set_affine",
    "solve_layer",
]
