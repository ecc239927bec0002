"""`polyopt.affine_on` knows nothing of POLICE: it proves what POLICE makes, and finds what breaks it."""

import numpy as np
import pytest
import torch
from torch import nn

import polyopt as po
from polyopt.police import POLICE

SQUARE = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
REGIONS = {
    "box": po.Box([0.0, 0.0], [1.0, 1.0]),
    "zonotope": po.Zonotope([0.5, 0.5], [[0.3, 0.2], [0.2, -0.3]]),
    "ellipsoid": po.Ellipsoid([0.5, 0.5], [[0.5, 0.0], [0.2, 0.4]]),
    "vpolytope": po.VPolytope(SQUARE),
    "hpolytope": po.HPolytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]], [0.0, 0.0, 1.0]),
}


def mlp(seed, dtype=torch.float64, depth=3):
    torch.manual_seed(seed)
    layers = [part for k in range(depth) for part in (nn.Linear(8 if k else 2, 8), nn.LeakyReLU())]
    return nn.Sequential(*layers, nn.Linear(8, 2)).to(dtype)


def proof(module, region):
    return po.affine_on(po.from_torch(module.eval(), (2,)), region)


def check_witness(module, certificate):
    with torch.no_grad():
        f = module.double()(torch.tensor(certificate.witness)).numpy()
    assert abs(f[1] - (f[0] + f[2]) / 2).max() > 0


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_police_promises_is_proven(kind, dtype):
    module, region = mlp(1, dtype), REGIONS[kind]
    assert proof(module, region).status == "not affine"
    certificate = proof(POLICE(module, region).fold(), region)
    assert certificate.status == "affine"
    assert certificate.margin > 0


def test_proofs_need_no_gradients_from_their_caller():
    with torch.no_grad():
        assert proof(mlp(1), REGIONS["vpolytope"]).status == "not affine"


@pytest.mark.parametrize("seed", range(5))
def test_a_shift_dropped_for_one_unit_is_found(seed):
    module, region = mlp(seed), REGIONS["vpolytope"]
    folded = POLICE(module, region).fold()
    moved = [
        (layer, unit)
        for layer in (0, 2, 4)
        for unit in range(8)
        if abs(folded[layer].bias[unit] - module[layer].bias[unit]) > 1e-3
    ]
    layer, unit = moved[np.random.default_rng(seed).integers(len(moved))]
    with torch.no_grad():
        folded[layer].bias[unit] = module[layer].bias[unit]
    certificate = proof(folded, region)
    assert certificate.status == "not affine"
    check_witness(folded, certificate)


@pytest.mark.parametrize("vote", [torch.float16, None])
@pytest.mark.parametrize("seed", range(5))
def test_the_vote_in_half_precision_is_found(seed, vote):
    """The published code's sign is that of the mean vote less a half, in float16: 0 where two of four agree."""
    module, x = mlp(seed, depth=1), torch.tensor(SQUARE, dtype=torch.float64)
    with torch.no_grad():
        module[0].weight[:2] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        module[0].bias[:2] = -0.5 * module[0].weight[:2].sum(1)  # half of the corners on each side
        h = module[0](x)
        sign = torch.sign((h > 0).to(vote).mean(0) - 0.5) if vote else torch.where(2 * (h > 0).sum(0) >= 4, 1, -1)
        module[0].bias += (-h * sign).relu().amax(0) * sign + 1e-9 * sign
    certificate = proof(module, po.VPolytope(SQUARE))
    assert certificate.status == ("not affine" if vote else "affine")
    if vote:
        check_witness(module, certificate)
