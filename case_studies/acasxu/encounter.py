"""An unsafe encounter: two aircraft as a witness has them, and what the network advises.

The inputs are the distance rho (ft) of the intruder, its direction theta from one's own heading, its heading psi from
one's own (rad, counterclockwise), and the speeds v_own and v_int (ft/s); files hold ``(x - mean) / range``. The outputs
are costs of the five advisories, ``(cost - 7.52) / 373.95`` in the files; the least is given. There is a network for
each previous advisory, in the same order, and each time until vertical separation is lost: ACASXU_run2a_2_9 is for
"weak left" and 100 s. Source: Katz et al. 2017, "Reluplex: an efficient SMT solver for verifying deep neural networks",
section 5 and appendix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from common.report import save
from matplotlib.colors import ListedColormap

import polyopt as po

MEANS = np.array([19791.091, 0.0, 0.0, 650.0, 600.0])
RANGES = np.array([60261.0, 6.28318530718, 6.28318530718, 1100.0, 1200.0])
COST_MEAN, COST_RANGE = 7.5188840201005975, 373.94992
ADVISORIES = ("clear of conflict", "weak left", "weak right", "strong left", "strong right")
COLORS = ("#e8e8e8", "#a6cee3", "#fdd0a2", "#1f78b4", "#e6550d")
AHEAD = 15.0  # seconds of flight that an arrow shows


@dataclass(frozen=True)
class Encounter:
    """``inputs`` (5,) rho, theta, psi, v_own, v_int; ``costs`` (5,) of the advisories."""

    onnx: str
    vnnlib: str
    inputs: np.ndarray
    costs: np.ndarray

    @property
    def advisory(self) -> int:
        """That of least cost."""
        return int(self.costs.argmin())

    @property
    def place(self) -> np.ndarray:
        """Where the intruder is (2,), with oneself at 0, heading up."""
        rho, theta = self.inputs[:2]
        return rho * heading(theta)

    @property
    def separation(self) -> tuple[float, float]:
        """The least distance if both fly straight on, and in how many seconds it is reached."""
        _, _, psi, own, intruder = self.inputs
        drift = intruder * heading(psi) - own * heading(0.0)
        seconds = max(0.0, -float(self.place @ drift) / float(drift @ drift))
        return float(np.linalg.norm(self.place + seconds * drift)), seconds

    def to_json(self) -> dict:
        """Numbers and lists."""
        least, seconds = self.separation
        named = dict(zip(("rho", "theta", "psi", "v_own", "v_int"), self.inputs.tolist(), strict=True))
        costs = dict(zip(ADVISORIES, self.costs.tolist(), strict=True))
        given = {"onnx": self.onnx, "vnnlib": self.vnnlib, "inputs": named, "costs": costs}
        return given | {"advisory": ADVISORIES[self.advisory], "least_distance": least, "reached_in": seconds}


def find(net: po.Network, onnx: Path, vnnlib: Path, limit: float = 60.0) -> Encounter | None:
    """The witness against a property; None where none is found in so many seconds."""
    verdict = po.verify(net, po.read_vnnlib(vnnlib), time_limit=limit)
    if verdict.witness is None:
        return None
    costs = COST_RANGE * verdict.outputs + COST_MEAN
    return Encounter(onnx.name, vnnlib.name, RANGES * verdict.witness + MEANS, costs)


def heading(angle: float) -> np.ndarray:
    """The direction (2,) of an angle from straight up, counterclockwise."""
    return np.array([-math.sin(angle), math.cos(angle)])


def advised(net: po.Network, met: Encounter, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The advisory (len(y), len(x)) if the intruder were at each of the places, with all else as it is."""
    x, y = np.meshgrid(x, y)
    inputs = np.broadcast_to(met.inputs, (*x.shape, 5)).copy()
    inputs[..., 0], inputs[..., 1] = np.hypot(x, y), np.arctan2(-x, y)
    outputs = net(((inputs - MEANS) / RANGES).reshape(-1, 5))
    return outputs.argmin(1).reshape(x.shape)


def draw(net: po.Network, met: Encounter, path: Path) -> None:
    """The two aircraft over what is advised around, and the costs."""
    figure, (sky, bars) = plt.subplots(1, 2, figsize=(11.0, 5.0), layout="constrained", width_ratios=(3, 2))
    reach = 1.4 * max(float(met.inputs[0]), 8000.0)
    ends = np.linspace(-reach, reach, 301)
    sky.pcolormesh(ends, ends, advised(net, met, ends, ends), cmap=ListedColormap(COLORS), vmin=-0.5, vmax=4.5)
    for name, place, angle, speed in (
        ("own ship", np.zeros(2), 0.0, met.inputs[3]),
        ("intruder", met.place, met.inputs[2], met.inputs[4]),
    ):
        flight = AHEAD * speed * heading(angle)
        sky.annotate("", place + flight, place, arrowprops={"arrowstyle": "-|>", "lw": 1.6, "color": "black"})
        sky.plot(*place, "o", color="black")
        sky.annotate(f"{name}, {speed:.0f} ft/s", place, (0, -14), textcoords="offset points", ha="center", fontsize=9)
    sky.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xlabel="ft", ylabel="ft")
    sky.locator_params(nbins=5)
    sky.set_title(f"advised if the intruder were there; arrows: {AHEAD:.0f} s of flight", fontsize=10)
    bars.barh(
        ADVISORIES, met.costs, color=COLORS, edgecolor=["black" if k == met.advisory else "0.7" for k in range(5)]
    )
    bars.invert_yaxis()
    bars.axvline(0.0, color="0.5", linewidth=0.8)
    bars.set_xlabel("cost; the least is given")
    bars.set_title(f"{met.onnx}, {met.vnnlib}:\n{ADVISORIES[met.advisory]}", fontsize=10)
    bars.spines[["top", "right"]].set_visible(False)
    save(figure, path)
