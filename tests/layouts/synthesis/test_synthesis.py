"""Synthesised layouts against all invertible matrices, and their certificates against the words themselves."""

from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layouts import E, Layout, Table, X, is_injective, parse
from layouts.analysis.conflicts import Access, Banks, bank_conflicts
from layouts.f2 import apply, rank
from layouts.synthesis import synthesize
from layouts.synthesis.subspaces import span

GPU = Banks(32, 4)


def cycles_of_first_phase(offsets, access, banks, element_bytes):
    words = {}
    for index in access.index.table()[: access.elements].tolist():
        first = offsets[index] * element_bytes
        for word in range(first // banks.width_bytes, (first + element_bytes - 1) // banks.width_bytes + 1):
            words.setdefault(word % banks.count, set()).add(word)
    return max(map(len, words.values()))


@cache
def bijections(n):
    """Tables of all F2-linear bijections of n bits."""
    matrices = [()]
    for _ in range(n):
        matrices = [(*m, c) for m in matrices for c in range(1, 1 << n) if rank([*m, c]) > len(m)]
    return [tuple(span(m)) for m in matrices]


def is_contiguous(offsets, access):
    vector = access.index.table()[: access.vector].tolist()
    return all(offsets[index] == place for place, index in enumerate(vector))


def fewest_by_hand(n, accesses, banks, element_bytes):
    return min(
        sum(access.phases * cycles_of_first_phase(offsets, access, banks, element_bytes) for access in accesses)
        for offsets in bijections(n)
        if all(is_contiguous(offsets, access) for access in accesses)
    )


@st.composite
def problems(draw, n):
    """Accesses in any order of the bits, with vectors that start with the same ones."""
    common = draw(st.permutations(range(n)))
    accesses = []
    for _ in range(draw(st.integers(1, 4))):
        vector = draw(st.integers(0, n - 1))
        rest = draw(st.permutations([bit for bit in range(n) if bit not in common[:vector]]))
        index = Layout((2,) * n, tuple(1 << bit for bit in (*common[:vector], *rest)))
        accesses.append(Access(index, 1 << vector, 1 << draw(st.integers(0, n - vector))))
    shape = draw(st.sampled_from([(1 << n,), (2, 1 << (n - 1)), (1 << (n - 1), 2)]))
    return shape, accesses


@settings(max_examples=60)
@given(problems(3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_no_linear_layout_of_eight_elements_has_fewer_wavefronts(problem, banks, width, element):
    shape, accesses = problem
    memory = Banks(1 << banks, 1 << width)
    found = synthesize(shape, accesses, memory, 1 << element)
    assert found.is_optimal
    assert found.wavefronts == fewest_by_hand(3, accesses, memory, 1 << element)
    check(found, shape, accesses, memory, 1 << element)


def check(found, shape, accesses, banks, element_bytes):
    """The certificate by hand: the layout is a bijection, keeps vectors, costs what it says and no less."""
    offsets = found.layout.table().tolist()
    assert sorted(offsets) == list(range(len(offsets)))
    assert [found.layout.mode(k).size for k in range(found.layout.rank)] == list(shape)
    for access, bound in zip(accesses, found.bounds, strict=True):
        assert is_contiguous(offsets, access)
        assert bound.degree == cycles_of_first_phase(offsets, access, banks, element_bytes) >= bound.lower
        assert bound.is_reached == (bound.degree == bound.lower)
    assert found.wavefronts == sum(b.degree * b.access.phases for b in found.bounds) >= found.lower
    if found.proof == "bounds":
        assert all(bound.is_reached for bound in found.bounds)
    banks_of = [offset * element_bytes // banks.width_bytes % banks.count for offset in offsets]
    assert {index for index, bank in enumerate(banks_of) if bank == 0} == set(span(found.kernel))


@settings(max_examples=5, deadline=None)
@given(problems(4), st.integers(1, 2), st.integers(0, 2))
def test_no_linear_layout_of_sixteen_elements_has_fewer_wavefronts(problem, banks, width):
    shape, accesses = problem
    shape = (4, 4) if len(shape) == 2 else shape
    memory = Banks(1 << banks, 1 << width)
    found = synthesize(shape, accesses, memory, 1)
    # All matrices at once: the cost depends on the first phase, and that on its words.
    tables = np.array(bijections(4))
    total = np.zeros(len(tables), int)
    allowed = np.ones(len(tables), bool)
    for access in accesses:
        indices = access.index.table()[: access.elements]
        allowed &= (tables[:, indices[: access.vector]] == np.arange(access.vector)).all(axis=1)
        words = np.sort(tables[:, indices] // memory.width_bytes, axis=1)
        first = np.concatenate([np.ones((len(words), 1), bool), words[:, 1:] != words[:, :-1]], axis=1)
        loads = [((words % memory.count == bank) & first).sum(axis=1) for bank in range(memory.count)]
        total += access.phases * np.max(loads, axis=0)
    assert found.wavefronts == total[allowed].min()
    check(found, shape, accesses, memory, 1)


@pytest.mark.parametrize("rows", [64, 128])
def test_ldmatrix_and_cp_async_get_the_swizzle_of_128_bytes(rows):
    read = Access.of_tile((rows, 64), (1, 8), [(0, 8)], "ldmatrix")
    write = Access.of_tile((rows, 64), (1, 8), [(1, 8)], "cp.async")
    found = synthesize((rows, 64), [read, write], GPU, 2)
    assert str(found.layout) == f"S<3,3,3> o 0 o ({rows},64):(64,1)"
    assert (found.proof, found.wavefronts, found.lower) == ("bounds", 2 * rows, 2 * rows)
    assert [bound.degree for bound in found.bounds] == [1, 1]
    for row_swizzled in (parse(f"S<3,3,3> o 0 o ({rows},64):(64,1)"), found.layout):
        assert [bank_conflicts(row_swizzled, a, GPU, 2).degree for a in (read, write)] == [1, 1]
    assert [bound.word_bits for bound in found.bounds] == [5, 5]
    assert "ldmatrix" in str(found)


def test_rows_alone_need_no_swizzle():
    write = Access.of_tile((64, 64), (1, 8), [(1, 8)])
    assert str(synthesize((64, 64), [write], GPU, 2).layout) == "(64,64):(64,1)"
    assert str(synthesize((64, 64), [Access.of_tile((64, 64), (0, 8), [(0, 8)])], GPU, 2).layout) == "(64,64):(1,64)"


def test_columns_and_rows_of_single_elements_are_both_free():
    shape = (32, 32)
    accesses = [Access.of_tile(shape, (0, 1), [(0, 32)]), Access.of_tile(shape, (1, 1), [(1, 32)])]
    found = synthesize(shape, accesses, GPU, 4)
    assert (found.proof, found.wavefronts) == ("bounds", 64)
    check(found, shape, accesses, GPU, 4)


def test_where_no_cute_swizzle_is_free_another_layout_is():
    shape = (64, 64)
    accesses = [
        Access.of_tile(shape, (0, 1), [(0, 32)]),
        Access.of_tile(shape, (1, 4), [(1, 8)]),
        Access.of_tile(shape, (1, 4), [(0, 8)]),
    ]
    found = synthesize(shape, accesses, GPU, 4)
    assert (found.proof, found.wavefronts, found.lower) == ("bounds", 384, 384)
    assert not found.layout.stages
    assert is_injective(found.layout)
    check(found, shape, accesses, GPU, 4)


def all_pairs(n):
    """Accesses that ask for two of n bits together, for every two."""
    accesses = []
    for pair in combinations(range(n), 2):
        rest = [bit for bit in range(n) if bit not in pair]
        accesses.append(Access(Layout((2,) * n, tuple(1 << bit for bit in (*pair, *rest))), 1, 4))
    return accesses


def test_an_unsatisfiable_set_yields_the_proven_minimum():
    # Four banks of one element: all pairs of four bits free of conflicts would be a binary [4,2,3] code.
    found = synthesize((4, 4), all_pairs(4), Banks(4, 4), 4)
    assert (found.proof, found.wavefronts, found.lower) == ("exhausted", 7 * 4, 7 * 4)
    assert found.is_optimal
    assert sorted(bound.degree for bound in found.bounds) == [1, 1, 1, 1, 1, 2]
    check(found, (4, 4), all_pairs(4), Banks(4, 4), 4)


def test_one_phase_with_more_words_than_banks_is_bounded_by_the_banks():
    everything = Access(Layout(64), 1, 64)
    found = synthesize((64,), [everything], Banks(8, 4), 4)
    assert (found.bounds[0].lower, found.bounds[0].degree, found.proof) == (8, 8, "bounds")


def test_a_search_that_is_given_up_claims_only_the_bounds():
    accesses = [
        Access(Layout((2,) * 7, tuple(1 << b for b in (*t, *(b for b in range(7) if b not in t)))), 1, 8)
        for t in combinations(range(7), 3)
    ]
    found = synthesize((128,), accesses, Banks(8, 4), 4, most_states=20)
    assert (found.proof, found.lower) == ("open", 35 * 16)
    assert found.wavefronts > found.lower
    assert not found.is_optimal


def test_accesses_may_give_coordinates_and_xors():
    index = Layout((8, 8, 8, 8), (E(1), E(0), E(1) * 8, E(0) * 8))
    diagonal = Access(Layout((2,) * 12, tuple(X(1 << k | (1 << (k + 6) if k < 6 else 0)) for k in range(12))), 1, 32)
    found = synthesize((64, 64), [Access(index, 8, 8)], GPU, 2)
    assert found.wavefronts == 64
    found = synthesize((64, 64), [diagonal], GPU, 4)
    assert found.wavefronts == 128
    offsets = found.layout.table().tolist()
    assert cycles_of_first_phase(offsets, diagonal, GPU, 4) == 1
    assert apply(found.layout.bits, 0b11) == offsets[0b11]


@pytest.mark.parametrize(
    ("shape", "accesses", "banks", "message"),
    [
        ((6, 8), [Access(Layout(48), 1, 8)], GPU, r"tile \(6, 8\): extents are powers of two"),
        ((8, 8), [Access(Layout(64), 1, 8)], Banks(12, 4), "must be powers of two"),
        ((8, 8), [], GPU, "at least one access is needed"),
        (
            (8, 8),
            [Access(Layout(16).then(Table(range(63, -1, -3))), 1, 8, "gather")],
            GPU,
            "gather: .* is not linear over F2",
        ),
        (
            (8, 8),
            [Access.of_tile((8, 8), (0, 4), [(1, 8)], "a"), Access.of_tile((8, 8), (1, 4), [(0, 8)], "b")],
            GPU,
            "b: its vector and the longest one cannot both be contiguous",
        ),
        ((8, 8), [Access(Layout(128), 1, 8)], GPU, r"reaches 127, allowed are 0\.\.63"),
        ((2**21, 2**21), [Access(Layout(8), 1, 8)], GPU, r"at most 2\*\*40 are allowed"),
    ],
)
def test_what_is_not_linear_over_f2_is_an_error_of_one_line(shape, accesses, banks, message):
    with pytest.raises(ValueError, match=message) as caught:
        synthesize(shape, accesses, banks, 2)
    assert "\n" not in str(caught.value)
