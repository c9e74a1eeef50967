from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.search.certificate import Certificate
from explorer.study.objective import OBJECTIVES, at_least_joules, joules
from explorer.study.study import Study
from hwmodel.units import parse


@pytest.mark.parametrize(
    ("energy_pj", "text"),
    [(0.0, "0 fJ"), (0.25, "250 fJ"), (909.0, "909 pJ"), (1.2345e9, "1.234 mJ"), (75e9, "75 mJ"), (4.2e13, "42 J")],
)
def test_an_energy_has_the_prefix_a_reader_expects(energy_pj: float, text: str) -> None:
    assert joules(energy_pj) == text


@given(st.integers(0, 10**17))
def test_at_least_promises_no_more_energy_than_there_is(energy_fj: int) -> None:
    promised_fj = parse(at_least_joules(energy_fj / 1000), "energy")
    assert 0.99 * energy_fj <= promised_fj <= energy_fj


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_one_a_study_may_name(name: str, study: Study) -> None:
    assert Study.model_validate(study.model_dump() | {"objective": name}).objective == name


def test_a_bound_of_zero_proves_only_zero() -> None:
    assert Certificate(0.0, 0.0).gap == 0
    assert Certificate(0.0, 0.0).proven
    assert Certificate(0.0, 2.0).gap is None
    assert Certificate(1.0, 2.0).gap == 1
