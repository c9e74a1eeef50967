"""Quasi-affine expressions become layouts and come back, with the floor of negative values right."""

import itertools
import time
from fractions import Fraction
from math import floor, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layouts import E, Layout, Table, X
from layouts.interop.affine import MLIR, PYTHON, Expression, Syntax, read_expression
from layouts.interop.affine_chain import affine_of, layout_of
from layouts.interop.quasi_affine import Affine, Space
from layouts.swizzles import swizzle
from layouts.text import Reader

Tree = tuple  # ("d", k), ("n", value), or (operator, left, right)


def of_text(text: str, rank: int, syntax: Syntax = MLIR) -> Expression:
    reader = Reader(text)
    expression = read_expression(reader, [f"d{k}" for k in range(rank)], syntax)
    reader.end()
    return expression


def layout_of_text(text: str, shape: tuple[int, ...]) -> Layout:
    space = Space(shape)
    return layout_of(space, [space.read(of_text(text, len(shape)))])


def value_of(tree: Tree, point: tuple[int, ...]) -> int:
    """An evaluator of its own: quotients are floors of fractions."""
    if tree[0] == "d":
        return point[tree[1]]
    if tree[0] == "n":
        return tree[1]
    a, b = value_of(tree[1], point), value_of(tree[2], point)
    if tree[0] in "+-*":
        return {"+": a + b, "-": a - b, "*": a * b}[tree[0]]
    quotient = Fraction(a, b)
    if tree[0] == "ceildiv":
        return -floor(-quotient)
    return floor(quotient) if tree[0] == "floordiv" else a - b * floor(quotient)


def mlir_text(tree: Tree) -> str:
    if tree[0] in "dn":
        return f"d{tree[1]}" if tree[0] == "d" else str(tree[1])
    return f"({mlir_text(tree[1])} {tree[0]} {mlir_text(tree[2])})"


def python_text(tree: Tree) -> str:
    if tree[0] in "dn":
        return f"d{tree[1]}" if tree[0] == "d" else f"T.int64({tree[1]})"
    a, b = python_text(tree[1]), python_text(tree[2])
    if tree[0] == "ceildiv":
        return f"-(-({a}) // {b})"
    return f"({a} {({'floordiv': '//', 'mod': '%'}).get(tree[0], tree[0])} {b})"


def trees(rank: int) -> st.SearchStrategy[Tree]:
    leaf = st.one_of(st.tuples(st.just("d"), st.integers(0, rank - 1)), st.tuples(st.just("n"), st.integers(-9, 30)))

    def deeper(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        factor = st.tuples(st.just("n"), st.integers(-6, 6))
        divisor = st.tuples(st.just("n"), st.sampled_from([1, 2, 3, 4, 5, 7, 8, 12, 16]))
        return st.one_of(
            st.tuples(st.sampled_from(["+", "-"]), inner, inner),
            st.tuples(st.just("*"), inner, factor),
            st.tuples(st.sampled_from(["floordiv", "mod", "floordiv", "mod", "ceildiv"]), inner, divisor),
        )

    return st.recursive(leaf, deeper, max_leaves=7)


@st.composite
def maps(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Tree]]:
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 8, 12, 16]), min_size=1, max_size=3)))
    return shape, draw(st.lists(trees(len(shape)), min_size=1, max_size=3))


def points(shape: tuple[int, ...]) -> itertools.product:
    return itertools.product(*map(range, shape))


def numbers(value: object, count: int) -> tuple[int, ...]:
    """The results of a call: a layout does not say that its last results are always 0."""
    found = value if isinstance(value, tuple) else (value,)
    return (*found, *(0,) * (count - len(found)))


@settings(max_examples=60, deadline=None)
@given(maps())
def test_a_map_as_a_layout_has_the_values_of_its_expressions(case: tuple[tuple[int, ...], list[Tree]]) -> None:
    shape, found = case
    space = Space(shape)
    layout = layout_of(space, [space.read(of_text(mlir_text(tree), len(shape))) for tree in found])
    assert layout.rank == len(shape)
    for point in points(shape):
        assert numbers(layout(*point), len(found)) == tuple(value_of(tree, point) for tree in found)


