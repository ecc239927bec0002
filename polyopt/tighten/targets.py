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

    ``name`` is the node's; ``weights`` (n,) sums the magnitudes with which later layers read each unit.
    """

    name: str | None
    source: str
    node: Node | None
    map: Map
    weights: np.ndarray

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
    values = {node.name: node for node in net.activations if isinstance(node.layer, GroupMax)}
    maxima = {f"{name}.joined": node for name, node in values.items()}
    found: list[tuple[str | None, str, Node | None]] = []
    for node in form.nodes:
        if node.name in maxima:
            found.append((maxima[node.name].name, node.name, maxima[node.name]))
        elif node.name in values:
            found.append((node.name, node.name, values[node.name]))
        elif not isinstance(node.layer, Linear):
            found.append((node.name, node.inputs[0], node))
    found.append((OUTPUT, form.nodes[-1].name, None))
    maps = maps_to(form, [source for _, source, _ in found])
    return [Target(*each, maps[each[1]], _weights(each[0], maps)) for each in found]


def _weights(name: str | None, maps: dict[str, Map]) -> np.ndarray:
    return sum((abs(map_.terms[name]).sum(0) for map_ in maps.values() if name in map_.terms), start=np.zeros(1))
