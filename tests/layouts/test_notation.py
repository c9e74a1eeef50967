"""Layouts by axis names, against NumPy reshapes and transposes of a counted tensor."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts.layout import Layout
from layouts.notation import NamedLayout, named

KV_SIZES = {"page": 10, "kv": 2, "head": 8, "token": 16, "dim": 128}
KV_TEXT = "page kv head token//8 dim token%8"


@st.composite
def notations(draw):
    """A random notation: the digits' extents per axis, innermost first, and the order of all factors."""
    names = draw(st.lists(st.sampled_from(["page", "kv", "head", "token", "dim"]), min_size=1, unique=True))
    digits = {name: draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)) for name in names}
    factors = [(name, place) for name in names for place in range(len(digits[name]))]
    return digits, draw(st.permutations(factors))


def spell(digits, order):
    words = []
    for name, place in order:
        low, high = int(np.prod(digits[name][:place])), int(np.prod(digits[name][: place + 1]))
        top, bottom = place == len(digits[name]) - 1, place == 0
        words.append(name + ("" if top else f"%{high}") + ("" if bottom else f"//{low}"))
    return " ".join(words)


def counted_tensor(digits, order):
    """The offsets over the axes: count in the written order, bring the digits together, merge them."""
    extents = [digits[name][place] for name, place in order]
    counted = np.arange(np.prod(extents)).reshape(extents)
    wanted = [(name, place) for name in digits for place in reversed(range(len(digits[name])))]
    return counted.transpose([order.index(factor) for factor in wanted]).reshape(
        [int(np.prod(digits[name])) for name in digits]
    )


@given(notations())
def test_offsets_are_those_of_a_reshaped_and_transposed_count(case):
    digits, order = case
    expected = counted_tensor(digits, order)
    sizes = dict(zip(digits, expected.shape, strict=True))
    layout = named(spell(digits, order), sizes)
    assert layout.axes == tuple(digits)
    assert layout.cosize == expected.size
    assert layout.is_injective
    grid = np.meshgrid(*map(np.arange, expected.shape), indexing="ij", sparse=True)
    assert np.array_equal(layout.offsets(**dict(zip(digits, grid, strict=True))), expected)
    last = dict(zip(digits, (extent - 1 for extent in expected.shape), strict=True))
    assert layout.offset(**last) == expected[tuple(last.values())]


@given(notations(), st.randoms(use_true_random=False))
def test_key_is_that_of_the_function_of_named_coordinates(case, random):
    digits, order = case
    shuffled = list(order)
    random.shuffle(shuffled)
    sizes = {name: int(np.prod(extents)) for name, extents in digits.items()}
    one, other = named(spell(digits, order), sizes), named(spell(digits, shuffled), sizes)
    same = np.array_equal(counted_tensor(digits, order), counted_tensor(digits, shuffled))
    assert (one.key == other.key) == same
    assert (one == other) == same


@given(notations())
def test_text_is_a_notation_of_the_same_function(case):
    digits, order = case
    sizes = {name: int(np.prod(extents)) for name, extents in digits.items()}
    layout = named(spell(digits, order), sizes)
    assert named(layout.text, sizes).key == layout.key
    assert named(layout.text, dict(reversed(sizes.items()))).text == layout.text


def test_paged_kv_cache_with_tokens_in_groups_of_eight():
    layout = named(KV_TEXT, KV_SIZES)
    assert layout.axes == ("page", "kv", "head", "token", "dim")
    assert layout.size("token") == 16
    assert layout.leaves("token") == ((8, 1), (2, 1024))
    assert layout.leaves("dim") == ((128, 8),)
    assert str(layout.mode("page")) == "10:32768"
    assert layout.offset(page=1, kv=1, head=2, token=9, dim=3) == 32768 + 16384 + 2 * 2048 + 1024 + 3 * 8 + 1
    assert layout.text == KV_TEXT


def test_two_spellings_of_one_function_have_one_key_and_one_text():
    sizes = {"head": 8, "token": 16}
    apart = named("head token//8 token%8", sizes)
    assert apart.key == named("head token", sizes).key
    assert apart.text == "head token"
    assert apart == named("head token", {"token": 16, "head": 8})
    assert hash(apart) == hash(named("head token", sizes))
    assert apart != named("token head", sizes)


def test_an_axis_of_size_one_contributes_nothing():
    with_stack = named("token stack head", {"stack": 1, "head": 8, "token": 16})
    assert with_stack == named("token head", {"head": 8, "token": 16})
    assert with_stack.text == "stack token head"


def test_equal_linear_layouts_with_other_axis_sizes_are_not_equal():
    assert named("b a", {"a": 2, "b": 4}) != named("b a", {"a": 4, "b": 2})


