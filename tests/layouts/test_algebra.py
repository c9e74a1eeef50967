"""Coalesce, composition and injectivity against brute force over small layouts."""

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from layouts.algebra import coalesce, composition
from layouts.injective import is_injective
from layouts.layout import Layout
from layouts.text import parse


def flat(max_rank, extents, strides):
    modes = st.lists(st.tuples(extents, strides), min_size=1, max_size=max_rank)
    return modes.map(lambda m: Layout(tuple(s for s, _ in m), tuple(d for _, d in m)))


SMALL = flat(4, st.integers(1, 6), st.integers(-6, 40))
INNER = flat(3, st.integers(1, 6), st.integers(0, 12))


@st.composite
def dividing(draw):
    """A layout, and one whose every mode walks whole digits of it: a pair CuTe's rules admit."""
    a = draw(SMALL)
    modes = [mode for mode in coalesce(a).leaves() if mode[0] > 1]
    digits, product = [], 1
    for extent, _ in modes:
        inner = draw(st.sampled_from([n for n in range(1, extent + 1) if extent % n == 0]))
        digits += [(inner, product), (extent // inner, product * inner)]
        product *= extent
    chosen = draw(st.permutations(digits)) if digits else [(1, 0)]
    return a, Layout(tuple(e for e, _ in chosen), tuple(d for _, d in chosen))


@given(SMALL)
def test_coalesce_keeps_the_function_with_the_fewest_modes(layout):
    short = coalesce(layout)
    assert short.table().tolist() == layout.table().tolist()
    modes = short.leaves()
    assert len(modes) <= len(layout.leaves())
    assert short.size == 1 or all(extent > 1 for extent, _ in modes)
    assert all(d1 != s0 * d0 for (s0, d0), (_, d1) in pairwise(modes))


def test_coalesce_of_the_cute_documentation_example():
    # CuTe layout algebra documentation: coalesce((2,(1,6)):(1,(6,2))) is 12:1.
    assert str(coalesce(parse("(2,(1,6)):(1,(6,2))"))) == "12:1"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # CuTe layout algebra documentation, section composition
        ("(6,2):(8,2)", "(4,3):(3,1)", "((2,2),3):((24,2),8)"),
        ("20:2", "(5,4):(4,1)", "(5,4):(8,2)"),
        ("(10,2):(16,4)", "(5,4):(1,5)", "(5,(2,2)):(16,(80,4))"),
    ],
)
def test_composition_of_the_cute_documentation_examples(a, b, expected):
    result = composition(parse(a), parse(b))
    assert (result.shape, result.stride) == (parse(expected).shape, parse(expected).stride)


@given(SMALL, INNER)
def test_composition_is_a_after_b_or_refused(a, b):
    assume(b.cosize <= a.size)
    try:
        result = composition(a, b)
    except ValueError:
        return
    assert result.rank == b.rank
    assert [result.mode(k).size for k in range(b.rank)] == [b.mode(k).size for k in range(b.rank)]
    assert result.table().tolist() == [a(b(i)) for i in range(b.size)]


@given(dividing())
def test_composition_accepts_every_choice_of_whole_digits(pair):
    a, b = pair
    assert composition(a, b).table().tolist() == [a(b(i)) for i in range(b.size)]


@given(SMALL, INNER)
def test_a_layout_read_as_a_stage_is_the_composition(a, b):
    assume(b.cosize <= a.size)
    chained = b.then(a)
    assert chained.table().tolist() == [a(b(i)) for i in range(b.size)]
    try:
        assert composition(a, b) == chained
    except ValueError:
        return


def test_composition_with_the_identity_is_the_layout():
    layout = parse("((2,4),3):((1,16),2)")
    assert composition(layout, Layout(24)) == layout
    assert composition(Layout(54), layout) == layout


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            "(4,8):(1,100)",
            "(2,4):(1,3)",
            "the mode 4:3 of b does not divide mode 0 of a, 4:1; nearest admissible: 4:2 and 4:4",
        ),
        (
            "(4,8):(1,100)",
            "6:1",
            "the mode 6:1 of b takes 4 steps in mode 0 of a, 4:1, which do not divide 6; nearest admissible: 6:2",
        ),
        (
            "(4,8):(1,100)",
            "(2,2):(3,2)",
            "carry over the boundary of a at index 4: their largest remainders add up",
        ),
        ("(4,8):(1,100)", "4:-1", "b reaches negative offsets"),
    ],
)
def test_a_refused_composition_names_the_mode_and_both_numbers(a, b, message):
    with pytest.raises(ValueError, match=message) as caught:
        composition(parse(a), parse(b))
    assert "\n" not in str(caught.value)


@given(SMALL)
def test_injective_means_no_two_indices_share_an_offset(layout):
    assert is_injective(layout) == (len(set(layout.table().tolist())) == layout.size)


def test_injectivity_of_large_layouts_needs_no_table():
    assert is_injective(Layout((2**20, 2**20, 3), (2**20, 1, 2**40)))
    assert not is_injective(Layout((2**20, 2**20), (2**19, 1)))
    # 6 x = 10 y has the least solution x = 5, y = 3: a shared offset exactly if both extents exceed it.
    assert is_injective(Layout((5, 10**6), (6, 10)))
    assert not is_injective(Layout((6, 10**6), (6, 10)))


def test_two_strides_collide_from_the_least_common_multiple_on():
    for p, q in [(6, 4), (9, 6), (35, 21)]:
        g = math.gcd(p, q)
        assert is_injective(Layout((q // g, 1000), (p, q)))
        assert not is_injective(Layout((q // g + 1, p // g + 1), (p, q)))
