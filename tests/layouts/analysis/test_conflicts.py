"""Bank conflicts: every form of the answer against a count of words by hand."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layouts import E, Layout, Table, X, parse, swizzle
from layouts.analysis.conflicts import Access, Banks, Conflicts, bank_conflicts, bank_conflicts_many

FOLDER = Path(os.environ.get("ROWHIT_DATA") or Path(__file__).parents[3] / "../shared/data") / "layouts"
GPU = Banks(32, 4)
ROWS_OF_8 = Access.of_tile((128, 64), (1, 8), [(0, 8)], "ldmatrix")


def cycles_by_hand(layout, access, banks, element_bytes):
    """Cycles of every phase: words of each bank in Python sets."""
    costs = []
    for start in range(0, access.index.size, access.vector * access.lanes):
        words = {}
        for i in range(start, min(start + access.vector * access.lanes, access.index.size)):
            where = access.index(i)
            byte = (layout(*where) if isinstance(where, tuple) and len(where) > 1 else layout(where)) * element_bytes
            for word in range(byte // banks.width_bytes, (byte + element_bytes - 1) // banks.width_bytes + 1):
                words.setdefault(word % banks.count, set()).add(word)
        costs.append(max(map(len, words.values())))
    return costs


def agrees(layout, access, banks, element_bytes):
    found = bank_conflicts(layout, access, banks, element_bytes)
    costs = cycles_by_hand(layout, access, banks, element_bytes)
    assert (found.phases, found.wavefronts, found.degree) == (len(costs), sum(costs), max(costs))
    return found.form


@st.composite
def f2_cases(draw):
    n = draw(st.integers(1, 7))
    layout = Layout((2,) * n, tuple(X(draw(st.integers(0, 2**9 - 1))) for _ in range(n)), stages=())
    places = draw(st.permutations(range(n)))
    vector_bits = draw(st.integers(0, n))
    lane_bits = draw(st.integers(0, n))
    index = Layout((2,) * n, tuple(1 << place for place in places))
    return layout, Access(index, 1 << vector_bits, 1 << lane_bits)


@given(f2_cases(), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_the_rank_formula_counts_words_of_xor_layouts(case, banks, width, element):
    assert agrees(*case, Banks(1 << banks, 1 << width), 1 << element) == "rank"


STRIDED = st.lists(st.tuples(st.integers(1, 5), st.integers(-12, 40)), min_size=1, max_size=4)


@given(STRIDED, st.integers(1, 4), st.integers(1, 8), st.integers(1, 12), st.integers(1, 6), st.integers(1, 6))
def test_strides_over_any_number_of_banks_agree_with_the_count(modes, vector, lanes, banks, width, element):
    layout = Layout(tuple(s for s, _ in modes), tuple(d for _, d in modes))
    if layout.size % vector == 0:
        agrees(layout, Access(Layout(layout.size), vector, lanes), Banks(banks, width), element)


@pytest.mark.parametrize("banks", [1, 3, 5, 6, 8, 12, 31, 32, 33])
@pytest.mark.parametrize("stride", [0, 1, 2, 3, 5, 6, 8, 16, 32, 33, 36, 48])
def test_lanes_at_one_stride_fall_on_banks_over_gcd_banks(banks, stride):
    lanes = 32
    found = bank_conflicts(Layout(lanes, stride), Access(Layout(lanes), 1, lanes), Banks(banks, 4), 4)
    hit = banks // np.gcd(stride, banks)
    assert found.form in ("cyclic", "rank")
    assert found.degree == (1 if stride == 0 else -(-lanes // hit))


def test_padded_rows_are_counted_on_the_cyclic_group():
    for pitch, degree in [(64, 8), (72, 1), (68, 2), (66, 4), (80, 2)]:
        layout = Layout((128, 64), (pitch, 1))
        found = bank_conflicts(layout, ROWS_OF_8, GPU, 2)
        assert (found.degree, found.wavefronts) == (degree, 128 * degree)
        assert found.form == ("rank" if pitch == 64 else "cyclic")
        assert agrees(layout, ROWS_OF_8, GPU, 2) == found.form


def test_phases_that_start_inside_a_word_are_counted_apart():
    # Six bytes per lane: every other phase starts in the middle of a word of four.
    layout = Layout((3, 4, 5), (1, 12, 3))
    assert agrees(layout, Access(Layout(60), 3, 4), Banks(3, 4), 2) == "cyclic"


def test_a_swizzle_frees_an_ldmatrix_read_of_conflicts():
    plain, swizzled = parse("(128,64):(64,1)"), parse("S<3,3,3> o 0 o (128,64):(64,1)")
    assert bank_conflicts(plain, ROWS_OF_8, GPU, 2) == Conflicts(128, 1024, 8, "rank")
    assert bank_conflicts(swizzled, ROWS_OF_8, GPU, 2) == Conflicts(128, 128, 1, "rank")


def test_lanes_that_ask_for_the_same_word_share_it():
    everyone = Access(Layout((32, 4), (0, 1)), 1, 32)
    assert bank_conflicts(Layout(4, 32), everyone, GPU, 4).degree == 1
    halves = Access(Layout(64), 1, 64)  # two bf16 per word
    assert bank_conflicts(Layout(64), halves, GPU, 2).degree == 1


def test_elements_wider_than_a_bank_take_several_words():
    assert agrees(Layout(32), Access(Layout(32), 1, 32), GPU, 8) == "rank"
    assert bank_conflicts(Layout(32), Access(Layout(32), 1, 32), GPU, 8).degree == 2
    assert bank_conflicts(Layout(16), Access(Layout(16), 1, 16), GPU, 8).degree == 1


def test_a_swizzle_of_padded_rows_is_counted():
    layout = Layout((16, 64), (72, 1)).then(swizzle(3, 3, 3))
    assert agrees(layout, Access.of_tile((16, 64), (1, 8), [(0, 8)]), GPU, 2) == "count"


def test_a_table_of_lanes_and_a_table_of_offsets_are_counted():
    lanes = Access([3, 1, 4, 1, 5, 9, 2, 6], 2, 2)
    assert agrees(Layout(16, 4), lanes, Banks(4, 4), 4) == "count"
    assert agrees(Layout(16).then(Table(range(0, 160, 10))), Access(Layout(16), 1, 8), Banks(8, 4), 4) == "count"


def test_an_access_may_give_coordinates():
    layout = parse("S<3,3,3> o 0 o (128,64):(64,1)")
    index = Layout((8, 8, 16, 8), (E(1), E(0), E(0) * 8, E(1) * 8))
    assert bank_conflicts(layout, Access(index, 8, 8), GPU, 2) == bank_conflicts(layout, ROWS_OF_8, GPU, 2)
    padded = Layout((16, 5), (8, 1))
    assert agrees(padded, Access(Layout((16, 5), (E(0), E(1))), 1, 16), Banks(5, 4), 4) == "cyclic"


def test_the_last_phase_may_be_short():
    assert agrees(Layout(10, 3), Access(Layout(10), 1, 4), Banks(3, 4), 4) == "count"


@given(st.lists(f2_cases(), min_size=1, max_size=3), st.integers(0, 4), st.integers(0, 3), st.integers(0, 3))
def test_many_layouts_at_once_get_the_degree_of_each(cases, banks, width, element):
    for layout, access in cases:
        bases = np.array([layout.bits, layout.bits[::-1]])
        found = bank_conflicts_many(bases, access, Banks(1 << banks, 1 << width), 1 << element)
        for bits, degree in zip(bases.tolist(), found.tolist(), strict=True):
            one = Layout((2,) * len(bits), tuple(map(X, bits)))
            assert bank_conflicts(one, access, Banks(1 << banks, 1 << width), 1 << element).degree == degree


def test_many_layouts_need_powers_of_two():
    with pytest.raises(ValueError, match="must be powers of two"):
        bank_conflicts_many([[1, 2, 4]], Access(Layout(8), 1, 8), Banks(3, 4), 4)
    with pytest.raises(ValueError, match="layouts x bits"):
        bank_conflicts_many([1, 2, 4], Access(Layout(8), 1, 8), GPU, 4)
    assert bank_conflicts_many(np.zeros((0, 3), int), Access(Layout(8), 1, 8), GPU, 4).tolist() == []


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_the_compiled_count_agrees_on_random_tables(lanes, element, seed):
    rng = np.random.default_rng(seed)
    layout = Layout(64).then(Table(rng.integers(-500, 500, 64)))
    agrees(layout, Access(rng.integers(0, 64, 100).tolist(), 1, lanes), Banks(int(rng.integers(1, 40)), 4), element)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: Banks(0, 4), r"a count of 0, allowed are 1\.\.65536"),
        (lambda: Banks(32, 0), r"a width of 0 bytes, allowed are 1\.\.65536"),
        (lambda: Access(Layout(6), 4), "vectors of 4 do not divide the 6 elements of 6:1"),
        (lambda: Access(Layout(6), 0), r"vector is 0, allowed are 1\.\."),
        (lambda: Access([]), "a non-empty list of integers is needed"),
        (lambda: Access.of_tile((6, 8), (0, 4), []), r"4 elements along dimension 0 after \(1, 1\) do not divide"),
        (lambda: bank_conflicts(Layout(8), Access(Layout(16)), GPU, 4), r"reaches 15, allowed are 0\.\.7"),
        (lambda: bank_conflicts(Layout(8), Access(Layout(8)), GPU, 0), r"element_bytes is 0, allowed are 1\.\."),
        (lambda: bank_conflicts(Layout(8, E(0)), Access(Layout(8)), GPU, 4), "need one offset"),
        (
            lambda: bank_conflicts(Layout((8, 8)), Access(Layout(16, E(1))), GPU, 4),
            r"coordinate 1: reaches 15, allowed are 0\.\.7",
        ),
        (
            lambda: bank_conflicts(Layout(2**29, 7).then(Table([1, 2])), Access(Layout(2**29)), GPU, 4),
            "too many to count",
        ),
    ],
)
def test_a_wrong_question_is_an_error_of_one_line(action, message):
    with pytest.raises(ValueError, match=message) as caught:
        action()
    assert "\n" not in str(caught.value)


def offset_of_index(case):
    """Bits of the offset per bit of the (dimension 0 first) index, from the bases that lead from offsets to it."""
    low = [0, *np.cumsum([extent.bit_length() - 1 for extent in case["shape"]]).tolist()]

    def flat(basis):
        return sum(c << low[k] for k, c in enumerate(basis))

    images = [flat(basis) for basis in case["shared_linear"]["offset_bases"]]
    offsets = {0: 0}
    for k, image in enumerate(images):
        offsets |= {index ^ image: offset | 1 << k for index, offset in offsets.items()}
    assert len(offsets) == 1 << low[-1]
    return [offsets[1 << k] for k in range(low[-1])], flat


def triton_access(case):
    """The offsets' bits, and what the compiler takes for the vector, the lanes of one phase and the rest."""
    bits, flat = offset_of_index(case)
    image = lambda basis: sum_xor(bits[k] for k in range(len(bits)) if flat(basis) >> k & 1)  # noqa: E731
    linear = case["reg_linear"]
    registers, lanes = ([image(b) for b in linear[name]] for name in ("reg_bases", "lane_bases"))
    everything = [*registers, *lanes, *(image(b) for b in linear["warp_bases"])]
    vector = 0
    while (
        (2 << vector) * case["elem_bits"] <= 128
        and 1 << vector in registers
        and sum(value >> vector & 1 for value in everything) == 1
    ):
        vector += 1
    phase = len(lanes) - max(((1 << vector) * case["elem_bits"] // 32).bit_length() - 1, 0)
    return [1 << k for k in range(vector)], lanes[:phase]


def sum_xor(values):
    total = 0
    for value in values:
        total ^= value
    return total


@pytest.mark.skipif(not FOLDER.exists(), reason="the conformance cases are not here")
def test_bank_conflicts_are_those_that_triton_reports():
    compared = 0
    for case in json.loads((FOLDER / "triton_shared_bank_conflicts.json").read_text()):
        vector, lanes = triton_access(case)
        if len(vector) and (1 << len(vector)) * case["elem_bits"] < 32:
            continue
        if not vector and case["elem_bits"] < 32:
            continue
        bits = [*vector, *lanes]
        size = max(1, *bits).bit_length()
        access = Access(Layout((2,) * len(bits), tuple(map(X, bits))), 1 << len(vector), 1 << len(lanes))
        found = bank_conflicts(Layout(1 << size), access, GPU, case["elem_bits"] // 8)
        assert found.degree - 1 == case["bank_conflicts"], case["id"]
        compared += 1
    assert compared > 100


def test_every_phase_of_a_tile_is_a_phase_of_the_access():
    access = Access.of_tile((16, 32), (1, 4), [(1, 2), (0, 4)])
    assert (access.phases, access.elements, access.lanes) == (16, 32, 8)
    assert sorted(access.index.table().tolist()) == list(range(512))
    assert all(b - a == 16 for a, b in pairwise(access.index.table().tolist()[:4]))
