"""POLICE is affine on its region: by support functions in float64 from the folded weights, and at points."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from strategies import PIECEWISE, chain, convolutional, maxima, points, regions, residual
from torch import nn

import polyopt as po
from polyopt.activations import GroupMax
from polyopt.layers import Linear
from polyopt.network import INPUT
from polyopt.police import POLICE, jacobian

SIGNS = ("min-shift", "majority", "center")
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


THREE = np.random.default_rng(5)
IN_THREE = {
    "box": po.Box([-0.1, 0.0, 0.2], [0.4, 0.5, 0.2]),
    "zonotope": po.Zonotope(THREE.normal(size=3), 0.3 * THREE.normal(size=(3, 4))),
    "ellipsoid": po.Ellipsoid(THREE.normal(size=3), 0.3 * THREE.normal(size=(3, 2))),
    "vpolytope": po.VPolytope(THREE.normal(size=(6, 3))),
    "hpolytope": po.HPolytope(np.vstack([-np.eye(3), np.ones((1, 3))]), [0.0, 0.0, 0.0, 1.0]),
}


def affine_map(net, region):
    """The slope (n_out, n) and offset (n_out,) on the region; AssertionError where a unit uses more than one piece.

    Written from the definitions alone: a piecewise-linear unit uses one piece if its range on the region lies between
    two breakpoints, a maximum if one member leads at every point.
    """
    values = {INPUT: (np.eye(net.input_size), np.zeros(net.input_size))}
    for node in net.nodes:
        given = [values[name] for name in node.inputs]
        slope, offset = (np.concatenate(parts) for parts in zip(*given, strict=True)) if given else (None, None)
        if isinstance(node.layer, GroupMax):
            values[node.name] = winners(node, slope, offset, region)
        elif isinstance(node.layer, Linear):
            matrices = node.layer.operators(*node.input_shapes)
            slope, offset = np.zeros((node.size, net.input_size)), node.layer.offset(*node.input_shapes)
            for W, (J, g) in zip(matrices, given, strict=True):
                slope, offset = slope + W @ J, offset + W @ g
            values[node.name] = slope, offset
        else:
            values[node.name] = one_piece(node, slope, offset, region)
    return values[net.nodes[-1].name]


def one_piece(node, J, g, region):
    breakpoints, slopes, intercepts = node.layer.pieces(node.input_shapes[0])
    low, high = g - region.support(-J), g + region.support(J)
    infinite = np.full((1, len(g)), np.inf)
    fits = (np.vstack([-infinite, breakpoints]) <= low) & (high <= np.vstack([breakpoints, infinite]))
    wrong = np.flatnonzero(~fits.any(0))
    assert not len(wrong), f"{node.name}: unit {wrong[0]} ranges over [{low[wrong[0]]}, {high[wrong[0]]}]"
    piece, units = fits.argmax(0), np.arange(len(g))
    return slopes[piece, units][:, None] * J, slopes[piece, units] * g + intercepts[piece, units]


def winners(node, J, g, region):
    chosen = []
    for group in node.layer.groups(*node.input_shapes):
        leads = [w for w in group if (region.support(J[group] - J[w]) + g[group] - g[w] <= 0).all()]
        assert leads, f"{node.name}: no member of {group.tolist()} leads on all of the region"
        chosen.append(leads[0])
    return J[chosen], g[chosen]


def evaluate(module, x, shape=None):
    """Outputs in float64 at points (m, n) given to the module in its own precision."""
    like = next(module.parameters())
    with torch.no_grad():
        y = module(torch.tensor(x).to(like).reshape(len(x), *(shape or x.shape[1:])))
    return y.flatten(1).double().numpy()


def assert_affine(model, x=None):
    """The folded model uses one piece of everything on the region, computes what the model computes, and is J x + g."""
    folded = model.fold()
    net = po.from_torch(folded, model.input_shape)
    slope, offset = affine_map(net, model.region)
    x = points(model.region, 50, np.random.default_rng(0)) if x is None else x
    y, dtype = evaluate(model, x, model.input_shape), next(model.parameters()).dtype
    size = 1 + abs(y).max() + (abs(slope) * abs(x).max(0)).sum(1).max()
    np.testing.assert_allclose(evaluate(folded, x, model.input_shape), y, rtol=0, atol=1e-6 * size)
    np.testing.assert_allclose(x @ slope.T + offset, y, rtol=0, atol=TOLERANCE[dtype] * size)
    found = jacobian(model)
    np.testing.assert_allclose(found.slope.detach(), slope, rtol=0, atol=TOLERANCE[dtype] * (1 + abs(slope).max()))
    np.testing.assert_allclose(found.offset.detach(), offset, rtol=0, atol=TOLERANCE[dtype] * size)


def mlp(*sizes, activation=nn.LeakyReLU, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    layers = [(nn.Linear(*pair), activation()) for pair in itertools.pairwise(sizes)]
    return nn.Sequential(*itertools.chain.from_iterable(layers)).to(dtype)[:-1]


KINDS = {
    "chain": lambda rng, activation: chain(rng, activation, (3, 6, 5, 2), shift=0.5),
    "residual": residual,
    "maxima": maxima,
    "convolutional": convolutional,
    "means": lambda rng, activation: convolutional(rng, activation, "mean"),
}


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    net = KINDS[draw(st.sampled_from(sorted(KINDS)))](rng, draw(st.sampled_from(sorted(PIECEWISE))))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    kinds = ("box", "zonotope", "ellipsoid", "vpolytope", "product")
    region = draw(regions(net.input_size, kinds if net.input_size > 5 else (*kinds, "hpolytope")))
    sign = draw(st.sampled_from(SIGNS))
    if sign == "majority" and isinstance(region, po.HPolytope | po.Product):
        sign = "center"
    return po.to_torch(net, dtype), region, sign, net.input_shape


@settings(max_examples=15, deadline=None, derandomize=True)
@given(cases())
def test_every_network_is_affine_on_every_region(case):
    module, region, sign, shape = case
    assert_affine(POLICE(module, region, sign=sign, input_shape=shape))


def algorithm_1(module, vertices, sign, margin):
    """The biases of a chain of linear layers and leaky ReLUs by the paper's algorithm, on all vertices, in float64."""
    points, biases = vertices, []
    layers = [(part.weight.detach().numpy(), part.bias.detach().numpy()) for part in module[::2]]
    for W, b in layers[:-1]:
        H = points @ W.T + b
        mu = margin * (abs(points).max(0) @ abs(W).T + abs(b))
        up = 2 * (H > 0).sum(0) >= len(H) if sign == "majority" else H.min(0) + H.max(0) >= 0
        s = np.where(up, 1.0, -1.0)
        c = np.maximum(mu - s * H, 0.0).max(0) * s
        H = s * np.maximum(s * (H + c), 0.0)  # in the piece s, up to rounding
        points = np.where(up, H, 0.01 * H)
        biases.append(b + c)
    return biases


