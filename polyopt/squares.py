"""Squares, with which a quadratic function of a network's values is a linear one (`polyopt.search.quadratic`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyopt.activations import Activation


@dataclass(frozen=True, eq=False)
class Square(Activation):
    """``a**2``, which is neither increasing nor nowhere steeper than 1, as the activations of networks are."""

    def __call__(self, *arrays):
        """The squares of the one input."""
        return np.square(arrays[0])
