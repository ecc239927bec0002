"""Bounds on every layer of a network over a region: one method a file, one rule a layer kind.

`polyopt.bounds.crown` needs torch and is imported where it is used.
"""

from polyopt.bounds.interval import interval
from polyopt.bounds.result import Bounds, Interval

__all__ = ["Bounds", "Interval", "interval"]
