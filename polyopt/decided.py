"""What a layer and its bounds say before a formulation is asked, in the model's space and in reduced space alike."""

from __future__ import annotations

import numpy as np

from polyopt.activations import Softplus
from polyopt.network import Node


def possible_winners(groups: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> list[np.ndarray]:
    """Of each group the members that can attain the maximum: that of greatest lower bound, and all above it."""
    best = groups[np.arange(len(groups)), lower[groups].argmax(1)]
    above = upper[groups] > lower[best][:, None]
    return [np.unique([first, *group[keep]]) for first, group, keep in zip(best, groups, above, strict=True)]


def smooth_beta(node: Node) -> float:
    """The beta of Softplus; 1 for every other smooth activation."""
    return node.layer.beta if isinstance(node.layer, Softplus) else 1.0
