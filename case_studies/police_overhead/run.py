"""Table 1 of the POLICE paper: what it costs to keep a network affine on a region, forward and backward, batch 1024.

In each column of the table the contenders take turns in one process: the network as it is, the paper's Algorithm 1, the
procedure as the published code performs it, and POLICE of polyopt on the same vertices and on a box.
"""

import statistics
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import polyopt as po
from polyopt.training import fit

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "benchmarks"))

from common.claims import claim
from common.networks import mlp
from common.report import folder, markdown, parser, save, write
from police import BATCH, Published

HERE = Path(__file__).resolve().parent
COLUMNS = {  # inputs, hidden layers, width: the paper's milliseconds without, and its slow-down
    (2, 2, 256): (0.9, 4.5),
    (2, 4, 64): (1.3, 5.7),
    (2, 4, 4096): (27.9, 1.4),
    (784, 2, 1024): (0.9, 5.5),
    (784, 8, 1024): (3.1, 6.6),
    (3072, 6, 4096): (51.9, 3.9),
}
LARGE = 2**26  # weights, from which on a pass takes a minute on a CPU
NAMES = {
    "none": "no constraint",
    "algorithm": "Algorithm 1",
    "published": "published code's way",
    "vertices": "POLICE, vertices",
    "box": "POLICE, box",
}
COLORS = {"algorithm": "#999999", "published": "#cccccc", "vertices": "#0072b2", "box": "#e69f00"}
AFTER = (1, 5, 20)  # steps without enforcing anew


class Masked(nn.Module):
    """One pass of batch and vertices together, then those units are shifted in place that need it: the published way.

    Votes are counted in whole numbers: the published code counts them in half precision, where a tie enforces nothing.
    """

    def __init__(self, network: nn.Sequential, vertices: np.ndarray):
        super().__init__()
        self.network = network
        self.register_buffer("vertices", torch.tensor(vertices, dtype=torch.float32))

    def forward(self, x):
        count, layers = len(self.vertices), list(self.network)
        x = torch.cat([x, self.vertices])
        for linear, activation in zip(layers[:-1:2], layers[1::2], strict=True):
            h = linear(x)
            with torch.no_grad():
                positive = h[-count:] > 0
                torn = positive.any(0) & ~positive.all(0)
                sign = torch.where(2 * positive[:, torn].sum(0) >= count, 1.0, -1.0)
            shift = (h[-count:, torn] * sign).amin(0).clamp(max=0) * sign
            h[:, torn] -= shift
            x = activation(h)
        return layers[-1](x[:-count])


def simplex(inputs: int) -> np.ndarray:
    return np.vstack([np.zeros(inputs), np.eye(inputs)])


def contenders(inputs: int, depth: int, width: int, device: str) -> dict[str, nn.Module]:
    plain, corners = mlp(inputs, depth, width, 1), simplex(inputs)
    made = {
        "none": plain,
        "algorithm": Published(plain, corners),
        "published": Masked(plain, corners),
        "vertices": po.police.POLICE(plain, po.VPolytope(corners)),
        "box": po.police.POLICE(plain, po.Box(np.zeros(inputs), np.ones(inputs))),
    }
    return {name: model.to(device) for name, model in made.items()}


