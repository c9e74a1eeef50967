from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.replay import Engine, Replay
from workloads.scheduled import MAX_VERIFIED, Scheduled, decode, of, prefill, served
from workloads.traces import RequestTable

sequences = st.lists(
    st.integers(1, 60).flatmap(lambda context: st.tuples(st.just(context), st.integers(1, context))), min_size=1
)


def test_steps_have_the_names_of_what_their_sequences_do() -> None:
    assert decode((40, 7)).kind == decode((40, 7), 0).kind == "decode"
    assert decode((40, 7), 3).kind == of([(40, 1), (40, 5)]).kind == "speculative"
    assert prefill((40, 7)).kind == of([(4096, 512)]).kind == "prefill"
    assert of([(40, 40), (70, 1)]).kind == of([(4096, 512), (70, 4)]).kind == "mixed"
    assert prefill((1,)) == decode((1,))


def test_a_draft_is_told_from_a_chunk_by_its_length_and_by_what_it_stands_behind() -> None:
    assert of([(400, MAX_VERIFIED)]).decodes
    assert not of([(400, MAX_VERIFIED + 1)]).decodes
    assert not of([(MAX_VERIFIED, MAX_VERIFIED)]).decodes


@given(sequences)
def test_the_parts_of_a_step_are_ranges_of_it_and_each_decodes_as_many_tokens_or_none(
    given_: list[tuple[int, int]],
) -> None:
    step = of(given_)
    parts = list(step.parts())
    assert sum((part.contexts for part in parts), ()) == step.contexts
    assert sum((part.new for part in parts), ()) == step.new
    assert sorted(zip(step.contexts, step.new, strict=True)) == sorted(given_)
    assert sum(not part.decodes for part in parts) <= 1
    assert len({part.each for part in parts if part.decodes}) == sum(part.decodes for part in parts)
    assert step.tokens == sum(part.tokens for part in parts)
    assert len(step.new) <= step.sampled <= step.tokens


def test_all_tokens_of_a_draft_and_the_last_one_of_a_prompt_are_sampled() -> None:
    assert decode((40, 7), 3).sampled == 8
    assert prefill((40, 7)).sampled == 2
    assert of([(40, 40), (70, 1), (80, 4)]).sampled == 1 + 1 + 4


def test_a_step_of_a_trace_has_the_tokens_that_the_engine_computes() -> None:
    table = RequestTable(
        "test", np.array([0, 0, 0], np.int64), np.array([30, 100, 5], np.int64), np.array([4, 2, 3], np.int64)
    )
    steps = [served(step) for step in Replay(table, Engine(16, 64, token_budget=64, max_sequences=8))]
    assert steps[0] == of([(30, 30), (34, 34)])
    assert steps[1] == of([(31, 1), (97, 63)])
    assert sum(step.tokens for step in steps) == (30 + 3) + (100 + 1) + (5 + 2)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([(5, 6)], "batch: sequence 0: 6 new tokens; allowed: 1 to its context, 5"),
        ([(7, 0)], "batch: sequence 0: 0 new tokens; allowed: 1 to its context, 7"),
        ([(0, 0)], "batch: sequence 0: context is 0; allowed: "),
        ([], "batch: sequences is 0; allowed: "),
    ],
)
def test_sequences_that_cannot_be_are_refused(sequences: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        of(sequences)


def test_drafts_and_lengths_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^draft: 16 tokens; allowed: 0 to 15$"):
        decode((40,), 16)
    with pytest.raises(ValueError, match=r"^batch: new tokens of 1 sequences; allowed: 2$"):
        Scheduled((40, 7), (1,))
