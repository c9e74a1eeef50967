from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.paging import fragmentation
from workloads.replay import Engine, Replay, Snapshot, Step
from workloads.traces import PromptBlocks, RequestTable, read_mooncake

BLOCK, PAGE = 4, 2


def table(*requests: tuple[int, list[int], int, int], block: int = BLOCK) -> RequestTable:
    """Requests (arrival in steps of 10 ms, prompt blocks, tokens in the last block, tokens of the answer)."""
    arrival = np.array([10**7 * when for when, _, _, _ in requests])
    prompt = np.array([(len(blocks) - 1) * block + last for _, blocks, last, _ in requests])
    ids = np.array([number for _, blocks, _, _ in requests for number in blocks])
    first = np.concatenate([[0], np.cumsum([len(blocks) for _, blocks, _, _ in requests])])
    answer = np.array([tokens for *_, tokens in requests])
    return RequestTable("by hand", arrival, prompt, answer, PromptBlocks(block, ids, first))


request = st.tuples(
    st.integers(0, 3), st.lists(st.integers(0, 1), min_size=1, max_size=3), st.integers(1, BLOCK), st.integers(1, 6)
)
tables = st.lists(request, min_size=1, max_size=10).map(lambda drawn: table(*sorted(drawn, key=lambda r: r[0])))
engines = st.builds(
    Engine,
    page_size=st.just(PAGE),
    pool_pages=st.integers(9, 24),
    max_sequences=st.integers(1, 4),
    token_budget=st.integers(4, 9),
    allocator=st.sampled_from(["first-fit", "oldest-first", "newest-first", "first-run"]),
)


def served(requests: RequestTable, engine: Engine) -> Iterator[tuple[Step, Snapshot]]:
    replay = Replay(requests, engine)
    for step in replay:
        yield step, replay.snapshot()
    assert replay._cache.available == engine.pool_pages


@given(tables, engines)
def test_every_token_of_every_request_is_computed_once_and_in_order(requests: RequestTable, engine: Engine) -> None:
    done = np.zeros(len(requests), dtype=np.int64)
    seen: list[int] = []
    now = -1
    for step, snapshot in served(requests, engine):
        assert step.begin_ns > now
        now = step.begin_ns
        assert len(step.requests) <= engine.max_sequences
        assert step.tokens.min() >= 1
        assert step.tokens.sum() <= engine.token_budget
        assert (step.contexts == done[step.requests]).all()
        assert (requests.arrival_ns[step.requests] <= now).all()
        prompts = requests.input_tokens[step.requests]
        assert (step.tokens <= np.where(step.is_prefill, prompts - step.contexts, 1)).all()
        assert (step.is_prefill == (step.contexts < prompts)).all()
        done[step.requests] += step.tokens
        assert snapshot.batch.contexts == tuple(done[step.requests].tolist())
        assert not snapshot.table.shared_pages.any()
        seen += [int(r) for r in step.requests if r not in seen]
    assert done.tolist() == (requests.input_tokens + requests.output_tokens - 1).tolist()
    assert seen == list(range(len(requests)))  # first come, first served


