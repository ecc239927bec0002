"""Several networks of one target as one network: their mean, the largest or the smallest of them.

The members f_1, ..., f_m stand side by side and share their input,

    mean     1/m sum_k f_k(x)           an affine layer
    max      max_k f_k(x)               a maximum of m inputs
    min      -max_k -f_k(x)

so that every bound, formulation and search takes the ensemble as it takes any network. Where the members differ the
data say little: optimising their worst case keeps away from there, and the mean errs less than a member. Members that
each learn another bootstrap resample, from other weights, stand for draws from a posterior over functions.

Source: survey section 4.1.2; Papalexopoulos et al., Constrained discrete black-box optimization using mixed-integer
programming, ICML 2022 (Thompson sampling with ReLU networks); Breiman, Bagging predictors, 1996.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from polyopt.activations import Max
from polyopt.layers import Affine, Concat, Scale
from polyopt.network import INPUT, Network
from polyopt.regions import Box, Region
from polyopt.surrogate.fit import fit_surrogate
from polyopt.surrogate.samples import read_samples
from polyopt.surrogate.surrogate import Surrogate

How = Literal["mean", "max", "min"]


@dataclass(frozen=True, eq=False)
class EnsembleReport:
    """The members of an ensemble, and how it was made of them."""

    members: tuple[Surrogate, ...]
    how: How

    @property
    def stopped(self) -> str:
        """What stopped the members' training: of those that differ, the first that is not "epochs"."""
        found = [getattr(member.report, "stopped", "epochs") for member in self.members]
        return next((stopped for stopped in found if stopped != "epochs"), "epochs")

    def refit(self, X, y, weight: float = 10.0) -> Surrogate:
        """The ensemble of the members, each fitted anew with these points, see `polyopt.fit_surrogate`."""
        if missing := [k for k, member in enumerate(self.members) if not hasattr(member.report, "refit")]:
            raise ValueError(f"ensemble: member {missing[0]} is not of fit_surrogate and cannot be fitted anew")
        return ensemble([member.report.refit(X, y, weight) for member in self.members], self.how)

    def __str__(self) -> str:
        return "\n".join([f"{self.how} of {len(self.members)}", *(str(member.report) for member in self.members)])


def ensemble(surrogates: Sequence[Surrogate], how: How = "mean") -> Surrogate:
    """One surrogate for the ``how`` of several, output by output: "mean", "max" (largest) or "min" (smallest).

    They must have the same inputs and outputs, by number and by name. The domain is theirs if all have learnt the same
    points, and else the intersection of their boxes. Raises ValueError where that is empty, and where they do not fit.

    The third way to use them is a Thompson choice: optimise one of them, drawn anew in each round,
    ``np.random.default_rng(seed).choice(surrogates)``; where they disagree each gets its turn.

    >>> members = [Surrogate(Network.sequential([Scale(a)], (1,)), domain=Box([0.0], [a])) for a in (1.0, 2.0, 6.0)]
    >>> [ensemble(members, how)([[1.0]]).item() for how in ("mean", "max", "min")], ensemble(members).upper
    ([3.0, 6.0, 1.0], array([1.]))
    >>> np.random.default_rng(0).choice(members)([[1.0]])
    array([[6.]])
    """
    surrogates = tuple(surrogates)
    _check(surrogates, how)
    points = surrogates[0].points
    shared = points is not None and all(np.array_equal(one.points, points) for one in surrogates)
    targets = surrogates[0].targets if shared else None
    if not all(np.array_equal(one.targets, targets) for one in surrogates):
        targets = None
    return Surrogate(
        _network([one.net for one in surrogates], how),
        domain=points if shared else _intersection(surrogates),
        targets=targets,
        input_names=surrogates[0].input_names,
        output_names=surrogates[0].output_names,
        regions=_shared_regions(surrogates) if how == "mean" else (),
        report=EnsembleReport(surrogates, how),
    )


