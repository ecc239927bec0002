"""A surrogate from data: a ReLU network trained on standardised numbers, made cheap to embed where one asks for it.

With scaled data ``x' = (x - s) / t`` and ``y' = (y - v) / w`` (means and standard deviations of the points to learn
from) the network f' minimises

    sum_i weight_i |f'(x'_i) - y'_i|^2 / n_out  +  sparsity sum |W|  +  stability sum over units RS

by Adam: two thirds of the epochs at the learning rate, the rest at a tenth of it. After the former, small weights
become zero for good if there is a sparsity, and the L1 penalty, which biases what is left, is dropped. RS is the ReLU
stability loss (`polyopt.surrogate.regularisers`). On the region of ``police`` the network is affine at every step; into
the regions of ``mpolice`` it is brought in the last third, and constraints there are made exact at the end.

Source: Xiao et al., Training for faster adversarial robustness verification via inducing ReLU stability, ICLR 2019;
Balestriero and LeCun, POLICE, 2023; Ataei, Cheong and Butscher, mPOLICE, 2025.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from polyopt import training
from polyopt.network import Network
from polyopt.police import MPOLICE, POLICE, AffineConstraint, EnforcementError
from polyopt.police.chains import chain
from polyopt.police.constraints import Constraint
from polyopt.police.demands import place
from polyopt.regions import Box, Region
from polyopt.surrogate.fit_report import Errors, FitReport, size
from polyopt.surrogate.regularisers import held, instability, prune
from polyopt.surrogate.samples import Samples, read_samples
from polyopt.surrogate.surrogate import Surrogate
from polyopt.surrogate.units import Units, scaled_constraint
from polyopt.verification.affinity import affine_on
from polyopt.verification.violation import Violation, slope_violation, violation

STEPS = 3000  # of Adam, by default
LEAST_EPOCHS = 30
REFIT = 0.5  # of the epochs of the first fit


@dataclass(frozen=True, eq=False)
class Options:
    """The arguments of `fit_surrogate`; ValueError for those out of range."""

    hidden: tuple[int, ...]
    regions: tuple[Region, ...]
    police: bool
    constraints: tuple[Constraint, ...]
    sparsity: float
    stability: float
    epochs: int
    batch_size: int | None
    lr: float
    device: object
    seed: int
    progress: bool
    time_limit: float | None

    def __post_init__(self):
        if not self.hidden or any(width < 1 for width in self.hidden):
            raise ValueError(f"fit_surrogate: hidden is {self.hidden}, but must name the width of one layer or more")
        for name in ("sparsity", "stability"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"fit_surrogate: {name} is {getattr(self, name)}, but must be finite and at least 0")
        if self.epochs < 1:
            raise ValueError(f"fit_surrogate: epochs is {self.epochs}, but must be at least 1")
        if self.sparsity and self.regions and not self.police:
            raise ValueError("fit_surrogate: mpolice moves all weights and leaves none at zero; leave out sparsity")
        if self.constraints and (self.police or not self.regions):
            raise ValueError("fit_surrogate: constraints hold on the regions of mpolice; give them as mpolice=[...]")


def fit_surrogate(
    X,
    y,
    hidden: Sequence[int] = (32, 32),
    *,
    police: Region | None = None,
    mpolice: Sequence[Region] = (),
    constraints: Sequence[Constraint] = (),
    sparsity: float = 0.0,
    stability: float = 0.0,
    weights=None,
    held_out=0.2,
    epochs: int | None = None,
    batch_size: int | None = 64,
    lr: float = 0.01,
    device="auto",
    seed: int = 0,
    progress: bool = True,
    time_limit: float | None = None,
) -> Surrogate:
    """Train a ReLU network with these ``hidden`` widths to map X (N, n_in) to y (N, n_out) or (N,).

    X and y are arrays or pandas tables, whose columns name the inputs and outputs. Everything is in the user's units;
    the network is trained in float64 on standardised numbers, and the scaling is folded into the `Surrogate`.

    On the region ``police`` the network is affine. On each of the regions ``mpolice`` it is affine too, each in a
    linear piece of its own, and keeps ``constraints`` there: `polyopt.police.AffineConstraint` and `SlopeConstraint`
    on these regions. Both are proven for the network returned; ``surrogate.regions`` names the regions.

    ``sparsity`` weighs the L1 norm of the weights (1e-4 to 1e-3 are usual): small ones become zero. ``stability``
    weighs the ReLU stability loss on the box of the data (1e-4 to 1e-2): fewer units then need a binary there. Both
    cost accuracy. ``weights`` (N,) are those of the points; ``held_out`` is the share of points that are kept for the
    report's errors only, or a mask (N,) of them. ``batch_size``, ``lr``, ``device``, ``progress`` and ``epochs`` are
    those of `polyopt.training.fit`, by default as many as make 3000 steps, and at least 30; ``seed`` draws weights,
    batches and the points held out. ``time_limit`` in seconds is for training; stopped by it or by Ctrl-C, the network
    as it is then is returned.

    ``surrogate.report`` is a `polyopt.surrogate.fit_report.FitReport`. Its ``refit(X, y, weight)`` returns a surrogate
    that has learnt further points too, each with that weight (of one point here): training goes on from this one's
    weights, with the same scaling and half the epochs.

    Raises ValueError for wrong shapes, numbers that are not finite, and too few points; for options out of range; and
    `polyopt.police.EnforcementError` where the regions cannot be told apart or constraints contradict each other.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(0.0, 100.0, size=(200, 2))
    >>> y = 5.0 + 0.1 * X[:, 0] + 1e-3 * X[:, 1] ** 2
    >>> normal = Box([20.0, 20.0], [30.0, 30.0])
    >>> surrogate = fit_surrogate(X, y, hidden=(16,), police=normal, epochs=40, progress=False)
    >>> surrogate.report.held_out.rmse.item() < 1.0, surrogate.report.certificates[0].status
    (True, 'affine')
    """
    if police is not None and mpolice:
        raise ValueError("fit_surrogate: give police, one region, or mpolice, several regions, but not both")
    samples = read_samples(X, y, weights, held_out, seed)
    regions = tuple(mpolice) if police is None else (police,)
    if epochs is None:
        batches = 1 if batch_size is None else math.ceil(samples.training.sum() / batch_size)
        epochs = max(LEAST_EPOCHS, STEPS // batches)
    numbers = (sparsity, stability, epochs, batch_size, lr, device, seed, progress, time_limit)
    options = Options(tuple(hidden), regions, police is not None, tuple(constraints), *numbers)
    for region in regions:
        if not isinstance(region, Region) or region.size != samples.X.shape[1]:
            raise ValueError(
                f"fit_surrogate: {region!r} is no region of {samples.X.shape[1]} dimensions, as X has them"
            )
    seen = samples.training
    module = _module([samples.X.shape[1], *options.hidden, samples.y.shape[1]], seed)
    return _fitted(module, samples, Units.of(samples.X[seen]), Units.of(samples.y[seen]), options)


def _refit(module: nn.Sequential, samples: Samples, inputs: Units, outputs: Units, options: Options, X, y, weight=10.0):
    """What ``report.refit`` is."""
    return _fitted(copy.deepcopy(module), samples.and_more(X, y, weight), inputs, outputs, options, REFIT)


def _module(sizes: list[int], seed: int) -> nn.Sequential:
    """Linear layers of these sizes with ReLUs in between; torch's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = [nn.Linear(*pair, dtype=torch.float64) for pair in itertools.pairwise(sizes)]
    return nn.Sequential(*(part for layer in linear for part in (layer, nn.ReLU())))[:-1]


