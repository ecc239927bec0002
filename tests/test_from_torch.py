import copy
import re

import numpy as np
import pytest

from polyopt.activations import ReLU
from polyopt.convert.from_torch import from_torch
from polyopt.layers import Affine, Conv2d, Scale
from polyopt.network import UnsupportedLayer

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
torch.set_num_threads(1)


class Of(nn.Module):
    """A module whose forward is a function of the input and of submodules given by name."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(x, *self.children())


class Block(nn.Module):
    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.skip = nn.Sequential()
        if stride > 1:
            self.skip = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.skip(x)
        return self.relu(y)


class SmallResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.Sequential(Block(4, 4, 1), Block(4, 6, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(torch.flatten(self.pool(self.stages(self.stem(x))), 1))


class Branches(nn.Module):
    """Functional calls, arithmetic with constants, and a weight tensor of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 4, bias=False)
        self.matrix = nn.Parameter(torch.randn(8, 3))
        self.register_buffer("center", torch.randn(6), persistent=False)

    def forward(self, x):
        x = (x - self.center) / 2.0
        a, b = F.relu(self.first(x)), torch.relu(-self.second(x))
        joined = torch.cat([1.0 - a, torch.maximum(a, b) * 3], dim=-1)
        return joined @ self.matrix


def dueling(x, value, advantage):
    a = advantage(x)
    return value(x) + a - a.mean(dim=1, keepdim=True)


def written_in_place(x):
    x = x.clone()
    x[:, 1:3] += 1.0
    x[:, 0] = 2.0
    return x.clamp_(min=-0.5)


def pruned():
    from torch.nn.utils import prune

    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    prune.l1_unstructured(module[0], "weight", amount=0.5)
    module(torch.zeros(1, 6))  # leaves a computed weight behind
    return module


def normalised():
    module = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False), nn.Tanh())
    return nn.Sequential(module, nn.Dropout(0.3), nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Identity())


def conv(*args, **options):
    return nn.Conv2d(4, 6, *args, **options)


