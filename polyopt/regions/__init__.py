"""Regions: sets of inputs on which a network is bounded, verified or forced to be affine.

All answer the questions of `Region`, above all ``support(A)``, and may take each other's place.
"""

from polyopt.regions.box import Box
from polyopt.regions.ellipsoid import Ellipsoid
from polyopt.regions.hpolytope import HPolytope
from polyopt.regions.product import Product
from polyopt.regions.region import Region
from polyopt.regions.vpolytope import VPolytope
from polyopt.regions.zonotope import Zonotope

__all__ = ["Box", "Ellipsoid", "HPolytope", "Product", "Region", "VPolytope", "Zonotope"]
