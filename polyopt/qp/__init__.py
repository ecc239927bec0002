"""Batches of convex quadratic programs: solved with proofs, and as a differentiable layer.

`solve` returns solutions with a status each, `QPLayer` is a torch module whose output is the solution, and `project`
projects points on polyhedra with the same rows.
"""

from typing import TYPE_CHECKING

from polyopt.qp.problem import Solution, Status
from polyopt.qp.project import Projection, project
from polyopt.qp.solve import solve

if TYPE_CHECKING:
    from polyopt.qp.layer import QPLayer

__all__ = ["Projection", "QPLayer", "Solution", "Status", "project", "solve"]


def __getattr__(name: str):
    """The layer when it is first used: it loads torch's compiler, seconds that not everybody has to wait."""
    if name == "QPLayer":
        from polyopt.qp.layer import QPLayer

        return QPLayer
    raise AttributeError(f"module 'polyopt.qp' has no attribute {name!r}")
