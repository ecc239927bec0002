"""The least value of a network with one hidden layer over a polytope, by listing vertices.

On each of its linear regions the network is affine, and so is the objective, whose least value over the polytope's part
in it lies at a vertex: a point where n of the hyperplanes meet that bound the polytope, or at which a unit changes its
piece. All such points are computed, and those outside are left out: no linear program, no branching, no bounds.
"""

import itertools
import math

import numpy as np

import polyopt as po

NEAR = 1e-9


def image(region):
    """The region as ``{c + M w : G w <= h}``: c (n,), M (n, k), G (m, k), h (m,)."""
    match region:
        case po.Box():
            n = region.size
            eye = np.eye(n)
            return np.zeros(n), eye, np.vstack([eye, -eye]), np.concatenate([region.upper, -region.lower])
        case po.Zonotope():
            k = region.generators.shape[1]
            return region.center, region.generators, np.vstack([np.eye(k), -np.eye(k)]), np.ones(2 * k)
        case po.VPolytope():
            first, *others = region.points
            k = len(others)
            rows = np.vstack([-np.eye(k), np.ones((1, k))])
            return first, (others - first).T, rows, np.append(np.zeros(k), 1.0)
        case po.HPolytope():
            return np.zeros(region.size), np.eye(region.size), region.A, region.b
        case po.Product():
            parts = [image(part) for part in region.regions]
            c, h = (np.concatenate([part[i] for part in parts]) for i in (0, 3))
            return c, beside([part[1] for part in parts]), beside([part[2] for part in parts]), h


def beside(blocks):
    """A block-diagonal matrix."""
    rows, columns = (np.cumsum([0, *sizes]) for sizes in zip(*(block.shape for block in blocks), strict=True))
    found = np.zeros((rows[-1], columns[-1]))
    for block, i, j in zip(blocks, rows, columns, strict=False):
        found[i : i + block.shape[0], j : j + block.shape[1]] = block
    return found


def vertices(net, region, A, b):
    """The points x (v, n) among which the least value is attained where ``A x <= b``."""
    c, M, G, h = image(region)
    G, h = np.vstack([G, A @ M]), np.concatenate([h, b - A @ c])
    rows, sides = [G], [h]
    if net.activations:
        first, activation = net.layers[0], net.activations[0]
        W, v = first.weight @ M, first.weight @ c + first.bias
        for breakpoints in activation.layer.pieces(activation.shape).breakpoints:
            kept = np.isfinite(breakpoints)
            rows.append(W[kept])
            sides.append((breakpoints - v)[kept])
    rows, sides = np.vstack(rows), np.concatenate(sides)
    k = M.shape[1]
    chosen = np.array(list(itertools.combinations(range(len(rows)), k)))
    chosen = chosen[abs(np.linalg.det(rows[chosen])) > 1e-10]
    w = np.linalg.solve(rows[chosen], sides[chosen][..., None])[..., 0]
    return c + w[(w @ G.T <= h + NEAR * (1.0 + abs(h))).all(1)] @ M.T


def least(net, region, c, p, A, b):
    """The least ``c net(x) + p x`` where ``A x <= b``; infinite where there is no point."""
    x = vertices(net, region, A, b)
    return (net(x) @ c + x @ p).min() if len(x) else math.inf