def _fitted(
    module: nn.Sequential, samples: Samples, inputs: Units, outputs: Units, options: Options, share: float = 1.0
) -> Surrogate:
    """Train the module for this share of the epochs and make it a surrogate, proven and reported."""
    begin = time.perf_counter()
    box = Box(inputs.scaled(samples.X.min(0)), inputs.scaled(samples.X.max(0)))
    now = replace(options, epochs=max(1, round(share * options.epochs)))
    net, stopped = _trained(module, samples, inputs, outputs, box, now)
    names = {"input_names": samples.input_names, "output_names": samples.output_names}
    scalers = (inputs.shift, inputs.scale), (outputs.shift, outputs.scale)
    made = Surrogate(net, *scalers, samples.X, targets=samples.y, regions=options.regions, **names)
    certificates = tuple(affine_on(made.net, region) for region in options.regions)
    if unproven := [i for i, found in enumerate(certificates) if found.margin is None]:
        raise EnforcementError(
            f"fit_surrogate: region {unproven[0]} is not proven to lie in one linear piece in the user's units; "
            "scales that differ by many orders of magnitude can do that: give the data in other units"
        )
    violations = tuple(
        _violation(made.net, constraint, options.regions, certificates) for constraint in options.constraints
    )
    predicted, seen, rest = made(samples.X), samples.training, samples.held_out
    made.report = FitReport(
        Errors.of(predicted[seen], samples.y[seen]),
        Errors.of(predicted[rest], samples.y[rest]) if rest.any() else None,
        *size(made.net, made.box),
        time.perf_counter() - begin,
        stopped,
        certificates,
        violations,
        partial(_refit, module, samples, inputs, outputs, options),
    )
    return made


