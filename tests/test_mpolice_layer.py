"""One layer of mPOLICE: the decomposition, the monolith and brute force agree."""

import itertools
import math

import numpy as np
import pytest
import torch
from pyomo.contrib.solver.common.factory import SolverFactory
from pyomo.contrib.solver.common.results import TerminationCondition
from scipy.optimize import LinearConstraint, milp, nnls

import polyopt as po
from polyopt.police.covering import cover
from polyopt.police.hulls import hulls
from polyopt.police.layer_miqp import layer_miqp
from polyopt.police.pairs import unseparated
from polyopt.police.pricing import Clock
from polyopt.police.projections import projections
from polyopt.police.signs import Table
from polyopt.police.solve_layer import solve_layer
from polyopt.police.tree import Tree
from polyopt.qp import Status


def random_region(rng, n, size):
    center = rng.normal(size=n) * 1.5
    kind = rng.integers(4)
    if kind == 0:
        return po.Box.ball(center, size * rng.random())
    if kind == 1:
        return po.Zonotope(center, size * rng.normal(size=(n, rng.integers(1, 4))))
    if kind == 2 and n > 1:
        points = po.VPolytope(center[:-1] + size * rng.normal(size=(3, n - 1)))
        return po.Product(points, po.Box.ball(center[-1:], size))
    return po.VPolytope(center + size * rng.normal(size=(rng.integers(1, 6), n)))


def instance(seed, most_regions=4, most_units=4):
    rng = np.random.default_rng(seed)
    n, count, units = rng.integers(1, 4), rng.integers(2, most_regions + 1), rng.integers(1, most_units + 1)
    regions = [random_region(rng, n, rng.choice([0.1, 0.3])) for _ in range(count)]
    weight, bias = torch.tensor(rng.normal(size=(units, n))), torch.tensor(rng.normal(size=units))
    pairs = list(itertools.combinations(range(count), 2))
    separated = [pair for pair in pairs if rng.random() < 0.3]
    return weight, bias, regions, float(rng.choice([0.01, 0.2])), separated


def vertices(region):
    """All points e = +-1, however many."""
    (each,) = hulls([region])
    count = len(each.generators)
    turns = 2.0 * np.indices((2,) * count).reshape(count, 2**count).T - 1.0
    points = (each.points.numpy()[:, None] + turns @ each.generators.numpy()).reshape(-1, each.size)
    return np.hstack([points, np.ones((len(points), 1))])


def by_nnls(u0, rows, margin):
    """min |u - u0|^2 subject to rows u >= margin, by Lawson and Hanson's algorithm LDP; infinite if there is no u."""
    needs = margin - rows @ u0
    if needs.max() <= 0:
        return 0.0
    E = np.vstack([rows.T, needs])
    f = np.eye(len(E))[-1]
    rest = E @ nnls(E, f, maxiter=1000)[0] - f
    return math.inf if np.linalg.norm(rest) < 1e-9 else float(((rest[:-1] / rest[-1]) ** 2).sum())


def table(weight, bias, regions, margin):
    units = np.hstack([weight.numpy(), bias.numpy()[:, None]])
    corners = [vertices(region) for region in regions]
    signs = list(itertools.product([1.0, -1.0], repeat=len(regions)))
    rows = [np.vstack([s * v for s, v in zip(each, corners, strict=True)]) for each in signs]
    return signs, np.array([[by_nnls(u, each, margin) for each in rows] for u in units])


def brute_force(weight, bias, regions, margin, separated):
    """The optimum over all assignments: the pairs that the units so far separate, as a set, at their least cost."""
    signs, cost = table(weight, bias, regions, margin)
    pairs = set(itertools.combinations(range(len(regions)), 2)) - set(separated)
    apart = [frozenset(p for p in pairs if s[p[0]] != s[p[1]]) for s in signs]
    least = {frozenset(): 0.0}
    for row in cost:
        following = {}
        for (done, so_far), (own, more) in itertools.product(least.items(), zip(apart, row, strict=True)):
            key = done | own
            following[key] = min(following.get(key, math.inf), so_far + more)
        least = following
    return least.get(frozenset(pairs), math.inf)


