"""Data to fit a surrogate to: arrays checked, names taken from tables, some points held out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

LEAST = 2  # points to learn from


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs ``X`` (N, n_in), outputs ``y`` (N, n_out), their ``weights`` (N,), and which are ``held_out`` (N,)."""

    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    held_out: np.ndarray
    input_names: tuple[str, ...] | None
    output_names: tuple[str, ...] | None

    @property
    def training(self) -> np.ndarray:
        """Which points are learnt from, (N,)."""
        return ~self.held_out & (self.weights > 0)

    def and_more(self, X, y, weight: float) -> Samples:
        """These samples and further ones of the same columns, all to learn from, each with this weight."""
        X, y = _matrix("X", X), _matrix("y", y)
        for name, found, columns in (("X", X, self.X.shape[1]), ("y", y, self.y.shape[1])):
            if found.shape[1] != columns or len(X) != len(y):
                raise ValueError(f"refit: {name} has shape {found.shape}, but must be ({len(X)}, {columns})")
        if not 0 < weight < np.inf:
            raise ValueError(f"refit: weight is {weight}, but must be a positive number")
        return replace(
            self,
            X=np.concatenate([self.X, X]),
            y=np.concatenate([self.y, y]),
            weights=np.concatenate([self.weights, np.full(len(X), float(weight))]),
            held_out=np.concatenate([self.held_out, np.zeros(len(X), dtype=bool)]),
        )


def read_samples(X, y, weights, held_out, seed: int) -> Samples:
    """The samples; ValueError for wrong shapes, numbers that are not finite, and too few points.

    ``held_out`` is the share of points to hold out, drawn under the seed, or a mask (N,) of them.

    >>> read_samples([[1.0], [2.0], [3.0], [4.0]], [1.0, 2.0, 3.0, 4.0], None, 0.25, seed=0).held_out.sum()
    np.int64(1)
    """
    names = _names(X), _names(y)
    X, y = _matrix("X", X), _matrix("y", y)
    if len(X) != len(y):
        raise ValueError(f"fit_surrogate: X has {len(X)} rows and y {len(y)}; give one output for each input")
    weights = np.ones(len(X)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(X),) or not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(
            f"fit_surrogate: weights have shape {weights.shape}; give {len(X)} finite numbers, none of them negative"
        )
    samples = Samples(X, y, weights, _held_out(held_out, len(X), seed), *names)
    if (count := samples.training.sum()) < LEAST:
        raise ValueError(
            f"fit_surrogate: of {len(X)} points {count} are left to learn from (held_out={held_out!r}, and weights "
            f"above 0), but at least {LEAST} are needed; give more data or hold out less"
        )
    return samples


def _matrix(name: str, values) -> np.ndarray:
    """A float64 array (N, n), n = 1 for a vector."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"fit_surrogate: {name} holds something that is no number: {error}; encode it first") from None
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"fit_surrogate: {name} has shape {array.shape}, but must be (N, n) or (N,) with N, n >= 1")
    if wrong := np.argwhere(~np.isfinite(array)).tolist():
        raise ValueError(
            f"fit_surrogate: {len(wrong)} numbers of {name} are not finite, the first is {array[tuple(wrong[0])]} in "
            f"row {wrong[0][0]}, column {wrong[0][1]}; drop or repair such rows"
        )
    return array


def _names(table) -> tuple[str, ...] | None:
    """The names of a table's columns, as pandas has them."""
    if hasattr(table, "columns"):
        return tuple(map(str, table.columns))
    name = getattr(table, "name", None)
    return None if name is None else (str(name),)


def _held_out(held_out, count: int, seed: int) -> np.ndarray:
    if np.ndim(held_out):
        mask = np.asarray(held_out)
        if mask.shape != (count,) or mask.dtype != bool:
            raise ValueError(
                f"fit_surrogate: held_out is an array {mask.shape} of {mask.dtype}, but must be {count} booleans, or "
                "a share of the points"
            )
        return mask.copy()
    if not 0 <= held_out < 1:
        raise ValueError(f"fit_surrogate: held_out is {held_out}, but must be a share of the points, 0 <= share < 1")
    mask = np.zeros(count, dtype=bool)
    mask[np.random.default_rng(seed).permutation(count)[: round(held_out * count)]] = True
    return mask
