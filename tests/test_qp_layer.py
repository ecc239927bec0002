"""The QP layer: its gradients against central differences of the solution, and its manners in torch."""

import numpy as np
import pytest
import torch
from test_qp import feasible
from torch import nn

from polyopt.qp import QPLayer, shares, solve

D = torch.float64
NAMES = ("Q", "p", "G", "h", "A", "b")


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch):
    """See test_qp_native.py for daqp."""
    monkeypatch.setattr("polyopt.qp.native.daqp", None)


def gradients(problem, weight, chosen):
    arguments = [x.clone().requires_grad_(i in chosen) for i, x in enumerate(problem)]
    (weight * QPLayer()(*arguments)).sum().backward()
    return [arguments[i].grad for i in chosen]


def directional(problem, weight, moves, step=1e-6):
    """The derivative of the weighted solution along a move of all arguments, by central differences."""
    plus, minus = ([x + sign * step * d for x, d in zip(problem, moves, strict=True)] for sign in (1, -1))
    return ((weight * (solve(*plus).z - solve(*minus).z)).sum() / (2 * step)).item()


def conditioned(seed, batch, n, m, k, rank=None):
    problem = list(feasible(seed, batch, n, m, k, rank))
    if rank is None:
        problem[0] = problem[0] / n + torch.eye(n, dtype=D)
    return problem


def agree(problem, moved, tolerance, seed=0):
    """Gradients and central differences agree along random moves of the named arguments, one by one."""
    generator = torch.Generator().manual_seed(seed)
    z = solve(*problem).z
    weight = torch.randn(z.shape, generator=generator, dtype=D)
    for i in moved:
        if not problem[i].numel():
            continue
        move = torch.randn(problem[i].shape, generator=generator, dtype=D)
        moves = [move if j == i else torch.zeros_like(x) for j, x in enumerate(problem)]
        (gradient,) = gradients(problem, weight, [i])
        found, expected = (gradient * move).sum().item(), directional(problem, weight, moves)
        size = max(abs(expected), (gradient * move).abs().sum().item() / move.numel() ** 0.5, 1e-2)
        assert abs(found - expected) <= tolerance * size, NAMES[i]


@pytest.mark.parametrize(
    "shape", [(5, 4, 0), (5, 4, 2), (5, 20, 0), (5, 20, 2), (6, 0, 2), (6, 0, 0), (20, 15, 3)], ids=str
)
@pytest.mark.parametrize("seed", range(2))
def test_gradients_of_all_arguments_against_central_differences(shape, seed):
    agree(conditioned(seed, 3, *shape), range(6), 1e-6)


@pytest.mark.parametrize("shared", range(6), ids=NAMES)
@pytest.mark.parametrize("shape", [(5, 4, 2), (5, 15, 2)], ids=str)
def test_shared_arguments_collect_the_sum(shared, shape):
    problem = conditioned(4, 3, *shape)
    problem[3] = problem[3] + 5  # feasible for another G or A too
    problem = [x[0] if i == shared else x for i, x in enumerate(problem)]
    agree(problem, range(6), 1e-6)
    full = [x.expand(3, *x.shape) if i == shared else x for i, x in enumerate(problem)]
    weight = torch.ones(3, 5, dtype=D)
    (one,), (many,) = gradients(problem, weight, [shared]), gradients(full, weight, [shared])
    np.testing.assert_allclose(one, many.sum(0), atol=1e-9)


def test_all_arguments_shared_but_one_and_none_batched():
    problem = conditioned(5, 1, 5, 8, 1)
    single = [x[0] for x in problem]
    assert QPLayer()(*single).shape == (5,)
    agree(single, range(6), 1e-6)
    only_p = [*single]
    only_p[1] = torch.stack([single[1], single[1] + 0.1])
    agree(only_p, range(6), 1e-6)


@pytest.mark.parametrize("shape", [(3, 2, 0), (3, 6, 1)], ids=str)
def test_gradcheck(shape):
    Q, p, G, h, A, b = (x.requires_grad_() for x in conditioned(6, 2, *shape))
    if not shape[2]:
        assert torch.autograd.gradcheck(lambda *x: QPLayer()(*x), (Q, p, G, h), atol=1e-6)
    else:
        assert torch.autograd.gradcheck(lambda *x: QPLayer()(*x), (Q, p, G, h, A, b), atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 3, 0), (6, 3, 1), (6, 12, 0), (6, 12, 1)], ids=str)
def test_duplicated_rows(shape):
    """Moves of Q, p and b, for which the solution stays differentiable, and of h, duplicates together."""
    Q, p, G, h, A, b = conditioned(7, 3, *shape)
    twice = [Q, p, torch.cat([G, G], 1), torch.cat([h, h], 1), torch.cat([A, A], 1), torch.cat([b, b], 1)]
    agree(twice, (0, 1), 1e-5)
    weight = torch.randn(3, 6, dtype=D, generator=torch.Generator().manual_seed(1))
    for i in (2, 3, 4, 5):
        if twice[i].numel():
            (once,), (double,) = gradients([Q, p, G, h, A, b], weight, [i]), gradients(twice, weight, [i])
            folded = double.unflatten(1, (2, -1)).sum(1)
            np.testing.assert_allclose(folded, once, atol=1e-5 * (1 + once.abs().max()))


@pytest.mark.parametrize("shape", [(5, 3, 0), (5, 3, 1)], ids=str)
def test_a_linear_program_moves_with_its_constraints(shape):
    problem = conditioned(8, 3, *shape, 0)
    agree(problem, (1, 2, 3, 4, 5), 1e-6)


@pytest.mark.parametrize("rank", [1, 3])
def test_semidefinite_objectives(rank):
    agree(conditioned(9, 3, 6, 5, 1, rank), range(1, 6), 1e-5)


