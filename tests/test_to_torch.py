import numpy as np
import pytest
import scipy.sparse as sp

from polyopt import activations as act
from polyopt.convert.from_torch import from_torch
from polyopt.convert.to_torch import to_torch
from polyopt.layers import Add, Affine, AvgPool2d, Concat, Constant, Conv2d, Reshape, Scale
from polyopt.network import Network

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
rng = np.random.default_rng(0)


def random(*shape):
    return rng.uniform(-1.0, 1.0, shape)


def sparse(rows, columns):
    dense = random(rows, columns)
    dense[rng.random(dense.shape) < 0.6] = 0.0
    dense[0] = 0.0
    return sp.csr_array(dense)


ASYMMETRIC = ((1, 0), (0, 2))
IMAGE = (4, 6, 5)
LAYERS = {
    "dense": (Affine(random(3, 5), random(3)), (5,)),
    "dense on an image": (Affine(random(3, 120), random(3)), IMAGE),
    "dense on one number": (Affine(random(3, 1), random(3)), ()),
    "sparse": (Affine(sparse(6, 5), random(6)), (5,)),
    "sparse on an image": (Affine(sparse(4, 120), random(4)), IMAGE),
    "sparse without entries": (Affine(sp.csr_array((2, 3)), random(2)), (3,)),
    "scale": (Scale(random(5), 0.5), (5,)),
    "scale of channels": (Scale(random(4, 1, 1), random(4, 1, 1)), IMAGE),
    "convolution": (Conv2d(random(6, 2, 3, 2), random(6), (2, 1), ((1, 1), (2, 2)), (1, 2), groups=2), IMAGE),
    "convolution, asymmetric": (Conv2d(random(3, 4, 2, 3), None, padding=ASYMMETRIC), IMAGE),
    "average": (AvgPool2d((2, 2), (2, 1), ((1, 1), (1, 1)), count_include_pad=False), IMAGE),
    "average, asymmetric": (AvgPool2d((2, 3), (1, 1), ASYMMETRIC), IMAGE),
    "average inside, asymmetric": (AvgPool2d((2, 3), (1, 1), ASYMMETRIC, count_include_pad=False), IMAGE),
    "average, wide padding": (AvgPool2d((3, 3), (1, 1), ((2, 2), (1, 1)), count_include_pad=False), IMAGE),
    "maximum, wide padding": (act.MaxPool2d((3, 3), (1, 1), ((2, 2), (1, 1))), IMAGE),
    "flatten": (Reshape((120,)), IMAGE),
    "unflatten": (Reshape((2, 3)), (6,)),
    "reshape": (Reshape((5, 24)), IMAGE),
    "ReLU": (act.ReLU(), (5,)),
    "LeakyReLU": (act.LeakyReLU(0.3), (5,)),
    "PReLU": (act.PReLU(random(4, 1, 1)), IMAGE),
    "PReLU, one slope": (act.PReLU(0.3), (5,)),
    "PReLU, all slopes": (act.PReLU(random(*IMAGE)), IMAGE),
    "PReLU, slopes of columns": (act.PReLU(random(5)), IMAGE),
    "Clip": (act.Clip(-0.3, 0.8), (5,)),
    "Clip below": (act.Clip(lower=-0.3), (5,)),
    "Clip to a point": (act.Clip(0.5, 0.5), (5,)),
    "HardSigmoid": (act.HardSigmoid(), (5,)),
    "HardSigmoid of ONNX": (act.HardSigmoid(0.2, 0.4), (5,)),
    "Abs": (act.Abs(), (5,)),
    "Sign": (act.Sign(), (5,)),
    "Step": (act.Step(0.25), (5,)),
    "Sigmoid": (act.Sigmoid(), (5,)),
    "Tanh": (act.Tanh(), (5,)),
    "Softplus": (act.Softplus(2.0), (5,)),
    "Maxout": (act.Maxout(3), (6,)),
    "MaxPool2d": (act.MaxPool2d((3, 2), (1, 2), ((1, 1), (1, 1))), IMAGE),
    "MaxPool2d, asymmetric": (act.MaxPool2d((2, 2), (1, 2), ASYMMETRIC, (1, 2)), (4, 6, 7)),
}


def points(net, count=30):
    x = np.random.default_rng(1).normal(scale=2.0, size=(count, *net.input_shape))
    x[0] = 0.0
    return x


