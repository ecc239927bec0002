"""POLICE as a torch module: what it wraps, how it is compiled, saved, copied and folded, and what it refuses."""

import copy

import numpy as np
import pytest
import torch
from test_police import Maxout, assert_affine, evaluate, everything, mlp, step
from torch import nn

import polyopt as po
from polyopt.police import POLICE, Shift, jacobian, set_affine

SQUARE = po.VPolytope([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
UNIT = po.Box([0.0, 0.0], [1.0, 1.0])
IMAGES = po.Box.ball(np.random.default_rng(0).random(36), 0.1)


def images(count=4, dtype=torch.float64):
    return torch.rand(count, 1, 6, 6, dtype=dtype)


@pytest.mark.parametrize("sign", ["min-shift", "center"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_convolutional_residual_network_with_every_activation(sign, dtype):
    model = POLICE(everything(dtype), IMAGES, sign=sign, input_shape=(1, 6, 6))
    assert_affine(model, IMAGES.sample(20, np.random.default_rng(0)))
    x = IMAGES.center.reshape(1, 36)
    before = abs(evaluate(model.module.eval(), x, (1, 6, 6)) - evaluate(model, x, (1, 6, 6))).max()
    assert before > 1e-3  # the network is not affine by itself


def test_batch_normalisation_and_dropout_are_as_in_evaluation_while_training():
    module = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 1))
    nn.init.normal_(module[1].running_mean)
    model = POLICE(module, UNIT).train()
    x, mean = torch.rand(8, 2), module[1].running_mean.clone()
    trained = model(x)
    assert module.training
    torch.testing.assert_close(trained, model.eval()(x), rtol=0, atol=0)
    assert (module[1].running_mean == mean).all()
    trained.sum().backward()
    assert module[1].weight.grad.abs().sum() > 0
    assert_affine(model)
    assert type(model.fold()) is nn.Sequential  # the normalisation's bias takes the shift


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("region", [SQUARE, UNIT, po.Ellipsoid([0.0, 0.0], np.eye(2))])
def test_it_compiles_as_one_graph(backend, region):
    torch._dynamo.reset()
    model = POLICE(mlp(2, 16, 16, 1, dtype=torch.float64), region)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    x = torch.randn(8, 2, dtype=torch.float64)
    found = []
    for module in (model, compiled):
        module.zero_grad()
        y = module(x)
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad.clone() for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_convolutional_network_compiles_as_one_graph():
    torch._dynamo.reset()
    model, x = POLICE(everything(), IMAGES, input_shape=(1, 6, 6)), images()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


@pytest.mark.parametrize("region", [SQUARE, po.HPolytope(np.vstack([-np.eye(2), [[1.0, 1.0]]]), [0.0, 0.0, 1.0])])
def test_the_state_goes_to_another_model_and_back(region):
    model, other = (POLICE(mlp(2, 16, 16, 1, seed=k), region) for k in (0, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    step(model, optimizer, torch.randn(8, 2), torch.randn(8, 1))
    x = torch.randn(8, 2)
    assert not torch.allclose(model(x), other(x))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), other(x), rtol=0, atol=0)
    parameters = {name for name in model.state_dict() if not name.startswith("cover.")}
    assert parameters == {f"module.{name}" for name in model.module.state_dict()}


def test_a_deep_copy_is_equal_and_independent():
    model = POLICE(everything(), IMAGES, input_shape=(1, 6, 6))
    x, twin = images(), copy.deepcopy(model)
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
    with torch.no_grad():
        twin.module.last.bias.add_(1.0)
        twin.module.first.weight.mul_(2.0)
    assert not torch.allclose(twin(x), model(x) + 1.0)
    assert_affine(twin, IMAGES.sample(5, np.random.default_rng(0)))


def test_precision_may_change_after_wrapping():
    model = POLICE(everything(torch.float32), IMAGES, input_shape=(1, 6, 6))
    assert model(images(dtype=torch.float32)).dtype == torch.float32
    assert_affine(model.double(), IMAGES.sample(5, np.random.default_rng(0)))
    assert_affine(model.float(), IMAGES.sample(5, np.random.default_rng(0)))


def test_shifts_are_computed_in_full_precision_under_autocast():
    model = POLICE(mlp(2, 64, 64, 1), UNIT)
    exact = model.shifts(model.tensors())
    with torch.autocast("cpu", torch.bfloat16):
        found = model.shifts(model.tensors())
        assert model(torch.rand(4, 2)).dtype == torch.bfloat16
    for name, (shift,) in exact.items():
        torch.testing.assert_close(found[name][0], shift, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("region", [IMAGES, po.VPolytope(IMAGES.sample(5, np.random.default_rng(0)))])
def test_the_same_on_a_gpu_without_waiting_for_it(region):
    model = POLICE(everything(), region, input_shape=(1, 6, 6))
    x = images()
    expected = model(x)
    model.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = model(x.cuda(non_blocking=True))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(y.cpu(), expected)
    torch.testing.assert_close(model.fold()(x.cuda()).cpu(), expected)


def test_folding_leaves_the_model_alone_and_returns_a_module_of_its_kind():
    module = mlp(2, 16, 16, 1)
    model, before = POLICE(module, SQUARE), copy.deepcopy(module.state_dict())
    folded = model.fold()
    assert [type(part) for part in folded] == [type(part) for part in module]
    assert all((module.state_dict()[name] == value).all() for name, value in before.items())
    x = torch.randn(64, 2)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-6, atol=0)
    with torch.no_grad():
        folded[0].weight.zero_()
    assert not torch.allclose(folded(x), model(x))


def test_a_shift_that_is_no_bias_becomes_a_constant_tensor():
    folded = POLICE(everything(), IMAGES, input_shape=(1, 6, 6)).fold()
    shifts = [part.shift.shape for part in folded.modules() if isinstance(part, Shift)]
    assert (1, 3, 6, 6) in shifts  # one number for each place, where the convolution's bias is one for each channel
    assert {name for name, _ in folded.named_parameters()} == {name for name, _ in everything().named_parameters()}
    torch.testing.assert_close(copy.deepcopy(folded)(x := images(7)), folded(x), rtol=0, atol=0)


class Twice(nn.Module):
    """One layer used twice, and one bias that two layers share."""

    def __init__(self):
        super().__init__()
        self.layer, self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.bias = self.one.bias

    def forward(self, x):
        x = self.layer(self.layer(x).abs()).abs()
        return self.other(self.one(x).abs())


def test_shared_biases_stay_as_they_are():
    torch.manual_seed(3)
    model = POLICE(Twice().double(), po.Box.ball(np.zeros(8), 1.0))
    assert all(shift.abs().max() > 0 for (shift,) in model.shifts(model.tensors()).values())
    assert_affine(model)
    state = model.module.state_dict()
    assert all((state[name] == value).all() for name, value in model.fold().named_parameters())


def test_a_missing_bias_is_added():
    module = nn.Sequential(nn.Linear(2, 8, bias=False), nn.ReLU(), nn.Linear(8, 1))
    model = POLICE(module, po.Box([0.5, -1.0], [1.0, 1.0]))
    assert_affine(model)
    assert model.fold()[0].bias is not None
    assert module[0].bias is None


def test_parametrised_weights():
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 8)), nn.ReLU(), nn.Linear(8, 1))
    model = POLICE(module, UNIT)
    assert_affine(model)
    model(torch.rand(3, 2)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_constants_follow_the_batch():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            ones = torch.ones(x.shape[0], 1, dtype=x.dtype)
            return torch.maximum(self.layer(torch.cat([x, ones, x[:, :1].detach() * 0.5], 1)), torch.tensor(0.1))

    assert_affine(POLICE(Joined().double(), UNIT))


def test_a_network_without_activations_is_itself():
    module = nn.Linear(2, 1).double()
    assert (POLICE(module, UNIT).fold().weight == module.weight).all()


@pytest.mark.parametrize("region", [SQUARE, UNIT, po.Ellipsoid([1.0, 2.0], [[1.0], [1.0]])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_the_affine_function_on_the_region_can_be_set(region, dtype, bias):
    module = mlp(2, 32, 32, 3, dtype=dtype)
    module[-1] = nn.Linear(32, 3, bias=bias, dtype=dtype)
    model = POLICE(module, region)
    A, b = np.array([[1.0, 2.0], [0.0, -3.0], [5.0, 5.0]]), np.array([1.0, 0.0, -2.0])
    set_affine(model, A, b)
    x = region.sample(50, np.random.default_rng(0))
    tolerance = {torch.float32: 2e-4, torch.float64: 1e-10}[dtype]
    np.testing.assert_allclose(evaluate(model, x), x @ A.T + b, rtol=0, atol=tolerance)
    np.testing.assert_allclose(evaluate(model.fold(), x), x @ A.T + b, rtol=0, atol=tolerance)


def test_the_change_of_the_last_layer_is_the_least():
    """A second time nothing changes, and no other solution is nearer."""
    model = POLICE(mlp(2, 8, 1, dtype=torch.float64), UNIT)
    layer, A, b = model.module[-1], torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])
    before = torch.cat([layer.weight[0], layer.bias]).detach()
    set_affine(model, A, b)
    after = torch.cat([layer.weight[0], layer.bias]).detach()
    set_affine(model, A, b)
    torch.testing.assert_close(torch.cat([layer.weight[0], layer.bias]).detach(), after)
    with torch.no_grad():  # a direction that changes nothing on the region: of the features at three points
        hidden = torch.cat(
            [model.fold()[:-1](torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double()).T, torch.ones(1, 3)]
        )
    free = torch.eye(9) - hidden @ torch.linalg.pinv(hidden)
    assert abs(free @ (after - before)).max() < 1e-10


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(2, 1), nn.LeakyReLU(), nn.Linear(1, 1)), r"spans 1 dimensions, the region 2"),
        (nn.Sequential(nn.Linear(2, 1), nn.ReLU()), r"ends with 'relu'"),
        (Maxout(2), r"ends with 'amax'"),
    ],
)
def test_why_an_affine_function_cannot_be_set(module, message):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        set_affine(POLICE(module, UNIT), np.eye(2)[:1], [0.0])
    with pytest.raises(ValueError, match=r"A has shape \(2, 2\)"):
        set_affine(POLICE(mlp(2, 8, 1), UNIT), np.eye(2), [0.0])


