"""The law of every operation against brute force: some examples by default, 10^5 and more of them nightly.

Extents are odd and prime as often as powers of two, nesting goes to depth 3.  A law either holds or its operation
refuses the input with one clear line; that it does not refuse what it should accept is for the other tests.
"""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import layouts
from layouts import Layout, X, interop, parse, swizzle
from layouts.analysis import Access, Banks, Buffer, bank_conflicts, touched
from layouts.interop import cute

MANY = 8_000  # examples per law in the nightly run
EXTENTS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 11, 16])


def values(layout):
    return [layout(i) for i in range(layout.size)]


def refused(operation, *arguments):
    """Return the result, or None after checking that the refusal is one clear line."""
    try:
        return operation(*arguments)
    except ValueError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 400
    return None


@st.composite
def nested(draw, depth=3, most=400):
    """A layout of depth up to 3 with at most `most` indices, strides free, some compact and permuted."""
    shape = draw(st.recursive(EXTENTS, lambda inner: st.lists(inner, min_size=1, max_size=3).map(tuple), max_leaves=4))
    flat = [extent for extent, _ in Layout(shape).leaves()]
    while Layout(shape).size > most:
        shape, flat = flat[0], flat[:1]
    if draw(st.booleans()):
        order = draw(st.permutations(range(len(flat))))
        strides, step = [0] * len(flat), draw(st.sampled_from([1, 1, 2, 3]))
        for k in order:
            strides[k] = step
            step *= flat[k]
    else:
        strides = [draw(st.integers(0, 24)) for _ in flat]
    steps = iter(strides)

    def fill(node):
        return next(steps) if isinstance(node, int) else tuple(fill(item) for item in node)

    return Layout(shape, fill(shape))


@st.composite
def bits(draw, most=6):
    """An XOR layout of up to 6 bits."""
    count = draw(st.integers(1, most))
    return Layout((2,) * count, tuple(X(draw(st.integers(0, 2**most - 1))) for _ in range(count)))


PAIRS = st.tuples(nested(), nested(most=60))


def coalesce_keeps_the_function(a):
    assert values(layouts.coalesce(a)) == values(a)
    by_mode = layouts.coalesce(a, (1,) * a.rank)
    assert values(by_mode) == values(a)
    assert by_mode.rank == max(a.rank, 1)


def composition_is_a_after_b(pair):
    a, b = pair
    result = refused(layouts.composition, a, b)
    if result is not None and b.cosize <= a.size:
        assert values(result) == [a(i) for i in values(b)]


def complement_is_disjoint(pair):
    a, b = pair
    rest = refused(layouts.complement, a, b.size)
    if rest is not None and rest.size:
        reached = set(values(a))
        seen = Counter(x + y for x in reached for y in values(rest))
        assert max(seen.values()) == 1
        assert values(rest) == sorted(values(rest))


def right_inverse_numbers_the_offsets(a):
    inverse = layouts.right_inverse(a)
    assert [a(i) for i in values(inverse)] == list(range(inverse.size))


def left_inverse_leads_back(a):
    inverse = refused(layouts.left_inverse, a)
    if inverse is not None:
        # beyond its size the inverse goes on in its last mode, and so does the layout
        back = a.then(inverse, a)
        assert values(back) == values(a)


def divide_rearranges(pair):
    a, b = pair
    divided = refused(layouts.logical_divide, a, b)
    if divided is not None and divided.size == a.size and b.cosize <= a.size:
        assert Counter(values(divided)) == Counter(values(a))
        assert values(divided.mode(0)) == [a(i) for i in values(b)]


def divides_by_a_tuple_agree(pair):
    a, b = pair
    tiles = tuple(Layout(mode.size) for mode in (b.mode(k) for k in range(b.rank)))[: a.rank]
    forms = [
        refused(divide, a, tiles)
        for divide in (layouts.logical_divide, layouts.zipped_divide, layouts.tiled_divide, layouts.flat_divide)
    ]
    assert all(form is None for form in forms) or all(form is not None for form in forms)
    if forms[0] is not None:
        assert len({tuple(sorted(values(form))) for form in forms}) == 1
        assert values(forms[1]) == values(forms[3])
        assert values(forms[1]) == values(forms[2])


def product_repeats(pair):
    a, b = pair
    for product in (layouts.logical_product, layouts.blocked_product, layouts.raked_product):
        result = refused(product, a, b)
        if result is None or a.size * b.size > 4000:
            continue
        assert result.size == a.size * b.size
        if product is layouts.logical_product:
            assert values(result.mode(0)) == values(a)
        copies = {tuple(sorted(values(result)))}
        copies.add(tuple(sorted(values(layouts.logical_product(a, b)))))
        if a.rank == b.rank:
            assert len(copies) == 1


