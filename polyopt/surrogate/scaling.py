"""Scalers of inputs and outputs, folded into a network: ``g(x) = (f((x - s) / t) - v) / w`` is a network too.

A scaler maps what the user measures to what the network was trained on, ``scaled = a x + b`` entry by entry.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polyopt.layers import Scale
from polyopt.network import INPUT, Network


class Scaling(NamedTuple):
    """``scaled = a x + b``, with ``a`` and ``b`` of shape (n,)."""

    a: np.ndarray
    b: np.ndarray


def read_scaler(scaler, size: int, what: str) -> Scaling:
    """The map of a scaler: None, a pair (shift, scale), or a fitted one of scikit-learn's.

    A pair means ``scaled = (x - shift) / scale``, each a number or (size,). Known by their attributes are
    ``StandardScaler`` (``mean_``, ``scale_``), ``RobustScaler`` (``center_``, ``scale_``), ``MinMaxScaler``
    (``min_``, ``scale_``) and ``MaxAbsScaler`` (``scale_``). ``what`` names the scaler in errors.

    >>> read_scaler((10.0, [2.0, 4.0]), 2, "input_scaler")
    Scaling(a=array([0.5 , 0.25]), b=array([-5. , -2.5]))
    """
    if scaler is None:
        a, b = 1.0, 0.0
    elif isinstance(scaler, tuple | list) and len(scaler) == 2:
        a, b = _standard(*scaler)
    elif hasattr(scaler, "min_"):
        a, b = scaler.scale_, scaler.min_
    elif hasattr(scaler, "scale_"):
        shifts = (getattr(scaler, name, None) for name in ("mean_", "center_"))
        a, b = _standard(next((shift for shift in shifts if shift is not None), 0.0), scaler.scale_)
    else:
        raise ValueError(
            f"Surrogate: {what} is {scaler!r}; give a pair (shift, scale) or a fitted scaler of scikit-learn that is "
            "affine in each column"
        )
    a, b = (np.asarray(part, dtype=np.float64) for part in (a, b))
    if any(part.shape not in ((), (size,)) for part in (a, b)):
        raise ValueError(f"Surrogate: {what} is for shapes {a.shape} and {b.shape}, but the network has {size} of them")
    a, b = np.broadcast_to(a, size), np.broadcast_to(b, size)
    if not (np.isfinite(a).all() and np.isfinite(b).all() and a.all()):
        raise ValueError(f"Surrogate: {what} has a scale that is 0 or not finite; leave constant columns unscaled")
    return Scaling(a, b)


def _standard(shift, scale) -> tuple[np.ndarray, np.ndarray]:
    """``(x - shift) / scale`` as ``a x + b``; a scale of None is 1."""
    shift, scale = np.asarray(shift, dtype=np.float64), np.asarray(1.0 if scale is None else scale, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1.0 / scale, -shift / scale


def folded(net: Network, inputs: Scaling, outputs: Scaling) -> Network:
    """The network between the user's units, ``g(x) = (f(a x + b) - d) / c``, with the scalings folded into its layers.

    >>> from polyopt.layers import Affine
    >>> net = Network.sequential([Affine([[1.0]], [0.0])], (1,))
    >>> g = folded(net, Scaling(np.array([0.5]), np.array([-1.0])), Scaling(np.array([2.0]), np.array([0.0])))
    >>> g(np.array([[4.0]])), len(g.layers)
    (array([[0.5]]), 1)
    """
    before, after = _unused(net, "unscaled"), _unused(net, "scaled")
    entry = Scale(inputs.a.reshape(net.input_shape), inputs.b.reshape(net.input_shape))
    leave = Scale(*(part.reshape(net.output_shape) for part in (1.0 / outputs.a, -outputs.b / outputs.a)))
    layers = [(before, entry, [INPUT])]
    for node in net.nodes:
        layers.append((node.name, node.layer, [before if name == INPUT else name for name in node.inputs]))
    layers.append((after, leave, [net.nodes[-1].name]))
    return Network(layers, net.input_shape).fold_scaling()


def _unused(net: Network, name: str) -> str:
    while any(node.name == name for node in net.nodes):
        name += "_"
    return name
