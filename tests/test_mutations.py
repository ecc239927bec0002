"""The search, spoilt on purpose, is found out: every mutation proves a property that has a counterexample."""

import numpy as np
import pytest
import torch
from strategies import chain

import polyopt as po
from polyopt.bounds import lagrangian, refine
from polyopt.bounds.backward import Backward
from polyopt.bounds.units import Units
from polyopt.search import branching, halving, search
from polyopt.search.decide import decide
from polyopt.search.domains import Domains

pytestmark = pytest.mark.usefixtures("one_thread")
FEW = {"inputs": 10**6, "phases": 0, "trials": 0}  # the number of inputs up to which boxes are halved


def wrongly_proven(way, monkeypatch, seeds=range(6), limit=1.0) -> bool:
    """Whether an unsafe set that samples reach, but only just, is said to be out of reach."""
    monkeypatch.setattr(branching, "FEW_INPUTS", FEW[way])
    monkeypatch.setattr(branching, "MANY_INPUTS", 0)
    monkeypatch.setattr(branching, "TRIAL", 1e9)  # splits alone, which need their prices
    if way == "trials":  # of which every other one is given up
        kept = branching.Branching._promising
        monkeypatch.setattr(
            branching.Branching, "_promising", lambda self, *bounds: kept(self, *bounds) & (self._bounded % 4 > 2)
        )
    for seed in seeds:
        rng = np.random.default_rng(seed)
        net = chain(rng, "relu", sizes=(2, 6, 6, 2))
        box = po.Box([-2.0, -2.0], [2.0, 2.0])
        rows = rng.normal(size=(1, 2))
        reached = (net(box.sample(20000, rng)) @ rows[0]).min()
        unsafe = po.HPolytope(rows, [reached])
        found = decide(net, [(box, [unsafe])], accept=lambda x, case: False, time_limit=limit)
        if found.status == "proven":
            return True
    return False


def no_biases(monkeypatch):
    made = Backward.__init__

    def without(self, *arguments, **options):
        made(self, *arguments, **options)
        self._offsets = {name: torch.zeros_like(offset) for name, offset in self._offsets.items()}

    monkeypatch.setattr(Backward, "__init__", without)


def swapped_slopes(monkeypatch):
    """The lines of units and boxes have the slopes of others."""
    made = Units.lines

    def lines(self, *arguments):
        found = made(self, *arguments)
        found[::2] = found[::2].flip(1)
        return found

    monkeypatch.setattr(Units, "lines", lines)


def swapped_lines(monkeypatch):
    made = Units.lines
    monkeypatch.setattr(Units, "lines", lambda self, *arguments: made(self, *arguments)[[2, 3, 0, 1]])


def lines_too_low(monkeypatch):
    """Chords that lie below the corners they have to clear."""
    kept = lagrangian.Enclosure.intercepts
    monkeypatch.setattr(lagrangian.Enclosure, "intercepts", lambda self: kept(self) + 0.1)


def lines_of_boxes_too_low(monkeypatch):
    kept, lower = Units.lines, torch.tensor([[0.0], [0.1], [0.0], [-0.1]])
    monkeypatch.setattr(Units, "lines", lambda self, *arguments: kept(self, *arguments) + lower)


def other_pieces(monkeypatch):
    """Units that are decided keep to the piece they do not reach."""
    kept = Units.decided
    monkeypatch.setattr(Units, "decided", lambda self, sides, place: kept(self, -sides, place))


def rows_of_other_boxes(monkeypatch):
    """Every row meets the lines of the box before its own."""
    made = refine.Tiles.__init__

    def misplaced(self, index, boxes):
        made(self, index, boxes)
        self.box = (self.box - 1).clamp(min=0)

    monkeypatch.setattr(refine.Tiles, "__init__", misplaced)


def slopes_of_other_units(monkeypatch):
    """Lines whose slopes are no longer those that their intercepts were made for."""
    kept = lagrangian.Enclosure.lines

    def lines(self):
        found = kept(self)
        for layer in found:
            layer._slopes = layer._slopes.flip(2)
        return found

    monkeypatch.setattr(lagrangian.Enclosure, "lines", lines)


def prices_at_half_their_cost(monkeypatch):
    kept = lagrangian.Enclosure.fees
    monkeypatch.setattr(lagrangian.Enclosure, "fees", lambda self: 0.5 * kept(self))


def limits_too_low(monkeypatch):
    kept = lagrangian.Mixture.limit
    monkeypatch.setattr(lagrangian.Mixture, "limit", lambda self: kept(self) - 0.02)


def clipped_too_far(monkeypatch):
    for module in (branching, halving):
        kept = module.clipped
        monkeypatch.setattr(module, "clipped", lambda *box, kept=kept: kept(*box[:3], 0.5 * box[3]))


def tightened_too_far(monkeypatch):
    """Units keep to the middle of what holds below the cutoff."""
    kept = search.tightened

    def shorter(*arguments):
        sides = kept(*arguments)
        return sides - 0.05 * sides.sum(0)

    monkeypatch.setattr(search, "tightened", shorter)


def half_lost(monkeypatch):
    """The second halves of all domains are forgotten."""
    for name in ("halve_inputs", "split_units"):
        kept = getattr(branching, name)

        def first(taken, *level, kept=kept):
            return {key: value[: len(taken["bound"])] for key, value in kept(taken, *level).items()}

        monkeypatch.setattr(branching, name, first)


def trials_lost(monkeypatch):
    """Domains whose trial is given up are forgotten."""
    kept = branching.Branching._tried
    monkeypatch.setattr(
        branching.Branching, "_tried", lambda self, taken: {k: v[:0] for k, v in kept(self, taken).items()}
    )


def bounds_of_other_trials(monkeypatch):
    kept = Domains.least
    monkeypatch.setattr(Domains, "least", lambda self, count: kept(self, count).nan_to_num(posinf=1.0).flip(0))


MUTATIONS = [
    ("inputs", no_biases),
    ("phases", no_biases),
    ("inputs", swapped_slopes),
    ("inputs", swapped_lines),
    ("phases", slopes_of_other_units),
    ("inputs", lines_too_low),
    ("inputs", lines_of_boxes_too_low),
    ("inputs", other_pieces),
    ("inputs", rows_of_other_boxes),
    ("phases", lines_too_low),
    ("phases", prices_at_half_their_cost),
    ("inputs", limits_too_low),
    ("phases", limits_too_low),
    ("inputs", clipped_too_far),
    ("phases", tightened_too_far),
    ("inputs", half_lost),
    ("phases", half_lost),
    ("trials", trials_lost),
    ("trials", bounds_of_other_trials),
]


@pytest.mark.parametrize("way", FEW)
def test_what_samples_reach_is_never_proven_unreachable(way, monkeypatch):
    assert not wrongly_proven(way, monkeypatch, limit=0.5)


@pytest.mark.parametrize(("way", "mutate"), MUTATIONS)
def test_a_mutation_is_found_out(way, mutate, monkeypatch):
    mutate(monkeypatch)
    assert wrongly_proven(way, monkeypatch, range(20))
