"""The pieces of piecewise-linear activations as closed or open intervals, and which of them contains a range.

Two neighbouring pieces on one line are one piece. Where two lines meet at a breakpoint, the function is continuous
there and both pieces contain it; where they do not, the function jumps, and its value belongs to the piece of length
zero that lies there, if there is one, and to no other. A range keeps to a piece where it lies inside, and its *margin*
is the distance to the nearer end. Margins are rounded down.

A breakpoint is where two lines meet. Stored, ``-beta / alpha`` is rounded: fractions give the exact one, floats an
interval around it, of which a lower end of a piece is the upper end and vice versa. Where a function jumps, its
breakpoint is by definition the stored one.
"""

from __future__ import annotations

import numpy as np

from polyopt.activations import Pieces
from polyopt.regions.rational import fractions
from polyopt.regions.rounding import U

ROUNDINGS = 8  # of a breakpoint and of the values of two lines there, generously


def meets(pieces: Pieces) -> np.ndarray:
    """Where neighbouring lines meet at their breakpoint (k, n), up to its rounding; lines that coincide meet.

    >>> from polyopt.activations import Clip, Step
    >>> meets(Clip(-1.0, 1.0).pieces((1,))).T, meets(Step().pieces((1,))).T
    (array([[ True,  True]]), array([[False,  True]]))
    """
    breakpoints, slopes, intercepts = pieces
    turn, gap = np.diff(slopes, axis=0) * breakpoints, np.diff(intercepts, axis=0)
    return abs(turn + gap) <= ROUNDINGS * U * (abs(turn) + abs(intercepts[:-1]) * (turn != 0))


def choose(pieces: Pieces, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For ranges ``[low, high]`` (n,), floats or fractions, the piece that each keeps to and its margin.

    The margin is negative or nan where the range keeps to no piece. It is infinite where the function has no kink.

    >>> from polyopt.activations import ReLU
    >>> choose(ReLU().pieces((3,)), np.array([0.5, 0.0, -1.0]), np.array([2.0, 1.0, 1.0]))
    (array([1, 1, 0]), array([ 0.5,  0. , -1. ]))
    """
    meeting = meets(pieces)
    start, end = _ends(pieces, meeting, exact=low.dtype == object)
    includes_start, includes_end = _closed(pieces, meeting)
    same = (np.diff(pieces.slopes, axis=0) == 0) & (np.diff(pieces.intercepts, axis=0) == 0)
    for i in reversed(range(len(same))):  # the first of the pieces on one line reaches to the end of the last
        end[i] = np.where(same[i], end[i + 1], end[i])
        includes_end[i] = np.where(same[i], includes_end[i + 1], includes_end[i])
    above, below = _distance(low, start), -_distance(high, end)
    room = np.minimum(above, below)
    touches = (above == 0) & ~includes_start | (below == 0) & ~includes_end
    room = np.where(touches, -np.inf, room)
    piece = room.argmax(0)
    margin = room[piece, np.arange(len(low))]
    rounded = margin.dtype != object and np.isfinite(margin) & (margin > 0)
    return piece, np.where(rounded, np.nextafter(margin, 0.0), margin) if np.any(rounded) else margin


def _ends(pieces: Pieces, meeting: np.ndarray, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper ends (k + 1, n) of all pieces, rounded inwards."""
    breakpoints, slopes, intercepts = pieces
    infinite = np.full((1, slopes.shape[1]), np.inf)
    if not exact:
        error = ROUNDINGS * U * abs(breakpoints) * _rounded(pieces, meeting)
        return np.concatenate([-infinite, breakpoints + error]), np.concatenate([breakpoints - error, infinite])
    places = fractions(breakpoints)
    turns = meeting & (np.diff(slopes, axis=0) != 0)
    turn, gap = np.diff(fractions(slopes), axis=0), np.diff(fractions(intercepts), axis=0)
    places[turns] = -gap[turns] / turn[turns]
    return np.concatenate([-infinite, places]), np.concatenate([places, infinite])


def _distance(a: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """``a - ends`` for a (n,) and ends (k + 1, n); from an infinite end infinite, whatever a is."""
    finite = abs(ends) < np.inf
    distance = np.where(ends < 0, np.inf, -np.inf).astype(ends.dtype)
    distance[finite] = np.broadcast_to(a, ends.shape)[finite] - ends[finite]
    return distance


def _rounded(pieces: Pieces, meeting: np.ndarray) -> np.ndarray:
    """Which breakpoints (k, n) may be rounded: neither those of a jump nor where ``a`` meets a constant, as in Clip."""
    turn, intercepts = abs(np.diff(pieces.slopes, axis=0)), pieces.intercepts
    return meeting & ~((turn == 1) & ((intercepts[:-1] == 0) | (intercepts[1:] == 0)))


def _closed(pieces: Pieces, meeting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pieces (k + 1, n) contain their lower, and which their upper end."""
    always = np.ones((1, pieces.slopes.shape[1]), dtype=bool)
    points = np.concatenate([~always, np.diff(pieces.breakpoints, axis=0) == 0, ~always])[: len(pieces.slopes)]
    return np.concatenate([always, meeting]) | points, np.concatenate([meeting, always]) | points
