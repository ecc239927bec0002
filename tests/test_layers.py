import math

import numpy as np
import pytest
import scipy.sparse as sp

from polyopt import activations as act
from polyopt.layers import Add, Affine, AvgPool2d, Concat, Constant, Conv2d, Reshape, Scale, selection

rng = np.random.default_rng(0)
IMAGE = (4, 6, 5)
ASYMMETRIC = ((1, 0), (0, 2))
WINDOWS = {  # stride, padding, dilation
    "plain": ((1, 1), ((0, 0), (0, 0)), (1, 1)),
    "stride": ((2, 3), ((0, 0), (0, 0)), (1, 1)),
    "padding": ((1, 1), ((1, 1), (1, 1)), (1, 1)),
    "asymmetric": ((1, 2), ASYMMETRIC, (1, 1)),
    "dilation": ((2, 1), ((1, 1), (0, 0)), (2, 2)),
}


def random(*shape):
    return rng.uniform(-1.0, 1.0, shape)


def conv(groups=1, **options):
    return Conv2d(random(6, 4 // groups, 3, 2), random(6), groups=groups, **options)


LINEAR = {
    "dense": (Affine(random(3, 5), random(3)), [(5,)]),
    "dense on an image": (Affine(random(3, 120), None), [IMAGE]),
    "sparse": (Affine(sp.random_array((6, 5), density=0.4, rng=1), random(6)), [(5,)]),
    "scale": (Scale(random(5), random(5)), [(5,)]),
    "scale by a number": (Scale(-2.0, 0.5), [(2, 3)]),
    "scale of channels": (Scale(random(4, 1, 1), random(4, 1, 1)), [IMAGE]),
    "reshape": (Reshape((5, 24)), [IMAGE]),
    "add": (Add(), [(2, 3)] * 3),
    "concat": (Concat(0), [(2, 3), (1, 3)]),
    "concat, last axis": (Concat(2), [(2, 3, 1), (2, 3, 4), (2, 3, 2)]),
    "constant": (Constant(random(2, 3)), []),
    "convolution in groups": (conv(groups=2), [IMAGE]),
    "average inside": (AvgPool2d((3, 3), (1, 1), ASYMMETRIC, count_include_pad=False), [IMAGE]),
} | {
    f"{name}: {kind}": (layer, [IMAGE])
    for name, (stride, padding, dilation) in WINDOWS.items()
    for kind, layer in {
        "convolution": conv(stride=stride, padding=padding, dilation=dilation),
        "average": AvgPool2d((3, 2), stride, padding),
    }.items()
}


def samples(shapes, count=7):
    return [random(count, *shape) for shape in shapes]


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_layer_is_its_operators_and_offset(name):
    layer, shapes = LINEAR[name]
    arrays = samples(shapes)
    operators = layer.operators(*shapes)
    wanted = layer.offset(*shapes) + sum(
        (W @ x.reshape(len(x), -1).T).T for W, x in zip(operators, arrays, strict=True)
    )
    assert all(
        W.shape == (math.prod(layer.output_shape(*shapes)), math.prod(s))
        for W, s in zip(operators, shapes, strict=True)
    )
    y = layer(*arrays)
    assert y.shape[1:] == layer.output_shape(*shapes)
    np.testing.assert_allclose(y.reshape(len(y), -1), np.broadcast_to(wanted, (len(y), wanted.shape[-1])), atol=1e-13)


@pytest.mark.parametrize("name", LINEAR)
def test_the_absolute_layer_has_absolute_operators_and_no_offset(name):
    layer, shapes = LINEAR[name]
    absolute = layer.absolute()
    assert not absolute.offset(*shapes).any()
    for W, A in zip(layer.operators(*shapes), absolute.operators(*shapes), strict=True):
        np.testing.assert_allclose(sp.csr_array(A).toarray(), abs(sp.csr_array(W).toarray()), atol=1e-14)


def padded(x, padding, value=0.0):
    (top, bottom), (left, right) = padding
    return torch.nn.functional.pad(torch.tensor(x), (left, right, top, bottom), value=value)


@pytest.fixture(scope="module", autouse=True)
def torch_is_there():
    global torch
    torch = pytest.importorskip("torch")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_convolution_is_torchs(window, groups):
    stride, padding, dilation = window
    layer = conv(groups, stride=stride, padding=padding, dilation=dilation)
    x = random(3, *IMAGE)
    weight, bias = torch.tensor(layer.weight), torch.tensor(layer.bias)
    wanted = torch.nn.functional.conv2d(padded(x, padding), weight, bias, stride, 0, dilation, groups)
    np.testing.assert_allclose(layer(x), wanted.numpy(), atol=1e-13)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_maximum_over_windows_is_torchs(window):
    stride, padding, dilation = window
    layer = act.MaxPool2d((3, 2), stride, padding, dilation)
    x = random(3, *IMAGE) - 2.0  # all negative: a padding with zeros would win
    wanted = torch.nn.functional.max_pool2d(padded(x, padding, -math.inf), (3, 2), stride, 0, dilation)
    np.testing.assert_array_equal(layer(x), wanted.numpy())


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", ["plain", "stride", "padding", "asymmetric"])
def test_mean_over_windows_is_torchs(name, inside):
    stride, padding, _ = WINDOWS[name]
    layer = AvgPool2d((3, 3), stride, padding, count_include_pad=not inside)
    x = random(3, *IMAGE)

    def mean(values):
        return torch.nn.functional.avg_pool2d(padded(values, padding), (3, 3), stride).numpy()

    wanted = mean(x) / (mean(np.ones_like(x)) if inside else 1.0)
    np.testing.assert_allclose(layer(x), wanted, atol=1e-14)


PIECEWISE = {
    "ReLU": (act.ReLU(), lambda a: max(a, 0.0)),
    "LeakyReLU": (act.LeakyReLU(0.2), lambda a: a if a > 0 else 0.2 * a),
    "PReLU": (act.PReLU(-0.4), lambda a: a if a > 0 else -0.4 * a),
    "Clip": (act.Clip(-0.5, 1.5), lambda a: min(max(a, -0.5), 1.5)),
    "Clip below": (act.Clip(lower=-0.5), lambda a: max(a, -0.5)),
    "Clip above": (act.Clip(upper=0.5), lambda a: min(a, 0.5)),
    "Clip not at all": (act.Clip(), lambda a: a),
    "Clip to a point": (act.Clip(1.0, 1.0), lambda a: 1.0),
    "HardSigmoid": (act.HardSigmoid(), lambda a: min(max(a / 6 + 0.5, 0.0), 1.0)),
    "HardSigmoid of ONNX": (act.HardSigmoid(0.25, 0.5), lambda a: min(max(0.25 * a + 0.5, 0.0), 1.0)),
    "Abs": (act.Abs(), abs),
    "Sign": (act.Sign(), lambda a: float(a > 0) - float(a < 0)),
    "Step": (act.Step(), lambda a: float(a >= 0)),
    "Step, half": (act.Step(0.5), lambda a: 0.5 * (float(a > 0) + float(a >= 0))),
}


def by_pieces(pieces, a, k=0):
    """The value of the k-th function at a; at a jump, that of the piece of length zero."""
    breakpoints = pieces.breakpoints[:, k]
    left, right = np.searchsorted(breakpoints, a, "left"), np.searchsorted(breakpoints, a, "right")
    piece = left + (right - left) // 2
    return pieces.slopes[piece, k] * a + pieces.intercepts[piece, k]


@pytest.mark.parametrize("name", PIECEWISE)
def test_an_activation_is_its_pieces(name):
    layer, function = PIECEWISE[name]
    pieces = layer.pieces((1,))
    assert (np.diff(pieces.breakpoints, axis=0) >= 0).all()
    assert len(pieces.slopes) == len(pieces.intercepts) == len(pieces.breakpoints) + 1
    for a in [*pieces.breakpoints[:, 0], *np.random.default_rng(1).normal(scale=3.0, size=50)]:
        (value,) = layer(np.array([[a]]))[0]
        assert value == pytest.approx(function(a), abs=1e-15)
        assert value == pytest.approx(by_pieces(pieces, a), abs=1e-15)


def test_each_entry_has_its_own_pieces():
    slopes = random(4, 1, 1)
    layer = act.PReLU(slopes)
    pieces = layer.pieces(IMAGE)
    assert pieces.slopes.shape == (2, math.prod(IMAGE))
    a = random(1, *IMAGE)
    wanted = [by_pieces(pieces, value, k) for k, value in enumerate(a.ravel())]
    np.testing.assert_allclose(layer(a).ravel(), wanted, atol=1e-15)


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (act.Sigmoid(), lambda a: 1 / (1 + math.exp(-a))),
        (act.Tanh(), lambda a: 2 / (1 + math.exp(-2 * a)) - 1),
        (act.Softplus(0.5), lambda a: math.log(1 + math.exp(0.5 * a)) / 0.5),
    ],
)
def test_smooth_activations(layer, function):
    a = np.linspace(-30.0, 30.0, 41)
    np.testing.assert_allclose(layer(a), [function(value) for value in a], atol=1e-13)
    assert np.isfinite(layer(np.array([-1e4, 1e4]))).all()


