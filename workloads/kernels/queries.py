"""Which tokens of a batch are queries: the last ones of every sequence, or all of a prefill, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Queries:
    """The queries of all sequences: `lengths` per sequence; `sequence` and `position` in it per query."""

    lengths: Array
    sequence: Array
    position: Array


def last_tokens(contexts: Sequence[int], q_len: int | Sequence[int]) -> Queries:
    """Return the last `q_len` tokens of sequences of these lengths, or all of those that are shorter; 0: all tokens.

    `q_len` is one number for all sequences, or one for each.
    """
    tokens = np.array(contexts, np.int64)
    lengths = np.minimum(tokens, q_len) if np.any(q_len) else tokens
    sequence = np.repeat(np.arange(len(tokens)), lengths)
    skipped = (tokens - np.cumsum(lengths))[sequence]  # of a sequence, less the queries of those before it
    return Queries(lengths, sequence, skipped + np.arange(len(sequence)))
