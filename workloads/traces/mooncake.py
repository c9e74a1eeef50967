"""Mooncake's traces: one JSON object a line, with timestamp, input_length, output_length, hash_ids.

Published with Qin et al. 2025 (Mooncake, FAST '25). The timestamp is in milliseconds; `hash_ids` number the prompt's
blocks of 512 tokens, such that two prompts which begin with the same numbers begin with the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workloads.traces.table import MAX_TOKENS, PromptBlocks, RequestTable
from workloads.traces.text import TOKENS_ALLOWED, read_text, refuse

BLOCK_TOKENS = 512
MAX_TIMESTAMP_MS = 10**12  # assumed: 30 years; more is a slip of the unit
MAX_ID = 2**62
FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")


def read_mooncake(path: Path) -> RequestTable:
    """Return the requests of a file, plain or gzip, with their prompts' blocks.

    Fields beyond the four are passed over, and so are empty lines. Raises ValueError naming file, line, field, value
    and what is allowed.
    """
    rows: list[tuple[int, int, int]] = []
    ids: list[int] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        request = _object(line, where)
        earliest = rows[-1][0] if rows else 0
        arrival = _integer(request, FIELDS[0], where, earliest, MAX_TIMESTAMP_MS)
        tokens = [_integer(request, name, where, 1, MAX_TOKENS) for name in FIELDS[1:3]]
        rows.append((arrival, tokens[0], tokens[1]))
        ids += _ids(request[FIELDS[3]], tokens[0], where)
    if not rows:
        raise ValueError(f"{path}: no request in any line; a trace has at least one")
    table = np.array(rows, dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(-(-table[:, 1] // BLOCK_TOKENS))]).astype(np.int64)
    blocks = PromptBlocks(BLOCK_TOKENS, np.array(ids, dtype=np.int64), first)
    arrival_ns = (table[:, 0] - table[0, 0]) * 10**6
    return RequestTable(f"Mooncake trace, conversation: {path.name}", arrival_ns, table[:, 1], table[:, 2], blocks)


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {str(error)[:80]}") from None
    if not isinstance(found, dict):
        raise refuse(where, "the line", found, f"an object with {', '.join(FIELDS)}")
    for name in FIELDS:
        if name not in found:
            raise ValueError(f"{where}: {name} is missing; allowed: an object with {', '.join(FIELDS)}")
    return found


def _integer(request: Mapping[str, Any], name: str, where: str, least: int, most: int) -> int:
    value = request[name]
    if type(value) is int and least <= value <= most:
        return value
    if name == FIELDS[0]:
        raise refuse(where, name, value, f"milliseconds from {least} (never falling) to {most}")
    raise refuse(where, name, value, TOKENS_ALLOWED)


def _ids(value: object, tokens: int, where: str) -> list[int]:
    count = -(-tokens // BLOCK_TOKENS)
    if not isinstance(value, list) or len(value) != count:
        shown = f"a list of {len(value)}" if isinstance(value, list) else value
        raise refuse(where, FIELDS[3], shown, f"a list of {count}, one per {BLOCK_TOKENS} tokens of input_length")
    for place, number in enumerate(value):
        if type(number) is not int or not 0 <= number < MAX_ID:
            raise refuse(where, f"{FIELDS[3]}[{place}]", number, f"an integer from 0 to {MAX_ID - 1}")
    return value
