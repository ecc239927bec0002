"""VNN-LIB files to properties.

    file    = (command | comment)*
    command = (declare-const name Real) | (declare-fun name () Real) | (assert formula)

with names X_0, …, X_{n-1} for inputs and Y_0, …, Y_{m-1} for outputs. The file asks for inputs x and outputs y = f(x)
that satisfy all assertions together: a counterexample to the property. In disjunctive normal form these are

    L_k(x) and M_k(y)  for some k,

and the disjuncts with the same L_k make one case: the region L_k, and an unsafe set for each M_k. The region is a box,
or an H-polytope where L_k has rows with several inputs.

Source: Demarchi et al., "Supporting standardization of neural networks verification with VNNLIB and CoCoNet", 2023.
"""

from __future__ import annotations

import gzip
import zlib
from os import PathLike
from pathlib import Path

import numpy as np

from polyopt.regions import Box, HPolytope, Region
from polyopt.verification.property import Property
from polyopt.vnnlib.expressions import formula
from polyopt.vnnlib.normal_form import Formula, Rational, Row, TooLarge, conjunction, disjuncts, down, up
from polyopt.vnnlib.tokens import Expression, Misread, expressions

GZIP = b"\x1f\x8b"


class VNNLIBError(ValueError):
    """A file that is no VNN-LIB, or asks for what this reader does not know, at a ``line`` and ``column`` from 1."""

    def __init__(self, path, line: int, column: int, message: str):
        super().__init__(f"{path}, line {line}, column {column}: {message}")
        self.line, self.column = line, column


def read_vnnlib(path: str | PathLike) -> Property:
    """The property of a VNN-LIB 1.0 file, which may be compressed with gzip.

    The file describes counterexamples, all assertions together: one that follows an "or" is in conjunction with it.
    The property has a case for each set of inputs, with its unsafe outputs; several, where the file has alternatives
    for the inputs. A set of inputs that is empty, as with a lower bound above the upper one, is no case: if there is
    none, ``prop.cases`` is empty and the property holds. Rows with several inputs make an H-polytope, which may be
    empty too, and says so when it is asked. Where nothing is said of the outputs, all are unsafe.

    Decimals are exact numbers and are rounded outwards, so that regions and unsafe sets have every point that the file
    describes: ends of boxes and right-hand sides by less than a float64's last place, and coefficients not at all where
    the row can be scaled so that floats hold them. Strict inequalities count as if they were not,
    except between numbers. What is proven thus
    holds of the file to the letter. A counterexample is one of these closed sets of floats: it may miss a decimal by
    that last place, or lie where a strict inequality has an equality.

    Raises `VNNLIBError`, a ValueError, with line and column, for whatever is not of this form: names that are not
    declared, constraints that are not linear or mix inputs and outputs, an input without a lower or an upper bound,
    numbers that are not finite, more than 10^5 disjuncts.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "prop.vnnlib"
    ...     _ = path.write_text('''
    ...         (declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
    ...         (assert (and (>= X_0 -1.0) (<= X_0 0.5)))    ; the box
    ...         (assert (or (>= Y_0 Y_1) (>= Y_1 3.0)))      ; the unsafe outputs
    ...     ''')
    ...     prop = read_vnnlib(path)
    >>> prop.region, [(set_.A.tolist(), set_.b.tolist()) for set_ in prop.unsafe]
    (Box([-1.], [0.5]), [([[-1.0, 1.0]], [0.0]), ([[0.0, -1.0]], [-3.0])])
    """
    text = _text(Path(path))
    try:
        return _property(*_assertions(text))
    except Misread as error:
        line = text.count("\n", 0, error.at) + 1
        raise VNNLIBError(path, line, error.at - text.rfind("\n", 0, error.at), str(error)) from None


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise VNNLIBError(path, 1, 1, f"found a damaged gzip file ({error}); expected a whole one") from None
    text = data.decode("utf-8-sig", errors="replace")  # comments may be in any encoding
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _assertions(text: str) -> tuple[dict[str, int], Formula]:
    """The variables, with the places of their declarations, and all assertions in one formula."""
    declared: dict[str, int] = {}
    asserted = []
    for expression in expressions(text):
        match expression.content:
            case [Expression(_, "declare-const"), name, sort]:
                _declare(name, sort, declared)
            case [Expression(_, "declare-fun"), name, Expression(_, []), sort]:
                _declare(name, sort, declared)
            case [Expression(_, "assert"), statement]:
                asserted.append(formula(statement, declared))
            case _:
                raise Misread(
                    expression.at,
                    f"found {expression}; expected (declare-const name Real), (declare-fun name () Real) or "
                    f"(assert constraint)",
                )
    return declared, conjunction(asserted)


