"""Any region as a piece of a box, so that the search, which knows boxes alone, can decide what is asked of it.

A region is written as the image of those points of a box that satisfy some rows,

    X = {c + M z : l <= z <= u, R z <= s},

and a counterexample, ``C f(x) <= d`` with x in X, is a z of the box with

    [C 0; 0 I] g(z) <= (d, s),   g(z) = (f(c + M z), R z),

an unsafe set of the network g, which is f with an affine layer before and one beside it.

    zonotope     c + G z    -1 <= z <= 1
    V-polytope   V' z        0 <= z <= 1, sum z <= 1, -sum z <= -1
    H-polytope   z          bounds on z, A z <= b
    ellipsoid    c + F z    -1 <= z <= 1, which is a parallelepiped around it
    product      side by side

Numbers are those of the region, and the bounds of an H-polytope are rounded outwards, so that no point of X is lost.
What is gained around an ellipsoid cannot become a counterexample, as this has to be a point of X, but may keep a
property that holds from being proven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from polyopt.layers import Affine, Concat, Reshape
from polyopt.network import INPUT, Network
from polyopt.regions import Box, Ellipsoid, HPolytope, Product, Region, VPolytope, Zonotope
from polyopt.regions.support import Support
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

    >>> net = Network.sequential([Affine([[1.0, 2.0]], None)], (2,))
    >>> triangle = VPolytope([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> (question,) = questions(net, [Case(triangle, (HPolytope([[1.0]], [-0.5]),))])
    >>> question.net(np.array([[0.0, 0.25, 0.75]]))  # f(x) for x = (0.25, 0.75), then sum z and -sum z
    array([[ 1.75,  1.  , -1.  ]])
    >>> question.cases[0].region, question.cases[0].unsafe[0].b
    (Box([0. 0. 0.], [1. 1. 1.]), array([-0.5,  1. , -1. ]))
    """
    plain = [k for k, case in enumerate(cases) if isinstance(case.region, Box)]
    found = [Question(net, [Case(*cases[k]) for k in plain], plain, lambda x: x, False)] if plain else []
    return found + [_question(net, Case(*case), k) for k, case in enumerate(cases) if k not in plain]


class Coordinates(NamedTuple):
    """``{c + M z : z in box, R z <= s}`` with M (n, k) and R (m, k)."""

    c: np.ndarray
    M: np.ndarray
    box: Box
    R: np.ndarray
    s: np.ndarray


def coordinates(region: Region) -> Coordinates:
    """The region in coordinates of a box."""
    match region:
        case Box():
            return _free(np.zeros(region.size), np.eye(region.size), region)
        case Zonotope(center=c, generators=M) | Ellipsoid(center=c, factor=M):
            M = M if M.size else np.zeros((len(c), 1))
            return _free(c, M, Box(-np.ones(M.shape[1]), np.ones(M.shape[1])))
        case VPolytope(points=points):
            ones = np.ones(len(points))
            sums = np.stack([ones, -ones])
            return Coordinates(np.zeros(region.size), points.T, Box(0.0 * ones, ones), sums, np.array([1.0, -1.0]))
        case HPolytope(A=A, b=b):
            eye, support = np.eye(region.size), Support.of(region, exact=False)
            return Coordinates(np.zeros(region.size), eye, Box(-support(-eye), support(eye)), A, b)
        case Product(regions=regions):
            c, M, boxes, R, s = zip(*map(coordinates, regions), strict=True)
            box = Box(*(np.concatenate(sides) for sides in zip(*((b.lower, b.upper) for b in boxes), strict=True)))
            return Coordinates(np.concatenate(c), block_diag(*M), box, block_diag(*R), np.concatenate(s))
    raise ValueError(f"verify: {type(region).__name__} is a kind of region that the search does not know")


def _free(c: np.ndarray, M: np.ndarray, box: Box) -> Coordinates:
    return Coordinates(c, M, box, np.zeros((0, box.size)), np.zeros(0))


def _question(net: Network, case: Case, index: int) -> Question:
    c, M, box, R, s = coordinates(case.region)
    unsafe = tuple(
        HPolytope(block_diag(polytope.A, np.eye(len(s))), np.concatenate([polytope.b, s])) for polytope in case.unsafe
    )
    return Question(_moved(net, c, M, R), [Case(box, unsafe)], [index], lambda z: c + M @ z, len(s) > 0)


def _moved(net: Network, c: np.ndarray, M: np.ndarray, R: np.ndarray) -> Network:
    """``z -> (f(c + M z), R z)``."""
    name = max((node.name for node in net.nodes), key=len) + "_"  # longer than all others, and thus a new one
    image, shaped, flat, rows, both = (name + str(i) for i in range(5))
    layers = [(image, Affine(M, c), [INPUT]), (shaped, Reshape(net.input_shape), [image])]
    for node in net.nodes:
        layers.append((node.name, node.layer, [shaped if source == INPUT else source for source in node.inputs]))
    if len(R):
        layers += [(flat, Reshape((net.output_size,)), [net.nodes[-1].name]), (rows, Affine(R, None), [INPUT])]
        layers.append((both, Concat(), [flat, rows]))
    return Network(layers, (M.shape[1],))
