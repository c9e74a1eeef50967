"""Address maps: bijections between byte addresses and DRAM locations."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from layouts.address_fields import FIELDS
from layouts.address_map import AddressMap
from layouts.layout import Layout

HBM = dict(zip(FIELDS, (5, 16, 2, 4, 4, 2**15, 32), strict=True))
HBM_FIELDS = ["offset:5", "column:2", "stack", "pseudo_channel:1", "channel:4"]
HBM_FIELDS += ["bank_group:2", "bank:2", "column:3", "row:15"]
HBM_HASHES = ["bank_group[0] ^= row[0] row[4]", "bank[1] ^= row[1]", "channel[3] ^= row[2] column[4] bank[0]"]


def hbm(**changes):
    arguments = {"fields": HBM_FIELDS, "hashes": HBM_HASHES, "sizes": HBM, "burst_bytes": 32, **changes}
    return AddressMap.create(**arguments)


@st.composite
def maps(draw):
    """The arguments of a random small map, whose hashes need not be invertible."""
    bits = {field: draw(st.integers(0, 2)) for field in FIELDS}
    odd = dict.fromkeys(FIELDS, 1)
    odd |= {field: draw(st.sampled_from([1, 3, 5])) for field in ("stack", "channel")}
    sizes = {field: odd[field] << bits[field] for field in FIELDS}
    order = draw(st.permutations([field for field in FIELDS for _ in range(bits[field] + (odd[field] > 1))]))
    # a bare name takes what is left of a field, so it is the last of that field's digits
    bare = {len(order) - 1 - order[::-1].index(field) for field in set(order) if odd[field] > 1}
    fields = ["offset:3", *(word if i in bare else f"{word}:1" for i, word in enumerate(order))]
    targets = [f"{f}[{b}]" for f in FIELDS if odd[f] == 1 for b in range(bits[f])]
    sources = [f"{f}[{b}]" for f in FIELDS for b in range((sizes[f] - 1).bit_length())]
    hashes = []
    if targets:
        for target in draw(st.lists(st.sampled_from(targets), unique=True, max_size=4)):
            chosen = draw(st.lists(st.sampled_from(sources), unique=True, min_size=1, max_size=3))
            hashes.append(f"{target} ^= {' '.join(chosen)}")
    read = {text for line in hashes for text in re.findall(r"(\w+)\[", line.partition("=")[2])}
    hashed = {line.partition("[")[0] for line in hashes}
    turned = [field for field in ("stack", "channel") if sizes[field] > 1 and field not in read | hashed]
    still = [source for source in sources if source.partition("[")[0] not in turned]
    if turned and still:
        for field in draw(st.lists(st.sampled_from(turned), unique=True)):
            chosen = draw(st.lists(st.sampled_from(still), min_size=1, max_size=3))
            hashes.append(f"{field} += {' '.join(chosen)}")
    return {"fields": fields, "hashes": hashes, "sizes": sizes, "burst_bytes": 8}


def locate(case, address):
    """The location by the meaning of the text: peel digits off the burst number, then hash the raw fields."""
    number = address // case["burst_bytes"]
    raw, weight = dict.fromkeys(FIELDS, 0), dict.fromkeys(FIELDS, 1)
    for word in case["fields"][1:]:
        field, _, bits = word.partition(":")
        radix = 2 ** int(bits) if bits else case["sizes"][field] // weight[field]
        number, digit = divmod(number, radix)
        raw[field] += digit * weight[field]
        weight[field] *= radix
    result = dict(raw)
    for text in case["hashes"]:
        field, turns, numbers = text.partition(" += ")
        if turns:
            spelled = [raw[source] >> int(place) & 1 for source, place in re.findall(r"(\w+)\[(\d+)\]", numbers)]
            number = int("".join(map(str, spelled)), 2)
            result[field] = (result[field] + number) % case["sizes"][field]
            continue
        (field, bit), *sources = re.findall(r"(\w+)\[(\d+)\]", text)
        parity = sum(raw[source] >> int(place) & 1 for source, place in sources) % 2
        result[field] ^= parity << int(bit)
    return tuple(result[field] for field in FIELDS)


def bursts(case):
    return range(0, case["burst_bytes"] * int(np.prod(list(case["sizes"].values()))), case["burst_bytes"])


@given(maps())
@settings(deadline=None)
def test_a_map_is_made_exactly_when_the_text_is_a_bijection(case):
    assume(len(bursts(case)) <= 2000)
    places = [locate(case, address) for address in bursts(case)]
    if len(set(places)) < len(places):
        with pytest.raises(ValueError, match="linearly dependent"):
            AddressMap.create(**case)
        return
    made = AddressMap.create(**case)
    assert list(zip(*(a.tolist() for a in made.decode(list(bursts(case)))), strict=True)) == places
    assert made.encode(*np.array(places).T).tolist() == list(bursts(case))


@given(maps(), st.data())
@settings(deadline=None)
def test_the_compiled_tables_interpreted_one_by_one_give_the_decoded_location(case, data):
    try:
        made = AddressMap.create(**case)
    except ValueError:
        assume(False)
    digits, hashes = made.compiled()
    assert digits.dtype == hashes.dtype == np.int64
    assert (digits.shape[1], hashes.shape[1]) == (4, 6)
    address = data.draw(st.integers(0, made.capacity_bytes - 1))
    raw = [0] * len(FIELDS)
    for divisor, modulus, field, multiplier in digits.tolist():
        raw[field] += address // divisor % modulus * multiplier
    result = list(raw)
    for target, target_bit, source, source_bit, weight, size in hashes.tolist():
        bit = raw[source] >> source_bit & 1
        result[target] = (result[target] + bit * weight) % size if size else result[target] ^ bit << target_bit
    assert result == [int(value) for value in made.decode(address)]


@given(maps(), st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])  # few maps have the form of a layout
def test_as_a_layout_a_map_sends_an_address_to_the_same_place(case, data):
    try:
        address_map = AddressMap.create(**case)
        layout = address_map.layout()
    except ValueError:
        assume(False)
    assume(layout.axes is not None and address_map.capacity_bytes >= 64)
    addresses = [data.draw(st.integers(0, address_map.capacity_bytes - 1)) for _ in range(5)]
    expected = address_map.decode(addresses)._asdict()
    found = layout.offsets(addresses)
    for field in FIELDS:
        assert found.get(field, np.zeros(5)).tolist() == expected[field].tolist()
    # read by the map as a stage, a tensor's layout goes all the way to the bank
    tensor = Layout((4, 8), (8, 1)).then(Layout(32, 2), layout)
    assert tensor(3, 5).get("bank", 0) == int(address_map.decode([(3 * 8 + 5) * 2]).bank[0])


@given(st.lists(st.integers(0, 5 * 2**34 - 1), min_size=1, max_size=50))
def test_five_stacks_of_hbm_decode_and_encode_to_the_start_of_the_burst(addresses):
    made = hbm()
    assert made.encode(*made.decode(addresses)).tolist() == [a - a % 32 for a in addresses]
    assert [tuple(int(f[i]) for f in made.decode(addresses)) for i in range(len(addresses))] == [
        locate({"fields": HBM_FIELDS, "hashes": HBM_HASHES, "sizes": HBM, "burst_bytes": 32}, a) for a in addresses
    ]


def test_capacity_is_the_burst_times_every_size():
    assert hbm().capacity_bytes == 32 * 5 * 16 * 2 * 4 * 4 * 2**15 * 32


def test_all_bytes_of_a_burst_lie_together_and_the_next_burst_in_the_next_column():
    made = hbm()
    here = made.decode(np.arange(32))
    assert all((field == 0).all() for field in here)
    assert made.decode(32).column == 1


def test_consecutive_granules_visit_the_stacks_in_turn():
    places = hbm().decode(np.arange(12) * 128)
    assert places.stack.tolist() == [0, 1, 2, 3, 4] * 2 + [0, 1]


def test_a_turn_adds_the_number_that_bits_spell_modulo_the_size():
    plain, turned = hbm(hashes=[]), hbm(hashes=["stack += row[3:0] bank[1:0]"])
    addresses = np.arange(0, plain.capacity_bytes, 997 * 4096)
    place = plain.decode(addresses)
    assert turned.decode(addresses).stack.tolist() == ((place.stack + place.row % 16 * 4 + place.bank) % 5).tolist()
    assert turned.encode(*turned.decode(addresses)).tolist() == (addresses // 32 * 32).tolist()
    with pytest.raises(ValueError, match="turns stack by"):
        turned.layout()


def test_decode_keeps_the_shape_of_its_addresses():
    made = hbm()
    assert made.decode(np.zeros((3, 4), dtype=np.uint32)).row.shape == (3, 4)
    assert made.decode(0).row.shape == ()


def test_encode_broadcasts_its_fields():
    made = hbm(hashes=[])
    addresses = made.encode(np.arange(5)[:, None], 0, 0, 0, 0, 0, np.arange(4))
    assert addresses.tolist() == (np.arange(20) * 32).reshape(5, 4).tolist()


def test_hashes_read_the_unhashed_fields():
    sizes = {**dict.fromkeys(FIELDS, 1), "bank": 2, "bank_group": 2, "row": 2}
    made = AddressMap.create(
        ["offset:3", "bank", "bank_group", "row"], ["bank[0] ^= row[0]", "bank_group[0] ^= bank[0]"], sizes, 8
    )
    # bank = bank' ^ row, bank_group = group' ^ bank' with the primes before any hash
    for bank, group, row in itertools.product(range(2), repeat=3):
        place = made.decode(8 * (bank + 2 * group + 4 * row))
        assert (place.bank, place.bank_group, place.row) == (bank ^ row, group ^ bank, row)


def test_maps_are_values():
    assert hbm() == hbm()
    assert hash(hbm()) == hash(hbm())
    assert hbm() != hbm(hashes=[])


def replaced(old, new):
    return [new if field == old else field for field in HBM_FIELDS]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fields": replaced("row:15", "row:14")},
            "digits of row: 1 bits too few, they cover 16384 of 32768",
        ),
        (
            {"fields": replaced("row:15", "row:17")},
            "digit 'row:17': 2 bits too many, 15 bits of size 32768 are left",
        ),
        (
            {"fields": replaced("stack", "bank_group")},
            "digit 'bank_group:2': 2 bits too many, 0 bits of size 4",
        ),
        ({"fields": HBM_FIELDS[:2] + HBM_FIELDS[3:]}, "digits of stack: a factor of 5 is missing"),
        (
            {"fields": replaced("stack", "stack:3")},
            "3 bits too many, 0 bits of size 5 are left (write 'stack' without",
        ),
        (
            {"fields": [*HBM_FIELDS, "row"]},
            "digit 'row': nothing of row is left, its size 32768 is covered already",
        ),
        ({"fields": replaced("stack", "stak")}, "digit 'stak': unknown field, allowed are stack, "),
        (
            {"fields": replaced("stack", "stack:-1")},
            "digit 'stack:-1': expected 'field:bits', 'field[high:low]' or 'field'",
        ),
        ({"fields": replaced("bank:2", "bank:0")}, "digit 'bank:0': a digit has at least 1 bit"),
        (
            {"fields": replaced("offset:5", "offset:6")},
            "first digit is 'offset:6', bursts of 32 bytes need 'offset:5'",
        ),
        ({"fields": []}, "the first digit is nothing, bursts of 32 bytes need 'offset:5'"),
        ({"burst_bytes": 48}, "burst_bytes is 48, allowed are powers of two"),
        ({"sizes": {**HBM, "rows": 2}}, "sizes: unknown field 'rows', allowed are row, "),
        ({"sizes": {"stack": 5}}, "sizes: the size of channel is missing"),
        ({"sizes": {**HBM, "row": 0}}, "size of row is 0, sizes are at least 1"),
        ({"sizes": {**HBM, "row": 2**60}}, "at most 2**62 are allowed"),
        (
            {"hashes": ["bank[2] ^= row[0]"]},
            "hash 'bank[2] ^= row[0]': bank of size 4 has 2 bits, there is no bank[2]",
        ),
        ({"hashes": ["stack += row"]}, "turn 'stack += row': expected field[high:low] or field[bit], found 'row'"),
        ({"hashes": ["stack += row[0:1]"]}, "'row[0:1]' has no bits"),
        ({"hashes": ["stack += row[16:15]"]}, "row of size 32768 has 15 bits, there is no row[15]"),
        ({"hashes": ["bank += row[1:0]", "bank[0] ^= row[2]"]}, "bank is turned, it cannot be hashed, too"),
        ({"hashes": ["stak += row[0]"]}, "turn 'stak += row[0]': expected 'field += field[high:low] ...'"),
        (
            {"hashes": ["stack += row[0]", "bank[0] ^= stack[1]"]},
            "hash of stack[1]: stack is turned, no hash may read it",
        ),
        ({"hashes": ["stack[0] ^= row[0]"]}, "stack has size 5, only powers of two can be hashed"),
        ({"hashes": ["bank[0] ^= rwo[0]"]}, "unknown field 'rwo', allowed are row, "),
        ({"hashes": ["bank[0] ^= row"]}, "expected field[bit], found 'row'"),
        ({"hashes": ["bank[0] = row[0]"]}, "expected 'field[bit] ^= field[bit] ...'"),
        (
            {"hashes": ["bank[0] ^= row[0]", "bank[0] ^= row[0]"]},
            "hash of bank[0]: the source row[0] appears twice",
        ),
        (
            {"hashes": ["bank[0] ^= bank[0]"]},
            "not invertible: the hashed bits bank[0] are linearly dependent (F2 rank 0",
        ),
        (
            {"hashes": ["row[3] ^= row[4]", "bank[0] ^= bank[1]", "bank[1] ^= bank[0]"]},
            "the hashed bits bank[0], bank[1] are linearly dependent (F2 rank 2 of 3)",
        ),
    ],
)
def test_a_wrong_map_names_itself_and_the_fault(changes, message):
    with pytest.raises(ValueError, match=r"^b200 map: ") as caught:
        hbm(name="b200 map", **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.decode(m.capacity_bytes),
            "(capacity 85899345920 bytes): address: index 85899345920 is outside",
        ),
        (lambda m: m.decode([0, -1]), "address: index -1 is outside"),
        (lambda m: m.decode([0.0]), "indices of type float64 are not integers"),
        (lambda m: m.encode(5, 0, 0, 0, 0, 0, 0), "address map: stack: index 5 is outside 0..4"),
    ],
)
def test_addresses_and_fields_out_of_range_are_errors(call, message):
    with pytest.raises(ValueError, match=r"^address map") as caught:
        call(hbm())
    assert message in str(caught.value)
