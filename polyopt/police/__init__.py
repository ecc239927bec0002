"""Networks that are affine on a region, at every step of their training.

`POLICE` wraps a torch module; `jacobian` is the slope and offset that it has on the region, and `set_affine` makes them
what one wants.
"""

from polyopt.police.fold import Shift
from polyopt.police.module import POLICE
from polyopt.police.slope import AffineMap, jacobian, set_affine

__all__ = ["POLICE", "AffineMap", "Shift", "jacobian", "set_affine"]
