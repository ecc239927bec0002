"""alpha-CROWN: CROWN whose lines below and above undecided units have slopes that are optimised for each bound.

Whatever the slopes of the lines, a backward pass gives a bound (`polyopt.bounds.units`); gradient ascent on them brings
it towards the optimum of the linear program of all layers' triangles. Layers come one after the other: every undecided
unit's two bounds are ascended with slopes of their own, all of a layer's in one batch, and the next layer's lines stand
on the result.

Sources: Xu et al., "Fast and complete: enabling complete verification with massively parallel incomplete verifiers",
ICLR 2021, section 3.1; Salman et al., "A convex relaxation barrier to tight robustness verification of neural
networks", NeurIPS 2019, theorem 4.2, for what it converges to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyopt.bounds.backward import Backward
from polyopt.bounds.lagrangian import Minimum, ascend
from polyopt.bounds.units import Part, Units

ENTRIES = 2**21  # units times rows, ascended at a time


def ascended(backward: Backward, units: Units, sides: Tensor, minimum: Minimum, steps: int) -> Tensor:
    """The bounds ``sides`` (2, n) on the units over one region, improved layer by layer."""
    sides = sides.clone()
    for k, part in enumerate(units.parts):
        before = units.first(k)
        undecided = units.undecided(sides[:, None, part.place], part.place)[0].nonzero()[:, 0]
        count = max(1, ENTRIES // max(1, 2 * before.breakpoints.shape[1]))
        for some in undecided.split(count) if k else ():
            rows = unit_rows(part, some)
            here = sides[:, None, : before.breakpoints.shape[1]].expand(-1, 2 * len(some), -1)
            (name,) = part.node.inputs
            found = ascend(backward, before, {name: rows}, here, minimum, steps, priced=False).bound
            place = some + part.place.start
            sides[:, place] = torch.fmax(sides[:, place], found.unflatten(0, (2, -1)))
    return sides


def unit_rows(part: Part, some: Tensor) -> Tensor:
    """Rows ``e_i`` (2 t, node.size) of some free units of a layer, then ``-e_i``."""
    rows = part.slope.new_zeros(2 * len(some), part.node.size)
    index, place = torch.arange(len(some), device=some.device), part.positions(some)
    rows[index, place], rows[len(some) + index, place] = 1.0, -1.0
    return rows
