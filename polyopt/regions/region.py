"""What every region answers: its support function, a centre, membership, samples, vertices, rows in a model.

The support function of a set X is ``h(a) = max over x in X of a x``. It is all that linear bounds need of X: the range
of ``a x + b`` on X is ``[b - h(-a), b + h(a)]``, and X is the intersection of its half-spaces ``a x <= h(a)``.

A region is written in numpy. Its support function is also that of torch: given a tensor of rows, it computes on their
device and in their precision, and may be differentiated. torch is imported only by those who hold a tensor already.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from polyopt.layers import frozen

ROUNDING = 1e-9  # of the largest coordinate; where a membership is computed, points so far outside count as inside

_TENSORS: WeakKeyDictionary[Region, dict] = WeakKeyDictionary()  # a region's arrays, by device and precision


class Region(ABC):
    """A closed convex set in n dimensions: bounded and not empty, or its methods say that it is not.

    ``center`` (n,) is a point of it: its centre of symmetry where it has one.
    """

    center: np.ndarray

    @property
    @abstractmethod
    def size(self) -> int:
        """The dimension n."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """``()``, or ``(batch,)`` for a batch of boxes."""
        return ()

    def support(self, A) -> Any:
        """``max A x`` over the region for each row of ``A`` (…, k, n), an array or a torch tensor: shape (…, k)."""
        if not _is_tensor(A):
            A = np.asarray(A, dtype=np.float64)
        if A.ndim < 2 or A.shape[-1] != self.size:
            raise ValueError(
                f"{self._kind}.support: A has shape {tuple(A.shape)}, but must be (k, {self.size}), or a stack of such"
            )
        return self._support(A)

    def contains(self, x, tol: float = 0.0) -> np.ndarray:
        """Whether points (…, n) lie in the region, up to ``tol`` in each coordinate: bool of shape (…)."""
        x = np.asarray(x, dtype=np.float64)
        if x.ndim == 0 or x.shape[-1] != self.size:
            raise ValueError(f"{self._kind}.contains: points have shape {x.shape}, but must be (…, {self.size})")
        return self._contains(x, tol)

    @abstractmethod
    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Random points of the region, (count, n); every part of it has a positive chance."""

    @abstractmethod
    def bounding_box(self) -> Any:
        """The smallest `Box` around the region."""

    @abstractmethod
    def vertices(self) -> np.ndarray:
        """Points (v, n) whose convex hull is the region; ValueError where there are too many or none."""

    def arrays(self, like) -> tuple:
        """The region's arrays in the order of its fields or, for a tensor ``like``, tensors of its device and dtype.

        These are made once; treat them as read-only.
        """
        if not _is_tensor(like):
            return self._fields
        made = _TENSORS.setdefault(self, {})
        if (like.device, like.dtype) not in made:
            made[like.device, like.dtype] = _tensors(self._fields, like)
        return made[like.device, like.dtype]

    def add_to(self, block, variables: Sequence) -> None:
        """Write ``variables in region`` on a Pyomo block, for n variables.

        A variable that has no lower (upper) bound gets that of the bounding box; bounds that are there stay.

        >>> import pyomo.environ as pyo
        >>> from polyopt.regions import Zonotope
        >>> m = pyo.ConcreteModel()
        >>> m.x, m.region = pyo.Var(range(2)), pyo.Block()
        >>> Zonotope([1.0, 0.0], [[1.0], [2.0]]).add_to(m.region, [m.x[0], m.x[1]])
        >>> [str(row.expr) for row in m.region.rows.values()], m.x[1].bounds
        (['region.e[0] - x[0]  ==  -1.0', '2.0*region.e[0] - x[1]  ==  0.0'], (-2.0, 2.0))
        """
        from polyopt.regions.membership import give_bounds, prepared

        variables = prepared(self, block, variables)
        give_bounds(self, variables)
        self._write(block, variables)

    def set_values(self, block, x) -> None:
        """Set the variables that `add_to` has put on the block to fit the point ``x`` (n,), as a start for a solver."""
        from formulations.rows import set_variables

        for name, values in self._auxiliary(np.asarray(x, dtype=np.float64)).items():
            set_variables(block.component(name), values)

    @property
    def _kind(self) -> str:
        return type(self).__name__

    @abstractmethod
    def _support(self, A) -> Any:
        """`support` of rows of the right shape."""

    @abstractmethod
    def _contains(self, x: np.ndarray, tol: float) -> np.ndarray:
        """`contains` of points of the right shape."""

    @abstractmethod
    def _write(self, block, variables: list) -> None:
        """`add_to` for variables that have bounds."""

    def _auxiliary(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The values of `add_to`'s variables at a point, by name."""
        return {}

    @property
    def _fields(self) -> tuple:
        return tuple(getattr(self, field.name) for field in fields(self))  # pyright: ignore[reportArgumentType]


def numerics(A):
    """The module, torch or numpy, whose functions take ``A``."""
    return sys.modules["torch"] if _is_tensor(A) else np


def _is_tensor(A) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(A, torch.Tensor)


def _tensors(arrays: tuple[np.ndarray, ...], like) -> tuple:
    """Copies that autograd may use, also if they are made while a caller has it switched off for good."""
    torch = sys.modules["torch"]
    with torch.inference_mode(False):
        return tuple(torch.tensor(array, dtype=like.dtype, device=like.device) for array in arrays)


def check_single(owner: str, region: object, size: int | None = None) -> None:
    """ValueError unless this is one region, of ``size`` dimensions if that is given."""
    if not isinstance(region, Region) or region.batch_shape:
        found = f"a batch of {region.batch_shape[0]} boxes" if isinstance(region, Region) else type(region).__name__
        raise ValueError(f"{owner}: the region is {found}; give a single region, such as polyopt.Box")
    if size is not None and region.size != size:
        raise ValueError(f"{owner}: the region has {region.size} dimensions, but the network has {size} inputs")


def finite(kind: str, name: str, values, shape: str) -> np.ndarray:
    """A read-only array with as many dimensions as ``shape``, a text such as "(v, n)", names; all entries finite."""
    array = frozen(values)
    if array.ndim != shape.count(",") + (not shape.endswith(",)")):
        raise ValueError(f"{kind}: {name} has shape {array.shape}, but must be {shape}")
    if wrong := np.argwhere(~np.isfinite(array)).tolist():
        raise ValueError(
            f"{kind}: {name} must be finite, but {len(wrong)} of {array.size} entries are not; the first, at index "
            f"{tuple(wrong[0])}, is {array[tuple(wrong[0])]}"
        )
    return array