def test_the_slope_can_be_trained():
    """The paper's equation (1) as a penalty."""
    model = POLICE(mlp(2, 32, 1), UNIT)
    wanted = torch.tensor([[1.0, -2.0]])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        distance = (jacobian(model).slope - wanted).square().sum()
        distance.backward()
        optimizer.step()
    assert distance < 1e-3


@pytest.mark.parametrize("regions", [[UNIT, UNIT], (UNIT,), po.Box(np.zeros((3, 2)), np.ones((3, 2)))])
def test_several_regions_are_for_mpolice(regions):
    with pytest.raises(ValueError, match=r"one region.*MPOLICE"):
        POLICE(mlp(2, 4, 1), regions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"module": torch.relu}, r"needs a torch.nn.Module, but gets"),
        ({"region": np.zeros((4, 2))}, r"the region is a ndarray"),
        ({"region": po.Box([0.0], [1.0])}, r"does not run on inputs of shape"),
        ({"input_shape": (3, 4)}, r"the region has 2 dimensions, but input_shape is \(3, 4\)"),
        ({"margin": -1e-5}, r"margin is -1e-05"),
        ({"sign": "mean"}, r"sign is 'mean'"),
        ({"sign": "majority", "region": po.Product(po.Box([0.0], [1.0]), po.VPolytope([[0.0], [1.0]]))}, r"lists none"),
        ({"module": nn.Sequential(nn.Linear(2, 2), nn.Sigmoid())}, r"sigmoid.*is smooth"),
        ({"module": nn.Sequential(nn.Linear(2, 2), nn.GELU())}, r"gelu"),
    ],
)
def test_what_is_refused(arguments, message):
    given = {"module": mlp(2, 4, 1), "region": UNIT} | arguments
    with pytest.raises((ValueError, po.UnsupportedLayer), match=message):
        POLICE(**given)