def check(weight, bias, regions, margin, separated, found):
    """What was found keeps every promise."""
    units = np.hstack([found.weight.numpy(), found.bias.numpy()[:, None]])
    moved = units - np.hstack([weight.double().numpy(), bias.double().numpy()[:, None]])
    assert (moved**2).sum() == pytest.approx(found.cost, rel=1e-9, abs=1e-12)
    for region, signs in zip(regions, found.signs.numpy(), strict=True):
        assert (signs[:, None] * (units @ vertices(region).T)).min() >= margin * (1 - 1e-7)
    for i, j in set(itertools.combinations(range(len(regions)), 2)) - set(separated):
        assert (found.signs[i] != found.signs[j]).any()


@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_optimum_where_units_have_to_be_bent(seed):
    """Regions that no unit separates at first, so that column generation and enumeration have work to do."""
    rng = np.random.default_rng(seed)
    count, units = rng.integers(3, 6), rng.integers(2, 7)
    regions = [
        po.VPolytope([6.0, 5.0] + 1.5 * rng.normal(size=2) + 0.1 * rng.normal(size=(3, 2))) for _ in range(count)
    ]
    weight, bias = torch.tensor(0.5 * rng.normal(size=(units, 2))), torch.tensor(0.5 * rng.normal(size=units))
    found, expected = solve_layer(weight, bias, regions, 0.05), brute_force(weight, bias, regions, 0.05, [])
    assert found.cost == pytest.approx(expected, rel=1e-7)
    assert found.bound == pytest.approx(found.cost, rel=1e-7)


@pytest.mark.parametrize("block", range(10))
def test_it_is_the_optimum_over_all_signs(block):
    outcomes = set()
    for seed in range(20 * block, 20 * block + 20):
        case = instance(seed)
        found, expected = solve_layer(*case), brute_force(*case)
        outcomes.add(found.status)
        if math.isinf(expected):
            assert found.status == "infeasible", seed
            assert found.reason
        else:
            assert found.status == "optimal", seed
            assert found.cost == pytest.approx(expected, rel=1e-7, abs=1e-7), seed
            assert found.bound == pytest.approx(found.cost, rel=1e-6, abs=1e-9)
            check(*case, found)
    assert outcomes == {"optimal", "infeasible"}


def by_scip(case):
    """The monolith's best cost and bound; SCIP keeps rows to 1e-8, so that its big M leave no room."""
    model = layer_miqp(*case)
    scip = SolverFactory("scip_direct")
    scip.config.load_solutions = scip.config.raise_exception_on_nonoptimal_result = False
    options = {"numerics/feastol": 1e-8, "limits/gap": 1e-8, "limits/absgap": 1e-8}
    options |= {"limits/time": 5.0, "display/verblevel": 0}
    found = scip.solve(model, solver_options=options)
    if found.termination_condition == TerminationCondition.provenInfeasible:
        return math.inf, math.inf
    return found.incumbent_objective, found.objective_bound


@pytest.mark.parametrize("block", range(2))
def test_it_is_the_monoliths_optimum(block):
    pytest.importorskip("pyscipopt")
    open_ = 0
    for seed in range(1000 + 10 * block, 1000 + 10 * block + 10):
        case = instance(seed, 3, 3)
        (best, bound), found = by_scip(case), solve_layer(*case)
        slack = 1e-7 + 5e-7 * found.cost if found.cost < math.inf else 0.0  # SCIP's rows have room times M
        assert found.cost <= best + slack, seed
        assert found.cost >= bound - slack, seed
        open_ += not (math.isinf(best) or best - bound < 1e-6)
    assert open_ <= 2  # where SCIP cannot close the gap at these tolerances


@pytest.mark.parametrize("seed", range(20))
def test_projections_agree_with_least_distance_programming(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 6))
    regions = [random_region(rng, n, 0.4) for _ in range(4)]
    units = torch.tensor(rng.normal(size=(12, n + 1)))
    signs = torch.tensor(rng.choice([-1.0, 1.0], size=(12, 4)))
    found = projections(hulls(regions), units, signs, 0.1)
    corners = [vertices(region) for region in regions]
    for k in range(12):
        rows = np.vstack([s * v for s, v in zip(signs[k].tolist(), corners, strict=True)])
        assert float(found.cost[k]) == pytest.approx(by_nnls(units[k].numpy(), rows, 0.1), rel=1e-7, abs=1e-9)
        assert (found.status[k] == Status.INFEASIBLE) == (found.proof[k] > 0).any()


