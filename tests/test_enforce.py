"""Enforcement: after one pass every region lies in a linear region of its own, proven by `polyopt.affine_on`."""

import copy
import itertools

import numpy as np
import pytest
import torch
from test_separable import bars
from torch import nn

import polyopt as po
from polyopt.police import EnforcementError, enforce


def mlp(*sizes, activation=nn.ReLU, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    layers = [(nn.Linear(*pair), activation()) for pair in itertools.pairwise(sizes)]
    return nn.Sequential(*itertools.chain.from_iterable(layers))[:-1].to(dtype)


def on_a_ring(count, n=2, seed=0):
    """Polygons, boxes and zonotopes in turn, on a circle in the first two of n dimensions."""
    rng, regions = np.random.default_rng(seed), []
    for k in range(count):
        center = rng.normal(size=n)
        center[:2] = 2 * np.cos(2 * np.pi * k / count), 2 * np.sin(2 * np.pi * k / count)
        reach = 0.5 * np.sin(np.pi / max(count, 3))
        if k % 3 == 0:
            regions.append(po.VPolytope(center + reach * rng.uniform(-1, 1, size=(6, n))))
        elif k % 3 == 1:
            regions.append(po.Box.ball(center, reach))
        else:
            regions.append(po.Zonotope(center, 0.3 * reach * rng.normal(size=(n, 3))))
    return regions


def pattern(module, points):
    """The signs of all hidden pre-activations at points, (P, units)."""
    x, found = torch.tensor(points), []
    for part in module.double():
        if not isinstance(part, nn.Linear):
            found.append(x > 0)
        x = part(x)
    return torch.cat(found, 1)


def check(module, regions, report):
    """Proofs, patterns and maps, from the module and not from what the report says of it."""
    rng, patterns = np.random.default_rng(0), []
    network = po.from_torch(copy.deepcopy(module).eval(), (regions[0].size,))
    for k, region in enumerate(regions):
        certificate = po.affine_on(network, region)
        assert certificate.status == "affine"
        assert certificate.margin > 0
        x = region.sample(50, rng)
        (own,) = torch.unique(pattern(copy.deepcopy(module), x), dim=0)
        patterns.append(tuple(own.tolist()))
        y = x @ report.slope[k].numpy().T + report.offset[k].numpy()
        np.testing.assert_allclose(network(x), y, rtol=0, atol=1e-12 * (1 + abs(y).max()))
    assert len(set(patterns)) == len(patterns)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_region_gets_a_linear_region_of_its_own(activation, dtype, count):
    module, regions = mlp(2, 16, 16, 1, activation=activation, dtype=dtype), on_a_ring(count)
    before = copy.deepcopy(module)
    report = enforce(module, regions)
    check(module, regions, report)
    assert report.cost == pytest.approx(sum(layer.cost for layer in report.layers))
    assert report.bound == pytest.approx(report.cost, rel=1e-6, abs=1e-12)
    moved = sum(
        (p - q).double().square().sum().item() for p, q in zip(module.parameters(), before.parameters(), strict=True)
    )
    assert moved == pytest.approx(report.cost, rel=1e-3, abs=1e-6)
    assert (module[-1].weight == before[-1].weight).all()
    assert all(layers for layers in report.separated.values())
    assert "proven" in str(report)


@pytest.mark.parametrize("rule", ["exact", "majority", "mean"])
@pytest.mark.parametrize("separate", ["first", "any", "effective"])
def test_policies(rule, separate):
    regions, module = on_a_ring(3), mlp(2, 16, 16, 2)
    report = enforce(module, regions, signs=rule, separate=separate)
    check(module, regions, report)
    if separate == "first":
        assert all(names[0] == "0" for names in report.separated.values())
    if separate == "effective":
        off = ~torch.eye(3, dtype=torch.bool)
        assert (report.difference[off] > 1e-6).all()


def test_margins_are_kept_in_every_layer():
    regions, module = on_a_ring(4), mlp(2, 12, 12, 1)
    enforce(module, regions, margin=0.05)
    network = po.from_torch(module.eval(), (2,))
    for region in regions:
        assert po.affine_on(network, region).margin >= 0.05 * (1 - 1e-6)


def test_any_costs_no_more_in_the_first_layer():
    shifted = [po.Box.ball(region.center + 6.0, 0.2) for region in on_a_ring(4)]
    costs = [enforce(mlp(2, 8, 8, 1), shifted, separate=policy).layers[0].cost for policy in ("any", "first")]
    assert costs[0] <= costs[1]


def test_a_unit_without_effect_separates_only_where_that_is_enough():
    """One unit tells the regions apart, and no output depends on it."""
    regions = [po.Box([0.0], [1.0]), po.Box([2.0], [3.0])]

    def module():
        found = mlp(1, 2, 1)
        with torch.no_grad():
            found[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
            found[0].bias.copy_(torch.tensor([-1.5, 2.0]))
            found[2].weight.copy_(torch.tensor([[0.0, 1.0]]))
        return found

    lazy, honest = module(), module()
    report = enforce(lazy, regions, separate="first")
    assert report.cost == 0
    assert report.difference[0, 1] == 0
    report = enforce(honest, regions, separate="effective")
    assert report.cost > 0
    assert report.difference[0, 1] > 0
    check(honest, regions, report)


def test_the_pinwheel_is_refused_and_its_parts_are_enforced():
    regions, module = bars(), mlp(2, 24, 24, 1)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(EnforcementError, match="every hyperplane") as error:
        enforce(module, regions)
    assert error.value.pairs == ((0, 1), (0, 2), (1, 2))
    assert all((module.state_dict()[name] == values).all() for name, values in before.items())
    cut = po.police.separable(regions).cut
    parts = po.subdivide(regions[cut.region], cut.normal, cut.offset, gap=0.02)
    regions[cut.region : cut.region + 1] = parts
    check(module, regions, enforce(module, regions))


def test_boxes_in_many_dimensions():
    rng = np.random.default_rng(0)
    regions = [po.Box.ball(rng.normal(size=40), 0.2) for _ in range(3)]
    module = mlp(40, 32, 32, 3, activation=nn.LeakyReLU)
    report = enforce(module, regions)
    check(module, regions, report)


def test_a_layer_too_narrow_is_named():
    regions = [po.Box([2.0 * k], [2.0 * k + 1.0]) for k in range(4)]
    with pytest.raises(EnforcementError, match=r"no layer can separate|too few"):
        enforce(mlp(1, 1, 1), regions)


def test_a_margin_lost_in_float32_is_noticed():
    regions, module = on_a_ring(3), mlp(2, 16, 1, dtype=torch.float32)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(EnforcementError, match="larger margin"):
        enforce(module, regions, margin=1e-12)
    assert all((module.state_dict()[name] == values).all() for name, values in before.items())


def test_other_modules_are_refused():
    regions = on_a_ring(2)
    linear = nn.Linear(2, 2)
    for module, kind, message in [
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)), po.UnsupportedLayer, "Tanh"),
        (nn.Linear(2, 1), ValueError, "linear layer at the end"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ValueError, "linear layer at the end"),
        (nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1)), ValueError, "no bias"),
        (nn.Sequential(linear, nn.ReLU(), linear), ValueError, "share"),
    ]:
        with pytest.raises(kind, match=message):
            enforce(module, regions)
    with pytest.raises(ValueError, match="separate"):
        enforce(mlp(2, 4, 1), regions, separate="last")
    with pytest.raises(ValueError, match="dimensions"):
        enforce(mlp(3, 4, 1), regions)
    with pytest.raises(ValueError, match="margin"):
        enforce(mlp(2, 4, 1), regions, margin=0.0)


def test_twelve_regions_and_two_layers_of_256():
    regions, module = on_a_ring(12), mlp(2, 256, 256, 1)
    report = enforce(module, regions, time_limit=60.0)
    check(module, regions, report)
    assert report.seconds < 120
