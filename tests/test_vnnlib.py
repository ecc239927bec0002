"""VNN-LIB: the parser against a direct evaluation of the text, on generated formulas and the competitions' files."""

import contextlib
import csv
import gzip
import math
from datetime import timedelta
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import polyopt as po
from polyopt.vnnlib import VNNLIBError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "vnn"
FOLDERS = {"acasxu": 186, "mnist_fc": 90, "collins_rul_cnn": 43, "test": 5}
FILES = sorted(path for folder in FOLDERS for path in (DATA / folder).glob("*.vnnlib*"))
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the competitions' benchmarks are not part of the project")
drawn = settings(max_examples=150, deadline=None, derandomize=True)
fuzzed = settings(
    max_examples=400,
    deadline=timedelta(seconds=20),
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

HEAD = """(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (>= X_0 -2.0))
(assert (<= X_0 2.0))
(assert (>= X_1 -2.0))
(assert (<= X_1 2.0))
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "prop.vnnlib"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return po.read_vnnlib(path)

    return read


# --- the oracle: nested lists of words, evaluated as they stand, in fractions


def nested(text):
    """All commands, as lists of words and lists."""
    text = "\n".join(line.partition(";")[0] for line in text.splitlines())
    stack = [[]]
    for word in text.replace("(", " ( ").replace(")", " ) ").split():
        if word == "(":
            stack.append([])
        elif word == ")":
            stack[-2].append(stack.pop())
        else:
            stack[-1].append(word)
    (commands,) = stack
    return commands


def value(expression, point):
    if isinstance(expression, str):
        return point[expression] if expression in point else Fraction(expression)
    head, *parts = expression
    values = [value(part, point) for part in parts]
    if head == "+":
        return sum(values)
    if head == "*":
        return math.prod(values)
    return values[0] - sum(values[1:]) if len(values) > 1 else -values[0]


def closed_truth(expression, point):
    """Whether the formula holds, with strict inequalities read as if they were not."""
    head, *parts = expression
    if head in ("and", "or"):
        return (all if head == "and" else any)(closed_truth(part, point) for part in parts)
    left, right = (value(part, point) for part in parts)
    return {"<": left <= right, "<=": left <= right, ">": left >= right, ">=": left >= right, "=": left == right}[head]


def satisfied(commands, x, y):
    """Whether all assertions hold."""
    point = {f"X_{i}": Fraction(v) for i, v in enumerate(x)} | {f"Y_{j}": Fraction(v) for j, v in enumerate(y)}
    return all(closed_truth(command[1], point) for command in commands if command[0] == "assert")


# --- generated formulas

QUARTERS = st.integers(-8, 8)
NUMBERS = QUARTERS.flatmap(
    lambda k: st.sampled_from([f"{k / 4}", f"{k / 4:e}", f"(- {-k / 4})", f"(* {k} 0.25)", f"(+ {k / 4} 0)"])
)


def terms(names):
    def longer(parts):
        several = st.lists(parts, min_size=1, max_size=3).map(" ".join)
        return st.one_of(
            several.map(lambda inner: f"(+ {inner})"),
            several.map(lambda inner: f"(- {inner})"),
            st.tuples(NUMBERS, parts).map(lambda pair: f"(* {pair[0]} {pair[1]})"),
            st.tuples(parts, NUMBERS).map(lambda pair: f"(* {pair[0]} 2 {pair[1]})"),
        )

    return st.recursive(st.sampled_from(names) | NUMBERS, longer, max_leaves=5)


def constraints(names):
    heads = st.sampled_from(["<=", ">=", "<=", ">=", "<", ">", "="])
    return st.tuples(heads, terms(names), terms(names)).map(lambda parts: f"({' '.join(parts)})")


ATOMS = constraints(["X_0"]) | constraints(["X_0", "X_1"]) | constraints(["Y_0", "Y_1"]) | constraints(["Y_0"])
FORMULAS = st.recursive(
    ATOMS,
    lambda parts: st.tuples(st.sampled_from(["and", "or", "or"]), st.lists(parts, min_size=1, max_size=3)).map(
        lambda pair: f"({pair[0]} {' '.join(pair[1])})"
    ),
    max_leaves=8,
)


def vanishing(expression):
    """Whether there is a strict inequality whose two sides differ by a number: that is exact, not closed over."""
    if isinstance(expression, str):
        return False
    if expression[0] in ("<", ">"):
        points = [{"X_0": a, "X_1": b, "Y_0": c, "Y_1": d} for a, b, c, d in [(0, 0, 0, 0), (1, 7, 5, 3), (2, 9, 4, 8)]]
        return len({value(expression[1], point) - value(expression[2], point) for point in points}) == 1
    return any(map(vanishing, expression))


@settings(drawn, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    asserts=st.lists(FORMULAS, min_size=1, max_size=4),
    points=st.lists(st.tuples(*[QUARTERS] * 4), min_size=8, max_size=8),
)
@example(asserts=["(or (<= Y_0 0) (<= Y_1 0))", "(<= X_0 0)"], points=[(1, 0, -1, -1), (-1, 0, -1, 1), (0, 0, 1, 1)])
def test_the_property_is_what_the_formulas_say(read, asserts, points):
    text = HEAD + "\n".join(f"(assert {formula})" for formula in asserts)
    commands = nested(text)
    assume(not any(map(vanishing, commands)))
    prop = read(text)
    for point in points:
        x, y = np.split(np.array(point) / 4, 2)
        assert prop.falsified_by(x, y) == satisfied(commands, x, y), text


def test_an_assertion_after_an_or_is_in_conjunction_with_it(read):
    prop = read(HEAD + "(assert (or (<= Y_0 0.0) (<= Y_1 0.0)))\n(assert (<= Y_0 1.0))\n(assert (<= X_0 1.0))")
    np.testing.assert_array_equal(prop.region.upper, [1.0, 2.0])
    sets = [(polytope.A.tolist(), polytope.b.tolist()) for polytope in prop.unsafe]
    assert sets == [([[1.0, 0.0], [1.0, 0.0]], [1.0, 0.0]), ([[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])]


def test_alternatives_for_inputs_are_cases_with_their_own_unsafe_sets(read):
    prop = read(
        HEAD + "(assert (or (and (<= X_0 -1) (>= Y_0 3)) (and (>= X_0 1) (or (>= Y_0 Y_1) (>= Y_1 (* 2 Y_0))))))"
    )
    (low, first), (high, second) = prop.cases
    np.testing.assert_array_equal([low.lower, low.upper], [[-2.0, -2.0], [-1.0, 2.0]])
    np.testing.assert_array_equal([high.lower, high.upper], [[1.0, -2.0], [2.0, 2.0]])
    assert [(polytope.A.tolist(), polytope.b.tolist()) for polytope in first] == [([[-1.0, 0.0]], [-3.0])]
    assert [polytope.A.tolist() for polytope in second] == [[[-1.0, 1.0]], [[2.0, -1.0]]]


def test_disjuncts_with_the_same_inputs_share_a_region(read):
    boxes = "(and (<= X_0 -1) (<= Y_0 {k})) (and (>= X_0 1) (<= Y_1 {k}))"
    prop = read(HEAD + "(assert (or " + " ".join(boxes.format(k=k) for k in range(5)) + "))")
    assert [len(case.unsafe) for case in prop.cases] == [5, 5]


def test_rows_with_several_inputs_make_a_polytope(read):
    region = read(HEAD + "(assert (<= (+ X_0 X_1) 1.0)) (assert (>= Y_0 0.0))").region
    assert isinstance(region, po.HPolytope)
    np.testing.assert_allclose(region.support([[1.0, 1.0], [1.0, 0.0], [-1.0, -1.0]]), [1.0, 2.0, 4.0])


def test_an_empty_set_of_inputs_is_no_case(read):
    assert len(read(HEAD + "(assert (>= X_0 3.0)) (assert (<= Y_0 0))").cases) == 0
    assert len(read(HEAD + "(assert (or (>= X_0 3.0) (<= X_1 0))) (assert (<= Y_0 0))").cases) == 1
    assert len(read(HEAD + "(assert (<= 1.0 0.0))").cases) == 0
    assert len(read(HEAD + "(assert (< 1.0 1.0))").cases) == 0


def test_inputs_alone_make_all_outputs_unsafe(read):
    prop = read(HEAD + "(assert (<= 0.0 1.0))")
    assert prop.falsified_by([2.0, -2.0], [1e300, -1e300])
    assert not prop.falsified_by([2.5, 0.0], [0.0, 0.0])


def test_strict_inequalities_are_closed_over_except_between_numbers(read):
    prop = read(HEAD + "(assert (< Y_0 1.0)) (assert (> X_0 0.0)) (assert (< 0 1))")
    assert prop.falsified_by([0.0, 0.0], [1.0, 0.0])
    assert read(HEAD + "(assert (> (- X_0 X_0) 0))").cases == ()


# --- rounding

DECIMALS = st.integers(-(10**23), 10**23).map("{}e-20".format)


@settings(drawn, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lower=DECIMALS, upper=DECIMALS, right=DECIMALS)
@example(lower="0.1", upper="0.1", right="0.3")
@example(lower="-1e-400", upper="1e-400", right="-1e-400")
def test_ends_are_rounded_outwards_by_less_than_a_float(read, lower, upper, right):
    lower, upper = sorted([lower, upper], key=Fraction)
    prop = read(
        f"(declare-const X_0 Real) (declare-const Y_0 Real) (assert (>= X_0 {lower})) (assert (>= {upper} X_0))"
        f"(assert (<= Y_0 {right}))"
    )
    (low,), (high,), (side,) = prop.region.lower, prop.region.upper, prop.unsafe[0].b
    assert Fraction(low) <= Fraction(lower) < Fraction(np.nextafter(low, np.inf))
    for end, given_end in ((high, upper), (side, right)):
        assert Fraction(np.nextafter(end, -np.inf)) < Fraction(given_end) <= Fraction(end)


@settings(drawn, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    coefficients=st.tuples(DECIMALS, DECIMALS, st.integers(10**20, 10**23).map("-{}e-20".format)),
    right=DECIMALS,
    free=st.tuples(*[st.floats(-100, 100)] * 2),
)
def test_coefficients_that_no_float_holds_are_rounded_outwards_too(read, coefficients, right, free):
    a, b, c = map(Fraction, coefficients)
    inputs = "(declare-const X_0 Real) (assert (<= 0 X_0 ))(assert (<= X_0 1))"
    names = "".join(f"(declare-const Y_{j} Real)" for j in range(3))
    row = "(+ " + " ".join(f"(* {k} Y_{j})" for j, k in enumerate(coefficients)) + ")"
    prop = read(f"{inputs}{names}(assert (<= {row} {right}))")
    edge = float((Fraction(right) - a * Fraction(free[0]) - b * Fraction(free[1])) / c)
    for last in (edge, *np.nextafter(edge, [-np.inf, np.inf]), edge - 1e-9, edge + 1e-9):
        left = a * Fraction(free[0]) + b * Fraction(free[1]) + c * Fraction(last)
        found = prop.falsified_by([0.5], [*free, last])
        assert found or left > Fraction(right)
        size = sum(abs(k * Fraction(y)) for k, y in zip((a, b, c), (*free, last), strict=True)) + abs(Fraction(right))
        assert not found or left <= Fraction(right) + size / 2**50


def test_decimal_coefficients_are_scaled_to_floats_that_hold_them(read):
    prop = read(HEAD + "(assert (<= (+ (* 0.1 Y_0) (* -0.3 Y_1)) 0.2)) (assert (>= (* 0.3 Y_0) 0.6))")
    assert prop.unsafe[0].A.tolist() == [[0.125, -0.375], [-1.0, 0.0]]
    assert prop.unsafe[0].b.tolist() == [0.25, -2.0]


# --- what it refuses, and where


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, 1, "no declaration of X_0"),
        ("(declare-const X_0 Real)", 1, 1, "no declaration of Y_0"),
        ("\n  hello", 2, 3, "found 'hello'; expected"),
        ("(check-sat)", 1, 1, r"found a list \(check-sat …\); expected"),
        ("()", 1, 1, "found an empty list; expected"),
        ("; fine\n)", 2, 1, r"found '\)' where no list is open"),
        ("(declare-const X_0 Real)\n(assert (<= X_0 1)", 2, 1, r"this '\(' is never closed"),
        ("(declare-const X_0 Int)", 1, 20, "found 'Int' as a sort; expected Real"),
        ("(declare-const Z_0 Real)", 1, 16, "found 'Z_0' as a name; expected X_i"),
        ("(declare-const (X_0) Real)", 1, 16, "expected X_i"),
        ("(declare-const X_0)", 1, 1, "expected"),
        ("(declare-fun X_0 (Real) Real)", 1, 1, r"expected \(declare-const"),
        (HEAD + "(declare-const X_1 Real)", 9, 16, "second declaration of 'X_1'"),
        (HEAD + "(declare-const X_3 Real)", 9, 16, "found 'X_3' declared, but not X_2"),
        (HEAD + "(declare-const Y_02 Real)", 9, 16, "found 'Y_02' declared, but not Y_2"),
        (HEAD + "(assert (<= Y_2 0))", 9, 13, "found 'Y_2'; expected a number or a variable"),
        (HEAD + "(assert (<= Y_0 y))", 9, 17, "found 'y'; expected a number or a variable"),
        (HEAD + "(assert (<= (* Y_0 Y_1) 0))", 9, 13, "product of two factors with variables"),
        (HEAD + "(assert (<= Y_0 X_0))", 9, 9, "on X_0 and Y_0; expected inputs X or outputs Y alone"),
        (HEAD + "(assert (<= Y_0))", 9, 9, "found 1 arguments of <=; expected 2"),
        (HEAD + "(assert (<= 0 Y_0 1))", 9, 9, "found 3 arguments of <=; expected 2"),
        (HEAD + "(assert (and))", 9, 9, "found 0 arguments of and"),
        (HEAD + "(assert ())", 9, 9, "found an empty list; expected one of"),
        (HEAD + "(assert (not (<= Y_0 0)))", 9, 9, "found 'not'; expected one of"),
        (HEAD + "(assert ((<= Y_0 0)))", 9, 9, r"found a list \(<= …\); expected one of"),
        (HEAD + "(assert Y_0)", 9, 9, "found 'Y_0'; expected a constraint"),
        (HEAD + "(assert (+ Y_0 1))", 9, 9, r"found a list \(\+ …\); expected a constraint"),
        (HEAD + "(assert (or Y_0 (<= Y_0 0)))", 9, 13, "found 'Y_0' as an argument of or; expected a constraint"),
        (HEAD + "(assert (<= (or (<= Y_0 0)) 1))", 9, 13, "as an argument of <=; expected a linear expression"),
        (HEAD + "(assert (<= Y_0 0) (<= Y_1 0))", 9, 1, "expected"),
        (HEAD + "(assert (<= Y_0 nan))", 9, 17, "found 'nan'; expected a finite number"),
        (HEAD + "(assert (<= Y_0 -inf))", 9, 17, "found '-inf'; expected a finite number"),
        (HEAD + "(assert (<= Y_0 1e309))", 9, 17, "found '1e309'; expected a finite number"),
        (HEAD + "(assert (<= Y_0 1e999999999999))", 9, 17, "expected an exponent from -400 to 400"),
        (HEAD + "(assert (<= Y_0 -1e-999999999999))", 9, 17, "expected an exponent from -400 to 400"),
        (HEAD + f"(assert (<= Y_0 0.{'1' * 5000}))", 9, 17, "a number of 5002 characters"),
        (HEAD + "(assert (<= Y_0 1.2.3))", 9, 17, "expected a number, such as"),
        (HEAD + "(assert (<= Y_0 --1))", 9, 17, "expected a number, such as"),
        (HEAD + "(assert (<= Y_0 1_000))", 9, 17, "found '1_000'; expected a number or"),
        (HEAD + "(assert (<= Y_0 (* 1e300 1e300)))", 9, 9, "beyond the greatest float64"),
        (HEAD + "(assert (<= (* 1e-300 X_0) 1e300))", 9, 9, "beyond the greatest float64"),
        (HEAD + "(assert (<= (+ (* 1e308 100 Y_0) Y_1) 0))", 9, 9, "beyond the greatest float64"),
        (HEAD + f"(assert (<= (* {' '.join(['1e300'] * 100)}) Y_0))", 9, 13, "a product with more than 8192"),
        ("(declare-const X_0 Real)(declare-const Y_0 Real)\n(assert (<= X_0 1))", 1, 16, "X_0 has no lower bound"),
        (HEAD + "(declare-const X_2 Real)\n(assert (or (<= X_2 1) (= X_2 3)))", 9, 16, "X_2 has no lower bound"),
    ],
)
def test_what_is_not_vnnlib_is_an_error_with_its_place(read, text, line, column, message):
    with pytest.raises(VNNLIBError, match=message) as caught:
        read(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert f"prop.vnnlib, line {line}, column {column}: " in str(caught.value)


@pytest.mark.parametrize(
    "statement",
    [
        "".join("(assert (or (<= Y_0 0) (<= Y_1 0)))" for _ in range(40)),
        "(assert (or (<= Y_0 9) (and " + "(or (<= Y_0 0) (<= Y_1 0))" * 40 + ")))",
        "(assert (or " + ("(and " + "(or (<= Y_0 0) (<= Y_1 0))" * 15 + ")") * 4 + "))",
        "".join(f"(assert (or (<= X_0 {i}) (<= X_1 {i}) (<= Y_0 {i})))" for i in range(1000)),
    ],
)
def test_a_normal_form_that_is_too_large_is_refused(read, statement):
    with pytest.raises(VNNLIBError, match="too many cases"):
        read(HEAD + statement)


def test_rows_with_many_long_coefficients_are_refused(read):
    names = [f"Y_{j}" for j in range(2, 40)]
    declared = "".join(f"(declare-const {name} Real)" for name in names)
    row = "(+ " + " ".join(f"(* 0.{j}1234567890123456789 {name})" for j, name in enumerate(names, 3)) + ")"
    with pytest.raises(VNNLIBError, match="too many cases"):
        read(f"{HEAD}{declared}(assert (<= {row} 0))")


@pytest.mark.parametrize("head", ["and", "or", "+", "-", "* 1", "- 0", "and (<= Y_0 1)", "or (<= Y_0 1)", "* -1e-9"])
def test_nesting_may_be_deep_but_not_without_limit(read, head):
    def text(depth):
        inner, outer = ("(<= Y_0 0)", "{}") if head.startswith(("and", "or")) else ("Y_0", "(<= {} 0)")
        return f"{HEAD}(assert {outer.format(f'({head} ' * depth + inner + ')' * depth)})"

    if head == "* -1e-9":
        with pytest.raises(VNNLIBError, match="a product with more than 8192 binary digits"):
            read(text(990))
    else:
        assert read(text(990)).falsified_by([0.0, 0.0], [0.0, 0.0])
    with pytest.raises(VNNLIBError, match="more than 1000 lists in each other"):
        read(text(10**5))


# --- files


def test_comments_line_ends_and_marks_do_not_matter(read):
    text = HEAD.replace("\n", " ; a (comment\n") + "(assert(>= Y_0(- 3.0)));(assert (<= Y_0 0))"
    prop = read(text)
    assert (prop.unsafe[0].A.tolist(), prop.unsafe[0].b.tolist()) == ([[-1.0, 0.0]], [3.0])
    variants = [b"\xef\xbb\xbf" + text.encode(), text.replace("\n", "\r\n").encode(), text.replace("\n", "\r").encode()]
    variants.append(text.replace("comment", "Größe").encode("latin-1"))
    variants.append(text.replace("declare-const X_0 Real", "declare-fun\tX_0 ( ) Real").encode())
    for variant in variants:
        assert read(variant).unsafe[0].b.tolist() == [3.0]


def test_compressed_files_are_known_by_their_content(read):
    packed = gzip.compress((HEAD + "(assert (<= Y_0 0))").encode())
    assert read(packed).input_size == 2
    for damaged in (packed[:-9], packed[:20], packed[:30] + b"\0\0\0" + packed[33:], packed + b"tail"):
        with pytest.raises(VNNLIBError, match="damaged gzip file"):
            read(damaged)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        po.read_vnnlib(str(tmp_path / "none.vnnlib"))


# --- nothing but a property or a VNNLIBError comes out

SOUP = ["(", ")", "(", ")", "and", "or", "<=", ">=", "=", "<", "+", "-", "*", "X_0", "Y_0", "Y_1", "1.5", "-2", "1e9"]
SOUP += ["assert", "declare-const", "declare-fun", "Real", "(assert", "(or", "(and", "(<= Y_0 1)", ";", "\n", '"', "|"]
FULL = HEAD + (
    "(assert (or (and (<= (+ Y_0 (* -2.5 Y_1)) 3.0e-2) (>= X_0 0.5)) (>= (- Y_1) (- 3.0))))\n"
    "(assert (and (or (<= X_0 1.0) (<= X_1 (- 0.5))) (< Y_0 Y_1)))\n"
)
SMALL = [path.read_text() for path in FILES if path.suffix == ".vnnlib"]


def survives(read, text):
    with contextlib.suppress(VNNLIBError):
        read(text)


@fuzzed
@given(st.binary(max_size=300))
@example(b"\x1f\x8b")
@example(b"\x00(\xff")
def test_random_bytes(read, data):
    survives(read, data)


@fuzzed
@given(st.text(max_size=200), st.lists(st.sampled_from(SOUP), max_size=60).map(" ".join))
def test_random_text_and_words(read, text, soup):
    survives(read, text)
    survives(read, HEAD + soup)
    survives(read, HEAD + f"(assert (or {soup}))")


@fuzzed
@given(
    text=st.sampled_from([FULL, *SMALL]),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from([*SOUP, "", "é", "9" * 500])), max_size=6
    ),
)
def test_mutated_files(read, text, edits):
    for place, length, word in edits:
        at = int(place * len(text))
        text = text[:at] + word + text[at + length :]
    survives(read, text)


@fuzzed
@given(st.floats(0, 1), st.integers(1, 255))
def test_mutated_compressed_files(read, place, change):
    packed = bytearray(gzip.compress(FULL.encode(), mtime=0))
    packed[int(place * (len(packed) - 1))] ^= change
    survives(read, bytes(packed))


# --- the competitions' files


def text_of(path):
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


@cache
def network_sizes(path):
    net = po.from_onnx(path)
    return net.input_size, net.output_size


@needs_data
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_instance_fits_its_network(folder):
    rows = list(csv.DictReader((DATA / folder / "instances.csv").open()))
    assert len(rows) == FOLDERS[folder]
    properties = {name: po.read_vnnlib(DATA / folder / name) for name in {row["vnnlib"] for row in rows}}
    for row in rows:
        prop = properties[row["vnnlib"]]
        assert (prop.input_size, prop.output_size) == network_sizes(DATA / folder / row["onnx"]), row


def comparisons(expression):
    """All comparisons in an expression."""
    if expression[0] in ("and", "or"):
        return [found for part in expression[1:] for found in comparisons(part)]
    return [expression]


@needs_data
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_say_what_their_formulas_say(path):
    commands, prop = nested(text_of(path)), po.read_vnnlib(path)
    rng = np.random.default_rng(0)
    atoms = [atom for command in commands if command[0] == "assert" for atom in comparisons(command[1])]
    scale = max([1.0, *(float(right) for _, left, right in atoms if left[0] == "Y" and right[0] != "Y")])
    exact = {}  # inputs that the file fixes to a decimal, which floats need not hold
    for head, name, right in atoms:
        if name[0] == "X":
            exact.setdefault(name, {}).setdefault(head, set()).add(Fraction(right))
    fixed = {name: ends for name, ends in exact.items() if ends["<="] == ends[">="]}
    count = 8 if prop.input_size > 100 else 200
    found = []
    for k in range(count):
        box = prop.cases[rng.integers(len(prop.cases))].region
        x = np.clip(0.99 * box.sample(1, rng)[0] + 0.01 * box.center, box.lower, box.upper)
        true_x = [min(fixed[f"X_{i}"]["<="]) if f"X_{i}" in fixed else Fraction(v) for i, v in enumerate(x)]
        if k % 4 == 0:  # leave the box by a little
            i = rng.integers(len(x))
            x[i] = box.upper[i] + 1e-9 if k % 8 else box.lower[i] - 1e-9
            true_x[i] = Fraction(x[i])
        y = scale * rng.integers(-2, 3, prop.output_size)
        if k % 3:  # one class stands out
            y[(k // 3) % len(y)] = scale * rng.choice([-9, 9])
        found.append(prop.falsified_by(x, y))
        assert found[-1] == satisfied(commands, true_x, y)
    assert any(found)
    assert not all(found)


def test_coefficients_that_are_floats_are_not_scaled_for_one_that_is_none(read):
    """Two roundings of the one, and not two of each."""
    names = "".join(f"(declare-const Y_{j} Real)" for j in range(20))
    row = "(+ (* 0.1234567890123456789012345 Y_0) " + " ".join(f"Y_{j}" for j in range(1, 20)) + ")"
    prop = read(f"(declare-const X_0 Real){names}(assert (<= 0 X_0))(assert (<= X_0 1))(assert (<= {row} 0))")
    assert len(prop.unsafe) == 2
    assert all((each.A[0, 1:] == 1.0).all() for each in prop.unsafe)
