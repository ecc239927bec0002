"""A linear region of the network, and the least margin on it: a linear program.

Where every unit keeps to one of its pieces, ``l_k <= a_k <= u_k``, values are affine in the input, layer by layer:
``a_k = sum_s W_{k,s} h_s + b_k`` (`polyopt.affine`) and ``h_k = slope_k a_k + intercept_k``. With the target's rows C
and limits d the program is ``min t`` subject to ``C y(x) - d <= t``, with 0 in the place of t in the rows that are
constraints; the dual values of these rows are their weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult, linprog

from polyopt.activations import PiecewiseLinear
from polyopt.affine import AffineMap
from polyopt.network import INPUT, Node
from polyopt.regions import Box
from polyopt.search.question import Question


class Least(NamedTuple):
    """A point (n_in,) where the margin is least on a piece, and what proves it: weights (r,), prices (2, N).

    Where the piece is empty there is no point, and both raise the Lagrangian above the cutoff. They come from a
    linear program's floats, and prove what `polyopt.bounds.lagrangian` makes of them. Where numbers are too large for
    the program there is no point either, and both are zero.
    """

    point: np.ndarray | None
    weights: np.ndarray
    prices: np.ndarray


def sides_around(question: Question, x: np.ndarray) -> np.ndarray | None:
    """The sides (2, N) of the linear region that holds a point (n_in,); None where a layer is not piecewise linear."""
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


def least_around(question: Question, x: np.ndarray, target: int) -> np.ndarray | None:
    """The point (n_in,) of least margin in the linear region of a point; None where there is no such region."""
    sides = sides_around(question, x)
    if sides is None:
        return None
    box = Box(question.lower[target].cpu().numpy(), question.upper[target].cpu().numpy())
    return least_on_piece(question, target, box, sides).point


@np.errstate(over="ignore", invalid="ignore")
def least_on_piece(question: Question, target: int, box: Box, sides: np.ndarray) -> Least:
    """The least margin of a target where x is in a box and each unit between its sides (2, N), all on one piece."""
    question.backward.check()
    rows, limits, count = _program(question, target, sides)
    giving = 1 if question.constrained else count
    ends = np.stack([box.lower, box.upper], axis=1)
    found, point = _least(rows, limits, ends, slice(giving), None), None
    if found.status == 2:  # by how much sides and constraints must give way for there to be a point
        found = _least(rows[giving:], limits[giving:], ends, slice(None), 0.0)
        lowest = (rows[:giving] @ box.center - abs(rows[:giving]) @ box.radius - limits[:giving]).min()
        scale = 2.0 * max(question.cutoff - lowest, 0.0) / max(found.fun or 0.0, 1e-12)
        first = np.full(giving, 1.0 / giving)
    elif found.status == 0:
        point, scale, first = found.x[:-1], 1.0, np.empty(0)
    if found.status != 0:
        return Least(None, np.zeros(count), np.zeros_like(sides))
    duals = np.concatenate([first, scale * np.maximum(-found.ineqlin.marginals, 0.0)])
    prices = np.zeros_like(sides)
    prices[_priced(question, sides)] = duals[count:]
    return Least(point, duals[:count], prices)


def _least(
    rows: np.ndarray, limits: np.ndarray, ends: np.ndarray, giving: slice, least: float | None
) -> OptimizeResult:
    """The program ``min t`` subject to ``rows x <= limits + t`` for the giving rows, and without t for the others."""
    if not (np.isfinite(rows).all() and np.isfinite(limits).all()):
        return OptimizeResult(status=4)  # numerical difficulties
    slack = np.zeros((len(rows), 1))
    slack[giving] = -1.0
    cost = np.eye(rows.shape[1] + 1)[-1]
    return linprog(cost, np.hstack([rows, slack]), limits, bounds=[*ends, (least, None)], method="highs")


def _program(question: Question, target: int, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows on x and their limits: of the target, so many, then of the finite sides, lower ones first."""
    points = {INPUT: (np.eye(question.net.input_size), np.zeros(question.net.input_size))}
    rows, offsets = [np.empty((0, question.net.input_size))], [np.empty(0)]
    sizes = [node.size for node in question.form.activations]
    parts = np.split(sides, np.cumsum(sizes), axis=1)[:-1]
    for node, affine, part in zip(question.form.activations, question.maps, parts, strict=True):
        A, b = _through(affine, points)
        rows.append(A)
        offsets.append(b)
        slope, intercept = _on_piece(node, part)
        points[node.name] = slope[:, None] * A, slope * b + intercept
    A, b = _through(question.output_map, points)
    C, d = question.rows[target].cpu().numpy(), question.limits[target].cpu().numpy()
    matrix, offset, (low, high) = np.vstack(rows), np.concatenate(offsets), _priced(question, sides)
    return (
        np.vstack([C @ A, -matrix[low], matrix[high]]),
        np.concatenate([d - C @ b, (offset - sides[0])[low], (-sides[1] - offset)[high]]),
        len(C),
    )


def _priced(question: Question, sides: np.ndarray) -> np.ndarray:
    """Which sides are rows: the finite ones of units that the box leaves undecided; from these the others follow."""
    kept = np.zeros(sides.shape[1], dtype=bool)
    kept[question.units.kept.cpu().numpy()] = True
    return np.isfinite(sides) & kept


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
