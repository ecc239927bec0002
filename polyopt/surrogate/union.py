"""``x in R_1 or ... or x in R_K`` on a Pyomo block: one binary a region, and for each a copy of x.

With a region's rows ``R_k = {x : some u has A_k (x, u) <= b_k}``, bounds among them, the rows

    A_k (x_k, u_k) <= b_k sigma_k,   x = x_1 + ... + x_K,   1 = sigma_1 + ... + sigma_K

describe, with sigma binary, the union, and without that the convex hull of the union: nothing stronger is linear.
Where the x_k are wanted for nothing else and the regions are boxes, their sum alone says the same,
``sum_k l_k sigma_k <= x <= sum_k u_k sigma_k``, since a sum of boxes is a box.

Source: Balas, "Disjunctive programming", Annals of Discrete Mathematics 1979.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp

from formulations import Rows, add_variables
from polyopt.program import Program, to_relaxation
from polyopt.regions import Box, Ellipsoid, Product, Region


def add_boxes(block, boxes: Box, variables: list) -> None:
    """``block.rows``: the variables lie in one of a batch of boxes, that of ``block.sigma``."""
    sigma = _choice(block, len(boxes.lower))
    block.rows = Rows([(-1.0, variables), (boxes.lower.T, sigma)], upper=0.0)
    block.rows_above = Rows([(1.0, variables), (-boxes.upper.T, sigma)], upper=0.0)


def add_union(block, regions: Sequence[Region], variables: list) -> tuple[list, list[list]]:
    """Write that the variables lie in one of the regions; returns sigma and the regions' copies of the variables.

    >>> m = pyo.ConcreteModel()
    >>> m.x, m.union = pyo.Var(bounds=(0, 9)), pyo.Block()
    >>> sigma, copies = add_union(m.union, [Box([0.0], [1.0]), Box([4.0], [6.0])], [m.x])
    >>> for row in m.union.part[1].rows.values():
    ...     print(row.expr)
    - union.part[1].v[0] + 4.0*union.sigma[1]  <=  0.0
    union.part[1].v[0] - 6.0*union.sigma[1]  <=  0.0
    """
    sigma = _choice(block, len(regions))
    block.part = pyo.Block(range(len(regions)))
    copies = [_add_part(block.part[k], region, sigma[k]) for k, region in enumerate(regions)]
    terms = [(1.0, copy) for copy in copies]
    block.sum = Rows([*terms, (-1.0, variables)], 0.0, 0.0)
    return sigma, copies


def _choice(block, count: int) -> list:
    block.sigma = pyo.Var(range(count), domain=pyo.Binary)
    sigma = list(block.sigma.values())
    block.one = Rows([(np.ones((1, count)), sigma)], 1.0, 1.0)
    return sigma


def _add_part(block, region: Region, sigma) -> list:
    """The rows of one region times sigma; returns the copy of x."""
    program, places = _rows_of(region)
    v = add_variables(
        block, "v", range(len(program.lower)), np.minimum(program.lower, 0.0), np.maximum(program.upper, 0.0)
    )
    identity = sp.eye_array(len(v), format="csr")
    several = np.diff(program.matrix.indptr) > 1  # a row with one entry repeats the bounds, which are the bounding box
    above = np.flatnonzero(several & np.isfinite(program.row_upper))
    below = np.flatnonzero(several & np.isfinite(program.row_lower))
    matrix = sp.vstack([-identity, identity, program.matrix[above], -program.matrix[below]])
    sides = np.concatenate([-program.lower, program.upper, program.row_upper[above], -program.row_lower[below]])
    block.rows = Rows([(matrix, v), (-sides[:, None], [sigma])], upper=0.0)
    return [v[j] for j in places]


def _rows_of(region: Region) -> tuple[Program, np.ndarray]:
    """The region as linear rows with bounded variables, and which of these are x."""
    if any(isinstance(part, Ellipsoid) for part in (region.regions if isinstance(region, Product) else (region,))):
        raise ValueError("add_union: an ellipsoid has no linear rows; give a zonotope or a polytope around it")
    scratch = pyo.ConcreteModel()
    scratch.x, scratch.region = pyo.Var(range(region.size)), pyo.Block()
    region.add_to(scratch.region, scratch.x)
    return to_relaxation(scratch, list(scratch.x.values()))
