"""mPOLICE: a network that is affine on each of many regions, in a linear piece of its own, and keeps constraints there.

Training goes on as usual; now and then the hidden layers are moved by the least that puts each region into one linear
piece (`polyopt.police.passes`). In between, the constraints on the outputs are penalties with a growing weight, in the
pieces that the regions were put into. At the end the regions are put into their pieces once more, and a quadratic
program in the last layer, which leaves these alone, makes the constraints exact (`polyopt.police.last_layer`).

Source: Ataei, Cheong and Butscher, mPOLICE: provable enforcement of multi-region affine constraints in deep neural
networks, 2025, sections 2.4 to 2.7. The last step is not in the paper.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from polyopt.police.chains import chain
from polyopt.police.constraints import Constraint, SlopeConstraint
from polyopt.police.demands import augmented, demands, place
from polyopt.police.enforce import certified, reported, told_apart, write
from polyopt.police.fitting import Fitting, Schedule, enforce, fit
from polyopt.police.hulls import hulls
from polyopt.police.last_layer import hardened
from polyopt.police.passes import Pass, Plan, Policy, passes
from polyopt.police.report import LayerReport, Report
from polyopt.police.solve_layer import Rule
from polyopt.regions import Region
from polyopt.verification.violation import Violation, slope_violation, violation


class MPOLICE(nn.Module):
    """``module``, to be made affine on each of ``regions``, with ``constraints`` on its values and slopes there.

    The arguments are those of `polyopt.police.enforce`, which says what the module and the regions may be; constraints
    are `AffineConstraint` and `SlopeConstraint`. The module itself is changed, by `fit` or by training of your own with
    `enforce` and `penalty` in it; `harden` makes the constraints exact, `prove` proves what there is, and `fold` gives
    the plain module. Everything but the proofs runs on the module's device.

    Raises EnforcementError where the regions cannot be told apart, ValueError for what does not fit.

    >>> from polyopt import Box
    >>> from polyopt.police import AffineConstraint
    >>> _ = torch.manual_seed(0)
    >>> mlp = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)).double()
    >>> regions = [Box([0.0], [1.0]), Box([2.0], [3.0])]
    >>> constant = AffineConstraint(regions[0], [1.0], 0.25)  # f(x) = 1/4
    >>> least = AffineConstraint(regions[1], [-1.0], -0.5, kind="le")  # f(x) >= 1/2
    >>> model = MPOLICE(mlp, regions, constraints=[constant, least])
    >>> x = torch.linspace(0.0, 3.0, 64)[:, None]
    >>> fitting = model.fit(x, x.sin(), nn.functional.mse_loss, warm_up=200, epochs=50, hard=True, progress=False)
    >>> [certificate.status for certificate in fitting.report.certificates]
    ['affine', 'affine']
    >>> [found.status for found in fitting.report.violations]
    ['satisfied', 'satisfied']
    >>> y = model.fold()(torch.tensor([[0.0], [0.5], [2.5]]).double())
    >>> round(y[0].item(), 12), round(y[1].item(), 12), y[2].item() >= 0.5
    (0.25, 0.25, True)
    """

    def __init__(
        self,
        module: nn.Module,
        regions: Sequence[Region],
        signs: Rule = "exact",
        margin: float = 1e-3,
        constraints: Sequence[Constraint] = (),
        *,
        separate: Policy = "first",
        time_limit: float | None = None,
    ):
        super().__init__()
        self.module, self.regions, self.constraints = module, list(regions), list(constraints)
        self.plan, self.chain = Plan(signs, margin, separate, time_limit), chain(module)
        self.images = hulls(self.regions, self.chain.last.weight)
        self.demands = demands(self.constraints, self.regions, self.images, self.chain.last.out_features)
        told_apart(self.regions)
        self.done: Pass | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The module's outputs."""
        return self.module(x)

    def enforce(self) -> list[LayerReport]:
        """Put each region into a linear piece of its own; what was done to each hidden layer. No proof, see `prove`.

        Raises EnforcementError where it cannot be done; the module is then unchanged.
        """
        self._follow()
        self.done = passes(self.chain, self.images, self.plan)
        write(self.chain, self.done)
        return self.done.layers

    def penalty(self, tolerance: float = 0.0) -> Tensor:
        """The penalty of section 2.7, see `polyopt.police.demands`, in the pieces of the last enforcement.

        It is a sum over constraints and vertices, differentiable in all parameters. ValueError before an enforcement.
        """
        return self.demands.penalty(self._outputs(self.chain.last.weight.dtype), tolerance)

    @torch.no_grad()
    def violation(self) -> float:
        """By how much the constraint that is violated most is violated in these pieces; 0.0 where none is."""
        outputs = self._outputs(torch.float64)
        return max(0.0, float(self.demands.violations(outputs).max())) if self.constraints else 0.0

    @torch.no_grad()
    def harden(self, inputs, targets=None) -> None:
        """Make the constraints exact by the last layer, with the least change of the function on the data.

        ``inputs`` are (N, n_in). With ``targets`` (N, n_out) the last layer is fitted to them anew by least squares,
        among those that keep the constraints. Raises `InfeasibleConstraints`, which names an irreducible set of them,
        where none does; ValueError before an enforcement.
        """
        last, pattern = self.chain.last, self._pattern()
        if last.bias is None:
            raise ValueError("MPOLICE: the last layer has no bias to keep constraints with; add one")
        features = self._features(inputs)
        if targets is not None:
            targets = self._data("targets", targets, last.out_features)
            if len(targets) != len(features):
                raise ValueError(f"MPOLICE: there are {len(features)} inputs, but {len(targets)} targets")
        rows = self.demands.lifted(self.chain, pattern, torch.float64)
        U = hardened(self.demands, rows, augmented(last, torch.float64), features, targets, last.weight.dtype)
        last.weight.copy_(U[:, :-1])
        last.bias.copy_(U[:, -1])

    def prove(self, tolerance: float | None = None) -> Report:
        """Proofs that each region lies in its piece, and of how far each constraint is violated there at most.

        A constraint is satisfied if it is violated by no more than ``tolerance``, by default as in
        `polyopt.verification.violation`: not at all for "le", and up to rounding errors in float64 for "eq".
        Raises EnforcementError where a region does not lie in one piece any more, ValueError before an enforcement.
        """
        self._pattern()
        begin = time.perf_counter()
        report = reported(self.chain, self.done, self.regions, begin)
        report.violations.extend(self._proven(one, report, tolerance) for one in self.constraints)
        return report

    def fold(self) -> nn.Module:
        """A copy of the plain module, once each region is proven to lie in one linear piece; else EnforcementError."""
        certified(self.chain, self.regions)
        return copy.deepcopy(self.module)

    def fit(
        self,
        inputs,
        targets,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        warm_up: int = 1000,
        epochs: int = 200,
        every: int = 10,
        weight: float = 1.0,
        growth: float = 1.2,
        tolerance: float = 1e-6,
        hard: bool = False,
        time_limit: float | None = None,
        **options,
    ) -> Fitting:
        """Train in place, enforce, and say how it went; the model ends enforced, and is proven.

        After ``warm_up`` epochs without constraints come at most ``epochs``, with an enforcement before the first of
        them, after each ``every`` of them, and at the end. In these the loss has the penalty, times ``weight``, which
        is multiplied by ``growth`` at each enforcement that leaves a violation above ``tolerance``; the first one that
        does not ends the training. ``hard`` makes the constraints exact at the end: by `harden`, with the function
        before the last enforcement as targets, so that it changes least on the data. ``time_limit`` in seconds is for
        the epochs. ``inputs``, ``targets``, ``loss`` and further options, such as lr, batch_size and device, are those
        of `polyopt.training.fit`.

        An enforcement that cannot be done is noted, and training goes on; the last one raises EnforcementError, or
        `InfeasibleConstraints` from the hard step. ValueError for what does not fit.
        """
        schedule = Schedule(warm_up, epochs, every, weight, growth, tolerance)
        found = fit(self, inputs, targets, loss, schedule, time_limit, options)
        start = time.perf_counter()
        before = self._values(inputs) if hard else None
        if found.stopped != "tolerance":
            enforce(self, found, len(found.loss))
        if hard:
            self.harden(inputs, before)
        found.seconds += time.perf_counter() - start
        found.report = self.prove(tolerance)
        return found

    def _pattern(self) -> list[Tensor]:
        """The signs (N, units) of each hidden layer at the last enforcement."""
        if self.done is None:
            raise ValueError("MPOLICE: the regions have no linear pieces yet; call enforce() or fit() first")
        self._follow()
        device = self.chain.last.weight.device
        return [layer.signs.to(device) for layer in self.done.layers]

    def _outputs(self, dtype: torch.dtype) -> Tensor:
        """The outputs of the rows of the constraints, (R, n_out)."""
        rows = self.demands.lifted(self.chain, self._pattern(), dtype)
        return rows @ augmented(self.chain.last, dtype).T

    def _features(self, inputs) -> Tensor:
        """The last hidden features of the data and a one, (N, H + 1), in float64."""
        x = self._data("inputs", inputs, self.images[0].size)
        for layer in self.chain.hidden:
            z = nn.functional.linear(x, layer.linear.weight.double(), layer.linear.bias.double())
            x = torch.where(z > 0, z, layer.slope * z)
        return nn.functional.pad(x, (0, 1), value=1.0)

    def _data(self, name: str, values, size: int) -> Tensor:
        """Data (N, size) in float64; ValueError for other shapes, none at all, and numbers that are not finite."""
        x = torch.as_tensor(values, dtype=torch.float64, device=self.chain.last.weight.device)
        if x.dim() != 2 or not len(x) or x.shape[1] != size:
            raise ValueError(f"MPOLICE: {name} have shape {tuple(x.shape)}, but must be (N, {size}) with N >= 1")
        if not x.isfinite().all():
            raise ValueError(f"MPOLICE: {int((~x.isfinite()).sum())} numbers of the {name} are not finite")
        return x

    @torch.no_grad()
    def _values(self, inputs) -> Tensor:
        """The outputs at the data, (N, n_out), in float64."""
        return self._features(inputs) @ augmented(self.chain.last, torch.float64).T

    def _follow(self) -> None:
        """Take the regions to the module's device."""
        device = self.chain.last.weight.device
        if self.images[0].points.device != device:
            self.images, self.demands = [image.to(device) for image in self.images], self.demands.to(device)

    def _proven(self, constraint: Constraint, report: Report, tolerance: float | None) -> Violation:
        i, network = place(constraint, self.regions), self.chain.network()
        asked = {"kind": constraint.kind, "tolerance": tolerance}
        if isinstance(constraint, SlopeConstraint):
            return slope_violation(network, self.regions[i], constraint.E, constraint.D, constraint.g, **asked)
        asked |= {"slope": constraint.slope, "certificate": report.certificates[i]}
        return violation(network, self.regions[i], constraint.E, constraint.f, **asked)
