"""The QP layer against others: forward and backward passes over a batch of the paper's random problems.

    python tests/benchmarks/qp.py [--sizes 10 50 100] [--batch 128] [--runs 5] [--threads 2]

Entries of U are uniform, Q = U'U + 1e-3 I, G normal, h = G z0 + s0 with z0 normal and s0 uniform; as many inequalities
as variables (OptNet, footnote 4). Contenders that are installed take turns in one process: polyopt (which takes daqp
for small problems if that is installed), qpth, proxsuite's QPLayer and moreau's two methods. The residual is the
largest violation of a constraint, the gradient error the largest difference of dl/dp, l the sum of z, from that of an
active-set system solved in NumPy, beside its largest entry.
"""

from __future__ import annotations

import statistics

import numpy as np
import torch
from qp_common import moreau_solver, parser, timed
from torch import Tensor

from polyopt.qp import QPLayer


def problems(batch: int, n: int, m: int, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    U, G = torch.rand(batch, n, n, **options), torch.randn(batch, m, n, **options)
    z, s = torch.randn(batch, n, **options), torch.rand(batch, m, **options)
    Q = U.mT @ U + 1e-3 * torch.eye(n, dtype=torch.float64)
    return Q, torch.randn(batch, n, **options), G, (G @ z[..., None])[..., 0] + s


def qpth(batch, n, m):
    from qpth.qp import QPFunction

    none = torch.empty(0, dtype=torch.float64)
    return lambda Q, p, G, h: QPFunction(verbose=-1)(Q, p, G, h, none, none)


def proxsuite(batch, n, m):
    from proxsuite.torch.qplayer import QPFunction

    A, b = torch.zeros(batch, 0, n, dtype=torch.float64), torch.zeros(batch, 0, dtype=torch.float64)
    low = torch.full((batch, m), -1e20, dtype=torch.float64)
    return lambda Q, p, G, h: QPFunction(omp_parallel=torch.get_num_threads() > 1)(Q, p, A, b, G, low, h)[0]


def moreau(method):
    def make(batch, n, m):
        solver = moreau_solver(batch, n, m, method)
        return lambda Q, p, G, h: solver.solve(Q.flatten(1), G.flatten(1), p, h).x

    return make


CONTENDERS = {
    "polyopt": lambda batch, n, m: QPLayer(),
    "qpth": qpth,
    "proxsuite": proxsuite,
    "moreau active set": moreau("active_set"),
    "moreau interior point": moreau("ipm"),
}


def exact_gradient(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, z: Tensor) -> np.ndarray:
    """dl/dp for l = sum of z, from the rows that hold with equality at z."""
    found = []
    for Qi, Gi, hi, zi in zip(*(x.numpy() for x in (Q, G, h, z)), strict=True):
        C = Gi[np.abs(Gi @ zi - hi) < 1e-7]
        K = np.block([[Qi, C.T], [C, np.zeros((len(C), len(C)))]])
        found.append(-np.linalg.solve(K, np.concatenate([np.ones(len(zi)), np.zeros(len(C))]))[: len(zi)])
    return np.array(found)


def compare(batch: int, n: int, m: int, runs: int) -> None:
    data = problems(batch, n, m)
    solvers = {}
    for name, make in CONTENDERS.items():
        try:
            solvers[name] = make(batch, n, m)
        except ImportError as error:
            print(f"{name} is not installed: {error}")
    times = {name: ([], []) for name in solvers}
    quality = {}
    for run in range(runs + 1):
        for name, solver in solvers.items():
            arguments = [x.clone().requires_grad_() for x in data]
            forward, z = timed(lambda solver=solver, arguments=arguments: solver(*arguments))
            backward, _ = timed(lambda z=z: z.sum().backward())
            if run:  # the first warms up
                times[name][0].append(forward)
                times[name][1].append(forward + backward)
            else:
                violation = ((data[2] @ z.detach()[..., None])[..., 0] - data[3]).clamp(min=0).max().item()
                quality[name] = violation, arguments[1].grad.numpy(), z.detach()
    exact = exact_gradient(*data, quality["polyopt"][2])
    for name, (forward, both) in times.items():
        violation, gradient, _ = quality[name]
        error = np.abs(gradient - exact).max() / np.abs(exact).max()
        print(
            f"n={n} m={m} B={batch} {name:22s} forward {statistics.median(forward):8.1f} ms   "
            f"forward+backward {statistics.median(both):8.1f} ms   violation {violation:.1e}   gradient {error:.1e}",
            flush=True,
        )


def main() -> None:
    arguments = parser(__doc__, runs=5, threads=2)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[10, 50, 100])
    arguments.add_argument("--batch", type=int, default=128)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    for size in options.sizes:
        compare(options.batch, size, size, options.runs)


if __name__ == "__main__":
    main()