def _declare(name: Expression, sort: Expression, declared: dict[str, int]) -> None:
    if sort.content != "Real":
        raise Misread(sort.at, f"found {sort} as a sort; expected Real")
    if not isinstance(name.content, str) or name.content[:2] not in ("X_", "Y_"):
        raise Misread(name.at, f"found {name} as a name; expected X_i for an input or Y_j for an output")
    if name.content in declared:
        raise Misread(name.at, f"found a second declaration of {name}; expected one")
    declared[name.content] = name.at


def _property(declared: dict[str, int], asserted: Formula) -> Property:
    inputs, outputs = _columns("X_", declared), _columns("Y_", declared)
    try:
        found = disjuncts([()], asserted.choices)
    except TooLarge:
        raise Misread(0, "the assertions together have too many cases when multiplied out; state fewer") from None
    shared_inputs, shared_outputs = _parts(asserted.rows)
    unsafe: dict[tuple[Row, ...], list[HPolytope]] = {}
    for rows in found:
        on_inputs, on_outputs = _parts(rows)
        polytope = _polytope([*shared_outputs, *on_outputs], outputs)
        unsafe.setdefault(tuple(on_inputs), []).append(polytope)
    regions = [_region([*shared_inputs, *rows], inputs, declared) for rows in unsafe]
    cases = [case for case in zip(regions, unsafe.values(), strict=True) if case[0] is not None]
    return Property.of_cases(cases, len(inputs), len(outputs))


def _columns(prefix: str, declared: dict[str, int]) -> dict[str, int]:
    """The place of each input (output) in the network's: those declared must be the first so many."""
    names = [name for name in declared if name.startswith(prefix)]
    columns = {f"{prefix}{i}": i for i in range(len(names))}
    if not names:
        raise Misread(0, f"found no declaration of {prefix}0; expected at least one input X_0 and one output Y_0")
    for name in names:
        if name not in columns:
            missing = next(expected for expected in columns if expected not in declared)
            raise Misread(declared[name], f"found {name!r} declared, but not {missing}; expected them without gaps")
    return columns


def _parts(rows) -> tuple[list[Row], list[Row]]:
    """The rows on inputs and those on outputs."""
    parts: tuple[list[Row], list[Row]] = [], []
    for row in rows:
        parts[row.terms[0][0].startswith("Y_")].append(row)
    return parts


def _polytope(rows: list[Row], columns: dict[str, int]) -> HPolytope:
    """``{y : C y <= d}``; the row ``0 y <= 0`` where there is none."""
    C, d = np.zeros((max(1, len(rows)), len(columns))), np.zeros(max(1, len(rows)))
    for i, row in enumerate(rows):
        for name, c in row.terms:
            C[i, columns[name]] = c
        d[i] = up(row.bound)
    return HPolytope(C, d)


def _region(rows: list[Row], columns: dict[str, int], declared: dict[str, int]) -> Region | None:
    """The inputs that satisfy the rows; None where an input's bounds leave it no value."""
    lower: dict[str, Rational] = {}
    upper: dict[str, Rational] = {}
    others = []
    for row in rows:
        if len(row.terms) > 1:
            others.append(row)
            continue
        ((name, sign),) = row.terms  # 1 or -1
        if sign > 0:
            upper[name] = min(row.bound, upper.get(name, row.bound))
        else:
            lower[name] = max(-row.bound, lower.get(name, -row.bound))
    for name in columns:
        for side, ends in (("lower", lower), ("upper", upper)):
            if name not in ends:
                raise Misread(declared[name], f"{name} has no {side} bound in one of the disjuncts; expected a number")
    if any(lower[name] > upper[name] for name in columns):
        return None
    box = Box([down(lower[name]) for name in columns], [up(upper[name]) for name in columns])
    if not others:
        return box
    eye, cut = np.eye(len(columns)), _polytope(others, columns)
    return HPolytope(np.vstack([eye, -eye, cut.A]), np.concatenate([box.upper, -box.lower, cut.b]))
