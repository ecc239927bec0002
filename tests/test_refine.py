"""Bounds on the undecided units of many boxes by one list of rows: against CROWN box by box, and against samples."""

import numpy as np
import pytest
import torch
from cases import NETWORKS, SIGN_KINDS
from strategies import chain

import polyopt as po
from polyopt.bounds import refine
from polyopt.bounds.backward import Backward
from polyopt.bounds.crown import propagate
from polyopt.bounds.refine import TILE, Boxes, Refinement, Tiles
from polyopt.bounds.relaxation import relax
from polyopt.bounds.units import Units
from polyopt.maxima import maxima_as_relus

SMOOTH = {kind: chain(np.random.default_rng(2), kind, sizes=(3, 6, 5, 2)) for kind in ("tanh", "softplus")}
CONTINUOUS = {name: net for name, net in NETWORKS.items() if name not in SIGN_KINDS} | SMOOTH


def refined(net, boxes, decided=False):
    """The refinement of some boxes within [-1, 1]^n, from the bounds on the whole."""
    form = maxima_as_relus(net)
    backward = Backward(form)
    whole = po.Box([-1.0] * net.input_size, [1.0] * net.input_size)
    propagate(backward, form, whole)
    bounds = po.crown(form, whole)
    sides = np.stack(
        [np.concatenate([pre.lower for pre in bounds.pre]), -np.concatenate([p.upper for p in bounds.pre])]
    )
    sides = torch.tensor(sides).unsqueeze(1)
    units = Units(form, backward, sides if decided else None)
    sides = sides[:, :, units.kept].expand(-1, len(boxes.lower), -1)
    return form, units, Refinement(backward, units, Boxes(torch.tensor(boxes.lower), torch.tensor(boxes.upper)), sides)


def boxes_in(net, rng, count=5):
    center = rng.uniform(-0.9, 0.9, size=(count, net.input_size))
    return po.Box(np.maximum(center - 0.1, -1.0), np.minimum(center + 0.1, 1.0))


def pre_activations(form, x):
    values = form.values(x)
    return np.hstack([values[node.inputs[0]].reshape(len(x), -1) for node in form.activations])


@pytest.mark.parametrize("decided", [False, True])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_no_sample_of_a_box_is_outside_its_bounds(name, decided, monkeypatch):
    monkeypatch.setattr(refine, "ENTRIES", 64)  # several parts of a list
    net, rng = CONTINUOUS[name], np.random.default_rng(0)
    boxes = boxes_in(net, rng)
    form, units, found = refined(net, boxes, decided)
    rows = torch.tensor(rng.normal(size=(7, net.output_size)))
    index, limits = torch.tensor([0, 1, 1, 2, 4, 3, 0]), torch.tensor(rng.normal(size=7))
    least, slopes = found.bound({form.nodes[-1].name: rows.unsqueeze(1)}, -limits.unsqueeze(1), index)
    for i in range(5):
        x = po.Box(boxes.lower[i], boxes.upper[i]).sample(500, rng)
        a = pre_activations(form, x)[:, units.kept.numpy()]
        assert (a >= found.sides[0, i].numpy()).all()
        assert (-a >= found.sides[1, i].numpy()).all()
        for row in (index == i).nonzero()[:, 0].tolist():
            margins = net(x) @ rows[row].numpy() - limits[row].item()
            assert margins.min() >= least[row]
            # the linear bound holds too, everywhere on the box
            slope = slopes[row].numpy()
            corner = np.minimum(slope * boxes.lower[i], slope * boxes.upper[i]).sum()
            assert (margins >= least[row].item() - corner + x @ slope - 1e-9).all()


def test_they_are_those_of_crown_box_by_box(monkeypatch):
    """ReLUs in a chain: where interval arithmetic is never the better of the two, both are the same passes."""
    monkeypatch.setattr(refine, "LISTED", 128)  # a list that is made in several parts
    net, rng = NETWORKS["relu"], np.random.default_rng(1)
    boxes = boxes_in(net, rng)
    _, units, found = refined(net, boxes)
    bounds = po.crown(net, boxes)
    lower, upper = (np.hstack([getattr(pre, side) for pre in bounds.pre]) for side in ("lower", "upper"))
    undecided = units.undecided(found.sides).numpy()
    assert undecided.any()
    np.testing.assert_allclose(found.sides[0].numpy()[undecided], lower[undecided], atol=1e-9)
    np.testing.assert_allclose(-found.sides[1].numpy()[undecided], upper[undecided], atol=1e-9)


def test_boxes_that_are_taken_are_those_made_of_their_ends():
    rng = np.random.default_rng(0)
    lower = torch.tensor(rng.normal(size=(4, 3)))
    boxes, index = Boxes(lower, lower + torch.tensor(rng.random((4, 3)))), torch.tensor([2, 0, 2, 3, 1])
    A = torch.tensor(rng.normal(size=(5, 3)))
    boxes.point(A[:4].float())
    taken, made = boxes.take(index), Boxes(boxes.lower[index], boxes.upper[index])
    for one, other in zip(taken(A), made(A), strict=True):
        assert torch.equal(one, other)
    for precision in (torch.float32, torch.float64):
        assert torch.equal(taken.point(A.to(precision)), made.point(A.to(precision)))


@pytest.mark.parametrize("counts", [[0, 1, 0, TILE, 2 * TILE + 1, 0], [0, 0], [3]])
def test_rows_come_back_from_their_tiles_in_order(counts):
    index = torch.repeat_interleave(torch.tensor(counts))
    index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))]
    tiles = Tiles(index, len(counts))
    numbers = torch.arange(len(index), dtype=torch.float64)
    laid = tiles.laid(numbers.unsqueeze(1))
    assert torch.equal(tiles.taken([laid[:2], laid[2:]]), numbers)
    assert torch.equal(tiles.taken([tiles.box.unsqueeze(1).expand(-1, TILE)]), index)
    assert len(tiles.box) == sum(-(-count // TILE) for count in counts)


@pytest.mark.parametrize("kind", ["relu", "leaky_steep", "abs", "clip", "tanh"])
def test_lines_of_units_are_those_of_crown_and_pay_as_much_for_rounding(kind):
    """In single precision, where what is paid is far more than what the two ways differ by."""
    net, rng = chain(np.random.default_rng(0), kind, sizes=(3, 20, 20, 2), shift=0.3), np.random.default_rng(1)
    backward = Backward(net, dtype=torch.float32)
    propagate(backward, net, po.Box(-np.ones((1, 3)), np.ones((1, 3))))
    units = Units(net, backward)
    part = units.parts[1]
    lower = torch.tensor(rng.uniform(-2.0, 0.5, 20), dtype=torch.float32)
    upper = lower + torch.tensor(rng.uniform(0.5, 3.0, 20), dtype=torch.float32)
    bare = relax(part.node, lower[None], upper[None])
    paid = backward.widened(part.node, bare)
    found = units.lines(part, torch.arange(20), torch.stack([lower, -upper]))
    for line, with_fee, without in zip(found, paid, bare, strict=False):
        fee = (with_fee - without).abs()[0]
        assert ((line - with_fee[0]).abs() <= 0.1 * fee + 1e-6).all()
    assert (paid.upper_intercept - bare.upper_intercept).min() > 2e-5