def wide(count, width, shift=0.0, seed=0, points=8):
    """Circles on a ring and a layer as torch makes it; far from the origin hardly a unit separates any of them."""
    rng = np.random.default_rng(seed)
    around = np.linspace(0, 2 * np.pi, points, endpoint=False)
    circle = np.column_stack([np.cos(around), np.sin(around)])
    middles = 2.0 * np.column_stack([f(2 * np.pi * np.arange(count) / count) for f in (np.cos, np.sin)])
    regions = [po.VPolytope(middle + 0.9 * np.sin(np.pi / count) * circle) for middle in middles]
    if shift:
        regions = [po.VPolytope(0.5 * each.points + shift) for each in regions]
    weight = torch.tensor(rng.uniform(-1, 1, (width, 2)) / 2**0.5)
    return weight, torch.tensor(rng.uniform(-1, 1, width) / 2**0.5), regions, 1e-3


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_twelve_regions_and_width_256(shift):
    case = wide(12, 256, shift)
    found = solve_layer(*case, time_limit=60.0)
    assert found.status == "optimal"
    assert found.seconds < 60
    check(*case, [], found)


def both_ways(weight, bias, regions, margin, separated):
    """The costs and bounds of the best covers, and what cannot be separated: with the table and with the tree."""
    units, count = torch.cat([weight, bias[:, None]], 1), len(regions)
    able, clock = torch.ones(len(units), dtype=torch.bool), Clock()
    for kind in (Table, Tree):
        costs = kind(hulls(regions), units, margin, clock)
        pairs = sorted(tuple(sorted(edge)) for edge in unseparated(count, separated).edges)
        together = costs.inseparable(pairs)
        found = cover(costs, [pair for pair in pairs if pair not in together], count, able, clock)
        yield found.cost, found.bound, together


@pytest.mark.parametrize("block", range(2))
def test_the_tree_has_the_tables_optimum(block):
    for seed in range(20 * block, 20 * block + 20):
        (cost, bound, together), (other, below, also) = both_ways(*instance(seed, 6, 4))
        assert together == also, seed
        assert other == pytest.approx(cost, rel=1e-7, abs=1e-9), seed
        assert below == pytest.approx(bound, rel=1e-6, abs=1e-9), seed


def test_pairs_that_cost_more_than_the_units_are_separated_all_the_same():
    """So that a penalty for missing pairs is too low, and columns that cost nothing have to show the way."""
    for seed in range(12):
        weight, bias, regions, margin, separated = instance(300 + seed, 5, 3)
        case = 1e-3 * weight, 1e-3 * bias, regions, margin, separated
        expected = brute_force(*case)
        for cost, _, together in both_ways(*case):
            assert together or cost == pytest.approx(expected, rel=1e-7), seed


@pytest.mark.parametrize(
    ("count", "width", "shift"), [(6, 8, 5.0), (8, 6, 5.0), (8, 12, 0.0), (9, 10, 5.0), (10, 16, 5.0)]
)
def test_the_tree_has_the_tables_optimum_with_many_regions(count, width, shift):
    (cost, _, _), (other, below, _) = both_ways(*wide(count, width, shift), [])
    assert other == pytest.approx(cost, rel=1e-7)
    assert below == pytest.approx(cost, rel=1e-7)


def intervals(count, width, seed):
    rng = np.random.default_rng(seed)
    regions = [po.Box([k - 0.3 * rng.random()], [k + 0.3 * rng.random()]) for k in rng.permutation(count)]
    return torch.tensor(rng.normal(size=(width, 1))), torch.tensor(count * rng.normal(size=width) / 4), regions, 0.01