def milliseconds(model: nn.Module, x: torch.Tensor) -> float:
    """Of a forward and a backward pass; gradients accumulate, as in the paper."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    model(x).square().mean().backward()
    wait()
    return 1000 * (time.perf_counter() - start)


def column(inputs: int, depth: int, width: int, options, device: str) -> dict[str, list[float]]:
    """All times of all contenders, which take turns: ``runs`` rounds after two to warm up, or until time is up."""
    torch.manual_seed(options.seed)
    models = contenders(inputs, depth, width, device)
    x = torch.randn(BATCH, inputs, device=device)
    times, start = {name: [] for name in models}, time.perf_counter()
    for done in range(-2, options.runs):
        if done >= options.least and time.perf_counter() - start > options.seconds:
            break
        for name, model in models.items():
            taken = milliseconds(model, x)
            if done >= 0:
                times[name].append(taken)
    return times


def stale(seed: int) -> dict[int, tuple[str, float]]:
    """What the network is on the simplex after some steps for which the shifts are left as they are."""
    corners = po.VPolytope(simplex(2))
    x = torch.rand(BATCH, 2, generator=torch.Generator().manual_seed(seed))
    found = {}
    for steps in (0, *AFTER):
        torch.manual_seed(seed)
        network = po.police.POLICE(mlp(2, 4, 64, 1), corners).fold()
        if steps:
            fit(network, x, torch.cos(5 * x.norm(dim=1, keepdim=True)), nn.functional.mse_loss, epochs=steps)
        _, proof = claim(network, corners)
        found[steps] = proof.certificate.status, proof.defect
    return found


def draw(found: dict[tuple, dict[str, list[float]]], where: str, path: Path) -> None:
    """Ratios of medians, with the middle half of the ratios within rounds as whiskers, and the paper's."""
    figure, axis = plt.subplots(figsize=(11.5, 4.6), layout="constrained")
    places, width = np.arange(len(found)), 0.19
    for k, (name, color) in enumerate(COLORS.items()):
        paired = [np.divide(times[name], times["none"]) for times in found.values()]
        ratios = np.array([ratio(times, name) for times in found.values()])
        quarters = np.abs(np.array([np.percentile(pairs, (25, 75)) for pairs in paired]).T - ratios)
        at = places + (k - 1.5) * width
        axis.bar(at, ratios, 0.9 * width, color=color, label=NAMES[name])
        axis.errorbar(at, ratios, quarters, fmt="none", ecolor="0.35", elinewidth=1.0, capsize=2.0)
        for x, value in zip(at, ratios, strict=True):
            axis.annotate(f"{value:.2f}", (x, 0.05), ha="center", va="bottom", fontsize=8, rotation=90)
    axis.scatter(
        places, [COLUMNS[key][1] for key in found], marker="D", color="black", zorder=3, label="paper, on its GPU"
    )
    axis.axhline(1.0, color="black", linewidth=0.8)
    names = [f"D = {inputs}\n{depth} layers of {width}" for inputs, depth, width in found]
    axis.set_xticks(places, names)
    axis.set(ylabel="times as long as without a constraint", title=f"Forward and backward, batch {BATCH}; {where}")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def ratio(times: dict[str, list[float]], name: str) -> float:
    return statistics.median(times[name]) / statistics.median(times["none"])


def table(found: dict[tuple, dict[str, list[float]]]) -> str:
    rows = []
    for (inputs, depth, width), times in found.items():
        rest = [f"{statistics.median(times[name]):.2f} (x{ratio(times, name):.2f})" for name in COLORS]
        row = [f"{inputs} / {depth} / {width}", len(times["none"]), f"{statistics.median(times['none']):.2f}", *rest]
        rows.append([*row, f"x{COLUMNS[inputs, depth, width][1]}"])
    return markdown(["D / depth / width", "rounds", *NAMES.values(), "paper"], rows)


def main() -> None:
    arguments = parser(__doc__, "two columns, a few rounds")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--all", action="store_true", help="on a CPU, the column with 96 million weights too")
    options = arguments.parse_args()
    options.runs, options.least, options.seconds = (5, 3, 4.0) if options.small else (101, 3, 90.0)
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    columns = list(COLUMNS)[:2] if options.small else list(COLUMNS)
    if device == "cpu" and not options.all:
        columns = [(n, depth, width) for n, depth, width in columns if n * width + (depth - 1) * width**2 < LARGE]
    found = {key: column(*key, options, device) for key in tqdm(columns, desc=f"columns on {device}")}
    defects = stale(options.seed)

    out = folder(HERE, options.small)
    where = torch.cuda.get_device_name() if device == "cuda" else f"threads: {options.threads}"
    draw(found, where, out / "overhead.png")
    medians = [
        {"D": inputs, "depth": depth, "width": width, "rounds": len(times["none"])}
        | {"ms": {name: statistics.median(taken) for name, taken in times.items()}}
        | {"ratio": {name: ratio(times, name) for name in COLORS}, "paper": COLUMNS[inputs, depth, width][1]}
        for (inputs, depth, width), times in found.items()
    ]
    after = [{"steps": steps, "status": status, "defect": defect} for steps, (status, defect) in defects.items()]
    write(out / "results.json", options, {"batch": BATCH, "columns": medians, "not enforced anew": after})
    print(table(found))
    rows = [[steps, status, f"{defect:.0e}"] for steps, (status, defect) in defects.items()]
    print(markdown(["steps without enforcing", "affine_on", "defect"], rows))


if __name__ == "__main__":
    main()
