"""Instances of one's own, where the published ones are not at hand: a random network of five inputs and outputs."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import nn

import polyopt as po

LIMITS = (-5.0, -1.0, -0.6, -0.4, -0.2, 0.0)  # below which an advisory must not cost


def write_toy(folder: Path, seed: int) -> Path:
    """A table of six instances, their network and their properties, and where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 5))
    po.to_onnx(po.from_torch(model.eval(), input_shape=(5,)), folder / "toy.onnx")
    declared = [f"(declare-const {name}_{i} Real)" for name in "XY" for i in range(5)]
    box = [f"(assert ({sign} X_{i} {end}))" for i in range(5) for sign, end in ((">=", -0.3), ("<=", 0.3))]
    rows = []
    for number, limit in enumerate(LIMITS, 1):
        unsafe = " ".join(f"(and (<= Y_{k} {limit:.3f}))" for k in range(5))
        name = f"prop_{number}.vnnlib"
        (folder / name).write_text("\n".join([*declared, *box, f"(assert (or {unsafe}))"]) + "\n")
        rows.append(["toy.onnx", name, 10])
    table = folder / "instances.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["onnx", "vnnlib", "timeout"], *rows])
    return table