def _trained(
    module: nn.Sequential, samples: Samples, inputs: Units, outputs: Units, box: Box, options: Options
) -> tuple[Network, str]:
    """Train the module in place; the network in scaled units, and what stopped the training."""
    begin, seen = time.perf_counter(), samples.training
    weights = samples.weights[seen] / samples.weights[seen].mean()
    data = inputs.scaled(samples.X[seen]), np.column_stack([outputs.scaled(samples.y[seen]), weights])
    regions = [inputs.region(region) for region in options.regions]
    model = POLICE(module, regions[0]) if options.police else module
    how = {"batch_size": options.batch_size, "device": options.device, "progress": options.progress}
    loss = _Loss(module, model, box, options)
    first = max(1, 2 * options.epochs // 3)
    found = training.fit(
        model, *data, loss, epochs=first, lr=options.lr, seed=options.seed, time_limit=options.time_limit, **how
    )
    linear = [layer for layer in module if isinstance(layer, nn.Linear)]
    if options.sparsity:
        prune(linear)
        loss.sparsity = 0.0
    last, stopped = options.epochs - first if found.stopped == "epochs" else 0, found.stopped
    left = None if options.time_limit is None else max(options.time_limit - (time.perf_counter() - begin), 0.0)
    how |= {"lr": options.lr / 10, "seed": options.seed + 1, "time_limit": left}
    if regions and not options.police:
        constraints = [scaled_constraint(one, options.regions, inputs, outputs) for one in options.constraints]
        enforced = MPOLICE(module, regions, constraints=constraints)
        every = max(1, last // 10)
        fitting = enforced.fit(*data, loss, warm_up=0, epochs=last, every=every, hard=True, **how)
        stopped = fitting.stopped if last else stopped
    elif last:
        with held(linear) if options.sparsity else contextlib.nullcontext():
            stopped = training.fit(model, *data, loss, epochs=last, **how).stopped
    return chain(model.fold() if options.police else module).network(), stopped


class _Loss:
    """The weighted mean square and the penalties; the last column of the targets holds the points' weights."""

    def __init__(self, module: nn.Sequential, model: nn.Module, box: Box, options: Options):
        self.linear = [layer for layer in module if isinstance(layer, nn.Linear)]
        self.model, self.sparsity, self.stability = model, options.sparsity, options.stability
        self.center, self.radius = torch.tensor(box.center), torch.tensor(box.radius)

    def __call__(self, predicted: Tensor, targets: Tensor) -> Tensor:
        value = (targets[:, -1:] * (predicted - targets[:, :-1]) ** 2).mean()
        if self.sparsity:
            value = value + self.sparsity * sum(layer.weight.abs().sum() for layer in self.linear)
        if self.stability:
            layers = zip([layer.weight for layer in self.linear[:-1]], self.biases(), strict=True)
            value = value + self.stability * instability(layers, self.center.to(value), self.radius.to(value))
        return value

    def biases(self) -> list[Tensor]:
        """Those of the hidden layers, as POLICE has moved them."""
        if isinstance(self.model, POLICE):
            shifts, _ = self.model.walk(self.model.tensors(), list(self.model.cover.parts), self.model.needed)
            return [shift.flatten() for (shift,) in shifts.values()]
        return [layer.bias for layer in self.linear[:-1]]


def _violation(net: Network, constraint: Constraint, regions: Sequence[Region], certificates) -> Violation:
    """By how much the constraint is violated at most, in the user's units."""
    number = place(constraint, regions)
    if isinstance(constraint, AffineConstraint):
        known = {"slope": constraint.slope, "certificate": certificates[number], "milp": False}
        return violation(net, regions[number], constraint.E, constraint.f, constraint.kind, **known)
    return slope_violation(net, regions[number], constraint.E, constraint.D, constraint.g, constraint.kind)
