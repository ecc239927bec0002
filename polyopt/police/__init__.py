"""Networks that are affine on a region, at every step of their training, or on many regions at once.

`POLICE` wraps a torch module; `jacobian` is the slope and offset that it has on the region, and `set_affine` makes them
what one wants. `enforce` gives each of many regions a linear piece of its own (mPOLICE): layer by layer with
`solve_layer`, whose problem `layer_miqp` writes down for other solvers; `separable` says whether it can be done.
"""

from polyopt.police.enforce import enforce
from polyopt.police.fold import Shift
from polyopt.police.layer_miqp import layer_miqp
from polyopt.police.module import POLICE
from polyopt.police.report import EnforcementError, LayerReport, Report
from polyopt.police.separable import Cut, Separability, separable
from polyopt.police.slope import AffineMap, jacobian, set_affine
from polyopt.police.solve_layer import LayerSolution, solve_layer

__all__ = [
    "POLICE",
    "AffineMap",
    "Cut",
    "EnforcementError",
    "LayerReport",
    "LayerSolution",
    "Report",
    "Separability",
    "Shift",
    "enforce",
    "jacobian",
    "layer_miqp",
    "separable",
    "set_affine",
    "solve_layer",
]
