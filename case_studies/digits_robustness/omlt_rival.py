"""The same questions to OMLT's big-M formulation and HiGHS, for comparison."""

import logging
import time

import numpy as np
import pyomo.environ as pyo
from omlt import OmltBlock
from omlt.neuralnet import NetworkDefinition, ReluBigMFormulation
from omlt.neuralnet.layer import DenseLayer, InputLayer

import polyopt as po
from polyopt.layers import Affine


def ask_omlt(net: po.Network, image: np.ndarray, label: int, eps: float, solved: dict[int, float]) -> dict:
    """The largest margin of each class in ``solved``; how many binaries, how long, how far the answers are apart."""
    logging.getLogger("pyomo").setLevel(logging.ERROR)  # it starts variables at 0, outside their bounds
    start = time.perf_counter()
    m = pyo.ConcreteModel()
    m.net = OmltBlock()
    m.net.build_formulation(ReluBigMFormulation(definition(net, po.Box.ball(image, eps, 0.0, 1.0))))
    m.objective = pyo.Objective(expr=0.0, sense=pyo.maximize)
    solver = pyo.SolverFactory("highs")
    difference = 0.0
    for rival, margin in solved.items():
        m.objective.expr = m.net.outputs[rival] - m.net.outputs[label]
        solver.solve(m, options={"mip_rel_gap": 1e-6})
        difference = max(difference, abs(pyo.value(m.objective) - margin))
    binaries = sum(v.is_binary() for v in m.component_data_objects(pyo.Var))
    return {"binaries": binaries, "seconds": time.perf_counter() - start, "difference": difference}


def definition(net: po.Network, box: po.Box) -> NetworkDefinition:
    """A dense ReLU network as OMLT describes it."""
    found = NetworkDefinition(scaled_input_bounds=dict(enumerate(zip(box.lower, box.upper, strict=True))))
    previous = InputLayer([net.input_size])
    found.add_layer(previous)
    affine = [layer for layer in net.layers if isinstance(layer, Affine)]
    for layer in affine:
        n_out, n_in = layer.weight.shape
        activation = "linear" if layer is affine[-1] else "relu"
        dense = DenseLayer([n_in], [n_out], layer.weight.T, layer.bias, activation=activation)
        found.add_layer(dense)
        found.add_edge(previous, dense)
        previous = dense
    return found
