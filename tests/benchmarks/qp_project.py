"""What a batch of projections costs at the shapes of mPOLICE, beside other solvers that are installed.

    python tests/benchmarks/qp_project.py [--runs 11] [--threads 1] [--json]

Each case projects 1024 points of n dimensions on a cone with m rows, which all share but for their signs: "regions" are
the homogeneous vertices of regions of 4, each neuron with one sign for each region; "random" are random rows with signs
that a random point has, so that many rows are active. The contenders take turns in one process: `polyopt.qp.project`, a
loop over daqp (which has no backward pass), daqp with one workspace for all, moreau's active set and proxsuite's layer.
Times are medians in milliseconds, forward / forward and backward; "error" is the largest violation of a row.
"""

from __future__ import annotations

import json
import platform
import statistics
from importlib.util import find_spec

import numpy as np
import torch
from qp_common import moreau_solver, parser, timed

from polyopt.qp.project import project

SHAPES = [(33, 64), (65, 128), (64, 33), (128, 65)]  # (n, m)
BATCH, MARGIN = 1024, 0.1


def regions(n: int, m: int) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(0)
    count = -(-m // 4)
    v = (rng.normal(size=(count, 1, n - 1)) + 0.3 * rng.normal(size=(count, 4, n - 1))).reshape(-1, n - 1)
    V, u0 = np.hstack([v, np.ones((len(v), 1))]), rng.normal(size=(BATCH, n)) / np.sqrt(n)
    s = np.where((u0 @ V.T).reshape(BATCH, count, 4).sum(2) > 0, 1.0, -1.0).repeat(4, 1)
    return tuple(map(torch.tensor, (u0, V[:m], s[:, :m])))


def random(n: int, m: int) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(0)
    V, u0, inside = rng.normal(size=(m, n)), rng.normal(size=(BATCH, n)), rng.normal(size=(BATCH, n))
    return tuple(map(torch.tensor, (u0, V, np.where(inside @ V.T > 0, 1.0, -1.0))))


def by_polyopt(n: int, m: int):
    return lambda u0, V, s: project(u0, V, s, MARGIN).u


def by_daqp(n: int, m: int, shared: bool = False):
    import daqp

    def solve(u0, V, s):
        Q, A, f, kinds = np.eye(n), V.numpy(), -u0.numpy(), np.zeros(m, dtype=np.int32)
        upper, lower = np.where(s.numpy() > 0, 1e30, -MARGIN), np.where(s.numpy() > 0, MARGIN, -1e30)
        u, model = np.empty((BATCH, n)), daqp.Model()
        if shared:
            model.setup(Q, f[0], A, upper[0], lower[0], kinds)
        for i in range(BATCH):
            if shared:
                model.update(f=f[i], bupper=upper[i], blower=lower[i], sense=kinds)
                u[i] = model.solve()[0]
            else:
                u[i] = daqp.solve(Q, f[i], A, upper[i], lower[i], kinds)[0]
        return torch.tensor(u)

    return solve


def by_moreau(n: int, m: int):
    solver = moreau_solver(BATCH, n, m, "active_set", diagonal=True)
    ones, b = torch.ones(BATCH, n, dtype=torch.float64), torch.full((BATCH, m), -MARGIN, dtype=torch.float64)
    return lambda u0, V, s: solver.solve(ones, (-s[:, :, None] * V).flatten(1), -u0, b).x


def by_proxsuite(n: int, m: int):
    from proxsuite.torch.qplayer import QPFunction

    layer, kind = QPFunction(structural_feasibility=True), {"dtype": torch.float64}
    Q, A, b = torch.eye(n, **kind), torch.zeros(0, n, **kind), torch.zeros(0, **kind)
    lower, upper = torch.full((m,), MARGIN, **kind), torch.full((m,), 1e20, **kind)
    return lambda u0, V, s: layer(Q, -u0, A, b, s[:, :, None] * V, lower, upper)[0]


# name: the package it needs, what makes it, whether it has a backward pass
CONTENDERS = {
    "polyopt": ("polyopt", by_polyopt, True),
    "daqp": ("daqp", by_daqp, False),
    "daqp, one workspace": ("daqp", lambda n, m: by_daqp(n, m, shared=True), False),
    "moreau": ("moreau", by_moreau, True),
    "proxsuite": ("proxsuite", by_proxsuite, True),
}


def measure(n: int, m: int, data: tuple[torch.Tensor, ...], runs: int) -> dict:
    u0, V, s = data
    found = {}
    solvers = {name: make(n, m) for name, (package, make, _) in CONTENDERS.items() if find_spec(package)}
    times = {name: ([], []) for name in solvers}
    for run in range(runs + 2):
        for name, solve in solvers.items():
            forward, u = timed(lambda solve=solve: solve(u0, V, s))
            both = float("nan")
            if CONTENDERS[name][2]:
                points, rows = u0.clone().requires_grad_(), V.clone().requires_grad_()
                both, _ = timed(lambda solve=solve, a=points, b=rows: solve(a, b, s).square().sum().backward())
            if run >= 2:  # the first two warm up
                times[name][0].append(forward)
                times[name][1].append(both)
            found[name] = {"error": float((MARGIN - s * (u.detach() @ V.T)).max())}
    for name, (forward, both) in times.items():
        found[name] |= {"forward": statistics.median(forward), "both": statistics.median(both)}
    return found


def main() -> None:
    arguments = parser(__doc__, runs=11, threads=1)
    arguments.add_argument("--json", action="store_true", help="print one JSON object")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for n, m in SHAPES:
        for kind, make in (("regions", regions), ("random", random)):
            found = measure(n, m, make(n, m), options.runs)
            rows.append({"n": n, "m": m, "kind": kind, "ms": found})
            if not options.json:
                print(f"n={n} m={m} {kind}:", flush=True)
                for name, x in found.items():
                    print(f"  {name:20} {x['forward']:9.2f} / {x['both']:9.2f} ms   error {x['error']:.1e}", flush=True)
    if options.json:
        about = {"torch": torch.__version__, "threads": options.threads, "machine": platform.processor()}
        print(json.dumps({"batch": BATCH, "runs": options.runs, **about, "cases": rows}))


if __name__ == "__main__":
    main()
