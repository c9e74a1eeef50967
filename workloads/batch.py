"""A batch: how many tokens of context every sequence holds in the KV cache when one decode step runs.

Second step of the data's path: `Batch.contexts` sizes the page tables and the tasks of the attention kernels;
`Batch.prefixes` says which of the sequences begin alike. Lengths are either uniform or drawn from a request trace
(`workloads.traces`). A request with C prompt tokens and G generated ones stays for G - 1 decode steps after the
prompt's own pass, which makes the first token; step t = 1 .. G - 1 reads C + t tokens. A batch in steady state is a
draw with replacement in which every decode step of every request is equally likely. So long answers count for more:
a request that stays ten times longer is ten times likelier to be met.
Not modelled by a draw: arrivals, admission, preemption, and what requests of one moment have in common; so prompts
are shared as often as those of any two requests of the whole trace. `workloads.replay` serves a trace in its order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from layouts.notation import nearest_first
from workloads.prefix import Group, Prefixes, groups
from workloads.traces import MAX_TOKENS, READERS, RequestTable, read_azure
from workloads.traces.azure import NAME as AZURE_NAME

MAX_CONTEXT = 2 * MAX_TOKENS  # a prompt and an answer of the most tokens each
MAX_SEQUENCES = 1 << 16  # assumed: more sequences in one step is taken for a mistyped count
AZURE_QUANTILES = Path(__file__).parent / "traces" / "azure-2023-conversation.yaml"


@dataclass(frozen=True)
class Batch:
    """The sequences of one decode step.

    `contexts`: KV tokens per sequence, 1 to 10^7, at least one and at most 65,536 sequences. `source`: one
    line that says where the lengths come from. `prefixes`: how the sequences begin, where that is known.
    Raises ValueError naming the sequence and its length.
    """

    contexts: tuple[int, ...]
    source: str
    prefixes: Prefixes | None = None

    def __post_init__(self) -> None:
        check_contexts(self.contexts)
        if self.prefixes is not None and len(self.prefixes.tokens) != len(self.contexts):
            count = len(self.prefixes.tokens)
            raise ValueError(f"batch: prefixes of {count} sequences; allowed: {len(self.contexts)}, one per context")

    def groups(self, page_size: int = 1) -> tuple[Group, ...]:
        """Return the sequences in groups that share full pages of their beginnings, as `prefix.groups` makes them.

        Where nothing is known of beginnings, every sequence is a group of its own.
        """
        if self.prefixes is None:
            return tuple(Group(0, (sequence,)) for sequence in range(len(self.contexts)))
        return groups(self.prefixes, page_size, self.contexts)


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


def steady(table: RequestTable, sequences: int, rng: np.random.Generator) -> Batch:
    """Return a batch in steady state, drawn with `rng`: every decode step of the table is equally likely.

    Raises ValueError where no request makes a decode step, that is, generates two tokens.
    """
    check_sequences(sequences)
    last_step = np.cumsum(table.output_tokens - 1)
    if not last_step[-1]:
        raise ValueError(f"{table.source}: no request generates two tokens or more; a decode step needs one that does")
    drawn = rng.integers(last_step[-1], size=sequences)
    request = np.searchsorted(last_step, drawn, side="right")
    lengths = table.input_tokens[request] + table.output_tokens[request] - (last_step[request] - drawn)
    prefixes = None if table.blocks is None else Prefixes.of(table, request.tolist())
    return Batch(tuple(lengths.tolist()), f"decode steps drawn from {table.source}", prefixes)


def from_trace(name: str, path: str | os.PathLike[str], sequences: int, rng: np.random.Generator) -> Batch:
    """Return a batch in steady state from the trace file `path` of the kind `name`, a key of `traces.READERS`.

    Raises ValueError for another name, or naming the file, the line and the value when the trace cannot be used.
    """
    if name not in READERS:
        raise ValueError(f"trace: unknown {name!r}; known: {nearest_first(name, READERS)}")
    return steady(READERS[name](Path(path)), sequences, rng)


def from_azure(path: str | os.PathLike[str] | None, sequences: int, rng: np.random.Generator) -> Batch:
    """Return a batch in steady state, drawn with `rng` from the Azure conversation trace of 2023.

    `path`: the published CSV, plain or gzip. Where it is None, lengths are drawn by inverse transform from the
    shipped quantiles of the same distribution, linear between them; `Batch.source` says which of the two it was.
    Raises ValueError naming the file, the line and the value when the trace cannot be used.
    """
    check_sequences(sequences)
    return _from_quantiles(sequences, rng) if path is None else steady(read_azure(Path(path)), sequences, rng)


def _from_quantiles(sequences: int, rng: np.random.Generator) -> Batch:
    facts: dict[str, Any] = yaml.safe_load(AZURE_QUANTILES.read_text(encoding="utf-8"))
    lengths = np.interp(rng.random(sequences), facts["levels"], facts["length_tokens"])
    source = f"{AZURE_NAME}: drawn from {len(facts['levels'])} shipped quantiles (no trace file)"
    return Batch(tuple(np.rint(lengths).astype(np.int64).tolist()), source)
