"""alpha-CROWN with shared slopes and with an early end, against samples, CROWN, and slopes of each bound's own."""

import numpy as np
import pytest
import torch
from strategies import chain, residual

import polyopt as po
from polyopt.bounds.alpha import PATIENCE, Stalled, alpha_crown, beta_crown
from polyopt.bounds.climb import Climb
from polyopt.bounds.result import Interval

KINDS = ["relu", "leaky_steep", "clip", "abs", "sign", "tanh", "softplus"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def passes(monkeypatch):
    """One entry a gradient."""
    taken, gradients = [], Climb._gradients

    def counted(self, *arguments):
        taken.append(self)
        return gradients(self, *arguments)

    monkeypatch.setattr(Climb, "_gradients", counted)
    return taken


def boxes(rng, count, n=3, width=0.8):
    lower = rng.uniform(-1.0, 0.2, size=(count, n))
    return po.Box(lower, lower + rng.uniform(0.5 * width, width, size=(count, n)))


def intervals(net, bounds):
    """Bounds on all activations' inputs and on the output."""
    return dict(zip([node.name for node in net.activations], bounds.pre, strict=True)) | {"": bounds.output}


def assert_sound(net, region, bounds, rng):
    """Samples of each box keep to its bounds."""
    for i, (low, high) in enumerate(zip(region.lower, region.upper, strict=True)):
        x = po.Box(low, high).sample(300, rng)
        values = net.values(x)
        seen = {
            node.name: np.concatenate([values[s].reshape(len(x), -1) for s in node.inputs], 1)
            for node in net.activations
        }
        seen[""] = net(x)
        for name, side in intervals(net, bounds).items():
            assert (seen[name] >= side.lower[i] - 1e-9).all()
            assert (seen[name] <= side.upper[i] + 1e-9).all()


def width(bounds):
    return float((bounds.output.upper - bounds.output.lower).sum())


@pytest.mark.parametrize("shape", ["chain", "residual"])
@pytest.mark.parametrize("kind", KINDS)
def test_shared_slopes_and_early_ends_are_sound_and_no_wider_than_crown(kind, shape):
    rng = np.random.default_rng(len(kind))
    net = chain(rng, kind, sizes=(3, 6, 5, 2)) if shape == "chain" else residual(rng, kind)
    region = boxes(rng, 3)
    base = intervals(net, po.crown(net, region))
    for options in ({"shared": True}, {"tolerance": 0.1}, {"shared": True, "tolerance": 0.1}):
        found = alpha_crown(net, region, 12, **options)
        assert_sound(net, region, found, rng)
        for name, side in intervals(net, found).items():
            assert (side.lower >= base[name].lower).all()
            assert (side.upper <= base[name].upper).all()


def test_slopes_of_each_bounds_own_do_no_worse_than_shared_ones_which_do_better_than_crowns():
    gains = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        net, region = chain(rng, "relu", sizes=(3, 12, 12, 2)), boxes(rng, 4, width=1.5)
        base, own, shared = (
            width(found)
            for found in (
                po.crown(net, region),
                alpha_crown(net, region, 30),
                alpha_crown(net, region, 30, shared=True),
            )
        )
        assert own <= shared + 1e-3 * base
        gains.append([base - shared, base - own])
    shared, own = np.sum(gains, axis=0)
    assert 0.05 * own < shared < own


def test_shared_slopes_are_one_set_a_box(passes):
    rng = np.random.default_rng(0)
    net, region = chain(rng, "relu", sizes=(3, 8, 8, 2)), boxes(rng, 3)
    sizes, run = [], Climb.run

    def noted(self, count, lengths, growth, slopes, *rest):
        sizes.append((slopes.shape[1], rest[0].shape[0]))
        return run(self, count, lengths, growth, slopes, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Climb, "run", noted)
        alpha_crown(net, region, 3, shared=True)
    assert all(domains <= 3 < rows for domains, rows in sizes)
    assert sizes[-1] == (3, 3 * 4)  # of two outputs' bounds from both sides


def test_a_boxs_shared_slopes_do_not_depend_on_the_other_boxes():
    rng = np.random.default_rng(4)
    net, region = chain(rng, "relu", sizes=(3, 7, 1)), boxes(rng, 5)
    together = alpha_crown(net, region, 8, shared=True).output
    alone = [
        alpha_crown(net, po.Box(low, high), 8, shared=True).output
        for low, high in zip(region.lower, region.upper, strict=True)
    ]
    assert together.lower.ravel() == pytest.approx([float(found.lower[0]) for found in alone], abs=1e-5)
    assert together.upper.ravel() == pytest.approx([float(found.upper[0]) for found in alone], abs=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_an_early_end_saves_steps_and_costs_little(passes, shared):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        net, region = chain(rng, "relu", sizes=(3, 12, 12, 2)), boxes(rng, 4, width=1.5)
        base = width(po.crown(net, region))
        whole = width(alpha_crown(net, region, 60, shared=shared))
        full = len(passes)
        early = width(alpha_crown(net, region, 60, shared=shared, tolerance=0.01))
        assert len(passes) - full < 0.7 * full
        assert early - whole <= 0.1 * (base - whole)
        passes.clear()


def test_no_tolerance_takes_all_steps(passes):
    rng = np.random.default_rng(0)
    net = chain(rng, "relu", sizes=(3, 6, 5, 2))
    alpha_crown(net, boxes(rng, 2), 7)
    ascents = len({id(each) for each in passes})
    assert len(passes) == 7 * ascents > 0


def test_the_values_that_end_an_ascent_are_its_bounds(monkeypatch):
    """What single precision knows of the bounds after the last step is what they turn out to be."""
    last = []
    monkeypatch.setattr(Stalled, "__call__", lambda self, bounds: last.append(bounds) or len(last) >= 10)
    rng = np.random.default_rng(2)
    net, box = chain(rng, "relu", sizes=(3, 6, 2)), po.Box([-1.0] * 3, [1.0] * 3)
    signs = np.sign(net.values(box.sample(1, rng))[net.activations[0].inputs[0]][0])
    sides = Interval(np.where(signs > 0, 0.0, -np.inf), np.where(signs > 0, np.inf, 0.0))
    for splits in ({}, {net.activations[0].name: sides}):
        last.clear()
        found = beta_crown(net, box, splits, 10, tolerance=0.1).output
        expected = np.concatenate([found.lower, -found.upper])
        assert last[-1].numpy() == pytest.approx(expected, abs=1e-4)


def test_when_an_ascent_has_stalled():
    ask, quiet = Stalled(0.1), torch.zeros(2)
    falling_then_rising = [0.0, -2.0, -4.0, -3.0, -2.0, 0.0, 4.0, 5.9, 6.0, 6.0, 6.01]
    assert [ask(quiet + value / 2) for value in falling_then_rising] == [False] * 10 + [True]
    constant = Stalled(0.0)
    assert [constant(quiet) for _ in range(PATIENCE + 1)] == [False] * PATIENCE + [True]
    unknown = Stalled(0.5)
    assert not any(unknown(quiet * np.nan) for _ in range(9))


def test_slopes_that_go_to_the_wrong_box_are_caught(monkeypatch):
    """The tests of soundness cannot see it, as any slope is sound; those of tightness do."""
    rng = np.random.default_rng(1)
    net, region = chain(rng, "relu", sizes=(3, 12, 12, 2)), boxes(rng, 4, width=1.5)
    right, base = (width(found) for found in (alpha_crown(net, region, 30, shared=True), po.crown(net, region)))
    monkeypatch.setattr(Climb, "_each", lambda self, values, dim=1: values.index_select(dim, self._of.flip(0)))
    wrong = width(alpha_crown(net, region, 30, shared=True))
    assert base - wrong < 0.5 * (base - right)


def test_a_negative_tolerance_is_refused():
    net = chain(np.random.default_rng(0), "relu", sizes=(3, 5, 1))
    with pytest.raises(ValueError, match=r"tolerance is -0\.1"):
        alpha_crown(net, po.Box([-1.0] * 3, [1.0] * 3), tolerance=-0.1)
