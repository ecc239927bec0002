"""Which units are split, and which domains of a list belong to which trial."""

import numpy as np
import pytest
import torch
from strategies import chain

from polyopt.bounds.backward import Backward
from polyopt.bounds.crown import propagate
from polyopt.bounds.units import Units
from polyopt.regions import Box
from polyopt.search.domains import Domains
from polyopt.search.splits import CHOICES, EARLIEST, EARLY, LEVELS, chosen


def units_of(sizes):
    net = chain(np.random.default_rng(0), "relu", sizes=(2, *sizes, 1))
    backward = Backward(net)
    propagate(backward, net, Box([-1.0, -1.0], [1.0, 1.0]))
    return Units(net, backward)


def test_units_of_greatest_loss_are_split_and_early_ones_where_tightening_follows():
    units, at = units_of((2, 3)), torch.arange(5.0)[None]
    loss = torch.tensor([[-1.0, 1.0, 3.0, 2.0, EARLY + 1.0]], dtype=torch.float64)
    unit, where = chosen(units, loss, at)
    assert unit.tolist() == where.tolist() == [[4, 2, 3, 4]]  # the first layer's counts EARLY
    loss[0, 1] = 1.5
    assert chosen(units, loss, at)[0][0, EARLIEST] == 1
    assert chosen(units, -torch.ones(2, 5), at.expand(2, -1))[0].tolist() == [[-1] * CHOICES] * 2


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_units_leave_choices_open(count):
    units, loss = units_of((1, 1)).upto(count), torch.arange(float(count))[None] + 1.0
    unit, _ = chosen(units, loss, torch.zeros_like(loss))
    assert (unit[0, :LEVELS] >= 0).sum() == count
    assert (unit[0, EARLIEST] >= 0) == (count > 0)


def test_domains_of_each_origin():
    bound, origin = torch.tensor([3.0, 1.0, 2.0, 5.0]), torch.tensor([0, 2, 2, 0])
    domains = Domains({"bound": bound, "origin": origin}, 1e9)
    assert domains.least(4).tolist() == [3.0, float("inf"), 1.0, float("inf")]
    domains.leave(torch.tensor([False, True, True, False]))
    assert domains.least(3).tolist() == [3.0, float("inf"), float("inf")]
    assert sorted(domains.pop(4)["bound"].tolist()) == [3.0, 5.0]
