from __future__ import annotations

import csv
import gzip
from collections import Counter
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
    MAX_TRACE_BYTES,
    Batch,
    from_azure,
    uniform,
)

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def trace(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "trace.csv"
    path.write_text(header + "\n".join(rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def azure(data_dir: Path) -> Path:
    path = data_dir / "requests" / "azure-2023-conversation.csv.gz"
    if not path.exists():
        pytest.skip(f"no trace at {path}")
    return path


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
    path = trace(tmp_path, "x,10,2", "x,100,10", "x,5000,1")
    drawn = Counter(from_azure(path, 50_000, np.random.default_rng(7)).contexts)
    assert set(drawn) == {11, *range(101, 110)}
    assert min(drawn.values()) > 4650  # 5,000 expected, standard deviation 67
    assert max(drawn.values()) < 5350


def test_the_order_of_columns_and_compression_do_not_matter(tmp_path: Path) -> None:
    plain = trace(tmp_path, "x,10,20", "x,300,40")
    other = tmp_path / "packed"
    other.write_bytes(gzip.compress(b"GeneratedTokens,ContextTokens\r\n20,10\r\n40,300\r\n"))
    first, second = (from_azure(path, 64, np.random.default_rng(3)).contexts for path in (plain, other))
    assert first == second


@pytest.mark.parametrize("kind", ["trace", "quantiles"])
def test_the_generator_alone_decides_the_draw(tmp_path: Path, kind: str) -> None:
    path = trace(tmp_path, "x,10,2000", "x,300,4000") if kind == "trace" else None
    draw = [from_azure(path, 32, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert draw[0] == draw[1]
    assert draw[0] != draw[2]


def test_the_source_says_which_of_the_two_was_drawn_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    assert "drawn from trace.csv" in from_azure(trace(tmp_path, "x,10,20"), 1, rng).source
    assert "shipped quantiles" in from_azure(None, 1, rng).source
    assert "shipped quantiles" in from_azure(tmp_path / "absent.csv.gz", 1, rng).source


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


@pytest.mark.parametrize("value", ["0", "-3", "", "1.5", "x", "1_0", "²", "99999999999"])
def test_a_row_with_an_unusable_number_is_refused_with_its_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(ValueError, match=r"trace.csv: line 3: ContextTokens is .*; allowed: an integer from 1"):
        from_azure(trace(tmp_path, "x,5,5", f"x,{value},5"), 1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: no column ContextTokens"),
        (b"TIMESTAMP,ContextTokens\nx,1\n", "line 1: no column GeneratedTokens; the file has "),
        (HEADER.encode(), "no request generates two tokens"),
        (HEADER.encode() + b"x,5,1\n", "no request generates two tokens"),
        (HEADER.encode() + b"x,5\n", "line 2: GeneratedTokens is ''"),
        (HEADER.encode() + b"\xff,5,5\n", "byte 40: not UTF-8"),
        (HEADER.encode() + b"x" * 200_000, "line 2: not CSV: "),
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], "cannot be read"),
        (gzip.compress(b"x" * (MAX_TRACE_BYTES + 1), 1), "larger than "),
    ],
)
def test_a_file_that_is_no_trace_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken.csv: {message}") as refusal:
        from_azure(path, 4, np.random.default_rng(0))
    assert "\n" not in str(refusal.value)


def test_a_folder_in_place_of_the_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        from_azure(tmp_path, 4, np.random.default_rng(0))