def a_slice_holds_its_coordinate(case):
    a, seed = case
    modes = [a.mode(k) for k in range(a.rank)]
    held = [None if seed >> k & 1 else (seed // 7) % mode.size for k, mode in enumerate(modes)]
    if isinstance(a.shape, int):
        return
    found = layouts.slice_modes(a, *held)
    free = [range(mode.size) if h is None else [h] for h, mode in zip(held, modes, strict=True)]
    expected = [a(tuple(reversed(point))) for point in itertools.product(*reversed(free))]
    assert found.table().tolist() == expected


def filter_keeps_the_offsets(a):
    assert set(values(layouts.filter_zeros_and_ones(a))) == set(values(a))


def recast_covers_the_same_bits(case):
    a, old, new = case
    result = refused(layouts.recast, a, old, new)
    if result is not None and all(stride >= 0 for _, stride in a.leaves()):
        before = {offset * old + bit for offset in values(a) for bit in range(old)}
        after = {offset * new + bit for offset in values(result) for bit in range(new)}
        assert before <= after
        if a.size * old == result.size * new and layouts.is_injective(a):
            assert before == after


def injectivity_is_distinctness(a):
    assert layouts.is_injective(a) == (len(set(values(a))) == a.size)


def equality_is_equality_of_functions(pair):
    a, b = pair
    assert (a == b) == (values(a) == values(b))


def a_swizzle_behind_anything_is_one_value(case):
    a, (width, base, shift) = case
    chain = a.then(swizzle(width, base, shift))
    mask = ((1 << width) - 1) << (base + shift)
    expected = [value ^ ((value & mask) >> shift) for value in values(a)]
    assert chain.table().tolist() == expected
    assert [chain(i) for i in range(chain.size)] == expected
    again = chain.then(swizzle(width, base, shift))  # a swizzle undoes itself
    assert again == a


def an_xor_layout_has_an_inverse_or_overlaps(a):
    assert layouts.is_injective(a) == (len(set(values(a))) == a.size)
    if layouts.is_injective(a) and a.cosize == a.size:
        assert a.then(layouts.right_inverse(a)) == Layout(a.size)
        assert layouts.right_inverse(a).then(a) == Layout(a.size)


def text_reads_back(a):
    assert parse(str(a)) == a
    for style in cute.STYLES:
        assert cute.read(cute.write(a, style)) == a


@st.composite
def tensors(draw):
    """A tensor of rank 1 to 3 in memory: dimensions permuted, rows perhaps padded, perhaps swizzled."""
    shape = tuple(draw(st.lists(st.sampled_from([2, 3, 4, 7, 8, 16]), min_size=1, max_size=3)))
    strides, step = [0] * len(shape), 1
    for k in draw(st.permutations(range(len(shape)))):
        strides[k] = step
        step *= shape[k] + draw(st.sampled_from([0, 0, 0, 1, 8]))
    layout = Layout(shape, tuple(strides), draw(st.sampled_from([0, 0, 3])))
    return layout.then(swizzle(*draw(SWIZZLES))) if draw(st.booleans()) else layout


def every_dialect_reads_what_it_writes(layout):
    for dialect in interop.DIALECTS:
        written = refused(interop.write, layout, dialect)
        if written is not None:
            extents = tuple(layout.mode(k).size for k in range(layout.rank))
            needs_shape = dialect == "tvm" and "index_map" in written
            assert interop.read(written, extents if needs_shape else None) == layout


def bank_conflicts_are_those_counted(case):
    layout, banks, width, element = case
    vector = (0, next(n for n in (4, 2, 7, 3) if layout.mode(0).size % n == 0))
    lanes = [(layout.rank - 1, layout.mode(layout.rank - 1).size)] if layout.rank > 1 else [(0, 1)]
    access = Access.of_tile([layout.mode(k).size for k in range(layout.rank)], vector, lanes)
    found = bank_conflicts(layout, access, Banks(banks, width), element)
    degrees = []
    indices = values(access.index)
    for start in range(0, len(indices), access.elements):
        words = set()
        for index in indices[start : start + access.elements]:
            first = layout(index) * element
            words.update(range(first // width, (first + element - 1) // width + 1))
        degrees.append(max(Counter(word % banks for word in words).values()))
    assert (found.phases, found.wavefronts, found.degree) == (len(degrees), sum(degrees), max(degrees))


def bursts_are_those_touched(case):
    layout, element, granule = case
    found = touched(Buffer(layout, element), granule)
    bytes_ = {offset * element + byte for offset in values(layout) for byte in range(element)}
    granules = {byte // granule for byte in bytes_}
    assert (found.granules, found.useful_bytes) == (len(granules), len(bytes_))
    assert found.fetched_bytes == len(granules) * granule


SWIZZLES = st.integers(1, 3).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, 3), st.integers(n, 4)))
WIDTHS = st.sampled_from([1, 4, 6, 8, 16, 32, 64, 128])
LAWS = {
    coalesce_keeps_the_function: nested(),
    composition_is_a_after_b: PAIRS,
    complement_is_disjoint: st.tuples(nested(most=60), nested(most=60)),
    right_inverse_numbers_the_offsets: nested(),
    left_inverse_leads_back: nested(),
    divide_rearranges: PAIRS,
    divides_by_a_tuple_agree: PAIRS,
    product_repeats: st.tuples(nested(most=60), nested(most=60)),
    a_slice_holds_its_coordinate: st.tuples(st.one_of(nested(), bits()), st.integers(0, 1000)),
    filter_keeps_the_offsets: nested(),
    recast_covers_the_same_bits: st.tuples(nested(most=60), WIDTHS, WIDTHS),
    injectivity_is_distinctness: nested(),
    equality_is_equality_of_functions: st.tuples(nested(most=24), nested(most=24)),
    a_swizzle_behind_anything_is_one_value: st.tuples(nested(), SWIZZLES),
    an_xor_layout_has_an_inverse_or_overlaps: bits(),
    text_reads_back: nested(),
    every_dialect_reads_what_it_writes: tensors(),
    bank_conflicts_are_those_counted: st.tuples(
        tensors(), st.sampled_from([4, 8, 12, 32]), st.sampled_from([2, 4, 8]), st.sampled_from([1, 2, 4, 6, 16])
    ),
    bursts_are_those_touched: st.tuples(tensors(), st.sampled_from([1, 2, 6]), st.sampled_from([8, 32, 48])),
}


def holds(law, examples):
    luck = {"derandomize": False} if examples == MANY else {}
    quick = settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow], **luck)
    quick(given(LAWS[law])(lambda case: law(case)))()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_law_holds(law):
    holds(law, 50)


