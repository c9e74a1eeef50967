from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def study(load_study: Callable[[str], ModuleType]) -> ModuleType:
    return load_study("expert_placement")


@settings(max_examples=20)
@given(st.lists(st.integers(0, 1000), min_size=128, max_size=128), st.sampled_from((4, 64)))
def test_balancing_gives_every_place_as_many_experts(study: ModuleType, load: list[int], places: int) -> None:
    place = study.balanced(np.array(load), places)
    assert np.bincount(place, minlength=places).tolist() == [128 // places] * places


def test_balancing_by_load_evens_out_what_dealing_round_does_not(study: ModuleType) -> None:
    load = np.where(np.arange(128) % 64 == 5, 100, 1)
    fullest = [int(np.bincount(place, weights=load).max()) for place in (np.arange(128) % 64, study.balanced(load, 64))]
    assert fullest == [200, 101]


@pytest.mark.parametrize("places", [4, 64])
def test_renaming_keeps_every_token_with_its_place_and_renames_no_two_alike(study: ModuleType, places: int) -> None:
    (step,) = study.steps_of("Zipf 0.6", 64, 1, seed=3)
    place = study.balanced(step.counts, places)
    names = study.renamed(step, place, places)
    assert (names.ids % places == place[step.ids]).all()
    assert sorted(names.counts.tolist()) == sorted(step.counts.tolist())


def test_steps_of_one_popularity_differ_by_seed_but_not_from_run_to_run(study: ModuleType) -> None:
    first, again, other = (study.steps_of("Zipf 0.6", 64, 2, seed=seed) for seed in (1, 1, 2))
    assert list(map(repr, first)) == list(map(repr, again)) != list(map(repr, other))
    hot = [np.argmax(study.counted(study.steps_of("Zipf 0.6", 512, 2, seed=seed))) for seed in (1, 2)]
    assert hot[0] == hot[1]


@pytest.mark.slow
def test_experts_beside_their_cores_cross_less_of_the_network(study: ModuleType) -> None:
    nowhere, beside = (
        study.measure(study.Case("beside cores", "uniform", name, tokens=4, measured=1, judged=1))
        for name in (study.NOWHERE, study.ROUND)
    )
    assert beside["crossed_bytes"] < nowhere["crossed_bytes"] / 4
    assert nowhere["fullest_place"] is None
    assert beside["fullest_place"] >= 1


@pytest.mark.parametrize("winner", ["interleaved", "searched"])
def test_the_answer_does_not_count_a_placement_that_knew_the_tokens(study: ModuleType, winner: str) -> None:
    times = dict.fromkeys(study.PLACEMENTS, 5.0) | {winner: 2.0, study.FORESEEN: 1.0}
    rows = [
        {"home": "here", "popularity": "p", "placement": name, "time_us": time_us} for name, time_us in times.items()
    ]
    (words,) = study.sentences(rows)
    assert f"does not know the judged tokens is {winner}, 2.00 us" in words
    assert f"{study.FORESEEN} 50.0 % less" in words
    assert f"{study.BLOCKS} 2.50 times as much" in words
