"""What is known of every target while bounds are tightened: intervals by the name of the activation, or `OUTPUT`."""

from __future__ import annotations

import numpy as np

from polyopt.activations import GroupMax
from polyopt.bounds.crown import crown
from polyopt.bounds.result import Bounds, Interval
from polyopt.network import Network
from polyopt.regions import Region
from polyopt.tighten.targets import OUTPUT

Known = dict[str | None, Interval]


def known_bounds(net: Network, form: Network, region: Region, start: Bounds) -> Known:
    """Copies of the bounds on all targets of a network, to be changed in place; ``form`` is that without maxima."""
    found = dict(zip((node.name for node in net.activations), start.pre, strict=True)) | {OUTPUT: start.output}
    if any(isinstance(node.layer, GroupMax) for node in net.activations):  # what is bounded but in the tournaments
        matches = crown(form, region)
        found = dict(zip((node.name for node in form.activations), matches.pre, strict=True)) | found
    known = {name: Interval(np.array(side.lower), np.array(side.upper)) for name, side in found.items()}
    for name, side in known.items():
        lower, upper = side.lower, side.upper
        if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
            i = int(np.argmin(np.isfinite(lower) & np.isfinite(upper)))
            raise ValueError(
                f"obbt: {name!r}: unit {i} has bounds [{lower[i]}, {upper[i]}], but they must be finite; look for "
                "weights or inputs beyond 1e100"
            )
    return known


def as_bounds(net: Network, region: Region, known: Known) -> Bounds:
    """The bounds; where an interval is a point, rounding of other bounds may have crossed its two ends."""
    ordered = [known[name] for name in [*(node.name for node in net.activations), OUTPUT]]
    *pre, output = (Interval(np.minimum(s.lower, s.upper), np.maximum(s.lower, s.upper)) for s in ordered)
    return Bounds(region, tuple(pre), output)


def improve(known: Known, net: Network, bounds: Bounds) -> None:
    """Take over, in place, whatever bounds on the network say better."""
    found = dict(zip((node.name for node in net.activations), bounds.pre, strict=True)) | {OUTPUT: bounds.output}
    for name, side in found.items():
        np.maximum(known[name].lower, side.lower, out=known[name].lower)
        np.minimum(known[name].upper, side.upper, out=known[name].upper)
