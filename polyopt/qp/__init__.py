"""Batches of convex quadratic programs: solved with proofs, and as a differentiable layer.

`solve` returns solutions with a status each, `QPLayer` is a torch module whose output is the solution.
"""

from polyopt.qp.layer import QPLayer
from polyopt.qp.problem import Solution, Status
from polyopt.qp.solve import solve

__all__ = ["QPLayer", "Solution", "Status", "solve"]
