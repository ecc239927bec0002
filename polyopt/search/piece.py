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
    """The least value on a piece, and a point (n_in,) where it is attained."""

    value: float
    point: np.ndarray


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


def least_on_piece(question: Question, box: Box, sides: np.ndarray) -> Least | None:
    """The least value where x is in a box and each unit between its sides (2, n) on one piece; None if nowhere."""
    points = {INPUT: (np.eye(question.net.input_size), np.zeros(question.net.input_size))}
    rows, offsets = [], []
    parts = np.split(sides, np.cumsum(question.units.sizes), axis=1)[:-1]
    for node, affine, part in zip(question.form.activations, question.maps, parts, strict=True):
        A, b = _through(affine, points)
        rows.append(A)
        offsets.append(b)
        slope, intercept = _on_piece(node, part)
        points[node.name] = slope[:, None] * A, slope * b + intercept
    A, b = _through(question.output_map, points)
    cost, constant = question.weight @ A, question.weight @ b
    matrix, offset = np.vstack([*rows, np.empty((0, len(cost)))]), np.concatenate([*offsets, []])
    low, high = np.isfinite(sides)
    found = linprog(
        cost,
        A_ub=np.vstack([-matrix[low], matrix[high]]),
        b_ub=np.concatenate([(offset - sides[0])[low], (-sides[1] - offset)[high]]),
        bounds=np.stack([box.lower, box.upper], axis=1),
        method="highs",
    )
    if found.status == 2:
        return None
    if found.status != 0:
        raise RuntimeError(f"the linear program of a linear region ended with: {found.message}")
    return Least(found.fun + constant, found.x)


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