def test_a_chain_of_tile_factors_gives_the_digits_innermost_first():
    layout = named("token%8 token//32 token%32//8", {"token": 64})
    assert layout.leaves("token") == ((8, 8), (4, 1), (2, 4))


def test_a_layout_with_padding_has_no_notation_and_says_so():
    padded = NamedLayout(("row", "column"), Layout((4, 8), (9, 1)))
    assert padded.text == "column=8:1 row=4:9"
    assert padded.is_injective
    assert not NamedLayout(("row", "column"), Layout((4, 8), (7, 1))).is_injective


def test_repr_reads_back():
    layout = named(KV_TEXT, KV_SIZES)
    assert eval(repr(layout), {"Layout": Layout, "NamedLayout": NamedLayout}) == layout


def test_offsets_broadcast_their_coordinates():
    layout = named("a b", {"a": 3, "b": 5})
    assert layout.offsets(a=np.arange(3)[:, None], b=np.arange(5)).tolist() == np.arange(15).reshape(3, 5).tolist()
    assert layout.offsets(a=2, b=[0, 4]).tolist() == [10, 14]


@pytest.mark.parametrize(
    ("text", "sizes", "message"),
    [
        (
            "page tokn",
            {"page": 2, "token": 16},
            "factor 'tokn': unknown axis 'tokn', allowed are token, page",
        ),
        ("page", {"page": 2, "token": 16}, "axis token is missing"),
        ("token page token", {"page": 2, "token": 16}, "factor 'token' is repeated"),
        ("token//8 token//8 token%8", {"token": 16}, "factor 'token//8' is repeated"),
        (
            "token//8 token",
            {"token": 16},
            "do not cover axis token of size 16 exactly: they overlap at token//8",
        ),
        ("token//8 token%4", {"token": 16}, "they leave a gap at token%8//4"),
        ("token//8", {"token": 16}, "they leave a gap at token%8"),
        ("token%8", {"token": 16}, "they leave a gap at token//8"),
        (
            "token//7 token%7",
            {"token": 16},
            "factor 'token//7': 7 does not divide 16, nearest divisors are 4 and 8",
        ),
        ("token%32//12 token", {"token": 64}, "12 does not divide 32, nearest divisors are 8 and 16"),
        ("token//0 token", {"token": 16}, "0 does not divide 16, nearest divisors are 1"),
        ("token%32", {"token": 16}, "32 does not divide 16, nearest divisors are 16"),
        ("token//8%2", {"token": 16}, "factor 'token//8%2': expected axis, axis//n, axis%n or axis%m//n"),
        ("token", {"token": 0}, "axis token has size 0, sizes are at least 1"),
        ("token", {"token": 1.5}, "size of axis token: 1.5 is not an integer"),
        ("", {}, "0 factors, allowed are 1 to 256"),
        (" ".join(f"token%{n}" for n in range(300)), {"token": 4}, "300 factors, allowed are 1 to 256"),
        ("x" * 5000, {"token": 4}, "5000 characters, at most 4096 are allowed"),
        ("token\n//8", {"token": 4}, "factor '//8': expected axis"),
    ],
)
def test_a_wrong_notation_names_the_text_and_the_factor(text, sizes, message):
    with pytest.raises(ValueError, match=r"^notation '") as caught:
        named(text, sizes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda kv: kv.offset(page=0, kv=0, head=0, token=16, dim=0), "axis token: 16 is outside 0..15"),
        (
            lambda kv: kv.offsets(page=0, kv=0, head=[0, 8], token=0, dim=0),
            "axis head: layout 8:2048: index 8 is",
        ),
        (lambda kv: kv.offset(page=0, kv=0, head=0, token=0), "no coordinate is given for axis dim"),
        (
            lambda kv: kv.offset(page=0, kv=0, heads=0, token=0, dim=0),
            "unknown axis 'heads', allowed are head, ",
        ),
        (lambda kv: kv.size("tokens"), "unknown axis 'tokens', allowed are token, "),
        (lambda kv: NamedLayout(("a",), Layout((2, 3))), "1 axes ('a',) for the 2 modes of (2,3):(1,2)"),
        (lambda kv: NamedLayout(("a", "a"), Layout((2, 3))), "axis 'a' appears more than once"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        call(named(KV_TEXT, KV_SIZES))
    assert message in str(caught.value)


def test_every_order_of_three_axes_is_a_transpose():
    sizes = {"a": 2, "b": 3, "c": 4}
    for order in itertools.permutations(sizes):
        expected = np.arange(24).reshape([sizes[n] for n in order]).transpose([order.index(n) for n in sizes])
        assert np.array_equal(
            named(" ".join(order), sizes).offsets(
                a=np.arange(2)[:, None, None], b=np.arange(3)[:, None], c=np.arange(4)
            ),
            expected,
        )