@pytest.mark.nightly
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_law_holds_for_very_many(law):
    holds(law, MANY)


def test_a_swizzled_layout_is_recast_with_its_swizzle():
    tile = parse("S<3,4,3> o 0 o (8,128):(128,1)")
    wide = layouts.recast(tile, 8, 16)
    assert str(wide) == "S<3,3,3> o 0 o (8,64):(64,1)"
    assert [wide(i, j) for i in range(8) for j in range(64)] == [
        tile(i, 2 * j) // 2 for i in range(8) for j in range(64)
    ]
    assert layouts.recast(wide, 16, 8) == tile


@pytest.mark.parametrize("order", [None, (1, 0)])
def test_tile_to_shape_repeats_the_block_in_the_order_asked(order):
    block = Layout((4, 3), (3, 1))
    tiled = layouts.tile_to_shape(block, (8, 9), order)
    first, second = (0, 1) if order is None else order
    counts = (2, 3)
    for i, j in itertools.product(range(8), range(9)):
        tile = (i // 4, j // 3)
        expected = block(i % 4, j % 3) + 12 * (tile[first] + counts[first] * tile[second])
        assert tiled(i, j) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layouts.logical_divide(parse("(12,(4,8)):(7,(1,30))"), 128), "takes 12 steps in mode 0 of a, 12:7"),
        (lambda: layouts.composition(parse("(8,4):(3,100)"), parse("4:3")), "nearest admissible: 4:2 and 4:4"),
        (lambda: layouts.composition(parse("((3),2):((2),12)"), parse("(2,2):(1,2)")), "carry over the boundary"),
        (lambda: layouts.complement(parse("(4,4):(3,4)"), 44), "overlaps the 12 offsets below it; nearest: 4:12"),
        (lambda: layouts.logical_divide(Layout(8), (2, 2)), "2 tiles for 1 modes"),
        (lambda: layouts.tile_to_shape(Layout((4, 3)), (8, 10)), "mode 1 of 3 does not divide the extent 10"),
        (lambda: layouts.tile_to_shape(Layout((4, 3)), (8, 9), (0, 0)), "is no order of 2 modes"),
        (lambda: layouts.recast(parse("(3,16):(1,3)"), 16, 128), "8 elements of the mode 3:1 are one"),
        (lambda: layouts.recast(Layout(4), 0, 8), "old_bits is 0, at least 1 is needed"),
        (lambda: layouts.left_inverse(parse("(4,2,3):(12,12,0)")), "no layout leads back"),
        (lambda: layouts.right_inverse(Layout(4, -1)), "the stride -1 is negative"),
        (lambda: layouts.coalesce(Layout(4), (1, 1)), "2 items for 1 modes"),
        (lambda: layouts.slice_modes(Layout((4, 8)), None, 8), r"8 is outside 0\.\.7 of the mode 8:4"),
        (lambda: layouts.slice_modes(Layout((4, 8)), (1, 2), 3), "2 coordinates for the mode 4:1"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_mode_and_what_would_do(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