def check(net, module):
    x = points(net)
    y = module(torch.tensor(x))
    assert y.shape == (len(x), *net.output_shape)
    np.testing.assert_allclose(y.detach().flatten().numpy(), net(x.reshape(len(x), -1)).ravel(), rtol=1e-12, atol=1e-13)


def network(name):
    layer, shape = LAYERS[name]
    if shape == ():
        return Network.sequential([Reshape(()), layer], (1,))
    return Network.sequential([layer], shape)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_the_same_function_there_and_back(name):
    net = network(name)
    module = to_torch(net)
    check(net, module)
    check(from_torch(module, net.input_shape), module)


@pytest.fixture
def dag():
    return Network(
        [
            ("a", Affine(random(4, 3), random(4)), ["input"]),
            ("relu.a", act.ReLU(), ["a"]),
            ("b", Scale(2.0, -0.5), ["a"]),
            ("sum", Add(), ["relu.a", "b", "a"]),
            ("one", Constant(random(2)), []),
            ("joined", Concat(), ["sum", "one", "b"]),
            ("half", Affine(sparse(4, 10), random(4)), ["joined"]),
            ("max", act.Max(), ["half", "b", "a"]),
        ],
        (3,),
    )


def test_a_graph_is_the_same_function_there_and_back(dag):
    module = to_torch(dag)
    assert isinstance(module, torch.fx.GraphModule)
    check(dag, module)
    check(from_torch(module, dag.input_shape), module)


def test_a_chain_of_standard_layers_is_a_plain_sequential():
    conv = Conv2d(random(2, 1, 3, 3), random(2), padding=((1, 1), (1, 1)))
    layers = [conv, act.ReLU(), act.MaxPool2d((2, 2), (2, 2)), Affine(random(3, 8), random(3)), act.Tanh()]
    module = to_torch(Network.sequential(layers, (1, 4, 4)))
    nn = torch.nn
    assert type(module) is nn.Sequential
    assert [type(part) for part in module] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Linear, nn.Tanh]
    assert module[0].weight.requires_grad
    assert not module.training


def test_a_residual_network_is_a_graph():
    residual = Network([("f", act.ReLU(), ["input"]), ("sum", Add(), ["f", "input"])], (2,))
    assert isinstance(to_torch(residual), torch.fx.GraphModule)
    check(residual, to_torch(residual))


def test_dtype_and_device(dag):
    module = to_torch(dag, dtype=torch.float32, device="meta")
    assert {(p.dtype, p.device.type) for p in module.parameters()} == {(torch.float32, "meta")}
    x = points(dag).astype(np.float32)
    y = to_torch(dag, dtype=torch.float32)(torch.tensor(x))
    assert y.dtype == torch.float32
    np.testing.assert_allclose(y.detach().numpy(), dag(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in {"Sign", "Step"}])
def test_gradients_are_those_of_finite_differences(name):
    net = network(name)
    x = np.random.default_rng(3).normal(size=(1, *net.input_shape))
    direction = np.random.default_rng(4).normal(size=x.shape)
    weights = np.random.default_rng(5).normal(size=net.output_size)
    at = torch.tensor(x, requires_grad=True)
    (to_torch(net)(at).flatten() @ torch.tensor(weights)).backward()
    step = 1e-6 * direction
    slope = (net((x + step).reshape(1, -1)) - net((x - step).reshape(1, -1)))[0] @ weights / 2e-6
    assert float((at.grad.numpy() * direction).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("activation", [act.Sign(), act.Step()])
def test_discontinuous_layers_can_be_differentiated(activation):
    net = Network([("jump", activation, ["input"]), ("sum", Add(), ["jump", "input"])], (3,))
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    to_torch(net)(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 3, dtype=torch.float64))


def test_building_a_module_leaves_random_numbers_alone(dag):
    state = torch.random.get_rng_state()
    to_torch(dag)
    assert torch.equal(state, torch.random.get_rng_state())


def test_softplus_has_no_threshold():
    x = np.linspace(15.0, 50.0, 71)[:, None]
    y = to_torch(Network.sequential([act.Softplus()], (1,)))(torch.tensor(x)).numpy()
    np.testing.assert_allclose(y, x + np.log1p(np.exp(-x)), rtol=2e-16)
