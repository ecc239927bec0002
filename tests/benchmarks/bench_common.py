"""What the benchmarks on trained networks share: the data, the command line, the report, models and OMLT's networks."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pyomo.environ as pyo

import polyopt as po

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def parser(about: str) -> argparse.ArgumentParser:
    """The command line of a benchmark whose docstring this is."""
    made = argparse.ArgumentParser(description=about.splitlines()[0])
    made.add_argument("--data", type=Path, default=DATA, help="folder with nets/ and vnn/")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def versions(*packages: str) -> dict[str, str | None]:
    return {"python": platform.python_version()} | {name: _installed(name) for name in packages}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def report(results: dict[str, dict[str, dict]], packages: tuple[str, ...], as_json: bool) -> None:
    """Print, of each network, a row for each method."""
    about = versions(*packages)
    if as_json:
        print(json.dumps({"results": results, "versions": about}))
        return
    print(about)
    for name, rows in results.items():
        print(name)
        for method, row in rows.items():
            print(f"  {method:10}", "   ".join(f"{key} {value}" for key, value in row.items()))


def first_digit(nets: Path, eps: float) -> tuple[po.Network, po.Box, int]:
    """The network for digits, the box around its first correctly classified test image, cut with [0, 1], the label."""
    test = np.load(nets / "digits_test.npz")
    i = test["first_correct"][0]
    box = po.Box.ball(test["X"][i], eps, lower=0.0, upper=1.0)
    return po.from_onnx(nets / "digits_64_64_64_10.onnx"), box, int(test["y"][i])


def model(net: po.Network, box: po.Box, formulation, bounds) -> tuple[pyo.ConcreteModel, list]:
    """A Pyomo model of the network, whose block is ``m.net``, over a box, and its outputs."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=lambda _, j: (float(box.lower[j]), float(box.upper[j])))
    m.net = pyo.Block()
    return m, po.add_network(m.net, net, m.x, formulation=formulation, bounds=bounds)


def omlt_network(layers, box: po.Box):
    """OMLT's definition of a chain of affine layers (weight, bias) with ReLUs between them."""
    from omlt.neuralnet import NetworkDefinition
    from omlt.neuralnet.layer import DenseLayer, InputLayer

    ends = zip(box.lower.tolist(), box.upper.tolist(), strict=True)
    definition, previous = NetworkDefinition(scaled_input_bounds=dict(enumerate(ends))), InputLayer([box.size])
    definition.add_layer(previous)
    for k, (weight, bias) in enumerate(layers, start=1):
        n_out, n_in = weight.shape
        kind = "relu" if k < len(layers) else "linear"
        dense = DenseLayer([n_in], [n_out], weight.T, bias, activation=kind)
        definition.add_layer(dense)
        definition.add_edge(previous, dense)
        previous = dense
    return definition
