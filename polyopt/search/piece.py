"""A linear region of the network, and the least value of the objective on it: a linear program.

Where every unit keeps to one of its pieces, ``l_k <= a_k <= u_k``, values are affine in the input, layer by layer:
``a_k = sum_s W_{k,s} h_s + b_k`` (`polyopt.affine`) and ``h_k = slope_k a_k + intercept_k``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from polyopt.activations import PiecewiseLinear
from polyopt.affine import AffineMap
from polyopt.network import INPUT, Node
from polyopt.regions import Box
from polyopt.search.question import Question


class Least(NamedTuple):
    """A point (n_in,) where the objective is least on a piece, and the prices (2, n) of the sides that prove it.

    Where the piece is empty there is no point, and the prices raise the Lagrangian by 1 or more above the objective.
    They come from a linear program's floats, and prove what `polyopt.bounds.lagrangian` makes of them.
    """

    point: np.ndarray | None
    prices: np.ndarray


def piece_around(question: Question, x: np.ndarray) -> np.ndarray | None:
    """The sides (2, n) of the linear region that holds a point (n_in,); None where a layer is not piecewise linear."""
    values, sides = question.form.values(x[None]), [np.empty((2, 0))]
    for node in question.form.activations:
        if not isinstance(node.layer, PiecewiseLinear):
            return None
        a = values[node.inputs[0]].ravel()
        breakpoints = node.layer.pieces(node.shape).breakpoints
        below = np.where(breakpoints <= a, breakpoints, -np.inf).max(0, initial=-np.inf)
        above = np.where(breakpoints > a, breakpoints, np.inf).min(0, initial=np.inf)
        sides.append(np.stack([below, -above]))
    return np.concatenate(sides, axis=1)


def least_on_piece(question: Question, box: Box, sides: np.ndarray) -> Least:
    """The least value where x is in a box and each unit between its sides (2, n) on one piece."""
    rows, limits, cost = _program(question, sides)
    bounds = np.stack([box.lower, box.upper], axis=1)
    found = linprog(cost, A_ub=rows, b_ub=limits, bounds=bounds, method="highs")
    if found.status == 2:
        rows = np.hstack([rows, -np.ones((len(rows), 1))])  # every row may be violated by t, which is to be small
        bounds = np.vstack([bounds, [0.0, np.inf]])
        found = linprog(np.eye(len(cost) + 1)[-1], A_ub=rows, b_ub=limits, bounds=bounds, method="highs")
        point, scale = None, 1.0 / max(found.fun or 0.0, 1e-12)
    else:
        point, scale = found.x, 1.0
    if found.status != 0:
        raise RuntimeError(f"the linear program of a linear region ended with: {found.message}")
    prices = np.zeros_like(sides)
    prices[np.isfinite(sides)] = scale * np.maximum(-found.ineqlin.marginals, 0.0)
    return Least(point, prices)


def _program(question: Question, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and right-hand sides of the finite sides, lower ones first, and the objective's slope."""
    points = {INPUT: (np.eye(question.net.input_size), np.zeros(question.net.input_size))}
    rows, offsets = [np.empty((0, question.net.input_size))], [np.empty(0)]
    parts = np.split(sides, np.cumsum(question.units.sizes), axis=1)[:-1]
    for node, affine, part in zip(question.form.activations, question.maps, parts, strict=True):
        A, b = _through(affine, points)
        rows.append(A)
        offsets.append(b)
        slope, intercept = _on_piece(node, part)
        points[node.name] = slope[:, None] * A, slope * b + intercept
    A, _ = _through(question.output_map, points)
    matrix, offset, (low, high) = np.vstack(rows), np.concatenate(offsets), np.isfinite(sides)
    return (
        np.vstack([-matrix[low], matrix[high]]),
        np.concatenate([(offset - sides[0])[low], (-sides[1] - offset)[high]]),
        question.weight @ A,
    )


def _through(affine: AffineMap, points: dict) -> tuple[np.ndarray, np.ndarray]:
    """``sum_s terms[s] (A_s x + b_s) + offset`` as a map of x."""
    A, b = np.zeros((len(affine.offset), points[INPUT][0].shape[1])), affine.offset
    for name, term in affine.terms.items():
        A, b = A + term @ points[name][0], b + term @ points[name][1]
    return A, b


def _on_piece(node: Node, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept (n,) of the piece that each unit keeps to between its sides."""
    breakpoints, slopes, intercepts = node.layer.pieces(node.shape)
    piece = (breakpoints <= sides[0]).sum(0)
    units = np.arange(node.size)
    return slopes[piece, units], intercepts[piece, units]
