"""The search for the kernel of the bank projection against all subspaces, and its symmetries."""

from itertools import combinations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from layouts.f2 import apply, image_basis, invert, rank
from layouts.synthesis.subspaces import Demand, contains, intersection, least_cycles, quotient, representatives, span

VECTORS = st.lists(st.integers(0, 31), max_size=4)
SPACES = VECTORS.map(image_basis)


def subspaces(n, k):
    """All subspaces of dimension k of F2^n, by their reduced bases: pivots, and any bits below that are no pivots."""
    for pivots in combinations(range(n), k):
        cells = [(i, j) for i, pivot in enumerate(pivots) for j in range(pivot) if j not in pivots]
        for choice in range(1 << len(cells)):
            basis = [1 << pivot for pivot in pivots]
            for place, (i, j) in enumerate(cells):
                basis[i] |= (choice >> place & 1) << j
            yield tuple(basis)


def least_by_hand(demands, bank_bits, free, apart):
    """The fewest cycles over all pairs of spaces, what shares a word within what shares a bank."""
    total = image_basis(vector for demand in demands for vector in demand.space)
    kernel_size = max(0, len(total) - bank_bits)
    costs = []
    for kernel in subspaces(len(total), kernel_size):
        for shared in subspaces(kernel_size, min(free, kernel_size)):
            bank = set(span([apply(total, vector) for vector in kernel]))
            word = set(span([apply(total, apply(kernel, vector)) for vector in shared]))
            if not bank & set(span(apart)) - {0}:
                costs.append(
                    sum(d.cycles * len(bank & set(span(d.space))) // len(word & set(span(d.space))) for d in demands)
                )
    return min(costs)


def test_there_are_as_many_subspaces_as_the_gaussian_binomial_says():
    assert [sum(1 for _ in subspaces(4, k)) for k in range(5)] == [1, 15, 35, 15, 1]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(SPACES, st.integers(1, 3)), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(0, 1),
    st.data(),
)
def test_no_subspace_costs_less_than_the_one_found(pairs, bank_bits, free, data):
    demands = [Demand(*pair) for pair in pairs]
    within = [vector for demand in demands for vector in demand.space]
    apart = ()
    if not free and within:
        apart = image_basis(data.draw(st.lists(st.sampled_from(within), max_size=bank_bits)))
    found = least_cycles(demands, bank_bits, free, apart)
    assert found.complete
    assert found.cycles == least_by_hand(demands, bank_bits, free, apart)
    bank, word = (image_basis(vectors) for vectors in ([*found.shared, *found.kernel], found.shared))
    lost = [len(intersection(bank, d.space)) - len(intersection(word, d.space)) for d in demands]
    assert sum(d.cycles << k for d, k in zip(demands, lost, strict=True)) == found.cycles
    assert not intersection(bank, apart)


@given(SPACES, SPACES)
def test_an_intersection_holds_what_both_hold(a, b):
    assert set(span(intersection(a, b))) == set(span(a)) & set(span(b))


@given(SPACES, st.integers(1, 31))
def test_a_quotient_identifies_vectors_that_differ_by_the_vector(space, vector):
    image = quotient(space, vector)
    assert len(image) == len(space) - contains(space, vector)
    assert set(span([*image, vector])) == set(span([*space, vector]))


def keeps(columns, spaces):
    return all(image_basis(apply(columns, vector) for vector in space) == space for space in spaces)


@pytest.mark.parametrize(
    "spaces",
    [
        ((1, 2), (2, 4), (1, 4)),
        ((1,), (2,), (3,)),
        ((1, 2), (4,), (7,)),
        ((1,), (1, 2), (1, 2, 4)),
        ((), (1, 2, 4), ()),
    ],
)
def test_every_vector_is_taken_to_a_representative_by_a_map_that_keeps_the_spaces(spaces):
    spaces = tuple(image_basis(space) for space in spaces)
    found = representatives(*spaces)
    total = image_basis(vector for space in spaces for vector in space)
    maps = [c for c in invertible(3) if keeps(c, spaces)]
    reached = {apply(columns, vector) for columns in maps for vector in found}
    assert set(span(total)) - {0} <= reached


def invertible(n):
    matrices = [()]
    for _ in range(n):
        matrices = [(*m, c) for m in matrices for c in range(1, 1 << n) if rank([*m, c]) > len(m)]
    return matrices


@given(SPACES, SPACES, SPACES, st.permutations(range(5)), st.integers(0, 4), st.integers(0, 4))
def test_the_least_cost_does_not_depend_on_the_names_of_the_bits(a, b, c, order, i, j):
    assume(i != j)
    columns = [1 << place for place in order]
    columns[i] ^= columns[j]
    assert invert(columns, 5)
    moved = [image_basis(apply(columns, v) for v in space) for space in (a, b, c)]
    before = least_cycles([Demand(space, k + 1) for k, space in enumerate((a, b, c))], 2)
    after = least_cycles([Demand(space, k + 1) for k, space in enumerate(moved)], 2)
    assert before.cycles == after.cycles


def test_all_pairs_of_four_bits_cannot_avoid_one_conflict():
    # A kernel that avoids all six planes would be a binary [4,2,3] code, which the Hamming bound forbids.
    pairs = [Demand((1 << i, 1 << j), 1) for i, j in combinations(range(4), 2)]
    found = least_cycles(pairs, 2)
    assert (found.cycles, found.complete) == (7, True)
    # With three banks' bits the [6,3,3] code avoids all pairs of six bits.
    assert least_cycles([Demand((1 << i, 1 << j), 1) for i, j in combinations(range(6), 2)], 3).cycles == 15


def test_a_search_that_is_given_up_says_so():
    triples = [Demand(tuple(1 << i for i in c), 1) for c in combinations(range(7), 3)]
    found = least_cycles(triples, 3, most_states=50)
    assert not found.complete
    assert found.cycles >= 36
    assert found.states <= 52
