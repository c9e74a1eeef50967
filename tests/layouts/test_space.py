"""The space of legal layouts, against a brute force over all cuts of the axes and all orders of the digits."""

import itertools
from math import factorial, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layouts import Layout, NamedLayout, Table, X, named, swizzle
from layouts.space import Space


def chains(size):
    """All ordered factorisations of a size, the lowest digit first."""
    if size == 1:
        return [()]
    return [(e, *rest) for e in range(2, size + 1) if size % e == 0 for rest in chains(size // e)]


def descriptors(sizes):
    """All (order, table): the order is a tuple of (axis, low, high), innermost first; tables leftmost axis fastest."""
    for choice in itertools.product(*(chains(size) for size in sizes.values())):
        digits = []
        for axis, chain in zip(sizes, choice, strict=True):
            lows = [prod(chain[:k]) for k in range(len(chain))]
            digits += [(axis, low, low * extent) for low, extent in zip(lows, chain, strict=True)]
        for order in itertools.permutations(digits):
            yield order, table(order, sizes)


def table(order, sizes):
    found = []
    for point in itertools.product(*(range(size) for size in reversed(sizes.values()))):
        coordinate = dict(zip(reversed(sizes), point, strict=True))
        stride = offset = 0
        stride = 1
        for axis, low, high in order:
            offset += coordinate[axis] % high // low * stride
            stride *= high // low
        found.append(offset)
    return tuple(found)


def run_of(offsets, sizes):
    """The largest c so that every aligned block of c offsets holds neighbours along one axis, by looking."""
    points = [tuple(reversed(p)) for p in itertools.product(*(range(size) for size in reversed(sizes.values())))]
    at = dict(zip(offsets, points, strict=True))
    run = len(offsets)
    while True:
        blocks = [[at.get(o) for o in range(start, start + run)] for start in range(0, max(offsets) + 1, run)]
        if all(_neighbours(block) for block in blocks if any(block)):
            return run
        run = max(c for c in range(1, run) if len(offsets) % c == 0)


def _neighbours(block):
    if None in block:
        return False
    steps = {tuple(b - a for a, b in zip(p, q, strict=True)) for p, q in itertools.pairwise(block)}
    return len(steps) <= 1 and all(sorted(step) == [0] * (len(step) - 1) + [1] for step in steps)


def legal(order, offsets, sizes, c):
    """Whether a descriptor shows that the constraints hold, but for run and page."""
    for axis in sizes:
        own = [(low, high) for a, low, high in order if a == axis]
        if len(own) > (c["max_digits"] or 99):
            return False
        if axis in c["tiles"] and any(high not in (*c["tiles"][axis], sizes[axis]) for _, high in own):
            return False
    outer = [axis for axis in c["outer"] if sizes[axis] > 1]
    ends = [(axis, 1, sizes[axis]) for axis in reversed(outer)]
    if list(order[len(order) - len(ends) :]) != ends:
        return False
    return c["innermost"] is None or sizes[c["innermost"]] == 1 or order[0][:2] == (c["innermost"], 1)


def brute(sizes, c):
    every = list(descriptors(sizes))
    total = prod(sizes.values())
    pages = set()
    for order, offsets in every:
        extents = [high // low for _, low, high in order]
        if c["page_bytes"] in [prod(extents[:k]) for k in range(len(extents) + 1)]:
            pages.add(offsets)
    found = set()
    for order, offsets in every:
        if offsets in found or not legal(order, offsets, sizes, c):
            continue
        page_fits = c["page_bytes"] is None or c["page_bytes"] % total == 0 or offsets in pages
        run = run_of(offsets, sizes)
        if page_fits and run >= c["run_bytes"] and run % c["align_bytes"] == 0:
            found.add(offsets)
    return {offsets for _, offsets in every}, found


@st.composite
def constrained(draw):
    values = draw(
        st.sampled_from([(4, 4), (4, 6), (6, 6), (12, 2), (2, 3, 4), (8, 3), (2, 2, 6), (1, 8), (5, 4, 1), (3, 4)])
    )
    sizes = dict(zip("abc", values, strict=False))
    outer = tuple(draw(st.lists(st.sampled_from(sorted(sizes)), max_size=1)))
    free = [axis for axis in sizes if axis not in outer]
    tiles = {}
    for axis in free:
        if draw(st.booleans()):
            divisors = [d for d in range(1, sizes[axis] + 1) if sizes[axis] % d == 0]
            tiles[axis] = tuple(draw(st.lists(st.sampled_from(divisors), max_size=2)))
    return sizes, {
        "tiles": tiles,
        "max_digits": draw(st.sampled_from([None, None, 1, 2])),
        "outer": outer,
        "innermost": draw(st.sampled_from([None, *free])),
        "run_bytes": draw(st.sampled_from([1, 1, 2, 3, 4])),
        "align_bytes": draw(st.sampled_from([1, 1, 2, 4])),
        "page_bytes": draw(st.sampled_from([None, None, 2, 4, 6, 8, 12, 48, 7])),
    }


@settings(max_examples=60, deadline=None)
@given(constrained())
def test_the_space_is_what_a_brute_force_filter_leaves(case):
    sizes, constraints = case
    every, expected = brute(sizes, constraints)
    space = Space(sizes, **constraints)
    listed = list(space.enumerate())
    assert len(listed) == len({layout.key for layout in listed}) == space.count()
    assert {tuple(layout.layout.table().tolist()) for layout in listed} == expected
    assert all(layout in space for layout in listed)
    for offsets in list(every)[:40]:
        layout = NamedLayout(tuple(sizes), Layout(tuple(sizes.values())).then(Table(offsets)))
        assert space.contains(layout) == (offsets in expected)


@settings(max_examples=30, deadline=None)
@given(constrained(), st.integers(0, 2**32))
def test_samples_are_legal_different_and_every_layout_is_drawn_in_the_end(case, seed):
    sizes, constraints = case
    space = Space(sizes, **constraints)
    count = space.count()
    drawn = space.sample(np.random.default_rng(seed), count)
    assert {layout.key for layout in drawn} == {layout.key for layout in space.enumerate()}
    few = space.sample(np.random.default_rng(seed), min(3, count))
    assert len({layout.key for layout in few}) == len(few) == min(3, count)
    assert all(layout in space for layout in few)


def test_layout_number_k_is_the_kth_of_the_enumeration():
    space = Space({"a": 6, "b": 4}, max_digits=2)
    assert [space.at(k).key for k in range(space.count())] == [layout.key for layout in space.enumerate()]
    with pytest.raises(ValueError, match="layout 99 of the space: it has"):
        space.at(99)


def test_a_16_by_16_tile_has_as_many_layouts_as_orders_of_8_bits():
    space = Space({"row": 16, "column": 16})
    assert space.count() == factorial(8) == 40320
    keys = {tuple(layout.layout.key[1]) for layout in itertools.islice(space.enumerate(), 2000)}
    assert len(keys) == 2000


def test_powers_of_two_have_the_orders_of_their_bits_however_large():
    assert Space({"page": 512, "kv": 2, "head": 8, "token": 16, "dim": 128}, 2).count() == factorial(24)
    assert Space({"a": 2**20, "b": 2**20, "c": 2**20}, 2).count() == factorial(60)


def test_uncut_axes_have_the_orders_of_the_axes():
    sizes = {"a": 6, "b": 10, "c": 7, "d": 1, "e": 15}
    assert Space(sizes, max_digits=1).count() == factorial(4)
    assert Space(sizes, tiles=dict.fromkeys(sizes, ())).count() == factorial(4)
    assert Space({"a": 1}).count() == 1
    assert list(Space({"a": 1}).enumerate()) == [NamedLayout(("a",), Layout((1,), (0,)))]


def test_every_layout_is_drawn_equally_often():
    space = Space({"a": 4, "b": 3})
    draws = 3000
    rng = np.random.default_rng(5)
    counts = {layout.key: 0 for layout in space.enumerate()}
    for _ in range(draws):
        counts[space.sample(rng, 1)[0].key] += 1
    expected = draws / len(counts)
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi2 < 3 * len(counts)  # far beyond the 99.9 % point for 5 degrees of freedom and up


def test_large_spaces_are_sampled_within_their_constraints():
    space = Space(
        {"page": 512, "kv": 2, "head": 12, "token": 16, "dim": 128},
        element_bytes=2,
        tiles={"token": (8,), "head": (4,)},
        max_digits=2,
        outer=("page",),
        innermost="dim",
        run_bytes=32,
        align_bytes=32,
        page_bytes=4096,
        stages=(None, swizzle(3, 3, 3)),
    )
    drawn = space.sample(np.random.default_rng(1), 30)
    assert len({layout.key for layout in drawn}) == 30
    for layout in drawn:
        assert layout.leaves("page") == ((512, 2 * 12 * 16 * 128),)
        assert layout.offset(page=0, kv=0, head=0, token=0, dim=1) == 1
        assert layout.layout.cosize == layout.layout.size
        assert not layout.layout.stages  # the swizzle keeps only 8 elements, 16 bytes, together
        assert layout in space


SWIZZLED = {
    "a swizzle of single elements": swizzle(2, 0, 2),
    "a swizzle of pairs": swizzle(1, 1, 2),
    "padding": Layout((4, 1), (1, 6)),
    "padding that breaks the alignment": Layout((4, 1), (1, 7)),
    "a reversal": Table(list(range(15, -1, -1))),
}


@pytest.mark.parametrize("name", SWIZZLED)
@pytest.mark.parametrize("constraints", [{}, {"run_bytes": 2}, {"align_bytes": 2}, {"run_bytes": 4, "align_bytes": 2}])
def test_a_stage_follows_every_order_that_keeps_its_run_under_it(name, constraints):
    sizes = {"a": 4, "b": 4}
    stage = SWIZZLED[name]
    space = Space(sizes, stages=(stage,), **constraints)
    expected = set()
    through = Layout(16).then(stage).table()
    for _, offsets in descriptors(sizes):
        result = tuple(through[list(offsets)].tolist())
        run = run_of(result, sizes)
        if run >= constraints.get("run_bytes", 1) and run % constraints.get("align_bytes", 1) == 0:
            expected.add(result)
    found = [tuple(layout.layout.table().tolist()) for layout in space.enumerate()]
    assert len(found) == len(set(found)) == space.count()
    assert set(found) == expected
    assert all(layout in space for layout in space.enumerate())
    respelt = [NamedLayout(("b", "a"), Layout((4, 4), (4, 1)).then(Table(offsets))) for offsets in found]
    assert all(layout in space for layout in respelt)


def test_stages_that_do_nothing_or_the_same_give_no_second_copy():
    sizes = {"a": 4, "b": 4}
    twice = (None, swizzle(2, 0, 2), Layout((16, 1), (1, 16)), swizzle(2, 0, 2), swizzle(3, 3, 3))
    assert Space(sizes, stages=twice).count() == 2 * factorial(4)


def test_stages_that_meet_in_some_functions_give_these_once():
    sizes = {"a": 4, "b": 4}
    permuted = Layout((2, 2, 1), (2, 1, 4))  # exchanges two bits: every result is a compact layout again
    space = Space(sizes, stages=(None, permuted))
    assert space.count() == factorial(4)
    assert len({layout.key for layout in space.sample(np.random.default_rng(0), 24)}) == 24
    partly = Space(sizes, max_digits=1, stages=(None, permuted))
    tables = [tuple(layout.layout.table().tolist()) for layout in partly.enumerate()]
    assert len(tables) == len(set(tables)) == partly.count() == 4
    assert [partly.at(k).key for k in range(4)] == [layout.key for layout in partly.enumerate()]
    with pytest.raises(ValueError, match=r"sample: \d+ draws find 24 of 30 layouts, the others are repetitions"):
        space.sample(np.random.default_rng(0), 30)


def test_a_page_is_kept_together_by_the_swizzle_or_the_swizzle_is_left_out():
    upward, downward = swizzle(3, 3, -3), swizzle(3, 3, 3)  # bits 3..5 into bits 6..8, and the other way round
    for side in (64, 2**12, 3 * 2**10):
        sizes = {"row": side, "column": side}
        kept = Space(sizes, 2, max_digits=1, page_bytes=1024, stages=(upward, downward))
        assert kept.count() == 4
        broken = Space(sizes, 2, max_digits=1, page_bytes=128, stages=(upward, downward))
        assert broken.count() == 2
        assert all(str(layout.layout).startswith("S<3,3,3>") for layout in broken.enumerate())


@pytest.mark.parametrize("rows", [2**6, 2**14, 3 * 2**14])
def test_a_layout_is_recognised_however_it_is_spelt(rows):
    sizes = {"row": rows, "column": 128}
    space = Space(sizes, 2, stages=(None, swizzle(3, 3, 4)), outer=("row",), tiles={"column": (8, 16)}, run_bytes=16)
    assert named("row column", sizes) in space
    assert named("column row", sizes) not in space
    split = NamedLayout(("row", "column"), Layout(((2, rows // 2), (4, 32)), ((128, 256), (1, 4))))
    assert split in space
    swizzled = NamedLayout(("row", "column"), Layout((rows, 128), (128, 1)).then(swizzle(3, 3, 4)))
    assert swizzled in space
    if rows & (rows - 1) == 0:
        bits = swizzled.layout.bits
        n = rows.bit_length() - 1
        by_bits = Layout(((2,) * n, (2,) * 7), (tuple(map(X, bits[:n])), tuple(map(X, bits[n:]))))
        assert NamedLayout(("row", "column"), by_bits) in space
    assert NamedLayout(("row", "column"), Layout((rows, 128), (128, 1)).then(swizzle(2, 3, 4))) not in space
    assert NamedLayout(("row", "column"), Layout((rows, 128), (130, 1))) not in space
    assert NamedLayout(("row", "line"), Layout((rows, 128), (128, 1))) not in space
    assert NamedLayout(("row", "column"), Layout((rows, 64), (64, 1))) not in space


def test_padding_of_a_large_tensor_is_counted_and_recognised():
    padding = Layout((64, 1), (1, 68))
    space = Space({"row": 2**14, "column": 192}, 2, tiles={"row": (), "column": (64,)}, stages=(padding,), run_bytes=8)
    layouts = list(space.enumerate())
    assert len(layouts) == space.count() == 4  # six orders, two of which begin with column // 64
    assert all(layout in space for layout in layouts)
    assert Space({"row": 2**14, "column": 192}, 2, stages=(padding,), run_bytes=16).count() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": {}}, "at least one axis"),
        ({"sizes": {"a": 0}}, "axis a has size 0"),
        ({"sizes": {"a": 4}, "tiles": {"x": ()}}, "tiles: unknown axis 'x', allowed are a"),
        ({"sizes": {"a": 4}, "tiles": {"a": (3,)}}, "tiles of axis a: 3 does not divide 4"),
        ({"sizes": {"a": 4}, "outer": ("b",)}, "outer: unknown axis 'b'"),
        ({"sizes": {"a": 4}, "outer": ("a",), "innermost": "a"}, "outer: axis a stands in innermost as well"),
        ({"sizes": {"a": 4}, "max_digits": 0}, "max_digits of axis a is 0"),
        ({"sizes": {"a": 4}, "run_bytes": 0}, "run_bytes is 0"),
        ({"sizes": {"a": 4}, "element_bytes": 4, "page_bytes": 6}, "page_bytes is 6"),
        ({"sizes": {"a": 2**40, "b": 2**40}}, "does not fit 64 bits"),
        ({"sizes": {"a": 963761198400}}, "6720 boundaries, at most 256"),
        ({"sizes": {"a": 4}, "stages": (Layout((2, 1), (1, 0)),)}, "sends two of the offsets 0..3 to one"),
        ({"sizes": {"a": 2**21}, "stages": (Table([0, 1]),)}, "."),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        Space(**arguments).count()
    assert len(str(caught.value)) < 300


def test_constraints_prune_before_layouts_are_made():
    # 7 axes of 12: the orders of 21 prime digits, of which only those are walked that begin with all of one axis.
    space = Space(dict.fromkeys("abcdefg", 12), run_bytes=12, innermost="g")
    assert all(layout.leaves("g") == ((12, 1),) for layout in itertools.islice(space.enumerate(), 100))
    alone = Space(dict.fromkeys("abcdef", 12))
    assert space.count() == alone.count() > 10**14
