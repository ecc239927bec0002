import numpy as np
import pytest
import scipy.sparse as sp

from polyopt.activations import LeakyReLU, MaxPool2d, ReLU
from polyopt.compose import compose, fold
from polyopt.layers import Add, Affine, AvgPool2d, Concat, Constant, Conv2d, Reshape, Scale
from polyopt.network import Network

rng = np.random.default_rng(0)
PADDED = ((1, 1), (0, 2))


def random(*shape):
    return rng.uniform(-1.0, 1.0, shape)


def affine(n_out, n_in):
    return Affine(random(n_out, n_in), random(n_out))


def sparse(n_out, n_in):
    return Affine(sp.random_array((n_out, n_in), density=0.5, rng=2), random(n_out))


def scale(*shape):
    return Scale(random(*shape), random(*shape))


def conv(**options):
    return Conv2d(random(6, 4 // options.get("groups", 1), 2, 3), random(6), **options)


IMAGE = (4, 5, 5)
CHANNELS = scale(4, 1, 1)
FOLDED = {  # first, second, input shape: what fold turns into one layer
    "reshape, affine": (Reshape((100,)), affine(3, 100), IMAGE),
    "scale, scale": (scale(3), scale(3), (3,)),
    "scale of another shape": (CHANNELS, Scale(2.0, 0.5), IMAGE),
    "affine, scale": (affine(3, 4), scale(3), (4,)),
    "affine, number": (affine(3, 4), Scale(2.0, 1.0), (4,)),
    "scale, affine": (scale(4), affine(3, 4), (4,)),
    "channels, affine": (CHANNELS, affine(3, 100), IMAGE),
    "sparse, scale": (sparse(3, 4), scale(3), (4,)),
    "scale, sparse": (scale(4), sparse(3, 4), (4,)),
    "conv, channels": (conv(padding=PADDED), scale(6, 1, 1), IMAGE),
    "grouped conv, number": (conv(groups=2, padding=PADDED), Scale(-2.0, 1.0), IMAGE),
    "channels, conv": (CHANNELS, conv(stride=(2, 1)), IMAGE),
    "channels, grouped conv": (CHANNELS, conv(groups=2, dilation=(2, 1)), IMAGE),
    "factor, padded conv": (Scale(random(4, 1, 1)), conv(padding=PADDED), IMAGE),
}
COMPOSED = FOLDED | {
    "affine, affine": (affine(3, 4), affine(2, 3), (4,)),
    "affine, affine, no fewer weights": (affine(1, 2), affine(2, 1), (2,)),
    "sparse, affine": (sparse(3, 4), affine(2, 3), (4,)),
    "affine, sparse": (affine(3, 4), sparse(2, 3), (4,)),
    "reshape, reshape": (Reshape((4, 25)), Reshape((100,)), IMAGE),
}
KEPT = {  # what must stay two layers
    "a shift before padding": (CHANNELS, conv(padding=PADDED), IMAGE),
    "a scale of pixels before conv": (scale(4, 5, 5), conv(), IMAGE),
    "a scale of pixels after conv": (conv(), scale(6, 4, 3), IMAGE),
    "a scale of columns after conv": (conv(), scale(3), IMAGE),
    "a wide product": (affine(1, 50), affine(50, 1), (50,)),
    "scale, average": (CHANNELS, AvgPool2d((2, 2), (1, 1)), IMAGE),
}


def check_one_layer(rule, first, second, shape):
    joined = rule(first, second, shape)
    x = random(7, *shape)
    np.testing.assert_allclose(joined(x), second(first(x)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", FOLDED)
def test_fold_joins_scalings(name):
    check_one_layer(fold, *FOLDED[name])


@pytest.mark.parametrize("name", COMPOSED)
def test_compose_joins_linear_layers(name):
    check_one_layer(compose, *COMPOSED[name])


@pytest.mark.parametrize("name", KEPT)
def test_what_must_stay_two_layers(name):
    assert fold(*KEPT[name]) is None
    assert compose(*KEPT[name]) is None


@pytest.mark.parametrize("name", [name for name in COMPOSED if name not in FOLDED])
def test_fold_leaves_layers_without_scaling(name):
    assert fold(*COMPOSED[name]) is None


def chain():
    """Batch normalisation around convolution, activation, pooling and affine layers."""
    layers = [CHANNELS, conv(), scale(6, 1, 1), ReLU(), MaxPool2d((2, 1), (2, 1)), scale(6, 1, 1), Reshape((36,))]
    return Network.sequential([*layers, affine(5, 36), scale(5), LeakyReLU(), affine(4, 5), affine(2, 4)], IMAGE)


def residual():
    """Two blocks whose linear layers have several users."""
    return Network(
        [
            ("a", affine(4, 3), ["input"]),
            ("normal", scale(4), ["a"]),
            ("relu", ReLU(), ["normal"]),
            ("b", affine(4, 4), ["relu"]),
            ("b.scale", scale(4), ["b"]),
            ("sum", Add(), ["b.scale", "normal"]),
            ("doubled", Add(), ["sum", "sum"]),
            ("c", affine(4, 4), ["doubled"]),
            ("out", affine(2, 4), ["c"]),
        ],
        (3,),
    )


def random_network(seed):
    """A random graph of layers on vectors of length four, each with one or two earlier layers as inputs."""
    choice = np.random.default_rng(seed)
    layers, names = [], ["input"]
    for k in range(14):
        one, two = choice.choice(names[-4:]), choice.choice(names)
        options = [
            (affine(4, 4), [one]),
            (sparse(4, 4), [one]),
            (scale(4), [one]),
            (Scale(2.0, -1.0), [one]),
            (ReLU(), [one]),
            (Reshape((4,)), [one]),
            (Add(), [one, two]),
            (Add(), [one, one]),
            (Constant(random(4)), []),
        ]
        layer, inputs = options[choice.integers(len(options))]
        layers.append((str(k), layer, inputs))
        names.append(str(k))
    return Network([*layers, ("out", Concat(), [names[-1], names[-2]]), ("last", affine(3, 8), ["out"])], (4,))


@pytest.mark.parametrize("method", [Network.simplify, Network.fold_scaling])
@pytest.mark.parametrize(
    "net", [chain(), residual(), *map(random_network, range(30))], ids=["chain", "residual", *map(str, range(30))]
)
def test_the_function_stays(net, method):
    merged = method(net)
    x = np.random.default_rng(1).normal(size=(20, net.input_size))
    np.testing.assert_allclose(merged(x), net(x), rtol=1e-11, atol=1e-11)
    assert merged.nodes[-1].name == net.nodes[-1].name
    assert len(method(merged).nodes) == len(merged.nodes) <= len(net.nodes)


def kinds(net):
    return [type(layer).__name__ for layer in net.layers]


def test_folding_leaves_no_scale_even_before_flattening():
    folded = "Conv2d ReLU MaxPool2d Affine LeakyReLU Affine Affine"
    assert kinds(chain().fold_scaling()) == folded.split()


def test_simplifying_merges_affine_layers_too():
    merged = "Conv2d ReLU MaxPool2d Affine LeakyReLU Affine"
    assert kinds(chain().simplify()) == merged.split()


def test_layers_with_several_users_stay():
    assert [node.name for node in residual().fold_scaling().nodes] == "normal relu b.scale sum doubled c out".split()
    assert [node.name for node in residual().simplify().nodes] == "normal relu b.scale sum doubled out".split()