@settings(max_examples=60, deadline=None)
@given(maps())
def test_the_text_of_a_normal_form_reads_as_the_same_function(case: tuple[tuple[int, ...], list[Tree]]) -> None:
    shape, found = case
    space = Space(shape)
    names = [f"d{k}" for k in range(len(shape))]
    for tree in found:
        value = space.read(of_text(mlir_text(tree), len(shape)))
        low, high = space.bounds(value)
        again = of_text(space.text(value, names, python=False), len(shape))
        python = of_text(space.text(value, names, python=True), len(shape), PYTHON)
        direct = of_text(python_text(tree), len(shape), PYTHON)
        interval = direct.bounds(shape)
        for point in points(shape):
            expected = value_of(tree, point)
            assert again(*point) == python(*point) == direct(*point) == expected
            assert low <= expected <= high
            assert interval[0] <= expected <= interval[1]


@settings(max_examples=60, deadline=None)
@given(maps())
def test_a_layout_comes_back_from_its_expressions(case: tuple[tuple[int, ...], list[Tree]]) -> None:
    shape, found = case
    space = Space(shape)
    layout = layout_of(space, [space.read(of_text(mlir_text(tree), len(shape))) for tree in found])
    domain, results = affine_of(layout)
    texts = [domain.text(result, [f"d{k}" for k in range(len(shape))], python=False) for result in results]
    again = Space(shape)
    values = [again.read(of_text(text, len(shape))) for text in texts]
    assert layout_of(again, [*values, *[Affine(0)] * (len(found) - len(values))]) == layout


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_layout_of_strides_and_stages_is_the_sum_of_quotients_it_is_written_as(data: st.DataObject) -> None:
    leaf = st.tuples(st.sampled_from([1, 2, 3, 4]), st.integers(-9, 9))
    modes = data.draw(st.lists(st.lists(leaf, min_size=1, max_size=2), min_size=2, max_size=3))
    stage = data.draw(st.lists(leaf, min_size=1, max_size=3))
    layout = Layout(
        tuple(tuple(extent for extent, _ in mode) for mode in modes),
        tuple(tuple(stride for _, stride in mode) for mode in modes),
        data.draw(st.integers(-9, 9)),
    ).then(Layout(tuple(extent for extent, _ in stage), tuple(stride for _, stride in stage), 5))
    space, (result,) = affine_of(layout)
    text = space.text(result, ["d0", "d1", "d2"], python=False)
    expression = of_text(text, 3)
    shape = tuple(prod(extent for extent, _ in mode) for mode in modes)
    for point in points(shape):
        assert expression(*point, *(0,) * (3 - len(shape))) == layout(*point)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-1 floordiv 4 + d0 * 0", -1),
        ("(d0 - 1) floordiv 4", -1),
        ("(d0 - 1) mod 4", 3),
        ("(d0 - 5) ceildiv 4", -1),
        ("-d0 - 7 mod 4", -3),
        ("(d0 * -3 - 8) floordiv 3", -3),
        ("2 + 3 * 4 mod 5 + d0", 4),
    ],
)
def test_negative_values_divide_with_the_floor_and_precedence_is_that_of_mlir(text: str, value: int) -> None:
    assert of_text(text, 1)(0) == value
    assert layout_of_text(text, (4,))(0) == value


def test_every_level_of_nesting_is_one_more_stage() -> None:
    layout = layout_of_text("((d0 * 3 + d1) mod 7) floordiv 2", (10, 12))
    assert str(layout) == "(2,4):(0,1) o (7,6):(1,0) o (10,12):(3,1)"
    assert len(layout_of_text("(((d0 * 3 + d1) mod 7) * 5 + d1) mod 11", (10, 12)).stages) == 2


def test_divisors_that_divide_their_extent_need_no_stage_and_others_one() -> None:
    assert layout_of_text("(d0 floordiv 16) * 8 + d1 * 100", (64, 3)) == Layout(((16, 4), 3), ((0, 8), 100))
    assert not layout_of_text("(d0 floordiv 16) * 8 + d1 * 100", (64, 3)).stages
    assert len(layout_of_text("(d0 floordiv 16) * 8 + d1 * 100", (65, 3)).stages) == 1
    assert str(layout_of_text("d0 mod 4 + (d0 mod 6) * 10", (30,)).stages[0]).startswith("((4,8),(6,5))")


