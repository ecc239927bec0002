"""Properties: which outputs a network must not give on which inputs.

A property is a list of cases, each a region X_k and unsafe sets of outputs U_kl = {y : C_kl y <= d_kl}. It holds of a
network f if no case has a counterexample,

    f(x) in U_kl  for some k, l and some x in X_k,

and a property without cases holds of every network. Most properties have one case; a disjunction over inputs, as in
VNN-LIB, gives several.

Local robustness at x with the label c is the property "no other class scores as high as c near x":
X = {x' : |x' - x|_inf <= eps} and U_j = {y : y_c - y_j <= 0} for every j != c; a tie counts as unsafe.

Source: Brix et al., "First three years of the international verification of neural networks competition (VNN-COMP)",
International Journal on Software Tools for Technology Transfer 2023, section 2.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from polyopt.network import Network
from polyopt.regions import Box, HPolytope, Region
from polyopt.regions.rational import dot, fractions


class Case(NamedTuple):
    """A region of inputs, and sets of outputs none of which may be reached from it."""

    region: Region
    unsafe: tuple[HPolytope, ...]


class Property:
    """The property that no point of ``region`` has its output in one of the ``unsafe`` polytopes.

    ``cases`` are all that a verifier needs: pairs ``(region, unsafe)``, one here, any number from `read_vnnlib`.
    ``region`` and ``unsafe`` are those of the only case; with several they raise a ValueError. ``input_size`` and
    ``output_size`` are the dimensions n and m of inputs and outputs.

    Raises ValueError where the region is none or a batch of boxes, and where the unsafe sets are none, are not
    H-polytopes or differ in dimension.

    >>> from polyopt.regions import Box, HPolytope
    >>> low = HPolytope([[1.0, 0.0]], [-1.0])  # y_0 <= -1
    >>> prop = Property(Box([0.0], [1.0]), unsafe=[low])
    >>> prop
    Property(1 inputs -> 2 outputs, 1 cases, 1 unsafe sets)
    >>> prop.falsified_by([0.5], [-2.0, 0.0]), prop.falsified_by([1.5], [-2.0, 0.0])
    (True, False)
    """

    def __init__(self, region: Region, unsafe: Sequence[HPolytope]):
        case = _case(region, unsafe)
        self.cases: tuple[Case, ...] = (case,)
        self.input_size: int = case.region.size
        self.output_size: int = case.unsafe[0].size

    @classmethod
    def of_cases(cls, cases: Iterable[tuple[Region, Sequence[HPolytope]]], input_size: int, output_size: int):
        """The property that holds where all cases do, of networks with so many inputs and outputs.

        >>> Property.of_cases([], 1, 2)  # holds of every network
        Property(1 inputs -> 2 outputs, 0 cases, 0 unsafe sets)
        """
        made = cls.__new__(cls)
        made.cases = tuple(_case(*case) for case in cases)
        made.input_size, made.output_size = input_size, output_size
        for k, (region, unsafe) in enumerate(made.cases):
            if (region.size, unsafe[0].size) != (input_size, output_size):
                raise ValueError(
                    f"Property: case {k} has {region.size} inputs and {unsafe[0].size} outputs, but the property "
                    f"{input_size} and {output_size}"
                )
        return made

    @property
    def region(self) -> Region:
        """The region of the only case."""
        return self._only.region

    @property
    def unsafe(self) -> tuple[HPolytope, ...]:
        """The unsafe sets of the only case."""
        return self._only.unsafe

    @property
    def _only(self) -> Case:
        if len(self.cases) != 1:
            raise ValueError(f"Property: there are {len(self.cases)} cases, not one; go through prop.cases")
        return self.cases[0]

    def falsified_by(self, x, y) -> bool:
        """Whether x (n,) with the output y (m,) is a counterexample; outputs are judged in exact arithmetic.

        So is x in a box; other regions answer by `Region.contains`. An output that is not finite falsifies nothing.
        """
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if x.shape != (self.input_size,) or y.shape != (self.output_size,):
            raise ValueError(
                f"Property.falsified_by: x has shape {x.shape}, y {y.shape}; they must be ({self.input_size},) and "
                f"({self.output_size},)"
            )
        return bool(np.isfinite(y).all()) and any(
            case.region.contains(x) and any(_holds(polytope, y) for polytope in case.unsafe) for case in self.cases
        )

    def __repr__(self) -> str:
        unsafe = sum(len(case.unsafe) for case in self.cases)
        return (
            f"Property({self.input_size} inputs -> {self.output_size} outputs, {len(self.cases)} cases, "
            f"{unsafe} unsafe sets)"
        )


def robust(net: Network, x, eps, label: int, lower=None, upper=None) -> Property:
    """No class scores as high as ``label`` within ``eps`` of ``x`` in the maximum norm, cut with ``[lower, upper]``.

    ``x`` has shape (n,) or the network's input shape; ``eps``, ``lower`` and ``upper`` are numbers or arrays of such a
    shape. The ends x - eps and x + eps are rounded outwards, so that the box has every point of the ball.

    Raises ValueError for other shapes, numbers that are not finite, a negative eps, a ball outside the limits, a label
    that is no output, and a network with a single output.

    >>> from polyopt.layers import Affine
    >>> net = Network.sequential([Affine([[1.0], [0.0], [-1.0]], None)], (1,))
    >>> prop = robust(net, [1.0], 0.5, label=0, upper=1.25)
    >>> prop.region, [(set_.A.tolist(), set_.b.tolist()) for set_ in prop.unsafe]
    (Box([0.5], [1.25]), [([[1.0, -1.0, 0.0]], [0.0]), ([[1.0, 0.0, -1.0]], [0.0])])
    """
    center, eps = _point(net, "x", x), _point(net, "eps", eps)
    if (eps < 0).any():
        raise ValueError(f"robust: eps is {eps.min()}, but must not be negative")
    label = operator.index(label)
    if net.output_size < 2 or not 0 <= label < net.output_size:
        raise ValueError(f"robust: label is {label}, but the network has {net.output_size} outputs; there must be two")
    low, high = -_at_least(-center, eps), _at_least(center, eps)
    if lower is not None:
        low = np.maximum(low, _point(net, "lower", lower))
    if upper is not None:
        high = np.minimum(high, _point(net, "upper", upper))
    rows = np.eye(net.output_size)
    others = [j for j in range(net.output_size) if j != label]
    return Property(Box(low, high), [HPolytope([rows[label] - rows[j]], [0.0]) for j in others])


def _case(region, unsafe) -> Case:
    if not isinstance(region, Region) or region.batch_shape:
        found = f"a batch of {region.batch_shape[0]}" if isinstance(region, Region) else f"a {type(region).__name__}"
        raise ValueError(f"Property: the region is {found}; give a single region, such as Box(lower, upper)")
    listed = isinstance(unsafe, Iterable)
    polytopes = tuple(unsafe) if listed else (unsafe,)
    if not listed or not polytopes or not all(isinstance(polytope, HPolytope) for polytope in polytopes):
        kinds = ", ".join(type(polytope).__name__ for polytope in polytopes) or "nothing"
        raise ValueError(f"Property: unsafe is {kinds}; give a list of at least one HPolytope(C, d)")
    if len(sizes := {polytope.size for polytope in polytopes}) > 1:
        raise ValueError(f"Property: the unsafe sets have dimensions {sorted(sizes)}; they must have one")
    return Case(region, polytopes)


def _holds(polytope: HPolytope, y: np.ndarray) -> bool:
    """Whether ``C y <= d``, without rounding."""
    return bool((dot(polytope.A, fractions(y)[:, None])[:, 0] <= fractions(polytope.b)).all())


def _point(net: Network, name: str, values) -> np.ndarray:
    """Finite numbers (n,) from one number or an array shaped like an input."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape not in ((), (net.input_size,), net.input_shape) or (name == "x" and not values.shape):
        raise ValueError(
            f"robust: {name} has shape {values.shape}, but must have ({net.input_size},) or {net.input_shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"robust: {name} must be finite, but has {values[~np.isfinite(values)][0]}")
    return np.broadcast_to(values.ravel(), net.input_size)


def _at_least(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The least float no smaller than ``a + b``: the rounded sum and its error are exactly a + b (Knuth's TwoSum)."""
    with np.errstate(over="ignore", invalid="ignore"):  # a box refuses what is not finite
        total = a + b
        part = total - a
        error = (a - (total - part)) + (b - part)
    return np.where(error > 0, np.nextafter(total, np.inf), total)