def contents(requests: RequestTable, one: int, tokens: int) -> list[Any]:
    """What the cache holds for the tokens of a request: equal for equal prompts, its own beyond."""
    assert requests.blocks is not None
    path = requests.blocks.of(one).tolist()
    prompt = int(requests.input_tokens[one])
    return [(tuple(path[: t // BLOCK + 1]), t) if t < prompt // BLOCK * BLOCK else (one, t) for t in range(tokens)]


def check_reads(requests: RequestTable, engine: Engine, share: bool) -> None:
    """Serve requests and keep what every page holds."""
    if engine.allocator == "first-run":
        share = False
    engine = Engine(**(vars(engine) | {"share_prefixes": share}))
    memory: dict[tuple[int, int], Any] = {}
    for step, snapshot in served(requests, engine):
        wanted = [contents(requests, one, n) for one, n in zip(snapshot.requests, snapshot.batch.contexts, strict=True)]
        for place, before in enumerate(step.contexts.tolist()):
            row = snapshot.table.row(place)
            for token in range(before, len(wanted[place])):
                memory[int(row[token // PAGE]), token % PAGE] = wanted[place][token]
        for place, tokens in enumerate(wanted):
            row = snapshot.table.row(place)
            assert [memory[int(row[t // PAGE]), t % PAGE] for t in range(len(tokens))] == tokens


@given(tables, engines, st.booleans())
def test_every_sequence_reads_the_tokens_that_were_written_for_it(
    requests: RequestTable, engine: Engine, share: bool
) -> None:
    check_reads(requests, engine, share)


@pytest.mark.nightly
@settings(max_examples=4000, derandomize=False)
@given(tables, engines, st.booleans())
def test_very_many_sequences_read_the_tokens_that_were_written_for_them(
    requests: RequestTable, engine: Engine, share: bool
) -> None:
    check_reads(requests, engine, share)


def test_a_prompt_that_begins_like_one_that_is_cached_computes_the_rest_only() -> None:
    requests = table((0, [1, 2, 3], 4, 1), (9, [1, 2, 4], 3, 2), (9, [1, 2, 3], 4, 2))
    steps = list(Replay(requests, Engine(PAGE, 40, share_prefixes=True, token_budget=256)))
    first = {int(r): int(c) for step in reversed(steps) for r, c in zip(step.requests, step.contexts, strict=True)}
    assert first == {0: 0, 1: 8, 2: 8}  # the last token of a prompt is always computed, and with it its block
    assert steps[1].tokens.tolist() == [3, 4]


def test_sequences_that_begin_alike_own_their_common_pages_together() -> None:
    requests = table((0, [1, 2, 3], 4, 30), (2, [1, 2, 4], 3, 30))
    replay = Replay(requests, Engine(PAGE, 40, share_prefixes=True, token_budget=256))
    snapshots = [replay.snapshot() for step in replay if len(step.requests) == 2]
    assert [s.table.shared_pages.tolist() for s in snapshots] == [[4, 4]] * len(snapshots)
    assert snapshots[0].batch.prefixes is not None
    assert snapshots[0].batch.prefixes.shared_tokens(0, 1) == 8


def test_a_long_prompt_is_computed_in_chunks_beside_the_decoding_sequences() -> None:
    requests = table((0, [1], 4, 30), (1, [5, 6, 7, 8, 9], 4, 2))
    steps = list(Replay(requests, Engine(PAGE, 40, token_budget=8, max_sequences=4)))
    chunks = [(s.contexts[1], s.tokens.tolist(), s.is_prefill.tolist()) for s in steps if 1 in s.requests]
    assert chunks == [
        (0, [1, 7], [False, True]),
        (7, [1, 7], [False, True]),
        (14, [1, 6], [False, True]),
        (20, [1, 1], [False, False]),
    ]


def test_a_request_waits_until_the_pool_has_its_last_page_and_those_behind_it_wait_too() -> None:
    requests = table((0, [1], 4, 5), (0, [1, 2], 4, 9), (0, [1], 1, 1))
    steps = list(Replay(requests, Engine(PAGE, 11)))  # 4 pages, 8 pages, 1 page
    assert [s.requests.tolist() for s in steps[:6]] == [[0]] * 5 + [[1, 2]]


def test_cached_pages_that_a_request_begins_with_are_not_counted_as_free_for_it() -> None:
    # The first leaves 4 pages of prompt behind. Of the 9, the second will have 3, so the third cannot have its 8 yet.
    requests = table((0, [1, 2], 4, 1), (9, [7], 4, 3), (9, [1, 2, 3], 4, 5))
    steps = list(Replay(requests, Engine(PAGE, 9, share_prefixes=True)))
    assert [s.requests.tolist() for s in steps] == [[0], [1], [1], [1], *[[2]] * 5]
    assert steps[4].contexts.tolist() == [8]


def test_runs_of_pages_stay_in_order_and_single_pages_do_not() -> None:
    requests = table(*((n, [n], 4, 20 + n % 5) for n in range(12)))
    runs = {}
    for name in ("first-run", "first-fit", "oldest-first"):
        tables = [s.table for _, s in served(requests, Engine(PAGE, 60, allocator=name))]
        runs[name] = np.mean([fragmentation(t).neighbours for t in tables])
    assert runs["first-run"] == 1
    assert runs["oldest-first"] < runs["first-fit"] < 1


def test_an_idle_engine_begins_when_the_next_request_comes() -> None:
    steps = list(Replay(table((0, [1], 1, 1), (5000, [2], 1, 1)), Engine(PAGE, 8)))
    assert [s.begin_ns for s in steps] == [0, 5000 * 10**7]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"page_size": 0}, "page_size is 0; allowed: an integer of at least 1"),
        ({"step_ns": 0}, "step_ns is 0"),
        ({"max_sequences": 9, "token_budget": 8}, "max_sequences is 9; allowed: 1 to the token_budget, 8"),
        ({"allocator": "first-fitt"}, "unknown allocator 'first-fitt'; known: first-fit"),
        ({"share_prefixes": True, "allocator": "first-run"}, "share_prefixes with first-run; allowed"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"engine: {message}"):
        Engine(**({"page_size": 16, "pool_pages": 8} | fields))


def test_a_trace_that_an_engine_cannot_serve_is_refused() -> None:
    requests = table((0, [1, 2], 4, 9))
    with pytest.raises(ValueError, match="engine: pool_pages is 7; request 0 alone needs 8"):
        Replay(requests, Engine(PAGE, 7))
    with pytest.raises(ValueError, match="engine: page_size is 3; allowed: a divisor of the 4 tokens of a block"):
        Replay(requests, Engine(3, 80, share_prefixes=True))
    plain = RequestTable("by hand", requests.arrival_ns, requests.input_tokens, requests.output_tokens)
    with pytest.raises(ValueError, match="by hand: does not tell the blocks of its prompts"):
        Replay(plain, Engine(PAGE, 80, share_prefixes=True))


def test_sharing_prefixes_saves_part_of_the_prefill_of_the_mooncake_trace(data_file: Callable[[str], Path]) -> None:
    path = data_file("requests/mooncake-conversation.jsonl.gz")
    whole = read_mooncake(path)
    assert whole.blocks is not None
    n = 150
    blocks = PromptBlocks(512, whole.blocks.ids[: whole.blocks.first[n]], whole.blocks.first[: n + 1])
    part = RequestTable("start", whole.arrival_ns[:n], whole.input_tokens[:n], whole.output_tokens[:n], blocks)
    computed = {}
    for share in (False, True):
        engine = Engine(64, 40_000, token_budget=8192, share_prefixes=share)
        computed[share] = sum(int(step.tokens.sum()) for step in Replay(part, engine))
    assert computed[False] == int((part.input_tokens + part.output_tokens - 1).sum())
    repeated = 512 * (len(blocks.ids) - len(set(blocks.ids.tolist())))  # at best, every block is computed once
    assert 0 < computed[False] - computed[True] <= repeated
