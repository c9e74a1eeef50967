from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.query import Query
from explorer.questions.answer import Answer, Quantity

NUMBERS = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False)


@given(NUMBERS, st.text(max_size=4), st.text(max_size=20))
def test_a_quantity_is_its_number_with_unit_and_source(value: float, unit: str, source: str) -> None:
    made = Quantity(value, unit, source)
    assert (made.value, made.unit, made.source) == (value, unit, source)
    assert made == float(value)
    again = pickle.loads(pickle.dumps(made))
    assert (again.value, again.unit, again.source, type(again)) == (value, unit, source, Quantity)
    assert type(made + 1) is float


def test_a_count_is_shown_whole_and_a_time_with_six_digits() -> None:
    assert repr(Quantity(1234567, "B", "")) == "1,234,567 B"
    assert repr(Quantity(1234.56789, "us", "")) == "1,234.57 us"
    assert repr(Quantity(0.25, "", "")) == "0.25"


def answer(fake: ModuleType, query: Query = Query("somewhere", "fake")) -> Answer:  # noqa: B008
    found = fake.answer(query, fake.measure(query, "exact"))
    assert isinstance(found, Answer)
    return found


def test_an_answer_has_time_bound_gap_energy_and_key(fake: ModuleType) -> None:
    found = answer(fake)
    assert found.time_us is not None
    assert (found.time_us.unit, found.bound_us.unit) == ("us", "us")
    assert found.bound_us <= found.time_us
    assert found.gap == pytest.approx(found.time_us / found.bound_us - 1)
    assert found.energy_pj is not None
    assert found.energy_pj.unit == "pJ"
    assert (found.limited_by, found.validated) == ("hbm", False)
    assert str(found.key) == f"{found.key.program_hash}-fake-fake"
    stall = found["stalls.load.memory"]
    assert isinstance(stall, Quantity)
    assert (stall.value, stall.unit) == (7, "fs")
    assert "simulated whole" in found.time_us.source
    assert "lower bound" in found.bound_us.source


def test_an_answer_is_frozen_and_pickles(fake: ModuleType) -> None:
    found = answer(fake)
    with pytest.raises(FrozenInstanceError):
        found.title = "another"  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.numbers["time_us"] = 1.0  # type: ignore[index]
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_number_that_is_not_there_names_those_that_are(fake: ModuleType) -> None:
    with pytest.raises(KeyError, match=r"tiem_us: not in this answer \(whole\); there are time_us"):
        answer(fake)["tiem_us"]


def test_a_machine_without_energies_answers_none(fake: ModuleType) -> None:
    found = answer(fake, Query("nowhere", "fake"))
    assert found.energy_pj is None
    assert "energy" not in found.headline


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "a&b", "'\"><script>x</script>"])
def test_html_escapes_what_users_name(fake: ModuleType, name: str) -> None:
    html = answer(fake, Query(name, "fake"))._repr_html_() + Quantity(1.0, name, name)._repr_html_()
    assert "<img" not in html
    assert "<script" not in html
    assert "a&b" not in html