SEQUENTIAL = {
    "nested": (nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.ReLU()), nn.Sequential(nn.Linear(5, 2))), (6,)),
    "one linear, no bias": (nn.Linear(6, 2, bias=False), (6,)),
    "only an identity": (nn.Identity(), (6,)),
    "batch normalisation": (normalised(), (6,)),
    "ResNet": (SmallResNet(), (3, 8, 8)),
    "functional": (Branches(), (6,)),
    "residual": (Of(lambda x, f: x + F.relu(f(x)), f=nn.Linear(6, 6)), (6,)),
    "shared module": (Of(lambda x, f: f(f(x).relu()) - f(x), f=nn.Linear(6, 6)), (6,)),
    "dueling": (Of(dueling, value=nn.Linear(6, 1), advantage=nn.Linear(6, 3)), (6,)),
    "weight normalisation": (nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), (6,)),
    "pruned": (pruned(), (6,)),
    "linear on the last axis": (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2)), (2, 4)),
    "maxout": (Of(lambda x, f: f(x).view(x.size(0), 4, 3).max(dim=2).values, f=nn.Linear(6, 12)), (6,)),
}
CONVOLUTIONAL = {
    "stride, padding": conv(3, stride=2, padding=1),
    "tuples": conv((3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1)),
    "same, even kernel": conv((2, 4), padding="same"),
    "valid": conv(3, padding="valid", bias=False),
    "groups": conv(3, groups=2, padding=1),
    "reflecting padding": conv(3, padding=1, padding_mode="reflect"),
    "transposed": nn.ConvTranspose2d(4, 2, 3, stride=2),
    "channels": nn.Sequential(nn.PReLU(4), nn.BatchNorm2d(4)),
    "max pool": nn.MaxPool2d(3, stride=2, padding=1),
    "max pool, dilation": nn.MaxPool2d(2, stride=1, dilation=2),
    "max pool, ceil": nn.MaxPool2d(2, ceil_mode=True),
    "average pool": nn.AvgPool2d(3, stride=2, padding=1),
    "average pool, inside": nn.AvgPool2d(3, padding=1, count_include_pad=False),
    "average pool, ceil": nn.AvgPool2d(2, ceil_mode=True),
    "adaptive, even": nn.AdaptiveAvgPool2d((7, 1)),
    "adaptive, uneven": nn.AdaptiveAvgPool2d((3, 2)),
    "Conv1d": nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 3, 5, stride=2, padding=1)),
    "upsampling": nn.Upsample(scale_factor=2),
    "pixel shuffle": nn.PixelShuffle(2),
}
FUNCTIONS = {
    "LeakyReLU": nn.LeakyReLU(0.2),
    "PReLU": nn.PReLU(),
    "ReLU6": nn.ReLU6(),
    "Hardtanh": nn.Hardtanh(-0.5, 2.0),
    "Hardsigmoid": nn.Hardsigmoid(),
    "Sigmoid": nn.Sigmoid(),
    "Tanh": nn.Tanh(),
    "Softplus": nn.Softplus(beta=2.0),
    "leaky_relu": Of(lambda x: F.leaky_relu(x, negative_slope=0.3)),
    "hardtanh": Of(F.hardtanh),
    "softplus": Of(F.softplus),
    "sigmoid, tanh": Of(lambda x: torch.sigmoid(x) + torch.tanh(x)),
    "clamp": Of(lambda x: torch.clamp(x, -0.3, 0.4) + x.clamp(max=0.7) + torch.clamp(x, min=-0.2)),
    "abs, sign, neg": Of(lambda x: torch.abs(x) + torch.sign(x) - (-x)),
    "step": Of(lambda x: torch.heaviside(x, x.new_tensor(0.5))),
    "constants": Of(lambda x: 2 - x / 4 + x * 3 - (x - 1) + torch.add(x, x, alpha=2)),
    "twice the same": Of(lambda x: x + x),
    "maximum, minimum": Of(lambda x: torch.maximum(x, -2 * x) + torch.minimum(x, torch.ones(6))),
    "constant parts": Of(lambda x: torch.cat([x, torch.ones(1, 2).expand(len(x), 2)], dim=1)),
    "constants of the batch's size": Of(lambda x: torch.stack([x, 2 * torch.ones(len(x), 6) + x.new_zeros(6)], 1) + 1),
    "slices": Of(lambda x: x[:, 1::2] - x[:, [0, 0, 3]].flip(1)),
    "stack": Of(lambda x: torch.stack([x, 2 * x], dim=2).flatten(1)),
    "chunk": Of(lambda x: torch.sub(*x.chunk(2, dim=1))),
    "pad": Of(lambda x: F.pad(x, (2, 1), value=3.0)),
    "reshape, permute": Of(lambda x: x.reshape(-1, 2, 3).permute(0, 2, 1).transpose(1, 2).reshape(len(x), -1)),
    "in place": Of(written_in_place),
    "control flow on shapes": Of(lambda x: x.relu() if x.dim() == 2 and x.shape[1] == 6 else x),
    "sums along axes": Of(lambda x: x.view(-1, 2, 3).sum((1, -1), keepdim=True).flatten(1) - x.view(-1, 2, 3).mean(1)),
    "maxima along axes": Of(
        lambda x: x.view(-1, 2, 3).amax((1, 2), keepdim=True).flatten(1) - x.view(-1, 2, 3).min(2).values
    ),
}
CASES = (
    SEQUENTIAL
    | {name: (module, (4, 7, 6)) for name, module in CONVOLUTIONAL.items()}
    | {name: (module, (6,)) for name, module in FUNCTIONS.items()}
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def trained(module):
    """The module in evaluation mode with weights and statistics that leave nothing at its default."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and not name.endswith("mask"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - (0 if name.endswith("var") else 0.5))
    return module.eval()


def same(net, module, input_shape, points=20):
    """Whether the network is the module in float64, to 1e-12 relative to each output's size over the points."""
    x = np.random.default_rng(2).normal(scale=2.0, size=(points, *input_shape))
    with torch.no_grad():
        wanted = module.double()(torch.tensor(x)).flatten(1).numpy()
    assert net.output_size == wanted.shape[1]
    np.testing.assert_allclose(net(x), wanted, rtol=1e-12, atol=1e-12 * abs(wanted).max())


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CASES)
def test_network_is_the_module_in_float64(name):
    module, input_shape = CASES[name]
    if name == "pruned":
        module.eval()  # its weight is computed
    else:
        trained(module)
    net = from_torch(module, input_shape)
    same(net, module, input_shape)


