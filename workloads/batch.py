"""A batch: how many tokens of context every sequence holds in the KV cache when one decode step runs.

Second step of the data's path: `Batch.contexts` sizes the page tables and the tasks of the attention kernels.
Lengths are either uniform or drawn from the conversation trace of Azure's LLM services (2023), whose rows
give the context tokens C and the generated tokens G of a request. The prompt's own pass makes the first
token; the request then stays for G - 1 decode steps, and step t = 1 .. G - 1 reads C + t tokens. A batch in
steady state is a draw with replacement in which every decode step of every request is equally likely. So long
answers count for more: a request that stays ten times longer is ten times likelier to be met.
Not modelled: arrivals, admission, preemption, shared prefixes, correlation between the sequences of a batch,
and the first step after a prompt differing from any other.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

MAX_CONTEXT = 10**7  # assumed: more tokens in one sequence is taken for a mistyped length
MAX_SEQUENCES = 1 << 16  # assumed: more sequences in one step is taken for a mistyped count
MAX_TRACE_BYTES = 1 << 26  # assumed: uncompressed; the published trace has 1.1 MB
AZURE_QUANTILES = Path(__file__).parent / "traces" / "azure-2023-conversation.yaml"

_GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952, section 2.3.1


@dataclass(frozen=True)
class Batch:
    """The sequences of one decode step.

    `contexts`: KV tokens per sequence, 1 to 10^7, at least one and at most 65,536 sequences. `source`: one
    line that says where the lengths come from. Raises ValueError naming the sequence and its length.
    """

    contexts: tuple[int, ...]
    source: str

    def __post_init__(self) -> None:
        check_contexts(self.contexts)


def check_contexts(contexts: Sequence[int]) -> None:
    """Raise ValueError unless `contexts` are lengths that a batch may have, naming the first that is not."""
    check_sequences(len(contexts))
    for sequence, context in enumerate(contexts):
        _check_context(context, f"sequence {sequence}")


def check_sequences(sequences: int) -> None:
    """Raise ValueError unless `sequences` is a number of sequences that a batch may have."""
    if not isinstance(sequences, int) or isinstance(sequences, bool) or not 1 <= sequences <= MAX_SEQUENCES:
        raise ValueError(f"batch: sequences is {sequences!r}; allowed: an integer from 1 to {MAX_SEQUENCES}")


def _check_context(context: int, where: str) -> None:
    if not isinstance(context, int) or isinstance(context, bool) or not 1 <= context <= MAX_CONTEXT:
        raise ValueError(f"batch: {where}: context is {context!r}; allowed: an integer from 1 to {MAX_CONTEXT}")


def uniform(sequences: int, context: int) -> Batch:
    """Return `sequences` sequences of `context` KV tokens each."""
    check_sequences(sequences)
    _check_context(context, "every sequence")
    return Batch((context,) * sequences, f"uniform: every sequence has {context} tokens")


def from_azure(path: str | os.PathLike[str] | None, sequences: int, rng: np.random.Generator) -> Batch:
    """Return a batch in steady state, drawn with `rng` from the Azure conversation trace of 2023.

    `path`: the published CSV with the columns ContextTokens and GeneratedTokens, plain or gzip; every decode
    step in it is equally likely. Where `path` is None or there is no such file, lengths are drawn by inverse
    transform from the shipped quantiles of the same distribution, linear between them; `Batch.source` says
    which of the two it was.
    Raises ValueError naming the file, the line and the value when the trace cannot be used.
    """
    check_sequences(sequences)
    if path is None or not Path(path).exists():
        return _from_quantiles(sequences, rng)
    context_tokens, generated_tokens = _read_trace(Path(path))
    steps = generated_tokens - 1
    last_step = np.cumsum(steps)
    drawn = rng.integers(last_step[-1], size=sequences)
    row = np.searchsorted(last_step, drawn, side="right")
    lengths = context_tokens[row] + steps[row] - (last_step[row] - 1 - drawn)
    source = f"Azure LLM inference trace 2023, conversation: decode steps drawn from {Path(path).name}"
    return Batch(tuple(lengths.tolist()), source)


def _from_quantiles(sequences: int, rng: np.random.Generator) -> Batch:
    facts: dict[str, Any] = yaml.safe_load(AZURE_QUANTILES.read_text(encoding="utf-8"))
    lengths = np.interp(rng.random(sequences), facts["levels"], facts["length_tokens"])
    source = (
        f"Azure LLM inference trace 2023, conversation: drawn from {len(facts['levels'])} shipped quantiles"
        " (no trace file)"
    )
    return Batch(tuple(np.rint(lengths).astype(np.int64).tolist()), source)


def _read_trace(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the context and generated tokens of the requests that make at least one decode step."""
    kept: list[tuple[int, int]] = []
    reader = csv.reader(io.StringIO(_read_text(path), newline=""))
    try:
        header = next(reader, [])
        columns = [_column(header, name, path) for name in ("ContextTokens", "GeneratedTokens")]
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            context, generated = (_tokens(row, column, header, where) for column in columns)
            if generated >= 2:
                kept.append((context, generated))
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: not CSV: {error}") from None
    if not kept:
        raise ValueError(f"{path}: no request generates two tokens or more; a decode step needs one that does")
    table = np.array(kept, dtype=np.int64)
    return table[:, 0], table[:, 1]


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GZIP_MAGIC))
        with gzip.open(path) if magic == _GZIP_MAGIC else path.open("rb") as file:
            content = file.read(MAX_TRACE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if len(content) > MAX_TRACE_BYTES:
        raise ValueError(f"{path}: larger than {MAX_TRACE_BYTES} bytes, the most a trace may have")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start}: not UTF-8 text") from None


def _column(header: Sequence[str], name: str, path: Path) -> int:
    if name not in header:
        raise ValueError(f"{path}: line 1: no column {name}; the file has {', '.join(header)[:200]!r}")
    return header.index(name)


def _tokens(row: Sequence[str], column: int, header: Sequence[str], where: str) -> int:
    text = row[column] if column < len(row) else ""
    if text.isascii() and text.isdigit() and len(text) <= 8 and 1 <= int(text) <= MAX_CONTEXT // 2:
        return int(text)
    raise ValueError(f"{where}: {header[column]} is {text[:40]!r}; allowed: an integer from 1 to {MAX_CONTEXT // 2}")