MAXIMA = {
    "Max": (act.Max(), [(2, 3)] * 3, lambda *arrays: np.max(arrays, axis=0)),
    "Maxout": (act.Maxout(3), [(12,)], lambda x: x.reshape(len(x), 4, 3).max(2)),
    "MaxPool2d": (act.MaxPool2d((2, 2), (2, 2)), [(2, 4, 6)], lambda x: x.reshape(-1, 2, 2, 2, 3, 2).max((3, 5))),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_maxima_are_taken_over_their_groups(name):
    layer, shapes, function = MAXIMA[name]
    arrays = samples(shapes)
    np.testing.assert_array_equal(layer(*arrays), function(*arrays))
    joined = np.concatenate([x.reshape(len(x), -1) for x in arrays], 1)
    groups = layer.groups(*shapes)
    assert groups.shape == (math.prod(layer.output_shape(*shapes)), 3 if name != "MaxPool2d" else 4)
    np.testing.assert_array_equal(joined[:, groups].max(-1), function(*arrays).reshape(len(joined), -1))


def test_a_window_in_the_padding_repeats_a_member():
    groups = act.MaxPool2d((2, 2), (1, 1), ((1, 0), (0, 0))).groups((1, 2, 2))
    assert groups.tolist() == [[1, 1, 0, 1], [0, 1, 2, 3]]


def test_selection_picks_or_leaves_zero():
    x = random(5)
    np.testing.assert_array_equal(selection(np.array([4, -1, 0, 4]), 5) @ x, [x[4], 0.0, x[0], x[4]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine([1.0, 2.0], [0.0]), r"weight has shape \(2,\)"),
        (lambda: Affine([[1.0, 2.0]], [0.0, 1.0]), r"bias has shape \(2,\), weight \(1, 2\)"),
        (lambda: Conv2d(random(3, 2, 2)), r"weight has shape \(3, 2, 2\)"),
        (lambda: Conv2d(random(3, 2, 2, 2), groups=2), "groups=2"),
        (lambda: Conv2d(random(3, 2, 2, 2), random(2)), "3 output channels"),
        (lambda: act.Clip(1.0, 0.0), "lower 1.0 must not exceed upper 0.0"),
        (lambda: act.Softplus(0.0), "beta is 0.0"),
        (lambda: act.HardSigmoid(-1.0), "alpha is -1.0"),
    ],
)
def test_wrong_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (Affine(random(2, 3), None), [(4,)], r"\(2, 3\) does not apply to 4"),
        (Scale(random(2, 3)), [(3,)], "do not broadcast"),
        (conv(), [(3, 5, 5)], r"needs an input \(4, height, width\), but gets \(3, 5, 5\)"),
        (conv(), [(4, 2, 2)], r"kernel \(3, 2\) does not fit an input \(4, 2, 2\)"),
        (AvgPool2d((2, 2), (1, 1)), [(4, 4)], r"needs an input \(channels, height, width\)"),
        (Reshape((2, 3)), [(5,)], "do not fill"),
        (Add(), [(2,), (3,)], r"have \(2,\), \(3,\)"),
        (Concat(1), [(2, 3), (4, 3)], "do not join along axis 1"),
        (Concat(2), [(2, 3)], "do not join along axis 2"),
        (act.Max(), [(2,), (3,)], r"have \(2,\), \(3,\)"),
        (act.Maxout(2), [(5,)], "does not split into groups of 2"),
        (act.PReLU(random(2, 3)), [(3,)], "do not broadcast"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(layer, shapes, message):
    with pytest.raises(ValueError, match=message):
        layer.output_shape(*shapes)


def test_arrays_of_a_layer_are_copies_that_cannot_change():
    weight = random(2, 3)
    layer = Affine(weight, None)
    kept = layer.weight.copy()
    weight[:] = 0.0
    np.testing.assert_array_equal(layer.weight, kept)
    with pytest.raises(ValueError, match="read-only"):
        layer.weight[0, 0] = 1.0
