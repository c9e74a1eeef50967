from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.program import Tensor
from layouts import Layout, NamedLayout, named
from workloads.values import Part, packed, part_of, reordered

ROWS, WIDTH = 6, 24


def value(text: str) -> Tensor:
    return Tensor("value", named(text, {"m": ROWS, "n": WIDTH}), "bf16", 0)


@given(
    st.sampled_from(["m n", "n m"]),
    st.integers(0, ROWS - 1),
    st.integers(0, WIDTH - 8),
    st.permutations(["token", "head", "dim"]),
    st.data(),
)
def test_a_part_lies_where_its_rows_and_columns_of_the_value_lie(
    text: str, row: int, column: int, axes: list[str], data: st.DataObject
) -> None:
    rows = data.draw(st.integers(1, ROWS - row))
    sizes = {"token": rows, "head": 2, "dim": 4}
    tensor = Tensor("x", named("token head dim", {axis: sizes[axis] for axis in axes}), "bf16", 0)
    known = value(text)
    part = Part("value", (ROWS, WIDTH), ("token", "head", "dim"), row, rows, column)
    lies = part_of(known, part, tensor)
    assert lies.layout.axes == tuple(axes)
    token, head, dim = np.indices((rows, 2, 4))
    expected = known.layout.offsets(m=row + token, n=column + 4 * head + dim)
    assert (lies.offset + lies.layout.offsets(token=token, head=head, dim=dim) == expected).all()
    compact = packed(lies.layout)
    assert compact.cosize == compact.layout.size == 8 * rows
    order = np.argsort(lies.layout.offsets(token=token, head=head, dim=dim), axis=None)
    assert (compact.offsets(token=token, head=head, dim=dim).flat[order] == np.arange(8 * rows)).all()


@given(st.sampled_from(["m n", "n m", "n//8 m n%8", "m//2 n m%2"]))
def test_a_whole_value_may_have_its_axes_in_another_order_whatever_its_layout(text: str) -> None:
    tensor = Tensor("x", named("head token dim", {"head": 3, "token": ROWS, "dim": 8}), "bf16", 0)
    lies = part_of(value(text), Part("value", axes=("token", "head", "dim")), tensor)
    token, head, dim = np.indices((ROWS, 3, 8))
    expected = value(text).layout.offsets(m=token, n=8 * head + dim)
    assert lies.offset == 0
    assert (lies.layout.offsets(token=token, head=head, dim=dim) == expected).all()


def test_packing_leaves_compact_layouts_as_they_are_and_closes_gaps() -> None:
    for text in ("a b", "b a", "a//2 b a%2"):
        assert packed(named(text, {"a": 4, "b": 3})) == named(text, {"a": 4, "b": 3})
    assert packed(NamedLayout(("a", "b"), Layout((4, 3), (50, 2)))) == named("a b", {"a": 4, "b": 3})
    assert reordered(named("a b", {"a": 4, "b": 3}), ("b", "a")) == named("a b", {"a": 4, "b": 3})


@pytest.mark.parametrize(
    ("text", "part", "message"),
    [
        ("m n", Part("value"), "tensor x has 16 elements of bf16, value value has 144 elements"),
        ("m n", Part("value", (6, 24), row=5, rows=2), "in rows 5 to 7, columns from 0, value value has 144 elements"),
        ("m n", Part("value", (6, 24), rows=2, column=17), "in rows 0 to 2, columns from 17, value value has 144"),
        ("m n", Part("value", (6, 20), rows=2), "value value has 144 elements in 6 rows"),
        ("m n", Part("value", (6, 24), rows=3), "tensor x has 16 elements of bf16 in rows 0 to 3"),
        ("n//8 m n%8", Part("value", (6, 24), rows=2), "it lies as n//8 m n%8; allowed for its parts: one stride"),
    ],
)
def test_what_is_no_part_of_a_value_is_refused(text: str, part: Part, message: str) -> None:
    tensor = Tensor("x", named("a b", {"a": 2, "b": 8}), "bf16", 0)
    with pytest.raises(ValueError, match=message):
        part_of(value(text), part, tensor)