@pytest.mark.parametrize("size", [1, 2, 5, 12])
@pytest.mark.parametrize("sign", ["min-shift", "majority"])
def test_directions_and_vertices_agree_with_all_vertices(size, sign):
    rng = np.random.default_rng(size)
    box = po.Box.ball(rng.normal(size=size), rng.random())
    module = mlp(size, 9, 8, 7, 2, dtype=torch.float64)
    expected = algorithm_1(module, box.vertices(), sign, 1e-3)
    exact = [po.VPolytope(box.vertices())]
    if sign == "min-shift":  # where half of the vertices lie on each side, a box's centre decides
        exact += [box, po.Zonotope(box.center, np.diag(box.radius))]
    for region in exact:
        folded = POLICE(module, region, 1e-3, sign).fold()
        for part, bias in zip(folded[:-1:2], expected, strict=True):
            np.testing.assert_allclose(part.bias.detach(), bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sign", SIGNS)
def test_vertices_in_any_position_agree_with_the_algorithm(sign):
    points = np.random.default_rng(3).normal(size=(5, 4))
    module = mlp(4, 20, 20, 1, dtype=torch.float64)
    model = POLICE(module, po.VPolytope(points), 1e-3, sign)
    if sign != "center":
        expected = algorithm_1(module, points, sign, 1e-3)
        np.testing.assert_allclose(model.fold()[2].bias.detach(), expected[1], rtol=0, atol=1e-12)
    assert_affine(model)


@pytest.mark.parametrize("sign", SIGNS)
def test_a_tie_on_the_square_is_decided(sign):
    """Half of the vertices on each side: the vote of the published code is then 0, and nothing is enforced."""
    square = po.VPolytope([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    module = mlp(2, 1, 1, dtype=torch.float64, activation=nn.ReLU)
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        module[0].bias.fill_(-0.5)
    model = POLICE(module, square, margin=0.0, sign=sign)
    assert model.fold()[0].bias.item() == 0.0  # the upper piece, by a shift of 0.5
    assert_affine(model)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Hardtanh])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_unit_keeps_its_piece_at_its_worst_vertex_of_784_dimensions(activation, dtype):
    rng = np.random.default_rng(0)
    box = po.Box.ball(rng.random(784), 0.3)
    module = mlp(784, 128, 64, 64, 10, activation=activation, dtype=dtype)
    assert_affine(POLICE(module, box), box.sample(10, rng))


def test_without_a_margin_rounding_undoes_the_shift():
    """The check above does see what float32 does to a margin of zero."""
    box = po.Box.ball(np.full(784, 0.5), 0.3)
    with pytest.raises(AssertionError, match="ranges over"):
        assert_affine(POLICE(mlp(784, 128, 64, 10), box, margin=0.0))


def test_the_margin_is_kept_by_the_stored_weights():
    box = po.Box.ball(np.random.default_rng(0).random(784), 0.3)
    model = POLICE(mlp(784, 128, 10), box, margin=1e-5)
    folded = model.fold()[0].double()
    W, b = folded.weight.detach().numpy(), folded.bias.detach().numpy()
    nearest = np.maximum(b - box.support(-W), -b - box.support(W))  # to zero, from either side
    size = abs(W) @ abs(box.upper) + abs(model.module[0].bias.detach().numpy())
    moved = folded.bias.detach() != model.module[0].bias
    assert 0.9 < (nearest / size)[moved].min() / 1e-5 < 1.1


@pytest.mark.parametrize(
    ("center", "radius", "sign", "shift"),
    [
        (0.2, 0.5, "min-shift", 0.0),  # within the middle piece
        (1.1, 0.5, "min-shift", 0.4),  # up, where down is 0.6
        (0.9, 0.5, "min-shift", -0.4),
        (
            0.4,
            1.0,
            "min-shift",
            1.6,
        ),  # the middle piece is as wide as the range: down by 0.4 where nothing must be left
        (0.4, 1.2, "min-shift", 1.8),  # wider than the middle piece
        (-0.4, 1.2, "center", -1.8),
        (0.9, 0.95, "min-shift", -0.85),
        (0.95, 0.9, "center", -0.85),
        (1.05, 0.9, "center", 0.85),
    ],
)
def test_the_piece_of_a_clip(center, radius, sign, shift):
    module = nn.Sequential(nn.Linear(1, 1), nn.Hardtanh(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        module[0].weight.fill_(1.0)
        module[0].bias.zero_()
    model = POLICE(module, po.Box([center - radius], [center + radius]), 1e-9, sign)
    assert model.fold()[0].bias.item() == pytest.approx(shift, abs=1e-7)
    assert_affine(model)


class Maxout(nn.Module):
    """The greatest, or least, of consecutive triples of a linear layer's outputs."""

    def __init__(self, size, groups=1, least=False):
        super().__init__()
        self.linear, self.least = nn.Linear(size, 3 * groups), least

    def forward(self, x):
        y = self.linear(x).unflatten(1, (-1, 3))
        return y.amin(-1) if self.least else y.amax(-1)


@pytest.mark.parametrize("region", [po.Box([0.0], [1.0]), po.VPolytope([[0.0], [1.0]])])
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("least", [False, True])
def test_the_winner_of_a_maximum(region, sign, least):
    """Of 2 x, 0.95 and 2 - 2 x the first is greatest at the centre and at one vertex, the second lacks least."""
    turn, module = -1.0 if least else 1.0, Maxout(1, least=least).double()
    with torch.no_grad():
        module.linear.weight.copy_(turn * torch.tensor([[2.0], [0.0], [-2.0]]))
        module.linear.bias.copy_(turn * torch.tensor([0.0, 0.95, 2.0]))
    model = POLICE(module, region, 1e-9, sign)
    (shift,) = model.fold().buffers()
    expected = [0.0, 1.05, 0.0] if sign == "min-shift" else [2.0, 0.0, 0.0]
    np.testing.assert_allclose(turn * shift.flatten(), expected, rtol=0, atol=1e-7)
    assert_affine(model)


@pytest.mark.parametrize("kernel", [2, 3])
def test_pooling_windows_that_overlap(kernel):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(kernel, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    box = po.Box.ball(np.random.default_rng(0).random(49), 0.2)
    assert_affine(POLICE(module, box, input_shape=(1, 7, 7)))
    with pytest.raises(po.UnsupportedLayer, match=r"'max_pool2d'.*more than half the kernel"):
        POLICE(nn.Sequential(nn.MaxPool2d(kernel, 1)), box, input_shape=(1, 7, 7))


class Everything(nn.Module):
    """A residual convolutional network with every kind of activation."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.slopes = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.PReLU(3)
        self.mean, self.relu, self.last = nn.AvgPool2d(2, 1), nn.ReLU(inplace=True), nn.Linear(12, 2)

    def forward(self, x):
        x = self.slopes(self.norm(self.first(x)))
        x = self.relu(self.second(x) - 0.5 * x)
        x = nn.functional.max_pool2d(x, 2)
        x = nn.functional.hardtanh(self.mean(x).abs() * 3 - 1)
        return self.last(nn.functional.leaky_relu(x.view(x.size(0), -1)))


def everything(dtype=torch.float64):
    torch.manual_seed(0)
    module = Everything()
    nn.init.normal_(module.norm.running_mean)
    nn.init.uniform_(module.norm.running_var, 0.5, 2.0)
    return module.to(dtype)


def test_gradients_flow_through_every_shift():
    box = po.Box.ball(np.random.default_rng(0).random(36), 0.1)
    model = POLICE(everything(), box, margin=0.0, input_shape=(1, 6, 6))
    names, values = zip(*model.named_parameters(), strict=True)
    x = torch.rand(4, 1, 6, 6, dtype=torch.float64)

    def outputs(*parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, given, (x,))

    assert torch.autograd.gradcheck(outputs, values, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("kind", ["box", "zonotope", "ellipsoid", "vpolytope"])
def test_gradients_flow_through_every_kind_of_region(kind):
    model = POLICE(mlp(3, 6, 6, 2, dtype=torch.float64), IN_THREE[kind], margin=0.0)
    values = tuple(model.parameters())
    x = torch.randn(5, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *_: (model(x), *jacobian(model)), values, atol=1e-6, fast_mode=True)


def test_gradients_on_an_h_polytope_are_those_on_its_vertices():
    region, module = IN_THREE["hpolytope"], mlp(3, 6, 6, 2, dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    losses = [POLICE(module, each)(x).square().sum() for each in (region, po.VPolytope(region.vertices()))]
    found, exact = (torch.autograd.grad(loss, tuple(module.parameters())) for loss in losses)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)


def step(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = (model(x) - y).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("kind", IN_THREE)
def test_training_lowers_the_loss_and_is_affine_at_every_step(kind):
    model = POLICE(mlp(3, 32, 32, 1), IN_THREE[kind])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x = torch.randn(256, 3)
    y = x.norm(dim=1, keepdim=True)
    losses = []
    for k in range(15):
        losses.append(step(model, optimizer, x, y))
        inside = points(model.region, 40, np.random.default_rng(k))
        f = jacobian(model)
        expected = inside @ f.slope.detach().numpy().T + f.offset.detach().numpy()
        np.testing.assert_allclose(evaluate(model, inside), expected, rtol=0, atol=2e-5 * (1 + abs(expected).max()))
    assert losses[-1] < 0.7 * losses[0]
    assert_affine(model)


def test_linear_programs_make_the_shifts_of_an_h_polytope_exact_and_are_needed_for_nothing_else():
    region = IN_THREE["hpolytope"]
    module = mlp(3, 32, 32, 1, dtype=torch.float64)
    model = POLICE(module, region)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def excess():
        """How much more is shifted than for the polytope's vertices."""
        exact = POLICE(module, po.VPolytope(region.vertices()))
        found = [sum(c.abs().sum() for (c,) in m.shifts(m.tensors()).values()) for m in (model, exact)]
        return (found[0] / found[1]).item() - 1

    assert abs(excess()) < 1e-6
    for _ in range(20):
        step(model, optimizer, torch.randn(64, 3, dtype=torch.float64), torch.randn(64, 1, dtype=torch.float64))
    assert excess() > 1e-4
    assert_affine(model)
    model.tighten()
    assert abs(excess()) < 1e-6
    assert_affine(model)


def test_folding_solves_the_linear_programs_of_an_h_polytope_anew():
    module = mlp(3, 8, 8, 2, dtype=torch.float64)
    model = POLICE(module, IN_THREE["hpolytope"])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    fresh = POLICE(module, IN_THREE["hpolytope"]).fold()
    x = torch.randn(20, 3, dtype=torch.float64)
    assert abs(model(x) - fresh(x)).max() > 1e-6
    torch.testing.assert_close(model.fold()(x), fresh(x))
    torch.testing.assert_close(model(x), fresh(x))
