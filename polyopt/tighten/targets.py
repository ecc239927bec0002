"""What is bounded, in order: the inputs of each activation, the members of maxima, the output.

Maxima are tournaments of ReLUs (`polyopt.maxima`), whose differences are activations' inputs like all others. The
members themselves are bounded too, as the caller asked about them; the maximum lies between the greatest of their lower
and the greatest of their upper bounds, which a tournament's relaxation does not know by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyopt.activations import GroupMax, PiecewiseLinear
from polyopt.decided import possible_winners
from polyopt.layers import Linear
from polyopt.network import Network, Node
from polyopt.tighten.maps import Map, maps_to

OUTPUT = None  # the name that no layer has


@dataclass(frozen=True, eq=False)
class Target:
    """The value of the node ``source``, which is what ``node`` reads, or the output where that is None.

    ``weights`` (n,) sums the magnitudes with which later layers read each unit.
    """

    source: str
    node: Node | None
    map: Map
    weights: np.ndarray

    @property
    def name(self) -> str | None:
        """The node's name."""
        return OUTPUT if self.node is None else self.node.name

    @property
    def is_maximum(self) -> bool:
        """Whether the source is a maximum itself, not what it reads."""
        return self.source == self.name

    def undecided(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """The entries whose bounds matter: those that leave it open which piece or member counts."""
        wide = lower < upper
        if self.node is None:
            return np.flatnonzero(wide)
        if isinstance(self.node.layer, GroupMax):
            groups = possible_winners(self.node.layer.groups(*self.node.input_shapes), lower, upper)
            open_ = [group for group in groups if len(group) > 1]
            return np.unique(np.concatenate([*open_, np.empty(0, int)]))
        if isinstance(self.node.layer, PiecewiseLinear):
            breakpoints = self.node.layer.pieces(self.node.input_shapes[0]).breakpoints
            return np.flatnonzero(((lower < breakpoints) & (breakpoints < upper)).any(0))
        return np.flatnonzero(wide)

    def greatest(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds on the maxima that the source is, from those on their members."""
        groups = self.node.layer.groups(*self.node.input_shapes)
        return lower[groups].max(1), upper[groups].max(1)

    def costs(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """What the relaxation of each entry costs: the gap over its kinks, times its weight; else its width.

        A line above a kink t is highest over it, by ``(t - l) (u - t) / (u - l)`` times the change of slope.
        """
        width = upper - lower
        if self.node is None or not isinstance(self.node.layer, PiecewiseLinear):
            return width
        breakpoints, slopes, _ = self.node.layer.pieces(self.node.input_shapes[0])
        inside = np.clip(breakpoints, lower, upper)
        gaps = abs(np.diff(slopes, axis=0)) * (inside - lower) * (upper - inside)
        return gaps.sum(0) / np.where(width > 0, width, 1.0) * self.weights


def targets(net: Network, form: Network) -> list[Target]:
    """The targets of a network, whose maxima are tournaments in ``form``.

    >>> from polyopt.activations import Maxout
    >>> from polyopt.maxima import maxima_as_relus
    >>> net = Network.sequential([Maxout(2)], (4,))
    >>> [(target.name, target.source) for target in targets(net, maxima_as_relus(net))]
    [('0', '0.joined'), ('0.1.relu', '0.1.difference'), ('0', '0'), (None, '0')]
    """
    nodes = [node for node in net.activations if isinstance(node.layer, GroupMax)]
    maxima = {name: node for node in nodes for name in (f"{node.name}.joined", node.name)}
    found: list[tuple[str, Node | None]] = []
    for node in form.nodes:
        if node.name in maxima:
            found.append((node.name, maxima[node.name]))
        elif not isinstance(node.layer, Linear):
            found.append((node.inputs[0], node))
    found.append((form.nodes[-1].name, None))
    maps = maps_to(form, [source for source, _ in found])
    return [Target(source, node, maps[source], _weights(node, maps)) for source, node in found]


def _weights(node: Node | None, maps: dict[str, Map]) -> np.ndarray:
    read = [map_.terms[node.name] for map_ in maps.values() if node and node.name in map_.terms]
    return sum((abs(term).sum(0) for term in read), start=np.zeros(1))
