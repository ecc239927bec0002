"""What changes for some patients: moves by feature, of the nearest point and of the heuristic's."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from common.report import save

EXACT, HEURISTIC = "#0072b2", "#e69f00"


def draw(cases: list[dict], path: Path) -> None:
    """One column a patient; ``cases`` hold the question, ``exact`` and ``heuristic`` points and their distances."""
    people = cases[0]["asked"].people
    moves = [[moved(case["asked"], case[kind]) for kind in ("exact", "heuristic")] for case in cases]
    shown = np.flatnonzero(np.abs(moves).max((0, 1)) > 1e-6)
    figure, axes = plt.subplots(1, len(cases), figsize=(3 + 3 * len(cases), 1.5 + 0.28 * len(shown)), sharey=True)
    figure.set_layout_engine("constrained")
    names = [*people.names[: people.numeric], "worst area (bin)"]
    for axis, case, (exact, heuristic) in zip(np.atleast_1d(axes), cases, moves, strict=True):
        rows = np.arange(len(shown))
        axis.barh(rows - 0.2, exact[shown], 0.4, color=EXACT, label=f"nearest: {case['distance']:.2f}")
        axis.barh(rows + 0.2, heuristic[shown], 0.4, color=HEURISTIC, label=f"descent: {case['descent']:.2f}")
        axis.axvline(0.0, color="0.3", lw=0.8)
        axis.set(yticks=rows, yticklabels=[names[i] for i in shown], xlabel="move / median absolute deviation")
        axis.set_title(f"patient {case['patient']}", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=8, loc="upper right")
    np.atleast_1d(axes)[0].invert_yaxis()
    save(figure, path, dpi=100)


def moved(asked, x: np.ndarray) -> np.ndarray:
    """The moves (30,) in the distance's unit; the bins' as one, from the patient's bin to the new one."""
    k = asked.people.numeric
    numeric = (x - asked.x)[:k] * asked.people.weights
    return np.append(numeric, (x[k:].round() - asked.x[k:]) @ asked.people.bins)