def on_a_line(weight, bias, regions, margin):
    """The optimum for intervals: a unit changes its sign between two of them or never, and HiGHS chooses where."""
    middles = np.array([region.center[0] for region in regions])
    signs = [s * np.where(middles > cut - 0.5, 1.0, -1.0) for cut in range(len(regions) + 1) for s in (1.0, -1.0)]
    units = np.hstack([weight.numpy(), bias.numpy()[:, None]])
    rows = [np.vstack([s * vertices(region) for s, region in zip(each, regions, strict=True)]) for each in signs]
    cost = np.array([[by_nnls(u, each, margin) for each in rows] for u in units])
    apart = np.array([[s[i] != s[j] for s in signs] for i, j in itertools.combinations(range(len(regions)), 2)])
    one = np.kron(np.eye(len(units)), np.ones(len(signs)))
    rules = [LinearConstraint(one, 1, 1), LinearConstraint(np.tile(apart, len(units)).astype(float), 1, np.inf)]
    found = milp(cost.ravel(), integrality=np.ones(cost.size), bounds=(0, 1), constraints=rules)
    return found.fun if found.success else math.inf


@pytest.mark.parametrize(("count", "width", "seed"), [(7, 8, 0), (18, 20, 1), (18, 24, 2), (18, 16, 3), (20, 20, 4)])
def test_it_is_the_optimum_for_more_regions_than_a_table_has_room_for(count, width, seed):
    case = intervals(count, width, seed)
    found, expected = solve_layer(*case), on_a_line(*case)
    assert found.cost == pytest.approx(expected, rel=1e-7)
    assert math.isinf(expected) == (width < count - 1) == (found.status == "infeasible")
    if found.status != "infeasible":
        assert found.bound == pytest.approx(found.cost, rel=1e-7)
        check(*case, [], found)


@pytest.mark.parametrize(("count", "n", "width"), [(18, 2, 32), (24, 2, 64), (24, 8, 16)])
def test_many_regions_have_a_proven_bound_at_a_time_limit(count, n, width):
    rng = np.random.default_rng(count)
    places = np.stack(np.unravel_index(rng.permutation(5**n)[:count], (5,) * n), 1)
    regions = [po.Box.ball(place + 0.1 * rng.normal(size=n), 0.2) for place in places]
    case = torch.tensor(rng.normal(size=(width, n))), torch.tensor(2 * rng.normal(size=width)), regions, 0.01
    found = solve_layer(*case, time_limit=10.0)
    assert 0 < found.bound <= found.cost * (1 + 1e-9)
    if found.weight is not None:
        check(*case, [], found)
    for rule in ("mean", "majority"):
        assert found.cost <= solve_layer(*case, signs=rule).cost * (1 + 1e-9)


def test_what_the_rules_find_is_kept_at_a_time_limit():
    kept = 0
    for seed in range(40):
        case = instance(seed)
        rules = [solve_layer(*case, signs=rule).cost for rule in ("mean", "majority")]
        found = solve_layer(*case, time_limit=1e-9)
        assert found.cost <= min(rules)
        assert found.bound <= brute_force(*case) * (1 + 1e-9) + 1e-12
        if found.cost < math.inf:
            check(*case, found)
        else:
            assert found.reason
        kept += found.status == "time limit" and found.cost == min(rules) < math.inf
    assert kept > 5


def test_at_a_time_limit_the_bound_is_proven():
    case = wide(6, 6, 5.0)
    best = solve_layer(*case)
    assert best.status == "optimal"
    for limit in (1e-9, 0.02, 0.05, 0.1, 0.3):
        found = solve_layer(*case, time_limit=limit)
        assert found.bound <= best.cost * (1 + 1e-9)
        assert found.cost >= best.cost * (1 - 1e-9)


@pytest.mark.parametrize("rule", ["majority", "mean"])
def test_the_exact_optimum_is_at_most_the_rules(rule):
    outcomes = []
    for seed in range(40):
        case = instance(seed)
        exact, other = solve_layer(*case), solve_layer(*case, signs=rule)
        outcomes.append(other.status)
        if other.status == "feasible":
            check(*case, other)
            assert exact.status == "optimal"
            assert exact.cost <= other.cost * (1 + 1e-9) + 1e-12
        else:
            assert other.reason
    assert {"feasible", "failed"} == set(outcomes)


