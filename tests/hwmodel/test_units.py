from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.units import cycles_to_fs, parse, scaled, transfer_fs, written


@pytest.mark.parametrize(
    ("text", "quantity", "value"),
    [
        ("64 MiB", "bytes", 64 * 2**20),
        ("50 MB", "bytes", 50_000_000),
        ("4B", "bytes", 4),
        ("  227 KiB ", "bytes", 232_448),
        ("1_024 B", "bytes", 1024),
        ("0.5 KiB", "bytes", 512),
        ("1.755 GHz", "frequency", 1_755_000_000),
        ("1.83e9 Hz", "frequency", 1_830_000_000),
        ("70.8 ns", "time", 70_800_000),
        ("1.5 us", "time", 1_500_000_000),
        ("2 µs", "time", 2_000_000_000),
        ("1 fs", "time", 1),
        ("0 s", "time", 0),
        ("9.77 TB/s", "bandwidth", 9_770_000_000_000),
        ("1 GiB/s", "bandwidth", 2**30),
        ("5.2375 Gb/s", "bit rate", 5_237_500_000),
        ("909 pJ", "energy", 909_000),
        ("0.5 nJ", "energy", 500_000),
        ("1 J", "energy", 10**15),
        ("0 fJ", "energy", 0),
        ("0.80 pJ/bit", "energy per byte", 6_400),
        ("0.80 pJ/B", "energy per byte", 800),
        ("80 fJ/bit", "energy per byte", 640),
        ("0 J/B", "energy per byte", 0),
        ("70 W", "power", 70_000_000),
        ("250 mW", "power", 250_000),
        ("1 kW", "power", 10**9),
    ],
)
def test_a_number_with_a_unit_becomes_an_integer_of_the_base_unit(text: str, quantity: str, value: int) -> None:
    assert parse(text, quantity) == value


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("64", "bytes"),
        (64, "bytes"),
        (True, "bytes"),
        (None, "time"),
        (1.5, "frequency"),
        (["1 B"], "bytes"),
        ("64 mib", "bytes"),
        ("64 GHz", "bytes"),
        ("1 KiHz", "frequency"),
        ("3 GB/s", "bit rate"),
        ("3 Gb/s", "bandwidth"),
        ("1 2 B", "bytes"),
        ("1 pJ", "energy per byte"),
        ("1 pJ/bit", "energy"),
        ("1 pJ/b", "energy per byte"),
        ("1 kJ", "energy"),
        ("1 pW", "power"),
        ("0x10 B", "bytes"),
        (".5 B", "bytes"),
        ("1e B", "bytes"),
        ("nan B", "bytes"),
        ("inf s", "time"),
        ("١ B", "bytes"),
        ("", "bytes"),
        ("B", "bytes"),
    ],
)
def test_anything_else_is_refused_with_the_units_that_are_allowed(text: object, quantity: str) -> None:
    with pytest.raises(ValueError, match=f"is no {quantity}: give a number and a unit, one of ") as error:
        parse(text, quantity)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text", ["0 B", "-1 B", "0.4 B", "-0 B"])
def test_zero_and_negative_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be greater than zero"):
        parse(text, "bytes")


@pytest.mark.parametrize(
    ("text", "quantity"),
    [("-1 ns", "time"), ("-1 pJ", "energy"), ("-1 fJ/B", "energy per byte"), ("-1 W", "power"), ("-0.4 fs", "time")],
)
def test_a_negative_time_energy_or_power_is_refused(text: str, quantity: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is no {quantity}: it must not be less than zero"):
        parse(text, quantity)


@pytest.mark.parametrize("text", ["2.5 B", "31.9 B", "0.1 KiB", "1.0005 kB", "1.0000000000000000000000001 B"])
def test_a_part_of_a_byte_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is no bytes: it must be whole bytes"):
        parse(text, "bytes")


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        ("1.50", "MB", "1.5 MB"), ("1.50024414", "MB", "1500244 B"), ("0.3", "KiB", "307 B"), ("64", "", "64"),
        ("1.0005", "us", "1.0005 us"), ("0.1", "GB/s", "0.1 GB/s"),
    ],
)  # fmt: skip
def test_a_number_is_written_with_its_unit_and_sizes_in_whole_bytes(number: str, unit: str, text: str) -> None:
    assert written(Decimal(number), unit) == text


@pytest.mark.parametrize("text", ["9e99 TiB", "5000000000 GB", "9" * 41 + " B", str(2**62) + " B"])
def test_values_beyond_62_bits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it is too large"):
        parse(text, "bytes")


def test_the_largest_allowed_value_is_exact() -> None:
    assert parse(f"{2**62 - 1} B", "bytes") == 2**62 - 1


@pytest.mark.parametrize("text", ["9" * 1_000_000 + " B", "1 B" + "\n" * 1_000_000 + "x", "(" * 1_000_000])
def test_a_hostile_text_gives_one_short_line(text: str) -> None:
    with pytest.raises(ValueError, match="is no bytes") as error:
        parse(text, "bytes")
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


@given(
    st.text(max_size=30),
    st.sampled_from(["bytes", "frequency", "time", "bandwidth", "bit rate", "energy", "energy per byte", "power"]),
)
def test_any_text_is_a_value_in_range_or_a_value_error(text: str, quantity: str) -> None:
    try:
        value = parse(text, quantity)
    except ValueError:
        return
    assert 0 <= value < 2**62


@given(st.integers(1, 10**9), st.integers(0, 999), st.sampled_from(["k", "M", "G"]))
def test_decimals_are_exact(whole: int, thousandths: int, prefix: str) -> None:
    scale = {"k": 10**3, "M": 10**6, "G": 10**9}[prefix]
    assert parse(f"{whole}.{thousandths:03} {prefix}Hz", "frequency") == (whole * 1000 + thousandths) * scale // 1000


@given(st.integers(0, 10**12), st.integers(1, 10**11))
def test_a_duration_is_the_least_integer_not_below_the_exact_one(cycles: int, clock_hz: int) -> None:
    exact = Fraction(cycles * 10**15, clock_hz)
    assert exact <= cycles_to_fs(cycles, clock_hz) < exact + 1


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**11))
def test_durations_in_parts_are_never_shorter_than_in_one(first: int, second: int, clock_hz: int) -> None:
    whole = cycles_to_fs(first + second, clock_hz)
    assert whole <= cycles_to_fs(first, clock_hz) + cycles_to_fs(second, clock_hz) <= whole + 1


@given(st.integers(0, 2**40), st.integers(1, 10**14))
def test_a_transfer_rounds_up(size_bytes: int, bytes_per_second: int) -> None:
    exact = Fraction(size_bytes * 10**15, bytes_per_second)
    assert exact <= transfer_fs(size_bytes, bytes_per_second) < exact + 1


@given(
    numbers=st.lists(st.integers(0, 10**15), max_size=5),
    multiplier=st.integers(1, 10**4),
    divisor=st.integers(1, 10**4) | st.integers(10**15, 10**16),
)
def test_many_numbers_are_scaled_as_one_is_and_rounded_up_even_where_a_product_takes_more_than_64_bits(
    numbers: list[int], multiplier: int, divisor: int
) -> None:
    exact = [-(-number * multiplier // divisor) for number in numbers]
    found = scaled(np.array(numbers, np.int64), multiplier, divisor)
    assert found.dtype == np.int64
    assert found.tolist() == exact
