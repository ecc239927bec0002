"""What every study of POLICE or OptNet has in common: its options, its table and its results.json."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

PACKAGES = ("torch", "numpy", "scikit-learn", "matplotlib")


def parser(doc: str, small: str) -> argparse.ArgumentParser:
    """``--small`` and ``--seed``, with the first line of the script's docstring."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--small", action="store_true", help=f"{small}, well under 40 s; writes to small/")
    made.add_argument("--seed", type=int, default=0)
    return made


def folder(study: Path, small: bool) -> Path:
    """Where pictures and results go."""
    out = study / "small" if small else study
    out.mkdir(exist_ok=True)
    return out


def markdown(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def save(figure: plt.Figure, path: Path, dpi: int = 110) -> None:
    """Write the figure as a PNG of 256 colours, a third of the size, and close it."""
    figure.savefig(path, dpi=dpi)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


def write(path: Path, options: argparse.Namespace, results: dict) -> None:
    """The results below the versions, the device and the options that they were found with."""
    about = {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "options": vars(options),
    }
    path.write_text(json.dumps(about | results, indent=1) + "\n")
