"""What a counterexample must pass before it counts: it is replayed in float64, and in float32 through the original.

A candidate x for a case with the region X and the unsafe sets U_l counts if

1. x is in X: for boxes without any rounding, else by `Region.contains`,
2. the network's output at x, computed in float64, is in some U_l, in exact arithmetic, and
3. so is the original network's at the float32 point nearest to x.

The original is the ONNX model that the network was read from, run by onnxruntime in the precision that it states; where
there is no such model, or no onnxruntime, it is the network itself as a torch module in float32.

In a box, x is first moved to a float32 point: each coordinate to the nearest float32 between the box's ends, so that 2
and 3 look at one and the same point. Only where there is none between them, as in a box of a single decimal, does the
coordinate stay, and float32 sees its nearest number outside of the box, by less than the distance of two float32.

In other regions a point that rounding has put outside is first moved towards the centre, until it is inside. Its
nearest float32 point, at which the original runs, may be outside by half the distance of two float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from polyopt.convert.from_onnx import load
from polyopt.convert.to_torch import to_torch
from polyopt.network import Network
from polyopt.regions import Box
from polyopt.verification.property import Case, Property

if TYPE_CHECKING:
    from onnx import ModelProto

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


class Replay:
    """Whether points are counterexamples to the cases, for a network and the ONNX file or model it was read from.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.regions import HPolytope
    >>> net = Network.sequential([ReLU()], (1,))
    >>> replay = Replay(net, Property(Box([-1.0], [0.7]), unsafe=[HPolytope([[-1.0]], [-0.5])]).cases)  # relu(x) >= 0.5
    >>> float(replay.point(np.array([0.9]), 0)[0]), replay(np.array([0.9]), 0), replay(np.array([0.4]), 0)
    (0.699999988079071, True, False)
    """

    def __init__(self, net: Network, cases: Sequence[Case]):
        self._net = net
        self._properties = [Property(*case) for case in cases]

    def __call__(self, x: np.ndarray, case: int) -> bool:
        """Whether the point that is meant by x (n,) is a counterexample to this case."""
        x, prop = self.point(x, case), self._properties[case]
        with np.errstate(over="ignore", invalid="ignore"):
            if not prop.falsified_by(x, self._net(x[None])[0]):
                return False
            return prop.falsified_by(x, self._original(x))

    @cached_property
    def _original(self) -> Callable[[np.ndarray], np.ndarray]:
        return original(self._net)

    def point(self, x: np.ndarray, case: int) -> np.ndarray:
        """The point of the case's region that x (n,) stands for, in a box of float32 where there are such; or x."""
        region, x = self._properties[case].region, np.asarray(x, dtype=np.float64)
        if isinstance(region, Box):
            return nearest_float32(region, x)
        from polyopt.verification.attained import inside

        return next(iter(inside(region, x[None])), x)


def nearest_float32(box: Box, x: np.ndarray) -> np.ndarray:
    """The point of the box nearest to x (n,) whose coordinates are float32 wherever the box has such numbers.

    >>> nearest_float32(Box([0.0, 0.1], [0.5, 0.1]), np.array([0.7, 0.7]))
    array([0.5, 0.1])
    """
    x = np.clip(x, box.lower, box.upper)
    found = x.copy()
    with np.errstate(over="ignore"):
        near = x.astype(np.float32)
    # one of its neighbours lies on the other side of x, and no float32 between that one and x
    for single in (np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf)), near):
        double = single.astype(np.float64)
        found = np.where((box.lower <= double) & (double <= box.upper), double, found)
    return found


def original(net: Network) -> Callable[[np.ndarray], np.ndarray]:
    """The original network in its own precision: a function from points (n,) to outputs (m,)."""
    if net.source is None or find_spec("onnxruntime") is None:
        return _in_torch(net)
    return _in_onnxruntime(load(net.source))


def _in_torch(net: Network) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    module = to_torch(net, torch.float32)

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.tensor(x, dtype=torch.float32).reshape(1, *net.input_shape)).numpy().ravel()

    return run


def _in_onnxruntime(model: ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # single points
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    stored = {tensor.name for tensor in model.graph.initializer}
    (entry,) = [entry for entry in session.get_inputs() if entry.name not in stored]
    shape = [size if isinstance(size, int) else 1 for size in entry.shape]

    def run(x: np.ndarray) -> np.ndarray:
        return session.run(None, {entry.name: x.astype(_TYPES[entry.type]).reshape(shape)})[0].ravel()

    return run