def test_one_unit_cannot_separate_plus_minus_plus():
    regions = [po.Box([float(i)], [i + 0.5]) for i in range(3)]
    found = solve_layer(torch.ones(1, 1), torch.zeros(1), regions, 0.1)
    assert found.status == "infeasible"
    assert "too few" in found.reason
    part = solve_layer(torch.ones(1, 1), torch.zeros(1), regions, 0.1, where_possible=True)
    assert (part.status, len(part.separated)) == ("optimal", 2)
    assert solve_layer(torch.ones(2, 1), torch.zeros(2), regions, 0.1).status == "optimal"


def test_regions_that_meet_are_named():
    regions = [po.Box([0.0], [1.0]), po.Box([2.0], [3.0]), po.Box([0.5], [1.5])]
    found = solve_layer(torch.ones(3, 1), torch.zeros(3), regions, 0.1)
    assert (found.status, found.inseparable) == ("infeasible", ((0, 2),))
    found = solve_layer(torch.ones(3, 1), torch.zeros(3), regions, 0.1, where_possible=True)
    assert (found.status, found.inseparable, found.separated) == ("optimal", ((0, 2),), ((0, 1), (1, 2)))


def test_only_units_that_are_able_separate():
    regions = [po.Box([0.0], [1.0]), po.Box([3.0], [4.0])]
    weight, bias = torch.tensor([[1.0], [1.0]]), torch.tensor([-2.0, 0.0])
    able = torch.tensor([False, True])
    assert solve_layer(weight, bias, regions, 0.1).cost == pytest.approx(0.01, rel=0.5)
    found = solve_layer(weight, bias, regions, 0.1, able=able)
    assert found.signs[0, 1] != found.signs[1, 1]


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan])
def test_a_margin_that_is_not_positive_is_refused(margin):
    with pytest.raises(ValueError, match="margin"):
        solve_layer(torch.ones(1, 1), torch.zeros(1), [po.Box([0.0], [1.0])], margin)


def test_what_does_not_fit_is_refused():
    box = po.Box([0.0], [1.0])
    one, zero = torch.ones(1, 1), torch.zeros(1)
    with pytest.raises(ValueError, match="2 dimensions"):
        solve_layer(one, zero, [po.Box([0.0, 0.0], [1.0, 1.0])], 0.1)
    with pytest.raises(ValueError, match="ellipsoid"):
        solve_layer(one, zero, [po.Ellipsoid([0.0], [[1.0]])], 0.1)
    with pytest.raises(ValueError, match="no pair of the 1 regions"):
        solve_layer(one, zero, [box], 0.1, [(0, 1)])
    with pytest.raises(ValueError, match="not finite"):
        solve_layer(one * math.nan, zero, [box], 0.1)


@pytest.mark.parametrize("gap", [1e-5, 1e-7, 1e-8])
@pytest.mark.parametrize("margin", [1e-2, 1e-4, 1e-6])
def test_regions_that_nearly_touch_are_not_called_inseparable(gap, margin):
    """A unit (3 margin / gap, 0) holds them apart; where rounding hides it, nothing is claimed."""
    torch.manual_seed(0)
    weight, bias = torch.randn(8, 2, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    regions = [po.Box([-1.0, -0.5], [-gap / 2, 0.5]), po.Box([gap / 2, -0.5], [1.0, 0.5])]
    found = solve_layer(weight, bias, regions, margin)
    assert found.status in ("optimal", "unresolved")
    assert found.bound <= ((3 * margin / gap + abs(weight[:, 0])) ** 2 + weight[:, 1] ** 2 + bias**2).sum()
    if found.status == "unresolved":
        assert (found.bound, found.reason[:15]) == (0.0, "rounding errors")


def test_regions_that_touch_are_inseparable():
    found = solve_layer(
        torch.eye(2), torch.zeros(2), [po.Box([-1.0, 0.0], [0.0, 1.0]), po.Box([0.0, 0.0], [1.0, 1.0])], 0.1
    )
    assert (found.status, found.inseparable) == ("infeasible", ((0, 1),))
