"""Bounds on the undecided units of many boxes at once, against CROWN on each box, and samples."""

import numpy as np
import pytest
import torch
from strategies import chain, residual

import polyopt as po
from polyopt.bounds.backward import Backward
from polyopt.bounds.crown import propagate
from polyopt.bounds.interval import joined
from polyopt.bounds.refine import TILE, Boxes, Refinement, Tiles
from polyopt.bounds.units import Units

KINDS = ["relu", "leaky_steep", "prelu", "clip", "abs", "tanh", "softplus"]
WHOLE = po.Box([-1.5] * 3, [1.5] * 3)


def sides_of(pre) -> torch.Tensor:
    """Bounds on all units of a batch of boxes (2, batch, N)."""
    return torch.tensor(np.stack([np.hstack([b.lower for b in pre]), -np.hstack([b.upper for b in pre])]))


def joined_at(node, values) -> np.ndarray:
    """What a node reads at points, end to end."""
    return np.hstack([values[name].reshape(len(values[name]), -1) for name in node.inputs])


def prepared(net, fixed: bool):
    """A backward pass, the units, and bounds on them by CROWN over the whole box; ``fixed`` cuts out decided ones."""
    backward = Backward(net)
    values = propagate(backward, net, po.Box(WHOLE.lower[None], WHOLE.upper[None]))
    sides = sides_of([joined(node, values) for node in net.activations])
    return backward, Units(net, backward, sides if fixed else None), sides


@pytest.mark.parametrize("make", [lambda rng, kind: chain(rng, kind, sizes=(3, 9, 8, 2)), residual])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fixed", [False, True])
def test_undecided_units_are_bounded_as_by_crown_on_each_box(make, kind, fixed):
    rng = np.random.default_rng(5)
    net = make(rng, kind)
    backward, units, _ = prepared(net, fixed)
    center, radius = rng.uniform(-1, 1, (40, 3)), rng.choice([0.1, 0.5], (40, 1))
    lower, upper = center - radius, center + radius
    crown = sides_of(po.crown(net, po.Box(lower, upper)).pre)[:, :, units.kept]
    unknown = units.undecided(crown) | (kind in ("tanh", "softplus"))
    assert unknown.any()
    loose = torch.where(unknown, -50.0, crown)
    refined = Refinement(backward, units, Boxes(torch.tensor(lower), torch.tensor(upper)), loose).sides
    lost = (crown - refined)[:, unknown]
    assert lost.abs().median() < 1e-9  # CROWN takes interval bounds where these are better
    x = lower + rng.random((200, 40, 3)) * (upper - lower)
    values = net.values(x.reshape(-1, 3))
    a = np.hstack([joined_at(node, values) for node in net.activations]).reshape(200, 40, -1)
    a = torch.tensor(a[:, :, units.kept])
    assert (refined[0] <= a.amin(0) + 1e-12).all()
    assert (-refined[1] >= a.amax(0) - 1e-12).all()


@pytest.mark.parametrize("counts", [[0, 1, 0, TILE, 2 * TILE + 1, 0], [0, 0], [3]])
def test_rows_come_back_from_their_tiles_in_order(counts):
    index = torch.repeat_interleave(torch.tensor(counts))
    tiles = Tiles(index, len(counts))
    numbers = torch.arange(len(index), dtype=torch.float64)
    laid = tiles.laid(numbers.unsqueeze(1))
    assert laid.shape == (len(tiles.box), TILE)
    assert torch.equal(tiles.taken([laid[:2], laid[2:]]), numbers)
    boxes = tiles.box.unsqueeze(1).expand(-1, TILE)
    assert torch.equal(tiles.taken([boxes]), index)
    assert len(tiles.box) == sum(-(-count // TILE) for count in counts)
