"""polyopt: trained piecewise-linear networks as mathematical programs.

Everything public is here. What needs torch is imported when it is first used, so that ``import polyopt`` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from formulations import BigM, Triangle
from polyopt.bounds.interval import interval
from polyopt.bounds.result import Bounds, Interval
from polyopt.embed import add_network
from polyopt.embedding import Summary, replay_error, set_point, summary
from polyopt.from_onnx import from_onnx
from polyopt.from_sklearn import from_sklearn
from polyopt.from_torch import from_torch
from polyopt.highs import Result, solve
from polyopt.network import Network, UnsupportedLayer
from polyopt.regions import Box
from polyopt.to_onnx import to_onnx
from polyopt.to_torch import to_torch

if TYPE_CHECKING:
    from polyopt.bounds.crown import crown

_NEEDS_TORCH = {"crown": "polyopt.bounds.crown"}

__all__ = [
    "BigM",
    "Bounds",
    "Box",
    "Interval",
    "Network",
    "Result",
    "Summary",
    "Triangle",
    "UnsupportedLayer",
    "add_network",
    "crown",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "interval",
    "replay_error",
    "set_point",
    "solve",
    "summary",
    "to_onnx",
    "to_torch",
]


def __getattr__(name: str):
    if name in _NEEDS_TORCH:
        return getattr(import_module(_NEEDS_TORCH[name]), name)
    raise AttributeError(f"module 'polyopt' has no attribute {name!r}")
