"""Linear maps over F2 against tables of all their values."""

from collections import Counter
from itertools import product as pairs
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts import Layout, X, f2

MOST = 5  # bits; tables have 32 entries


def maps(rows: int = MOST, least: int = 0, most: int = MOST) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, (1 << rows) - 1), min_size=least, max_size=most).map(tuple)


def table(columns: tuple[int, ...]) -> list[int]:
    """Every image, doubled up bit by bit."""
    values = [0]
    for column in columns:
        values += [value ^ column for value in values]
    return values


@given(maps())
def test_apply_is_the_xor_of_the_columns_of_the_bits(columns: tuple[int, ...]) -> None:
    assert [f2.apply(columns, x) for x in range(1 << len(columns))] == table(columns)


@given(maps())
def test_rank_and_bases_describe_image_and_kernel(columns: tuple[int, ...]) -> None:
    images = table(columns)
    assert 1 << f2.rank(columns) == len(set(images))
    assert sorted(table(f2.image_basis(columns))) == sorted(set(images))
    assert sorted(table(f2.kernel_basis(columns))) == [x for x, image in enumerate(images) if image == 0]
    assert f2.is_injective(columns) == (len(set(images)) == len(images))


@given(maps(), maps())
def test_image_bases_are_equal_exactly_for_equal_images(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert (f2.image_basis(a) == f2.image_basis(b)) == (set(table(a)) == set(table(b)))
    assert f2.image_basis((*a, *table(a))) == f2.image_basis(a)


@given(maps())
def test_transpose_exchanges_rows_and_columns(columns: tuple[int, ...]) -> None:
    turned = f2.transpose(columns, MOST)
    for k, j in pairs(range(len(columns)), range(MOST)):
        assert columns[k] >> j & 1 == turned[j] >> k & 1
    assert f2.transpose(turned, len(columns)) == columns
    assert f2.rank(turned) == f2.rank(columns)


@given(maps(least=4, most=4), maps(rows=4))
def test_compose_reads_the_inner_map_first(outer: tuple[int, ...], inner: tuple[int, ...]) -> None:
    assert table(f2.compose(outer, inner)) == [table(outer)[x] for x in table(inner)]


@given(maps(rows=3, most=3), maps(rows=2, most=3))
def test_product_puts_the_second_map_above_the_first(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert table(f2.product(a, 3, b)) == [x | y << 3 for y, x in pairs(table(b), table(a))]


@given(maps(rows=4, least=3))
def test_inverses_exist_exactly_where_the_table_says_so(columns: tuple[int, ...]) -> None:
    images = table(columns)
    if set(images) == set(range(16)):
        back = f2.pseudo_invert(columns, 4)
        assert [images[x] for x in table(back)] == list(range(16))
        if len(columns) == 4:
            assert f2.invert(columns, 4) == back
            assert [table(back)[y] for y in images] == list(range(16))
    else:
        with pytest.raises(ValueError, match="no right inverse"):
            f2.pseudo_invert(columns, 4)
    if sorted(images) != list(range(16)):
        with pytest.raises(ValueError, match="has no inverse"):
            f2.invert(columns, 4)


@given(maps(), st.integers(0, (1 << MOST) - 1))
def test_solve_finds_an_input_among_the_earliest_columns(columns: tuple[int, ...], value: int) -> None:
    if value not in table(columns):
        with pytest.raises(ValueError, match="not in the image"):
            f2.solve(columns, value)
        return
    found = f2.solve(columns, value)
    assert table(columns)[found] == value
    for k, column in enumerate(columns):
        if found >> k & 1:
            assert column not in table(columns[:k])


@given(maps(rows=4), maps(rows=4))
def test_invert_and_compose_solves_for_the_inner_map(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    if set(table(first)) <= set(table(second)):
        assert f2.compose(second, f2.invert_and_compose(first, second)) == first
    else:
        with pytest.raises(ValueError, match="not in the image"):
            f2.invert_and_compose(first, second)


@given(st.lists(st.sampled_from([1, 2, 4, 8]), max_size=4), st.data())
def test_split_undoes_join(sizes: list[int], data: st.DataObject) -> None:
    parts = [data.draw(st.integers(0, size - 1)) for size in sizes]
    assert f2.split(f2.join(parts, sizes), sizes) == parts
    assert f2.join(parts, sizes) < 1 << f2.width(sizes)


@given(st.lists(st.integers(0, 7), max_size=6))
def test_a_mode_moves_by_one_step_per_bit(steps: list[int]) -> None:
    shape, stride = f2.mode([[step] for step in steps], lambda step: X(step[0]))
    assert Layout(shape, stride).table().tolist() == table(tuple(steps))


def test_steps_that_double_are_one_leaf() -> None:
    assert f2.mode([[1], [2], [4], [3], [6]], lambda step: step[0]) == ((8, 4), (1, 3))
    assert f2.mode([], lambda step: step[0]) == (1, 0)


def test_growing_a_tile_goes_dimension_by_dimension() -> None:
    tile = [2, 1]
    assert f2.grown(tile, [4, 4], [1, 0]) == [[0, 1], [0, 2], [2, 0]]
    assert tile == [4, 4]


def test_cutting_drops_vectors_that_leave_the_shape_unless_they_are_kept() -> None:
    steps = [[1, 0], [2, 1], [4, 0], [0, 0]]
    assert f2.cut(steps, [2, 2]) == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert f2.cut(steps, [2, 2], keep=False) == [[1, 0], [0, 1], [0, 0]]


@given(
    st.sampled_from([(32, 0), (32, 1), (32, 2), (64, 0), (64, 1), (128, 0)]),
    st.lists(st.integers(0, 255), min_size=5, max_size=5),
)
def test_bank_conflicts_are_the_words_that_a_phase_asks_of_one_bank(kind: tuple[int, int], rows: list[int]) -> None:
    bits, vector = kind
    registers = tuple(1 << k for k in range(vector))
    lanes = tuple(row << vector for row in rows)
    words = bits * (1 << vector) // 32  # of one access of a thread
    together = 32 // words
    worst = 0
    for first in range(0, 32, together):
        asked = {
            f2.apply(lanes, lane) * bits // 32 + word
            for lane in range(first, first + together)
            for word in range(words)
        }
        worst = max(worst, *Counter(word % 32 for word in asked).values())
    # A register bit above the access, so that the width of the access stays as chosen.
    assert f2.bank_conflicts(registers, lanes, (1 << vector,), bits) == worst - 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: f2.apply((1, 2), 4), "takes 0..3"),
        (lambda: f2.apply((1, 2), -1), "from 0"),
        (lambda: f2.rank([True]), "plain integer"),
        (lambda: f2.rank([-1]), "plain integer"),
        (lambda: f2.compose((1,), (2,)), "takes 0..1"),
        (lambda: f2.transpose((4,), 2), "does not fit 2 rows"),
        (lambda: f2.log2(48, "extent"), "extent: 48 is not a power of two"),
        (lambda: f2.as_powers([1, 2], "counts", 3), "counts: 2 numbers, expected 3"),
        (lambda: f2.as_shape([]), "0 dimensions"),
        (lambda: f2.as_shape([1 << 40, 1 << 40]), "elements"),
        (lambda: f2.as_order([0, 0], 2), "each of 0..1"),
        (lambda: f2.as_vectors([[1], [1, 2]], "bases"), "vector 1 has 2 numbers"),
        (lambda: f2.as_vectors([[2]], "bases", [2]), "vector 0 has 2, outside"),
        (lambda: f2.as_list("ab", "bases"), "a list is needed"),
        (lambda: f2.bank_conflicts((), (1,), (), 24), "powers of two"),
    ],
)
def test_errors_name_the_value_and_what_is_allowed(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
