"""A surrogate: a network in the user's units, that knows where it may be trusted and what its numbers are called.

A model trained on scaled data, ``f((x - s) / t)`` for ``(y - v) / w``, becomes one network from x to y: the scalings
are affine and are folded into its layers, so that nothing around it needs to know of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from polyopt.network import Network
from polyopt.regions import Box, Region, VPolytope
from polyopt.regions.region import check_single, finite
from polyopt.surrogate.scaling import folded, read_scaler
from polyopt.surrogate.storage import read, write


class Surrogate:
    """The network ``net`` in the user's units, its ``domain``, and names of inputs and outputs.

    ``input_scaler`` and ``output_scaler`` map the user's numbers to those that ``net`` was trained on: a pair
    (shift, scale) for ``scaled = (x - shift) / scale``, a fitted scaler of scikit-learn, or None. They are folded into
    the network: ``surrogate.net`` speaks in the user's units.

    ``domain``, in the user's units, is a `Region`, or the training inputs (N, n_in); its bounding box gives ``lower``
    and ``upper``. ``points`` are the training inputs where they are given, with ``targets`` (N, n_out) beside them.
    ``regions`` lists regions on which the network is known to be affine, for ``add_surrogate(..., inside=)``.

    Raises ValueError where shapes do not fit, names repeat, or numbers are not finite.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> net = Network.sequential([Affine([[1.0]], None), ReLU()], (1,))
    >>> celsius = Surrogate(net, (20.0, 10.0), (0.0, 0.1), Box([0.0], [40.0]), input_names=["T"])
    >>> celsius([[30.0]])  # relu((30 - 20) / 10) / 10
    array([[0.1]])
    >>> celsius.input_names, celsius.output_names, celsius.output_bounds.upper.round(9)
    (('T',), ('y0',), array([0.2]))
    """

    def __init__(
        self,
        net: Network,
        input_scaler=None,
        output_scaler=None,
        domain: Region | np.ndarray | None = None,
        *,
        targets: np.ndarray | None = None,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        regions: Sequence[Region] = (),
        report: object = None,
    ):
        if not isinstance(net, Network):
            raise ValueError(f"Surrogate: the network is a {type(net).__name__}; read it with po.from_torch first")
        if domain is None:
            raise ValueError("Surrogate: domain is missing; give a region, or the training inputs (N, n_in)")
        scalings = (
            read_scaler(input_scaler, net.input_size, "input_scaler"),
            read_scaler(output_scaler, net.output_size, "output_scaler"),
        )
        self.net = net if input_scaler is None and output_scaler is None else folded(net, *scalings)
        self.points = None if isinstance(domain, Region) else _data("domain", domain, net.input_size)
        self.targets = None if targets is None else _data("targets", targets, net.output_size)
        if self.targets is not None and (self.points is None or len(self.points) != len(self.targets)):
            raise ValueError("Surrogate: targets need the training inputs as domain, one for each row")
        self.domain: Region = domain if self.points is None else VPolytope(self.points)
        self.input_names = _names("input_names", input_names, "x", net.input_size)
        self.output_names = _names("output_names", output_names, "y", net.output_size)
        self.regions = tuple(regions)
        self.report = report
        for region in (self.domain, *self.regions):
            check_single("Surrogate", region, net.input_size)

    def __call__(self, x) -> np.ndarray:
        """The outputs (batch, n_out) at inputs (batch, n_in), in the user's units."""
        return self.net(x)

    @cached_property
    def box(self) -> Box:
        """The bounding box of the domain."""
        return self.domain.bounding_box()

    @property
    def lower(self) -> np.ndarray:
        """The least value of each input in the domain, (n_in,)."""
        return self.box.lower

    @property
    def upper(self) -> np.ndarray:
        """The greatest value of each input in the domain, (n_in,)."""
        return self.box.upper

    @cached_property
    def output_bounds(self) -> Box:
        """CROWN's bounds on the outputs over the domain's bounding box."""
        from polyopt.bounds.crown import crown  # torch

        output = crown(self.net, self.box).output
        return Box(output.lower, output.upper)

    def save(self, path: str | os.PathLike) -> None:
        """Write one ONNX file: the network in float64, all else in its metadata, of the report its text.

        >>> import tempfile
        >>> from polyopt.layers import Affine
        >>> net = Network.sequential([Affine([[0.1, 0.2]], [0.3])], (2,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Surrogate(net, domain=[[0.0, 0.0], [1.0, 3.0]]).save(f"{folder}/s.onnx")
        ...     again = Surrogate.load(f"{folder}/s.onnx")
        >>> again.upper, again([[1.0, 3.0]]) == net([[1.0, 3.0]])
        (array([1., 3.]), array([[ True]]))
        """
        write(
            path,
            self.net,
            self.domain if self.points is None else self.points,
            self.regions,
            targets=None if self.targets is None else self.targets.tolist(),
            input_names=self.input_names,
            output_names=self.output_names,
            report=None if self.report is None else str(self.report),
        )

    @classmethod
    def load(cls, path: str | os.PathLike) -> Surrogate:
        """Read what `save` has written; ValueError where the file is another network's."""
        return cls(**read(path))

    def __repr__(self) -> str:
        return f"Surrogate ({', '.join(self.input_names)}) -> ({', '.join(self.output_names)})"


def _data(name: str, values, size: int) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    values = finite("Surrogate", name, values[:, None] if values.ndim == 1 and size == 1 else values, "(N, n)")
    if values.shape[1] != size or not len(values):
        raise ValueError(f"Surrogate: {name} has shape {values.shape}, but must be a region or an array (N, {size})")
    return values


def _names(what: str, names: Sequence[str] | None, letter: str, size: int) -> tuple[str, ...]:
    names = tuple(f"{letter}{i}" for i in range(size)) if names is None else tuple(map(str, names))
    if len(names) != size or len(set(names)) != size:
        raise ValueError(f"Surrogate: {what} is {names}, but must be {size} different names")
    return names
