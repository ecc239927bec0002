"""A surrogate as one file: its network as ONNX in float64, the rest as JSON in the model's metadata.

Any ONNX runtime reads the network, any tool shows the metadata; numbers are written so that they are read back to the
last bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from polyopt import regions as known
from polyopt.network import Network
from polyopt.regions import Product, Region

KEY = "polyopt.surrogate"


def write(
    path: str | os.PathLike, net: Network, domain: Region | np.ndarray, regions: Sequence[Region], **more
) -> None:
    """Write the network with its domain, a region or points, further regions, and what else JSON can hold."""
    import onnx

    from polyopt.convert.to_onnx import to_onnx

    model = to_onnx(net, dtype="float64")
    held = {
        "domain": region_to_json(domain) if isinstance(domain, Region) else domain.tolist(),
        "regions": [region_to_json(region) for region in regions],
    }
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(held | more)
    onnx.save(model, path)


def read(path: str | os.PathLike) -> dict[str, Any]:
    """What `write` was given, by its names; ValueError where the file is a network without a surrogate's metadata."""
    from polyopt.convert.from_onnx import from_onnx, load

    model = load(path)
    entries = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if not entries:
        raise ValueError(f"Surrogate.load: {path} holds no surrogate's metadata; read the network with po.from_onnx")
    held = json.loads(entries[0])
    if isinstance(held["domain"], dict):
        held["domain"] = region_from_json(held["domain"])
    held["regions"] = [region_from_json(region) for region in held["regions"]]
    return {"net": from_onnx(model), **held}


def region_to_json(region: Region) -> dict[str, Any]:
    """A region's kind and arrays.

    >>> from polyopt.regions import Box
    >>> region_from_json(region_to_json(Box([0.1], [1.0])))
    Box([0.1], [1.])
    """
    if isinstance(region, Product):
        return {"kind": "Product", "regions": [region_to_json(factor) for factor in region.regions]}
    arrays = {field.name: getattr(region, field.name).tolist() for field in fields(region)}
    return {"kind": type(region).__name__, **arrays}


def region_from_json(held: dict[str, Any]) -> Region:
    """The region of this kind with these arrays."""
    held = dict(held)
    kind = held.pop("kind")
    if kind == "Product":
        return Product(*map(region_from_json, held["regions"]))
    return getattr(known, kind)(**{name: np.array(values, dtype=np.float64) for name, values in held.items()})
