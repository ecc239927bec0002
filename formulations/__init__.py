"""Formulations: how one layer of a network becomes variables and rows on a Pyomo block.

A formulation is a frozen dataclass with two methods: ``add(block, layer)`` writes the layer and returns the variables
of its outputs, ``set_values(block, layer, pre)`` sets every variable to what given pre-activations make of it. The
layer (`formulations.layer.Layer`) holds only what its bounds have not decided. `EXAMPLES` enrols a formulation in the
tests.
"""

from formulations.auto import Auto, auto
from formulations.bigm import BigM
from formulations.complementarity import Complementarity
from formulations.cuts import CuttingPlanes
from formulations.extended import Extended
from formulations.gdp import GDP
from formulations.hull import Hull
from formulations.layer import Formulation, Layer, MaxLayer, PiecewiseLinearLayer, SmoothLayer, add_affine
from formulations.partition import Partition
from formulations.reduced_space import ReducedSpace, affine_expressions
from formulations.rows import Row, Rows, add_variables, set_variables
from formulations.segments import PiecewiseLinear
from formulations.smooth import Smooth
from formulations.sos import SOS1
from formulations.triangle import Triangle

EXACT = (BigM(), Partition(2), Partition(3, by="range"), Extended(), CuttingPlanes())
RELAXATIONS = (Triangle(), Hull())
EXAMPLES = EXACT + RELAXATIONS

__all__ = [
    "EXACT",
    "EXAMPLES",
    "GDP",
    "RELAXATIONS",
    "SOS1",
    "Auto",
    "BigM",
    "Complementarity",
    "CuttingPlanes",
    "Extended",
    "Formulation",
    "Hull",
    "Layer",
    "MaxLayer",
    "Partition",
    "PiecewiseLinear",
    "PiecewiseLinearLayer",
    "ReducedSpace",
    "Row",
    "Rows",
    "Smooth",
    "SmoothLayer",
    "Triangle",
    "add_affine",
    "add_variables",
    "affine_expressions",
    "auto",
    "set_variables",
]