def test_what_the_extents_decide_is_simplified_away() -> None:
    space = Space((8, 3))
    for text, simple in [
        ("d0 floordiv 8", "0"),
        ("d0 mod 8", "d0"),
        ("(d0 * 4 + d1) floordiv 4", "d0"),
        ("(d0 * 4 + d1) mod 4", "d1"),
        ("(d0 floordiv 2) floordiv 2", "d0 floordiv 4"),
        ("(d0 mod 4) floordiv 2 * 2 + d0 mod 2", "d0 mod 4"),
        ("(d0 floordiv 2) * 2 + d0 mod 2", "d0"),
        ("(6 * d0 + 3) floordiv 4", "(d0 * 6 + 3) floordiv 4"),
        ("(6 * d0 + 5) floordiv 4", "(d0 * 6 + 1) floordiv 4 + 1"),
    ]:
        value = space.read(of_text(text, 2))
        if simple.startswith("("):
            again = of_text(space.text(value, ["d0", "d1"], python=False), 2)
            assert [again(k, 0) for k in range(8)] == [of_text(simple, 2)(k, 0) for k in range(8)]
        else:
            assert space.text(value, ["d0", "d1"], python=False) == simple


def test_an_xor_stride_or_a_table_is_named_unless_the_chain_is_a_sum_all_the_same() -> None:
    with pytest.raises(ValueError, match="XOR stride X9 is no quasi-affine"):
        affine_of(Layout((8, 8), (1, X(9))))
    with pytest.raises(ValueError, match="the table is no quasi-affine"):
        affine_of(Layout(4).then(Table([3, 1, 0, 2])))
    with pytest.raises(ValueError, match="'lane' has a name"):
        affine_of(Layout(4, E("lane")))
    with pytest.raises(ValueError, match="XOR stride"):
        affine_of(Layout((8, 64), (64, 1)).then(swizzle(3, 3, 3)))
    space, (result,) = affine_of(Layout((4, 8), (X(8), 1)))
    assert space.text(result, ["d0", "d1"], python=False) == "d0 * 8 + d1"
    space, (result,) = affine_of(Layout(4).then(Table([5, 7, 9, 11])))
    assert space.text(result, ["d0"], python=False) == "d0 * 2 + 5"
    space, results = affine_of(Layout((4, 8), (X(8) * E(0), E(1))))
    assert [space.text(result, ["d0", "d1"], python=False) for result in results] == ["d0 * 8", "d1"]


HOSTILE = [
    ("(" * 10_000, "nest deeper"),
    ("-" * 50_000 + "d0", "more than 4096"),
    ("d0" + " + d0" * 12_000, "more than 4096"),
    ("d0 * d1", "not affine"),
    ("d0 floordiv d1", "not affine"),
    ("d0 mod 0", "must be positive"),
    ("d0 mod -3", "must be positive"),
    ("d0 floordiv (2 - 2)", "must be positive"),
    ("d7", "unknown name 'd7', allowed are"),
    ("d0 + " + "9" * 60, "at most 19 digits"),
    ("d0 * 9223372036854775807 * 4", "does not fit 64 bits"),
    ("(d0", r"expected an operator or '\)'"),
    ("d0 +", "expected a number"),
    ("", "expected a number"),
    ("d0 d1", "expected the end"),
    ("d0 ^ 3", "expected the end"),
]


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=[message[:20] for _, message in HOSTILE])
def test_a_bad_expression_is_refused_in_one_short_line(text: str, message: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=message) as refused:
        layout_of_text(text, (8, 8))
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)
    assert time.perf_counter() - begin < 2


def test_maps_with_too_many_parts_are_refused_rather_than_slow() -> None:
    begin = time.perf_counter()
    nested = "d0"
    for divisor in range(40, 4, -1):
        nested = f"(({nested}) mod {divisor} + d1)"
    wide = " + ".join(f"((d0 * {k} + d1) mod {k + 2})" for k in range(1, 300))
    ports = " + ".join(f"(d0 * {k} + d1) mod {k + 2}" for k in range(1, 99))
    for text in (nested, wide, ports):
        with pytest.raises(ValueError, match=r"more than|deeper|at most") as refused:
            layout_of_text(text, (900, 700))
        assert len(str(refused.value)) < 300
    assert time.perf_counter() - begin < 3
