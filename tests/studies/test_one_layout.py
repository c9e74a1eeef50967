from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.query import BatchSpec


@pytest.fixture(scope="module")
def study(load_study: Callable[[str], ModuleType]) -> ModuleType:
    return load_study("one_layout")


def rows(study: ModuleType, times: dict[str, tuple[float, ...]]) -> tuple[dict[str, object], ...]:
    found: tuple[dict[str, object], ...] = study.with_regrets(
        [
            {"trace": "t", "draw": draw, "candidate": name, "time_us": time_us}
            for name, each in times.items()
            for draw, time_us in enumerate(each)
        ]
    )
    return found


@given(st.lists(st.floats(0, 100), min_size=1))
def test_cvar_lies_between_the_mean_and_the_worst(study: ModuleType, regrets: list[float]) -> None:
    assert study.RULES["mean"](regrets) <= study.cvar(regrets) + 1e-9
    assert study.cvar(regrets) <= max(regrets) + 1e-9


def test_cvar_is_the_mean_of_the_worst_quarter(study: ModuleType) -> None:
    assert study.cvar([0, 8, 1, 2, 3, 4, 5, 6]) == 7


def test_the_best_of_a_batch_regrets_nothing_and_others_by_how_much_longer_they_take(study: ModuleType) -> None:
    found = {(row["candidate"], row["draw"]): row["regret"] for row in rows(study, {"a": (1, 4), "b": (2, 2)})}
    assert found == {("a", 0): 0, ("b", 0): 1, ("a", 1): 1, ("b", 1): 0}


def test_what_is_chosen_is_judged_on_other_batches(study: ModuleType) -> None:
    found = rows(study, {"a": (1, 9, 1, 9), "b": (2, 3, 2, 3)})  # a is best on the even draws, b on the odd ones
    words = study.sentences(found, study.judged(found))
    assert words[0].startswith("Chosen by its worst case: a. On batches that it was not chosen by, it takes 200.0 %")
    assert "2 of the candidates are the best of at least one of 4 batches" in words[-1]


@pytest.mark.parametrize("winner", ["a", "b"])
def test_the_answer_names_the_candidate_that_the_table_favours(study: ModuleType, winner: str) -> None:
    found = rows(study, {name: (1.0,) * 4 if name == winner else (3.0,) * 4 for name in ("a", "b")})
    words = study.sentences(found, study.judged(found))
    assert all(sentence.startswith("Chosen by its") and f": {winner}. On" in sentence for sentence in words[:3])
    assert f"most often {winner}, of 4." in words[-1]


def test_every_candidate_has_knobs_of_its_own(study: ModuleType) -> None:
    assert len({study.knobs_of(name) for name in study.NAMES}) == len(study.NAMES)


def test_splits_longer_than_every_sequence_change_nothing(study: ModuleType) -> None:
    batch = BatchSpec(2, context=64)
    whole, cut = (study.measure(study.Case(f"K and V apart, pages of 16, split {split}", batch)) for split in (0, 2048))
    assert whole["time_us"] == cut["time_us"]