def fit_ensemble(X, y, members: int = 5, *, held_out=0.2, weights=None, seed: int = 0, **options) -> list[Surrogate]:
    """Fit several surrogates to bootstrap resamples of the same data, each from other weights, as a list.

    A resample draws as many points to learn from as there are, with replacement: a point counts as often as it was
    drawn. All members hold out the same points and have the same domain. Further ``options`` are those of
    `polyopt.fit_surrogate`, which also says what X, y, held_out and weights are. Raises ValueError as that does.

    >>> X = np.linspace(0.0, 1.0, 40)[:, None]
    >>> members = fit_ensemble(X, X**2, 2, hidden=(8,), epochs=20, progress=False)
    >>> len(members), members[0].report.held_out.count, (members[0](X) == members[1](X)).any()
    (2, 8, np.False_)
    """
    if members < 1:
        raise ValueError(f"fit_ensemble: members is {members}, but must be at least 1")
    samples, rng = read_samples(X, y, weights, held_out, seed), np.random.default_rng(seed)
    shares = samples.weights * samples.training
    count = int(samples.training.sum())
    drawn = rng.multinomial(count, shares / shares.sum(), size=members)
    options |= {"held_out": samples.held_out}
    return [fit_surrogate(X, y, weights=times, seed=seed + k, **options) for k, times in enumerate(drawn)]


def _network(nets: Sequence[Network], how: How) -> Network:
    """The members in parallel, and what joins them."""
    layers, outputs, size = [], [], nets[0].output_size
    for k, net in enumerate(nets):
        for node in net.nodes:
            inputs = [name if name == INPUT else f"member{k}.{name}" for name in node.inputs]
            layers.append((f"member{k}.{node.name}", node.layer, inputs))
        outputs.append(layers[-1][0])
    if how == "mean":
        mean = np.tile(np.eye(size) / len(nets), len(nets))
        layers += [("members", Concat(), outputs), ("mean", Affine(mean, None), ["members"])]
    elif how == "max":
        layers.append(("max", Max(), outputs))
    else:
        layers += [(f"minus{k}", Scale(-1.0), [output]) for k, output in enumerate(outputs)]
        layers += [("max", Max(), [f"minus{k}" for k in range(len(nets))]), ("min", Scale(-1.0), ["max"])]
    return Network(layers, nets[0].input_shape)


def _check(surrogates: tuple[Surrogate, ...], how: str) -> None:
    if how not in ("mean", "max", "min"):
        raise ValueError(f"ensemble: how is {how!r}, but must be 'mean', 'max' or 'min'")
    if not surrogates or not all(isinstance(one, Surrogate) for one in surrogates):
        raise ValueError(
            f"ensemble: needs one Surrogate or more, but gets {[type(one).__name__ for one in surrogates]}"
        )
    for k, one in enumerate(surrogates):
        for what in ("input_names", "output_names"):
            if getattr(one, what) != getattr(surrogates[0], what):
                raise ValueError(
                    f"ensemble: surrogate {k} has {what} {getattr(one, what)}, but surrogate 0 has "
                    f"{getattr(surrogates[0], what)}"
                )
        shapes = [(net.input_shape, net.output_shape) for net in (surrogates[0].net, one.net)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"ensemble: surrogate {k} has input and output shapes {shapes[1]}, but surrogate 0 has {shapes[0]}"
            )


def _intersection(surrogates: Sequence[Surrogate]) -> Box:
    lower, upper = np.max([one.lower for one in surrogates], 0), np.min([one.upper for one in surrogates], 0)
    if (empty := np.flatnonzero(lower > upper)).size:
        raise ValueError(
            f"ensemble: the domains have no point in common: {surrogates[0].input_names[empty[0]]} would lie between "
            f"{lower[empty[0]]} and {upper[empty[0]]}"
        )
    return Box(lower, upper)


def _shared_regions(surrogates: Sequence[Surrogate]) -> tuple[Region, ...]:
    """The regions that all have: there the mean is affine too."""
    first, *others = surrogates
    return tuple(
        region for region in first.regions if all(any(region is one for one in other.regions) for other in others)
    )