def test_inputs_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"inputs have shape \(5, 3\), but must be \(batch, \*\(2,\)\)"):
        POLICE(mlp(2, 4, 1), UNIT)(torch.zeros(5, 3))


class Odd(nn.Module):
    """Operations that are affine in many ways."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.slope = nn.Linear(6, 8), nn.Linear(4, 3), nn.PReLU()
        self.matrix = nn.Parameter(torch.randn(3, 3))
        self.register_buffer("mask", torch.tensor([[True, False, False], [False, False, True]]))

    def forward(self, x):
        x = self.second(self.slope(self.first(x).unflatten(1, (2, 4))))
        x = (2 - (torch.einsum("bij,jk->bik", x, self.matrix) - 1.5)).relu() / 3
        x = x.masked_fill(self.mask, -2.0).cumsum(2)
        x = torch.stack([x, -x], 1).transpose(1, 2).flatten(1)
        return nn.functional.leaky_relu(x[:, ::2] - x[:, 1::2].mean(1, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("maker", "shape"),
    [
        (Odd, (6,)),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.PReLU(), nn.Flatten(), nn.Linear(8, 1)), (1, 4, 4)),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.PReLU(8), nn.Linear(8, 1)), (1, 4, 4)),
        (lambda: nn.Sequential(nn.ReLU(), nn.Linear(3, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU6()), (3,)),
    ],
)
def test_modules_of_many_operations(maker, shape, dtype):
    torch.manual_seed(0)
    size = int(np.prod(shape))
    segment = po.VPolytope(np.random.default_rng(0).normal(size=(2, 1)))
    box = po.Box.ball(np.full(size - 1, 0.1), 0.3)
    assert_affine(POLICE(maker().to(dtype), po.Product(box, segment), input_shape=shape))
