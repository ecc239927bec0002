"""A surrogate inside a Pyomo model: its network with a trust region, or its certified affine pieces instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyomo.environ as pyo
from pyomo.core.base.block import BlockData, IndexedBlock

from polyopt.bounds.crown import crown
from polyopt.bounds.result import Bounds, Interval, both
from polyopt.copies import naming
from polyopt.embed import DEFAULT, Choice, add_network
from polyopt.embedding import Embedding
from polyopt.inputs import input_ranges, input_variables
from polyopt.regions import Box, Region
from polyopt.regions.region import check_single
from polyopt.surrogate.pieces import add_piece, add_pieces, certificates
from polyopt.surrogate.surrogate import Surrogate
from polyopt.surrogate.trust import balls as covering
from polyopt.surrogate.trust import hull
from polyopt.surrogate.union import add_boxes


def add_surrogate(
    block,
    surrogate: Surrogate,
    inputs,
    formulation: Choice = DEFAULT,
    bounds: str | Bounds = "crown",
    domain: str | Region | None = "box",
    inside: Region | Sequence[Region] | None = None,
    tighten: str | None = None,
    balls: int = 32,
) -> list | dict:
    """Add ``outputs = surrogate(inputs)`` to a Pyomo block, where the surrogate can be trusted; returns the outputs.

    ``inputs`` are n_in variables or affine expressions, in the surrogate's order or as a mapping from its
    ``input_names``; those without bounds get the domain's. For an indexed block ``inputs`` is a mapping from its
    indices to each copy's inputs, and a dict from them to outputs is returned.

    ``domain`` keeps the inputs where there were data: in the bounding ``"box"`` of the surrogate's domain, in the
    convex ``"hull"`` of its points, or near the points: in one of as many maximum-norm ``"ball"``\\ s as ``balls``
    says, at a binary each (`polyopt.surrogate.trust`). It may be any other `Region`, or None: then the inputs' own
    bounds must be finite, and the network is believed all over them.

    ``inside`` lists regions to which the decision is confined and on which the network is affine, as a POLICE'd or
    mPOLICE'd one is. `polyopt.affine_on` proves that, to its tolerance where a unit changes its piece, and instead of
    the network its affine map is written, with no binary for one region, and one binary a region for several. The
    optimum is that of the full network over these regions. ``domain``, ``formulation``, ``bounds`` and ``tighten`` then
    have no part in it.

    ``formulation``, ``bounds`` (with "ball" always CROWN's) and ``tighten`` are those of `polyopt.add_network`; so are
    `polyopt.summary`, `polyopt.replay_error` and `polyopt.set_point` for the block.

    Raises ValueError where the inputs, or regions, do not fit, where "hull" or "ball" is asked of a surrogate without
    points, and where the network is not proven to be affine on a region of ``inside``.

    >>> from polyopt import summary
    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> from polyopt.network import Network
    >>> net = Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, 2.0]], None)], (1,))
    >>> surrogate = Surrogate(net, domain=[[-1.0], [0.5], [2.0]], input_names=["x"])     # x for x > 0, else -2 x
    >>> m = pyo.ConcreteModel()
    >>> m.x, m.full, m.affine = pyo.Var(), pyo.Block(), pyo.Block()
    >>> y = add_surrogate(m.full, surrogate, {"x": m.x})
    >>> z = add_surrogate(m.affine, surrogate, [m.x], inside=Box([0.5], [1.5]))
    >>> [summary(block).binaries for block in (m.full, m.affine)]
    [2, 0]
    """
    if not isinstance(surrogate, Surrogate):
        raise ValueError(f"add_surrogate: the surrogate is a {type(surrogate).__name__}; make it one with po.Surrogate")
    copies = inputs if isinstance(block, IndexedBlock) else {None: inputs}
    if not isinstance(copies, Mapping):
        raise ValueError("add_surrogate: an indexed block needs a mapping from its indices to each copy's inputs")
    ordered = {index: _ordered(surrogate, given) for index, given in copies.items()}
    if inside is not None:
        outputs = _add_inside(block, surrogate, ordered, [inside] if isinstance(inside, Region) else list(inside))
    elif domain == "ball":
        boxes = covering(_points(surrogate), balls)
        outputs = _add_near(block, surrogate, ordered, boxes, formulation, tighten)
    else:
        region = _region(surrogate, domain)
        given = ordered if isinstance(block, IndexedBlock) else ordered[None]
        return add_network(block, surrogate.net, given, formulation, bounds, tighten, region=region)
    return outputs if isinstance(block, IndexedBlock) else outputs[None]


def _ordered(surrogate: Surrogate, inputs) -> list:
    """One copy's inputs in the surrogate's order."""
    if isinstance(inputs, Mapping) and not isinstance(inputs, pyo.Var):
        names = surrogate.input_names
        if set(inputs) != set(names):
            raise ValueError(f"add_surrogate: inputs are named {list(inputs)}, but the surrogate's are {list(names)}")
        return [inputs[name] for name in names]
    inputs = list(inputs.values()) if isinstance(inputs, pyo.Var) else list(inputs)
    if len(inputs) != len(surrogate.input_names):
        raise ValueError(
            f"add_surrogate: {len(inputs)} inputs are given, but the surrogate has {len(surrogate.input_names)}: "
            f"{', '.join(surrogate.input_names)}"
        )
    return inputs


def _region(surrogate: Surrogate, domain: str | Region | None) -> Region | None:
    if domain is None or isinstance(domain, Region):
        return domain
    if domain == "box":
        return surrogate.box
    if domain == "hull":
        return surrogate.domain if surrogate.points is None else hull(surrogate.points)
    raise ValueError(f"add_surrogate: domain={domain!r} is unknown; choose 'box', 'hull', 'ball', None or a region")


def _points(surrogate: Surrogate) -> np.ndarray:
    if surrogate.points is None:
        raise ValueError(
            "add_surrogate: domain='ball' needs the training inputs; give them to Surrogate as domain=X, or choose "
            "domain='hull', which is the region itself"
        )
    return surrogate.points


def _add_inside(block, surrogate: Surrogate, ordered: dict, regions: list[Region]) -> dict:
    """Each copy's certified pieces; returns its outputs."""
    if not regions:
        raise ValueError("add_surrogate: inside= lists no region; name one or more, or leave it away")
    for region in regions:
        check_single("add_surrogate", region, surrogate.net.input_size)
    pieces = certificates(surrogate.net, regions)
    boxes = [region.bounding_box() for region in regions]
    around = Box(np.min([box.lower for box in boxes], axis=0), np.max([box.upper for box in boxes], axis=0))
    outputs = {}
    for index, expressions in ordered.items():
        part = _part(block, index)
        with naming(index):
            variables = input_variables(part, expressions, input_ranges(expressions, around))
            if len(regions) == 1:
                outputs[index] = add_piece(part, regions[0], pieces[0], variables)
            else:
                outputs[index] = add_pieces(part, regions, pieces, variables)
        part.embedding = Embedding.of_outputs(surrogate.net, expressions, variables, outputs[index], around)
    return outputs


def _add_near(block, surrogate: Surrogate, ordered: dict, boxes: Box, formulation, tighten) -> dict:
    """Each copy's network and the balls around the points; returns its outputs."""
    around = Box(boxes.lower.min(0), boxes.upper.max(0))
    near = _joined(crown(surrogate.net, boxes))
    outputs = {}
    for index, expressions in ordered.items():
        part = _part(block, index)
        with naming(index):
            ranges = input_ranges(expressions, around)
            bounds = both(crown(surrogate.net, Box(*ranges.T)), near)
            outputs[index] = add_network(part, surrogate.net, expressions, formulation, bounds, tighten, region=around)
        part.balls = pyo.Block()
        add_boxes(part.balls, boxes, part.embedding.columns.variables)
    return outputs


def _part(block, index) -> BlockData:
    return block[index] if isinstance(block, IndexedBlock) else block


def _joined(batch: Bounds) -> Bounds:
    """Bounds over the union of a batch of boxes."""
    *pre, output = (Interval(side.lower.min(0), side.upper.max(0)) for side in (*batch.pre, batch.output))
    return Bounds(batch.region, tuple(pre), output)
