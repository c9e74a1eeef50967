"""Bursts per channel, bank and row against decoding every burst of every byte."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts import FIELDS, AddressMap, Layout, Table, X
from layouts.analysis.balance import balance
from layouts.analysis.buffer import Buffer

SIZES = {"stack": 2, "channel": 4, "pseudo_channel": 1, "bank_group": 2, "bank": 2, "row": 16, "column": 4}
ORDER = ["offset:4", "column:1", "channel", "bank_group", "column", "bank", "row", "stack", "pseudo_channel"]
HASHES = ["channel[0] ^= row[0] row[3]", "channel[1] ^= bank[0] row[1]", "bank_group[0] ^= row[2]"]
BINARY = AddressMap.create(ORDER, HASHES, SIZES, 16, "binary")
THREE_CHANNELS = AddressMap.create(ORDER, HASHES[2:], SIZES | {"channel": 3}, 16, "three channels")
FIELD_LISTS = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=4, unique=True)


def counts_by_hand(buffer, address_map, fields):
    bursts = {
        (buffer.base + buffer.element_bytes * offset + k) // address_map.burst_bytes
        for offset in buffer.layout.table().tolist()
        for k in range(buffer.element_bytes)
    }
    counts = np.zeros([address_map.sizes[FIELDS.index(field)] for field in fields], int)
    for burst in bursts:
        location = address_map.decode(burst * address_map.burst_bytes)
        counts[tuple(int(getattr(location, field)) for field in fields)] += 1
    return counts


@given(st.lists(st.integers(0, 2**12 - 1), min_size=1, max_size=8), st.integers(0, 1), st.integers(0, 15), FIELD_LISTS)
def test_over_f2_every_value_that_is_hit_is_hit_equally_often(bits, element, base, fields):
    buffer = Buffer(Layout((2,) * len(bits), tuple(map(X, bits))), 1 << element, base << 9)
    found = balance(buffer, BINARY, fields)
    assert found.counts.tolist() == counts_by_hand(buffer, BINARY, fields).tolist()
    if base == 0:
        assert found.form == "rank"
        assert set(found.counts.reshape(-1).tolist()) <= {0, found.most}


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 200)), min_size=1, max_size=3),
    st.integers(1, 5),
    st.integers(0, 100),
    st.sampled_from([BINARY, THREE_CHANNELS]),
    FIELD_LISTS,
)
def test_counts_are_those_of_the_bursts_of_the_bytes(modes, element_bytes, base, address_map, fields):
    buffer = Buffer(Layout(tuple(s for s, _ in modes), tuple(d for _, d in modes)), element_bytes, base)
    found = balance(buffer, address_map, fields)
    expected = counts_by_hand(buffer, address_map, fields)
    assert found.counts.tolist() == expected.tolist()
    assert (found.bursts, found.used, found.most) == (expected.sum(), np.count_nonzero(expected), expected.max())
    assert found.imbalance == expected.max() * expected.size / expected.sum()


def test_a_column_walk_lands_on_one_channel_without_the_hash():
    plain = AddressMap.create(ORDER, [], SIZES, 16, "plain")
    rows = Buffer(Layout(16, 64), 16)  # one burst of every row
    assert balance(rows, plain, ("channel",)).counts.tolist() == [16, 0, 0, 0]
    assert balance(rows, BINARY, ("channel",)).counts.tolist() == [4, 4, 4, 4]
    assert balance(rows, BINARY, ("channel",)).imbalance == 1
    assert balance(rows, plain, ("channel",)).imbalance == 4


def test_a_table_of_pages_is_decoded():
    pages = Buffer(Layout((64, 5), (1, 64)).then(Layout((64, 1), (1, 64))), 1)
    scattered = Buffer(Layout(5).then(Table([7, 1, 9, 30, 2]), Layout(1, 16)), 64)
    for buffer in (pages, scattered):
        found = balance(buffer, BINARY, ("stack", "channel", "row"))
        assert found.counts.tolist() == counts_by_hand(buffer, BINARY, ("stack", "channel", "row")).tolist()


@pytest.mark.parametrize(
    ("buffer", "fields", "message"),
    [
        (Buffer(Layout(4), 4), ("chanel",), "unknown field 'chanel', allowed are channel, "),
        (Buffer(Layout(4), 4), (), "at least one is needed"),
        (Buffer(Layout(4), 4), ("row", "row"), "none twice"),
        (Buffer(Layout(2**20), 4), ("row",), r"binary: the buffer takes the bytes 0\.\.4194303, the capacity is 32768"),
        (Buffer(Layout(3), 4, -8), ("row",), r"takes the bytes -8\.\.3"),
    ],
)
def test_a_wrong_question_is_an_error_of_one_line(buffer, fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        balance(buffer, BINARY, fields)
    assert "\n" not in str(caught.value)
