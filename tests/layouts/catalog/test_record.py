"""Records against a map of bits: every element paints its bits, and no bit is painted twice."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts.catalog.record import Field, Record, field
from layouts.layout import Layout
from layouts.notation import NamedLayout
from layouts.stride import E
from layouts.table import Table

PASS_ON = Layout((1, 1), (E(0), E(1)))  # so that a mode alone has both coordinates


def bits_of(part):
    """The first bit of every element, by adding up digits one by one."""
    starts = {0: [int(part.layout.layout.offset)]}
    found = starts[0]
    for extent, stride in part.layout.layout.leaves():
        found = [start + digit * stride for start in found for digit in range(extent)]
    return found


def overlaps(parts):
    """Whether some bit is painted twice."""
    painted = set()
    for part in parts:
        for start in bits_of(part):
            for bit in range(start, start + part.bits):
                if bit in painted:
                    return True
                painted.add(bit)
    return False


@st.composite
def fields(draw):
    modes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(-20, 40)), min_size=1, max_size=3))
    width = draw(st.sampled_from([1, 4, 6, 8, 16]))
    shape, stride = tuple(e for e, _ in modes), tuple(s for _, s in modes)
    return field(width, draw(st.integers(20, 60)), x=(shape, stride))


@given(st.lists(fields(), min_size=1, max_size=3))
def test_a_record_is_refused_exactly_when_two_elements_share_a_bit(parts):
    named = {f"f{k}": part for k, part in enumerate(parts)}
    if overlaps(parts):
        with pytest.raises(ValueError, match="overlap"):
            Record(named)
        return
    record = Record(named)
    last = max(start + part.bits for part in parts for start in bits_of(part))
    assert record.size == -(-last // 8)
    assert record.payload == -(-sum(len(bits_of(part)) * part.bits for part in parts) // 8)


@given(fields(), fields())
def test_fields_of_stages_are_compared_by_their_bits(a, b):
    def staged(part):
        named = part.layout
        return Field(NamedLayout(named.axes, named.layout.then(Layout(1, 1))), part.bits)

    expected = overlaps([a, b])
    for pair in ((staged(a), b), (a, staged(b)), (staged(a), staged(b))):
        if expected:
            with pytest.raises(ValueError, match="overlap"):
                Record({"a": pair[0], "b": pair[1]})
        else:
            Record({"a": pair[0], "b": pair[1]})


def test_a_big_record_is_checked_without_looking_at_its_elements():
    page = (1 << 30, 8 * 640)
    fields_ = {
        "key": field(4, 0, page=page, token=(16, 128), dim=(32, 4)),
        "scale": field(32, 256, page=page, token=(16, 32)),
    }
    assert Record(fields_, 640 << 30).size == 640 << 30
    fields_["scale"] = field(32, 255, page=page, token=(16, 32))
    with pytest.raises(ValueError, match="the fields 'key' and 'scale' overlap"):
        Record(fields_, 640 << 30)


def nibbles():
    return Record(
        {
            "value": field(4, 1, row=(3, 40), col=(8, 4)),
            "scale": field(16, 32, row=(3, 16)),
        },
        size=48,
    )


def test_addresses_count_bytes_and_bits_count_bits():
    record = nibbles()
    assert record.bit("value", row=2, col=3) == 8 + 2 * 40 + 3 * 4
    assert record.address("value", row=2, col=3) == 1 + 10 + 1
    row, col = np.indices((3, 8))
    assert np.array_equal(record.addresses("value", row=row, col=col), 1 + 5 * row + col // 2)
    assert record.addresses("scale", row=[0, 2]).tolist() == [32, 36]
    assert record.bits("value") == 4
    assert record.axes("value") == ("row", "col")
    assert record.payload == 12 + 6
    assert "4 bits" in str(record)
    assert "48 bytes" in str(record)


def test_a_field_as_a_layout_over_bytes_has_plain_strides_where_elements_are_whole_bytes():
    record = nibbles()
    assert record.bytes_of("scale") == NamedLayout(("row",), Layout((3,), (2,), 32))
    assert not record.bytes_of("scale").layout.stages
    values = record.bytes_of("value")
    row, col = np.indices((3, 8))
    assert np.array_equal(values.offsets(row=row, col=col), 1 + 5 * row + col // 2)


def test_equal_records_have_equal_keys_whatever_the_order_of_their_fields():
    record = nibbles()
    other = Record(dict(reversed(record.fields.items())), 48)
    assert record == other
    assert hash(record) == hash(other)
    assert record != Record(record.fields, 49)
    assert record != Record({"value": record.fields["value"]}, 48)
    assert record != "record"
    assert repr(record).startswith("Record(")


def test_a_broadcast_field_overlaps_itself():
    with pytest.raises(ValueError, match="two elements of the field 'x' overlap"):
        Record({"x": field(8, 0, a=(4, 8), b=(2, 0))})


def test_a_field_of_a_table_is_looked_at_and_a_too_big_one_refused():
    looked_up = Layout((4, 2), (E(0), E(1))).then(PASS_ON, Table([2, 0, 3, 1], 0), Layout((1, 1), (16, 8)))
    record = Record({"x": Field(NamedLayout(("a", "b"), looked_up), 8)})
    assert record.size == 8
    assert record.address("x", a=2, b=1) == 7
    big = Layout((1 << 12, 1 << 12), (E(0), E(1))).then(Layout(((3, 1), 1), ((8, 24), 1 << 20)))
    with pytest.raises(ValueError, match="16777216 elements of a field of stages"):
        Record({"x": Field(NamedLayout(("a", "b"), big), 8)})


BAD = [
    (lambda: Record({}), "record: at least one field is needed"),
    (lambda: field(0, 0, x=(1, 1)), "field: bits is 0, at least 1 is needed"),
    (
        lambda: Record({"x": field(8, 0, a=(4, 8))}, 3),
        "record: field 'x' takes bits 0..31, the record has 3 bytes, bits 0..23",
    ),
    (
        lambda: Record({"x": field(8, 0, a=(2, -8))}),
        "record: field 'x' takes bits -8..7, the record has 1 bytes, bits 0..7",
    ),
    (lambda: nibbles().address("vale"), "record: unknown field 'vale', allowed are value, scale"),
    (lambda: nibbles().address("scale", row=3), "field 'scale': axis row: 3 is outside 0..2"),
    (lambda: nibbles().address("scale", col=3), "field 'scale': unknown axis 'col', allowed are 'row'"),
    (lambda: nibbles().addresses("scale", row=[5]), "field 'scale': layout"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_an_impossible_record_or_coordinate_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=re.escape(message).replace("'row'", "'?row'?")) as error:
        make()
    assert "\n" not in str(error.value)
