"""What is claimed of a network on a region, and what is found at random points of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import polyopt as po

HEAD = ["affine_on", "margin", "defect", "defect, float32", "proof s"]
SAMPLES = 20_000


@dataclass
class Claim:
    """The verdict of `polyopt.affine_on` on the weights as they are stored.

    ``defect`` is, where the network is affine, the greatest ``|f(x) - (A x + c)|`` of the random points in float64, and
    ``defect_float32`` that of the torch module itself. Where it is not, ``defect`` is ``|f(z) - (f(x) + f(y)) / 2|`` of
    the witness.
    """

    certificate: po.AffineCertificate
    defect: float
    defect_float32: float | None = None

    def cells(self) -> list[str]:
        """What stands in a table below `HEAD`."""
        found = self.certificate
        numbers = [found.margin, self.defect, self.defect_float32]
        return [found.status, *("-" if n is None else f"{n:.0e}" for n in numbers), f"{found.seconds:.2f}"]

    def to_json(self, maps: bool = True) -> dict:
        """Numbers and lists; A, c and the witness only with ``maps``."""
        found = self.certificate
        plain = {name: getattr(found, name) for name in ("status", "margin", "tolerance", "seconds")}
        arrays = {name: getattr(found, name) for name in ("A", "c", "witness") if maps}
        lists = {name: None if array is None else array.tolist() for name, array in arrays.items()}
        return plain | {"defect": self.defect, "defect_float32": self.defect_float32} | lists


def claim(module: nn.Module, region: po.Region) -> tuple[po.Network, Claim]:
    """The network that a module in evaluation mode on the CPU stores, and what is proven of it on the region."""
    net = po.from_torch(module, input_shape=(region.size,))
    found = po.affine_on(net, region)
    if found.status != "affine":
        x, z, y = np.zeros((3, 1)) if found.witness is None else net(found.witness)
        return net, Claim(found, float(abs(z - (x + y) / 2).max()))
    points = region.sample(SAMPLES, np.random.default_rng(0)).astype(np.float32)
    with torch.no_grad():
        values = net(points), module(torch.from_numpy(points)).numpy()
    affine = points @ found.A.T + found.c
    return net, Claim(found, *(float(abs(value - affine).max()) for value in values))


def proven(module: nn.Module, region: po.Region) -> tuple[po.Network, Claim]:
    """The same for a network that must be affine on the region; RuntimeError where this is not proven."""
    net, found = claim(module, region)
    if found.certificate.status != "affine" or found.certificate.margin is None:
        raise RuntimeError(f"affine_on says {found.certificate.status!r} of a POLICE network; nothing is drawn")
    return net, found
