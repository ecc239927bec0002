"""Batches of convex quadratic programs: solved with proofs, and as a differentiable layer.

`solve` returns solutions with a status each, `QPLayer` is a torch module whose output is the solution, and `project`
projects points on polyhedra with the same rows.
"""

from polyopt.qp.layer import QPLayer
from polyopt.qp.problem import Solution, Status
from polyopt.qp.project import Projection, project
from polyopt.qp.solve import solve

__all__ = ["Projection", "QPLayer", "Solution", "Status", "project", "solve"]