def test_badly_scaled_rows_give_the_gradients_of_the_others():
    Q, p, G, h, A, b = conditioned(10, 3, 5, 12, 1)
    E = torch.logspace(-4, 4, 12, dtype=D)
    weight = torch.randn(3, 5, dtype=D, generator=torch.Generator().manual_seed(2))
    plain, scaled = (
        gradients([Q, p, G, h, A, b], weight, [1, 3]),
        gradients([Q, p, G * E[:, None], h * E, A, b], weight, [1, 3]),
    )
    np.testing.assert_allclose(scaled[0], plain[0], atol=1e-6)
    np.testing.assert_allclose(scaled[1] * E, plain[1], atol=1e-6)


def test_weakly_active_rows_give_a_derivative_of_one_side():
    """relu as in equation 21: at 0 the slope of z = max(x, 0) lies between 0 and 1, and is not NaN."""
    x = torch.tensor([[-1.0, 0.0, 2.0]], dtype=D, requires_grad=True)
    eye = torch.eye(3, dtype=D)
    z = QPLayer()(eye, -x, -eye, torch.zeros(3, dtype=D))
    z.sum().backward()
    np.testing.assert_allclose(z.detach(), x.detach().relu(), atol=1e-12)
    assert x.grad[0, 0] == pytest.approx(0)
    assert 0 <= x.grad[0, 1] <= 1
    assert x.grad[0, 2] == pytest.approx(1)


def test_a_problem_without_solution_is_nan_and_gives_nothing_to_shared_arguments():
    Q, p, G, h, *_ = conditioned(11, 3, 5, 4, 0)
    G, h = G.clone(), h.clone()
    G[1, 1], h[1, 1] = -G[1, 0], -h[1, 0] - 1
    Q = Q[0].clone().requires_grad_()
    z = QPLayer()(Q, p, G, h)
    assert z.isnan().any(-1).tolist() == [False, True, False]
    z[~z.isnan().any(-1)].sum().backward()
    mixed, Q.grad = Q.grad.clone(), None
    QPLayer()(Q, p[[0, 2]], G[[0, 2]], h[[0, 2]]).sum().backward()
    np.testing.assert_allclose(mixed, Q.grad, atol=1e-10)


def test_second_derivatives_are_refused():
    Q, p, G, h, *_ = (x.requires_grad_() for x in conditioned(12, 2, 4, 3, 0))
    (gradient,) = torch.autograd.grad(QPLayer()(Q, p, G, h).square().sum(), p, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_change_in_place_before_the_backward_pass_is_noticed():
    Q, p, G, h, *_ = conditioned(13, 2, 4, 3, 0)
    z = QPLayer()(Q, p.requires_grad_(), G, h)
    G += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.G, self.layer = nn.Linear(3, 4), nn.Parameter(torch.randn(5, 4)), QPLayer()

    def forward(self, x):
        p = self.inner(x)
        return self.layer(torch.eye(4), p, self.G, torch.ones(5)).square().sum(-1)


def test_it_trains_inside_a_module():
    torch.manual_seed(0)
    net, x = Net(), torch.randn(16, 3)
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (net(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_under_autocast_the_solve_is_in_full_precision():
    torch.manual_seed(1)
    net, x = Net(), torch.randn(6, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p = net.inner(x)
        z = QPLayer()(torch.eye(4), p, net.G, torch.ones(5))
        z.sum().backward()
    assert p.dtype == torch.bfloat16
    assert z.dtype == torch.float32
    exact = solve(torch.eye(4, dtype=D), p.detach().double(), net.G.detach().double(), torch.ones(5, dtype=D)).z
    np.testing.assert_allclose(z.detach(), exact, atol=1e-4)
    assert torch.isfinite(net.inner.weight.grad).all()


@pytest.mark.filterwarnings("ignore")
def test_under_compile_it_is_a_graph_break():
    torch.manual_seed(2)
    net, x = Net(), torch.randn(6, 3)
    plain = net(x)
    compiled = torch.compile(net, backend="eager")
    np.testing.assert_allclose(compiled(x).detach(), plain.detach(), atol=1e-6)
    compiled(x).sum().backward()
    assert torch.isfinite(net.G.grad).all()


@pytest.fixture
def three_threads(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(shares, "WORTHWHILE", 0)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(5, 4, 2), (5, 30, 2), (6, 0, 2)], ids=str)
def test_threads_share_a_batch(shape, request):
    """Of seven problems, one without a solution; all but Q, which is shared, belong to one problem each."""
    problem = conditioned(3, 7, *shape)
    problem[0] = problem[0][0]
    if shape[1]:
        problem[2][4, :2] = torch.stack([torch.ones(5, dtype=D), -torch.ones(5, dtype=D)])
        problem[3][4, :2] = -1.0
    weight = torch.randn(7, shape[0], generator=torch.Generator().manual_seed(0), dtype=D)
    chosen = [i for i, x in enumerate(problem) if x.numel()]

    def run():
        arguments = [x.clone().requires_grad_(i in chosen) for i, x in enumerate(problem)]
        z = QPLayer()(*arguments)
        (weight * z.nan_to_num()).sum().backward()
        return [z.detach(), *(arguments[i].grad for i in chosen)], solve(*problem).names

    alone, names = run()
    request.getfixturevalue("three_threads")
    together, same = run()
    assert names == same
    assert names.count("infeasible") == (shape[1] > 0)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.usefixtures("three_threads")
def test_an_error_in_a_thread_is_raised():
    Q = torch.eye(2, dtype=D).repeat(6, 1, 1)
    Q[5, 0, 0] = -1.0
    with pytest.raises(ValueError, match=r"Q is not positive semidefinite in problems \[5\]"):
        solve(Q, torch.zeros(2, dtype=D))
