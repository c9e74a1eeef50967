from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from workloads.batch import (
    AZURE_QUANTILES,
    MAX_CONTEXT,
    MAX_SEQUENCES,
    Batch,
    from_azure,
    from_trace,
    steady,
    uniform,
)
from workloads.prefix import Prefixes
from workloads.traces import PromptBlocks, RequestTable

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
TIME = "2023-11-16 18:15:46.6805900"


def trace(folder: Path, *rows: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(HEADER + "\n".join(f"{TIME},{row}" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def azure(data_file: Callable[[str], Path]) -> Path:
    return data_file("requests/azure-2023-conversation.csv.gz")


@pytest.fixture(scope="session")
def step_lengths(azure: Path) -> Any:
    """The KV length of every decode step of the published trace, in order."""
    lengths = []
    with gzip.open(azure, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            first = int(row["ContextTokens"]) + 1
            lengths.append(np.arange(first, first + int(row["GeneratedTokens"]) - 1))
    return np.sort(np.concatenate(lengths))


@given(st.integers(1, 50), st.integers(1, MAX_CONTEXT))
def test_a_uniform_batch_repeats_one_length(sequences: int, context: int) -> None:
    batch = uniform(sequences, context)
    assert batch.contexts == (context,) * sequences
    assert str(context) in batch.source


@pytest.mark.parametrize("context", [0, -1, MAX_CONTEXT + 1, 1.5, True, "7"])
def test_a_length_out_of_range_is_refused_with_its_sequence(context: Any) -> None:
    with pytest.raises(ValueError, match=r"sequence 1: context is .*; allowed: an integer from 1 to 10000000$"):
        Batch((5, context), "by hand")
    with pytest.raises(ValueError, match="every sequence: context is "):
        uniform(2, context)


@pytest.mark.parametrize("sequences", [0, -1, MAX_SEQUENCES + 1, 2.0, True])
def test_a_number_of_sequences_out_of_range_is_refused(sequences: Any) -> None:
    with pytest.raises(ValueError, match=r"sequences is .*; allowed: an integer from 1 to 65536$"):
        uniform(sequences, 8)
    with pytest.raises(ValueError, match="sequences is "):
        from_azure(None, sequences, np.random.default_rng(0))


def test_a_batch_without_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match="sequences is 0"):
        Batch((), "empty")


def test_the_longest_and_the_widest_batch_are_accepted() -> None:
    assert uniform(MAX_SEQUENCES, MAX_CONTEXT).contexts[-1] == MAX_CONTEXT


def test_every_decode_step_of_a_trace_is_equally_likely(tmp_path: Path) -> None:
    # Steps: 11 (one), 101 .. 109 (nine); the last request makes its only token in the prompt's pass.
    path = trace(tmp_path, "10,2", "100,10", "5000,1")
    drawn = Counter(from_azure(path, 50_000, np.random.default_rng(7)).contexts)
    assert set(drawn) == {11, *range(101, 110)}
    assert min(drawn.values()) > 4650  # 5,000 expected, standard deviation 67
    assert max(drawn.values()) < 5350


@pytest.mark.parametrize("kind", ["trace", "quantiles"])
def test_the_generator_alone_decides_the_draw(tmp_path: Path, kind: str) -> None:
    path = trace(tmp_path, "10,2000", "300,4000") if kind == "trace" else None
    draw = [from_azure(path, 32, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert draw[0] == draw[1]
    assert draw[0] != draw[2]


def test_the_source_says_which_of_the_two_was_drawn_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = from_azure(trace(tmp_path, "10,20"), 1, rng)
    assert drawn.source == "decode steps drawn from Azure LLM inference trace 2023, conversation: trace.csv"
    assert "shipped quantiles" in from_azure(None, 1, rng).source


def test_a_trace_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent.csv.gz: cannot be read \(.*No such file"):
        from_azure(tmp_path / "absent.csv.gz", 1, np.random.default_rng(0))


def test_shipped_quantiles_keep_the_mean_of_the_trace() -> None:
    facts = yaml.safe_load(AZURE_QUANTILES.read_text(encoding="utf-8"))
    mean = np.trapezoid(facts["length_tokens"], facts["levels"])
    assert mean == pytest.approx(facts["mean_length_tokens"], rel=2e-3)


def test_draws_from_the_quantiles_have_their_mean_and_range() -> None:
    facts = yaml.safe_load(AZURE_QUANTILES.read_text(encoding="utf-8"))
    drawn = np.array(from_azure(None, MAX_SEQUENCES, np.random.default_rng(11)).contexts)
    assert drawn.mean() == pytest.approx(facts["mean_length_tokens"], rel=0.01)  # standard error 0.2 %
    assert drawn.min() >= facts["length_tokens"][0]
    assert drawn.max() <= facts["length_tokens"][-1]


def test_shipped_quantiles_are_those_of_the_published_trace(step_lengths: Any) -> None:
    facts = yaml.safe_load(AZURE_QUANTILES.read_text(encoding="utf-8"))
    assert facts["requests"] == 19_366  # the rows of the published file
    assert facts["decode_steps"] == len(step_lengths)
    assert facts["mean_length_tokens"] == pytest.approx(step_lengths.mean(), abs=5e-4)
    for level, length in zip(facts["levels"], facts["length_tokens"], strict=True):
        below = np.searchsorted(step_lengths, length, side="left") / len(step_lengths)
        up_to = np.searchsorted(step_lengths, length, side="right") / len(step_lengths)
        assert below <= level <= up_to


@pytest.mark.parametrize("kind", ["trace", "quantiles"])
def test_draws_follow_the_distribution_of_the_published_trace(azure: Path, step_lengths: Any, kind: str) -> None:
    path = azure if kind == "trace" else None
    drawn = np.sort(from_azure(path, 20_000, np.random.default_rng(5)).contexts)
    grid = np.unique(step_lengths)
    share = [np.searchsorted(lengths, grid, side="right") / len(lengths) for lengths in (drawn, step_lengths)]
    # Kolmogorov-Smirnov: 1.95/sqrt(20,000) is passed once in a thousand.
    # A straight line between two levels is off by less than their distance, 0.01.
    assert np.abs(share[0] - share[1]).max() < 0.0138 + (0.01 if kind == "quantiles" else 0)


def test_a_batch_of_a_trace_with_blocks_knows_how_its_sequences_begin() -> None:
    blocks = PromptBlocks(10, np.array([0, 1, 0, 2]), np.array([0, 2, 4]))
    table = RequestTable("by hand", [0, 5], [15, 20], [3, 3], blocks)  # type: ignore[arg-type]
    batch = steady(table, 200, np.random.default_rng(1))
    assert batch.prefixes is not None
    seen = set()
    for context, prompt, path in zip(batch.contexts, batch.prefixes.tokens, batch.prefixes.blocks, strict=True):
        assert (prompt, path) in ((15, (0, 1)), (20, (0, 2)))
        seen.add((prompt, context - prompt))
    assert seen == {(15, 1), (15, 2), (20, 1), (20, 2)}


def test_requests_that_make_one_token_only_give_no_decode_batch() -> None:
    table = RequestTable("by hand", [0], [15], [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="by hand: no request generates two tokens or more"):
        steady(table, 1, np.random.default_rng(1))


def test_a_batch_is_grouped_by_the_full_pages_that_its_sequences_share() -> None:
    assert Batch((5, 6), "by hand").groups(16) == ((0, (0,)), (0, (1,)))
    prefixes = Prefixes(10, ((1, 2), (1, 2), (3,)), (20, 20, 10))
    assert Batch((25, 26, 27), "by hand", prefixes).groups(16) == ((16, (0, 1)), (0, (2,)))
    assert Batch((25, 12, 27), "by hand", prefixes).groups(4) == ((12, (0, 1)), (0, (2,)))


def test_a_trace_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="trace: unknown 'azure-2024'; known: azure-2023-conversation, mooncake"):
        from_trace("azure-2024", "x", 1, np.random.default_rng(0))


def test_prefixes_of_another_number_of_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="prefixes of 1 sequences; allowed: 2, one per context"):
        Batch((5, 6), "by hand", Prefixes(4, ((1,),), (4,)))


def test_the_mooncake_trace_draws_long_prompts_that_share_their_beginning(data_file: Callable[[str], Path]) -> None:
    path = data_file("requests/mooncake-conversation.jsonl.gz")
    batch = from_trace("mooncake-conversation", path, 256, np.random.default_rng(4))
    assert batch.prefixes is not None
    # Mean prompt of the published file: 12,035 tokens, the same first block in almost all of them.
    assert 8_000 < np.mean(batch.prefixes.tokens) < 17_000
    assert sum(batch.prefixes.shared_tokens(0, other) >= 512 for other in range(1, 256)) > 128
