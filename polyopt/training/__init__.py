"""Training networks with torch, on the CPU or a GPU."""

from polyopt.training.fit import History, fit

__all__ = ["History", "fit"]
