"""How much is done at a time on a GPU, which need not be there."""

from types import SimpleNamespace

import pytest
import torch

from polyopt.bounds import batches
from polyopt.bounds.batches import COPIES, GPU, at_once


@pytest.mark.parametrize(("size", "count"), [(1, 10 * GPU), (100, 1000), (10**6, 10)])
def test_a_gpu_has_more_at_once_as_far_as_there_is_room(size, count, monkeypatch):
    monkeypatch.setattr(batches, "memory", lambda values: 8.0 * COPIES * 100_000)
    values = SimpleNamespace(is_cuda=True, element_size=lambda: 8)
    assert at_once(10, values, size) == count
    assert at_once(10, torch.zeros(1), size) == 10
