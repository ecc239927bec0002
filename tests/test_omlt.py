"""OMLT as an oracle on dense ReLU networks: the same optimum, and a linear relaxation never weaker than its own."""

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import chain

import polyopt as po
from polyopt.activations import ReLU
from polyopt.layers import Affine

pytest.importorskip("omlt", reason="omlt is not installed")

from omlt import OmltBlock
from omlt.neuralnet import NetworkDefinition, ReluBigMFormulation
from omlt.neuralnet.layer import DenseLayer, InputLayer


def omlt_model(net):
    definition = NetworkDefinition(scaled_input_bounds={i: (-1.0, 1.0) for i in range(net.input_size)})
    previous = InputLayer([net.input_size])
    definition.add_layer(previous)
    affine = [layer for layer in net.layers if isinstance(layer, Affine)]
    for layer in affine:
        n_out, n_in = layer.weight.shape
        kind = "linear" if layer is affine[-1] else "relu"
        dense = DenseLayer([n_in], [n_out], layer.weight.T, layer.bias, activation=kind)
        definition.add_layer(dense)
        definition.add_edge(previous, dense)
        previous = dense
    m = pyo.ConcreteModel()
    m.net = OmltBlock()
    m.net.build_formulation(ReluBigMFormulation(definition))
    m.objective = pyo.Objective(expr=m.net.outputs[0], sense=pyo.maximize)
    return m


def our_model(net, bounds):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
    m.net = pyo.Block()
    y = po.add_network(m.net, net, m.x, bounds=bounds)
    m.objective = pyo.Objective(expr=y[0], sense=pyo.maximize)
    return m


def optimum(m, relaxed=False):
    if relaxed:
        pyo.TransformationFactory("core.relax_integer_vars").apply_to(m)
    result = po.solve(m)
    assert result.status == "optimal"
    return result.objective


@pytest.mark.parametrize("seed", range(3))
def test_same_optimum_and_no_weaker_relaxation(seed):
    net = chain(lambda n: ReLU(), seed=seed, sizes=(4, 10, 8, 1))
    exact = optimum(omlt_model(net))
    theirs = optimum(omlt_model(net), relaxed=True)
    for bounds in ("interval", "crown"):
        assert optimum(our_model(net, bounds)) == pytest.approx(exact, abs=1e-5)
        assert exact - 1e-6 <= optimum(our_model(net, bounds), relaxed=True) <= theirs + 1e-6


def test_integer_optima_lie_between_sampled_values_and_bounds():
    net = chain(lambda n: ReLU(), seed=7, sizes=(4, 10, 8, 1))
    samples = net(np.random.default_rng(0).uniform(-1, 1, size=(5000, 4)))
    box = po.Box(-np.ones(4), np.ones(4))
    assert samples.max() - 1e-9 <= optimum(our_model(net, "crown")) <= po.crown(net, box).output.upper[0] + 1e-6
