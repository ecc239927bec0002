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


@pytest.fixture(params=["inputs", "phases"])
def way(request, monkeypatch):
    """The search by halved inputs or by split units; few steps at the root leave more to be done behind it."""
    from polyopt.search import branching, search

    monkeypatch.setattr(search, "ROOT_STEPS", 4)
    monkeypatch.setattr(branching, "FEW_INPUTS", 10**6 if request.param == "inputs" else 0)
    return request.param


@pytest.fixture
def many_parts(monkeypatch):
    """Parts so small that there are many of them to be shared out."""
    from polyopt.search import sharing

    monkeypatch.setattr(sharing, "SHARED", 8)
    monkeypatch.setattr(sharing, "SLICE", 0.05)
