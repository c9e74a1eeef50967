"""Lines are dealt evenly: those in a row exactly, those at any pitch about as at random, by the rule that is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.programs import machine_of
from hwmodel.hashing import deal
from layouts.irreducible import irreducible

ROWS = 128  # of a tile
CACHED = ("a100-sxm", "h100-sxm", "gh200", "b200-sxm", "mi300x", "a40", "l4", "rtx-4090", "t4", "v100-pcie", "mi100")
SIZES = (2560, 2880, 4096, 5120, 6144, 7168, 8192, 11008, 13824, 14336, 18432, 22016, 28672, 53248)  # of public models


def divided(number: int, divisor: int) -> int:
    """Return the remainder of polynomials over F2, by long division of their bits as text."""
    rest = 0
    for bit in f"{number:b}":
        rest = rest << 1 | int(bit)
        rest = min(rest, rest ^ divisor) if rest.bit_length() == divisor.bit_length() else rest
    return rest


@given(number=st.integers(0, 2**40), degree=st.integers(1, 12))
def test_of_a_power_of_two_of_places_a_line_has_the_remainder_of_its_bits(number: int, degree: int) -> None:
    polynomial = irreducible(degree, 5 << degree >> 2)
    assert deal(np.array([number]), 1 << degree).tolist() == [divided(number, polynomial)]


@given(places=st.integers(1, 600), round_=st.integers(0, 2**30), other=st.booleans())
def test_lines_in_a_row_lie_in_every_place_once(places: int, round_: int, other: bool) -> None:
    row = np.arange(round_ * places, (round_ + 1) * places)
    assert sorted(deal(row, places, other=other)) == list(range(places))


@pytest.mark.parametrize("places", [3, 5, 8, 24, 63, 80, 504, 1024])
def test_the_other_hash_of_as_many_places_is_another_one(places: int) -> None:
    lines = np.arange(64) * (places * 7 + 1)
    assert deal(lines, places).tolist() != deal(lines, places, other=True).tolist()


@given(degree=st.integers(0, 9), shift=st.integers(0, 20), round_=st.integers(0, 2**10))
def test_lines_a_power_of_two_apart_lie_in_every_place_once(degree: int, shift: int, round_: int) -> None:
    places = 1 << degree
    row = np.arange(round_ * places, (round_ + 1) * places)
    assert sorted(deal(row << shift, places)) == list(range(places))


def crowd(taken: np.ndarray, places: int) -> float:
    """Return how many rows of a tile lie in one place at most, over the mean."""
    return float(np.bincount(taken, minlength=places).max()) * places / ROWS


@pytest.mark.parametrize("places", [24, 32, 48, 64, 80, 96, 128])
def test_tiles_of_any_pitch_are_dealt_about_as_at_random(places: int) -> None:
    rng = np.random.default_rng(0)
    random = [crowd(rng.integers(0, places, ROWS), places) for _ in range(2000)]
    found = [crowd(deal(np.arange(ROWS) * pitch, places), places) for pitch in range(1, 513)]
    assert np.mean(found) <= np.mean(random)
    assert max(found) <= 2.5 * np.quantile(random, 0.99)


@pytest.mark.parametrize("machine", CACHED)
def test_a_strip_of_a_matrix_that_fills_half_a_cache_fits_it(machine: str) -> None:
    """The strip has one line of every row."""
    cache = machine_of(machine, ()).spec.shared_cache
    assert cache is not None
    slices, lines = cache.slices, cache.distinct_bytes // cache.line // 2
    sets = cache.distinct_bytes // (slices * cache.ways * cache.line)
    for pitch in {size * width // cache.line for size in SIZES for width in (1, 2)}:
        strip = np.arange(lines) * pitch
        taken = deal(strip, slices) * sets + deal(strip // slices, sets, other=sets == slices)
        over = np.maximum(0, np.bincount(taken) - cache.ways).sum()
        assert over <= 0.03 * lines, pitch
