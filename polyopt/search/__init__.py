"""Exact answers to questions about a network alone: batched branch and bound on linear bounds, in torch.

Minimisation throughout; `polyopt.search.optimize` turns the sign where the greatest value is asked for.
"""
