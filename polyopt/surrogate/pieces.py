"""A network where it is affine: on regions that are certified, ``y = A x + c`` instead of the network.

Where the decision stays inside one region this needs no binary. Where it stays inside one of several, the disjunction
(`polyopt.surrogate.union`) needs one for each:

    y = sum_k A_k x_k + c_k sigma_k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyomo.environ as pyo

from formulations import Rows, add_variables
from polyopt.network import Network
from polyopt.regions import Region
from polyopt.surrogate.union import add_union
from polyopt.verification.affinity import AffineCertificate, affine_on


def certificates(net: Network, regions: Sequence[Region]) -> list[AffineCertificate]:
    """A certificate for each region; ValueError where the network is not proven to be affine there."""
    found = [affine_on(net, region) for region in regions]
    for k, (region, certificate) in enumerate(zip(regions, found, strict=True)):
        if certificate.status != "affine":
            proof = "is not affine" if certificate.status == "not affine" else "could not be proven affine"
            raise ValueError(
                f"add_surrogate: the network {proof} on region {k} of inside=, {region}; train it with "
                "po.police.POLICE or MPOLICE on this region, make the region smaller, or leave inside= away"
            )
    return found


def add_piece(block, region: Region, certificate: AffineCertificate, variables: list) -> list:
    """``x in region`` and ``y = A x + c``; returns y."""
    block.region = pyo.Block()
    region.add_to(block.region, variables)
    y = _outputs(block, [region], [certificate])
    block.output_rows = Rows([(1.0, y), (-certificate.A, variables)], certificate.c, certificate.c)
    return y


def add_pieces(block, regions: Sequence[Region], pieces: Sequence[AffineCertificate], variables: list) -> list:
    """``x in R_k`` and ``y = A_k x + c_k`` for one k; returns y."""
    block.region = pyo.Block()
    sigma, copies = add_union(block.region, regions, variables)
    y = _outputs(block, regions, pieces)
    terms = [(-piece.A, copy) for piece, copy in zip(pieces, copies, strict=True)]
    block.output_rows = Rows([(1.0, y), *terms, (-np.column_stack([piece.c for piece in pieces]), sigma)], 0.0, 0.0)
    return y


def _outputs(block, regions: Sequence[Region], pieces: Sequence[AffineCertificate]) -> list:
    """The output variables, which range over what the pieces make of their regions."""
    lower = np.min([piece.c - region.support(-piece.A) for region, piece in zip(regions, pieces, strict=True)], axis=0)
    upper = np.max([piece.c + region.support(piece.A) for region, piece in zip(regions, pieces, strict=True)], axis=0)
    room = 1e-9 * (1.0 + np.maximum(abs(lower), abs(upper)))  # rounding must not cut off a corner
    return add_variables(block, "output", range(len(lower)), lower - room, upper + room)
