"""Properties on any regions as questions about boxes, which are what the search knows (`polyopt.search.coordinates`).

A counterexample, ``C f(x) <= d`` with x = x(z) in X, is a z of the box with

    [C 0; 0 I] g(z) <= (d, s),   g(z) = (f(x(z)), R z),

an unsafe set of the network g. What is gained around an ellipsoid cannot become a counterexample, as this has to be a
point of X, but may keep a property that holds from being proven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from polyopt.network import Network
from polyopt.regions import Box, HPolytope
from polyopt.search.coordinates import coordinates, moved
from polyopt.verification.property import Case


class Question(NamedTuple):
    """A network, cases of boxes alone, their indices among the cases asked about, and the way back to their points.

    With ``rows`` a bound on margins that is not positive says nothing of the margins asked about.
    """

    net: Network
    cases: list[Case]
    indices: list[int]
    point: Callable[[np.ndarray], np.ndarray]
    rows: bool


def questions(net: Network, cases: Sequence[Case]) -> list[Question]:
    """One question for all cases of boxes together, and one for each other.

    >>> from polyopt.layers import Affine
    >>> from polyopt.regions import VPolytope
    >>> net = Network.sequential([Affine([[1.0, 2.0]], None)], (2,))
    >>> triangle = VPolytope([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> (question,) = questions(net, [Case(triangle, (HPolytope([[1.0]], [-0.5]),))])
    >>> question.net(np.array([[0.25, 0.75]]))  # f(x) for x = (0.25, 0.75), then sum z
    array([[1.75, 1.  ]])
    >>> question.cases[0].region, question.cases[0].unsafe[0].b
    (Box([0. 0.], [1. 1.]), array([-0.5,  1. ]))
    """
    plain = [k for k, case in enumerate(cases) if isinstance(case.region, Box)]
    found = [Question(net, [cases[k] for k in plain], plain, lambda x: x, False)] if plain else []
    return found + [_question(net, case, k) for k, case in enumerate(cases) if not isinstance(case.region, Box)]


def _question(net: Network, case: Case, index: int) -> Question:
    where = coordinates(case.region)
    s = where.s
    unsafe = tuple(
        HPolytope(block_diag(polytope.A, np.eye(len(s))), np.concatenate([polytope.b, s])) for polytope in case.unsafe
    )
    g = moved(net, where, np.zeros((0, net.input_size)))
    return Question(g, [Case(where.box, unsafe)], [index], where.point, len(s) > 0)
