"""What several tests of the search need."""

import pytest


@pytest.fixture(scope="module")
def one_thread():
    """Torch on one thread: such small batches are not worth sharing between cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["inputs", "phases", "trials", "either"])
def way(request, monkeypatch):
    """The search by halved inputs, by split units, tightened parts, or what is better; the root leaves work."""
    from polyopt.search import branching, search

    monkeypatch.setattr(search, "ROOT_STEPS", 4)
    monkeypatch.setattr(search, "COMPARED", 0.02)
    monkeypatch.setattr(branching, "FEW_INPUTS", 10**6 if request.param == "inputs" else 0)
    monkeypatch.setattr(branching, "MANY_INPUTS", 10**6 if request.param == "either" else 0)
    if request.param == "trials":  # that are given up at once, with a program for every leaf
        monkeypatch.setattr(branching, "LEAF_STEPS", 0)
        monkeypatch.setattr(branching, "FIRST", 1)
        monkeypatch.setattr(branching, "TRIAL", 0)
    return request.param


@pytest.fixture
def many_parts(monkeypatch):
    """Parts so small that there are many of them to be shared out."""
    from polyopt.search import sharing

    monkeypatch.setattr(sharing, "SHARED", 8)
    monkeypatch.setattr(sharing, "SLICE", 0.05)