def test_layers_are_named_by_module_and_folded():
    net = from_torch(trained(SmallResNet()), (3, 8, 8))
    names = [node.name for node in net.nodes]
    assert {"stages.1.relu", "pool", "head", "stem.3"} <= set(names)
    assert any(re.fullmatch(r"stages\.1\.add_.*", name) for name in names)
    assert not any(isinstance(layer, Scale) for layer in net.layers)
    assert sum(isinstance(layer, Conv2d) for layer in net.layers) == 6


def test_a_module_named_input_is_no_obstacle():
    module = trained(nn.Sequential())
    module.add_module("input", nn.Linear(2, 2).eval())
    same(from_torch(module, (2,)), module, (2,))


def test_standard_layers_stay_what_they_are():
    net = from_torch(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).eval(), (3,))
    assert [type(layer) for layer in net.layers] == [Affine, ReLU, Affine]
    assert [node.name for node in net.nodes] == ["0", "1", "2"]


def test_the_callers_module_is_unchanged():
    module = trained(SmallResNet()).float()
    before = copy.deepcopy(module.state_dict())
    random = torch.random.get_rng_state()
    from_torch(module, (3, 8, 8))
    assert not module.training
    assert all(p.dtype == torch.float32 and p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_float64_and_float32_modules_give_the_same_network():
    module = trained(Branches())
    x = np.random.default_rng(0).normal(size=(5, 6))
    np.testing.assert_array_equal(from_torch(module, (6,))(x), from_torch(module.double(), (6,))(x))


def test_softplus_is_exact_beyond_the_threshold():
    net = from_torch(nn.Softplus().eval(), (1,))
    x = np.array([[19.9], [20.1], [30.0], [800.0]])
    torchs = F.softplus(torch.tensor(x)).numpy()
    np.testing.assert_allclose(net(x), x + np.log1p(np.exp(-x)), rtol=1e-15)
    assert 0 < abs(net(x) - torchs).max() < 3e-9


BAD = {
    "no module": (lambda x: x, (3,), ValueError, "needs a torch.nn.Module, but gets function"),
    "training": (nn.Linear(3, 2), (3,), ValueError, r"Linear.* training mode.*\.eval\(\)"),
    "a part in training": (
        nn.Sequential(nn.Linear(3, 2), nn.Dropout()).eval().append(nn.BatchNorm1d(2)),
        (3,),
        ValueError,
        r"'2' is in training mode.*\.eval\(\)",
    ),
    "shape is a number": (nn.ReLU(), 3, ValueError, r"input_shape is 3, but must be .* such as \(64,\)"),
    "shape with a zero": (nn.ReLU(), (0,), ValueError, r"input_shape is \(0,\)"),
    "wrong shape": (nn.Linear(3, 2), (4,), ValueError, r"does not run on inputs of shape \(batch, \*\(4,\)\)"),
    "two inputs": (Of(lambda x, y: x + y), (3,), ValueError, "does not run on inputs.*'y'"),
    "two outputs": (Of(lambda x: (x, x)), (3,), ValueError, "give tuple, but .* return one float64 tensor"),
    "classes": (Of(lambda x: x.argmax(1)), (3,), ValueError, "give torch.int64"),
    "places of maxima": (Of(lambda x: x.gather(1, x.max(1, True)[1] + 0)), (3,), UnsupportedLayer, "cannot be eval"),
    "control flow": (Of(lambda x: x if x.sum() > 0 else -x), (3,), ValueError, "control flow that depends on the data"),
    "view of ten": (Of(lambda x: x.view(3, -1) + 0 * len(x)), (3,), ValueError, "node 'view'.*samples.* apart"),
    "view over the batch": (Of(lambda x: x.view(10, -1)), (10,), ValueError, r"of shape \(10, 3\)"),
    "batch merged": (Of(lambda x: x.view(-1, 2).relu().view(-1, 4)), (4,), ValueError, "node 'view'.*samples.* apart"),
    "mean over the batch": (Of(lambda x: x - x.mean(0)), (3,), ValueError, "aten.mean.dim.*samples of a batch apart"),
    "sum of everything": (Of(lambda x: x + x.sum()), (3,), ValueError, "aten.sum.*samples of a batch apart"),
    "flipped batch": (Of(lambda x: x.flip(0)), (3,), ValueError, "aten.flip.* another sample's numbers"),
    "summed over the batch": (Of(lambda x: x.cumsum(0)), (3,), ValueError, "differs from the module by"),
    "numbered samples": (
        Of(lambda x: x + torch.arange(len(x))[:, None]),
        (3,),
        ValueError,
        "aten.add.*constants differ between samples",
    ),
    "batch size as a number": (Of(lambda x: x * x.size(0)), (3,), ValueError, "depends on its size"),
    "batch statistics": (nn.BatchNorm1d(3, track_running_stats=False), (3,), ValueError, "statistics of the batch"),
    "random": (Of(lambda x: x + torch.rand(3)), (3,), ValueError, "differs from the module by .* is random"),
    "always dropping": (Of(lambda x: F.dropout(x)), (3,), UnsupportedLayer, "random even in evaluation mode"),
    "product": (Of(lambda x: x * x), (3,), UnsupportedLayer, r"aten.mul.Tensor \(node 'mul'.*multiplies two values"),
    "matrix product": (Of(lambda x: x @ x.mT), (3, 3), UnsupportedLayer, "aten.matmul.*constants for all"),
    "division": (Of(lambda x: torch.ones(3) / x), (3,), UnsupportedLayer, "aten.div.*constant divisor"),
    "remainder": (Of(lambda x: torch.div(x, 2, rounding_mode="floor")), (3,), UnsupportedLayer, "without rounding"),
    "division by zero": (Of(lambda x: x / 0), (3,), UnsupportedLayer, "divides by zero"),
    "GELU": (nn.Sequential(nn.ReLU(), nn.GELU()), (3,), UnsupportedLayer, r"gelu.*module '1'.*has no rule.*relu"),
    "Softmax": (nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)), (3,), UnsupportedLayer, "softmax.*drop it.*same order"),
    "LogSoftmax": (nn.LogSoftmax(1), (3,), UnsupportedLayer, "softmax.*drop it.*same order"),
    "comparison": (Of(lambda x: (x > 0).double()), (3,), UnsupportedLayer, "aten.gt"),
    "cast": (Of(lambda x: x.float().double()), (3,), UnsupportedLayer, "yields torch.float32; only float64"),
    "early Softplus": (nn.Softplus(threshold=1.0), (3,), UnsupportedLayer, "has threshold 1"),
    "infinite padding": (Of(lambda x: F.pad(x, (1, 0), value=-torch.inf)), (3,), UnsupportedLayer, "not finite"),
    "clamp between tensors": (
        Of(lambda x: x.clamp(x, 2 * x)),
        (3,),
        UnsupportedLayer,
        "aten.clamp.* only with numbers",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD)
def test_bad_modules_are_refused_with_a_reason(name):
    module, shape, error, message = BAD[name]
    if isinstance(module, nn.Module) and "training" not in name:
        module.eval()
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        from_torch(module, shape)


def test_weights_that_are_not_finite_are_named():
    module = trained(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)))
    with torch.no_grad():
        module[2].weight[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"layer '2' \(Affine\).*nan at \(1, 0\)"):
        from_torch(module, (3,))
