"""The smallest gap between two squares that enforcement, and the proof after it, can do with a given margin.

If a unit w x + b is at least the margin on one square and at most its opposite on the other, |w| >= 2 margin / gap:
at points of both that are a gap apart the unit differs by 2 margin.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
from cases import errors, squares
from common.report import markdown
from torch import nn

import polyopt as po
from polyopt.police import EnforcementError, enforce


def smallest_gaps(base: nn.Module, tests: np.ndarray, margins, gaps) -> list[dict]:
    """For each margin the gaps, from large to small, until enforcement or proof gives up."""
    found = []
    for margin, gap in itertools.product(margins, gaps):
        if any(row["margin"] == margin and row["reason"] for row in found):
            continue
        module, row = copy.deepcopy(base), {"margin": margin, "gap": gap, "reason": None}
        try:
            report = enforce(module, squares(gap), margin=margin)
        except EnforcementError as error:
            found.append(row | {"reason": str(error)})
            continue
        net = po.from_torch(module.eval(), input_shape=(2,))
        largest = max(float(p.detach().abs().max()) for p in module.parameters())
        proven = min(certificate.margin for certificate in report.certificates)
        error = errors(net, squares(gap), tests)["all"]
        found.append(row | {"weight": largest, "proven margin": proven, "error": error})
    return found


def gap_table(found: list[dict]) -> str:
    rows = []
    for margin in dict.fromkeys(row["margin"] for row in found):
        of = [row for row in found if row["margin"] == margin]
        done = [row for row in of if not row["reason"]]
        reason = next((row["reason"].removeprefix("enforce: ") for row in of if row["reason"]), "-")
        numbers = [f"{done[-1][key]:.1e}" for key in ("gap", "weight", "proven margin", "error")] if done else ["-"] * 4
        rows.append([f"{margin:.0e}", *numbers, reason.split(":")[0].split(";")[0]])
    head = ["margin", "smallest gap", "largest weight", "proven margin", "error right after", "what stops the next"]
    return markdown(head, rows)
