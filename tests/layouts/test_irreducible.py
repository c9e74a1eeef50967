"""Maps hashed by irreducible polynomials: bijections that spread what lies a power of two apart, or any pitch."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from layouts.address_fields import FIELDS
from layouts.address_map import AddressMap
from layouts.irreducible import irreducible

SIZES = {"stack": 8, "channel": 16, "pseudo_channel": 2, "bank_group": 4, "bank": 4, "row": 2**14, "column": 32}
ORDER = ["offset:5", "column:2", "pseudo_channel", "channel", "stack", "bank_group", "column:3", "bank", "row"]
GRANULE = 128


def spread(**sizes):
    return AddressMap.create(ORDER, ["irreducible"], SIZES | sizes, 32)


def channels(made, addresses):
    place = made.decode(addresses)
    return (place.stack * made.sizes[1] + place.channel) * made.sizes[2] + place.pseudo_channel


def banks(made, addresses):
    place = made.decode(addresses)
    return (channels(made, addresses) * made.sizes[3] + place.bank_group) * made.sizes[4] + place.bank


def test_polynomials_are_the_first_irreducible_ones():
    # x+1, x^2+x+1, x^3+x+1, x^4+x+1, x^5+x^2+1, x^6+x+1, x^7+x+1, x^8+x^4+x^3+x+1: tables of irreducible polynomials
    assert [irreducible(degree) for degree in range(9)] == [1, 3, 7, 11, 19, 37, 67, 131, 283]


@given(st.permutations(FIELDS), st.data())
def test_whatever_the_sizes_and_the_order_of_fields_every_burst_has_a_place_of_its_own(order, data):
    sizes = {field: data.draw(st.sampled_from([1, 2, 4, 3, 6])) for field in FIELDS}
    assume(np.prod(list(sizes.values())) <= 3000)
    fields = ["offset:3", *(field for field in order if sizes[field] > 1)]
    made = AddressMap.create(fields, ["irreducible"], sizes, 8)
    addresses = np.arange(0, made.capacity_bytes, 8)
    assert made.encode(*made.decode(addresses)).tolist() == addresses.tolist()


@pytest.mark.parametrize("shift", range(7, 22))
def test_a_power_of_two_apart_as_many_granules_as_channels_lie_in_all_of_them(shift):
    made = spread()
    count = 8 * 16 * 2
    addresses = np.arange(count) << shift
    found = np.bincount(channels(made, addresses), minlength=count)
    assert found.max() == 1


@pytest.mark.parametrize("stacks", [3, 4, 5, 6, 7, 12])
@pytest.mark.parametrize("pitch", [2048, 6144, 10240, 18432, 43008, 51200])
def test_rows_of_a_matrix_of_any_pitch_lie_in_all_channels_and_banks(stacks, pitch):
    made = spread(stack=stacks)
    rows = 16 * stacks * 32 * 16  # sixteen for each bank
    addresses = np.arange(rows) * pitch + 5 * GRANULE
    by_channel = np.bincount(channels(made, addresses), minlength=stacks * 32)
    assert by_channel.max() < 1.5 * rows / len(by_channel)
    by_bank = np.bincount(banks(made, addresses), minlength=stacks * 32 * 16)
    assert by_bank.max() < 3 * rows / len(by_bank)


def test_granules_side_by_side_go_round_all_channels_and_a_granule_stays_in_one_row():
    made = spread(stack=12)
    turn = 12 * 32
    for first in (0, 12345 * turn):
        addresses = (first + np.arange(turn)) * GRANULE
        assert sorted(channels(made, addresses).tolist()) == list(range(turn))
    place = made.decode(np.arange(4096) * 32)
    assert all((field.reshape(-1, 4) == field.reshape(-1, 4)[:, :1]).all() for field in place[:-1])


def test_all_granules_of_a_row_lie_in_one_range_of_as_many_bytes_as_rows_that_are_side_by_side_have():
    made = spread(stack=5)
    granules = 5 * 32 * 4 * 8  # stacks, channels and pseudo-channels, bank groups, granules of a row
    place = made.decode((12345 * granules + np.arange(6 * granules)) * GRANULE)
    rows = np.stack(place[:-1])
    assert len(np.unique(rows, axis=1).T) == 6 * granules // 8


def test_the_rule_stands_alone():
    with pytest.raises(ValueError, match=r"hash 'irreducible': expected 'field\[bit\] \^= field\[bit\]"):
        AddressMap.create(ORDER, ["irreducible", "bank[0] ^= row[0]"], SIZES, 32)
