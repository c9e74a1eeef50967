"""The table of requests that every trace becomes.

Not modelled: what the tokens are, who sent them, and requests that were cut short or sampled more than once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_TOKENS = 5 * 10**6  # assumed: more tokens in one prompt or answer is taken for a mistyped length

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PromptBlocks:
    """The prompts as block numbers, in compressed sparse rows: `ids[first[r]:first[r + 1]]` are those of request r.

    A block is `block_tokens` tokens of a prompt, the last one of a prompt maybe fewer. Two prompts are alike as far as
    their leading block numbers are. `ids`, `first`: int64, [blocks] and [requests + 1].
    """

    block_tokens: int
    ids: Ints
    first: Ints

    def of(self, request: int) -> Ints:
        """Return the block numbers of a request's prompt."""
        return self.ids[self.first[request] : self.first[request + 1]]


@dataclass(frozen=True, eq=False)
class RequestTable:
    """Requests in the order in which they came.

    `arrival_ns`: nanoseconds since the first, never falling. `input_tokens`, `output_tokens`: of the prompt and of the
    answer, 1 to MAX_TOKENS; the prompt's own pass makes the first token of the answer. All int64 [requests], at least
    one request, read-only copies. `blocks` are the prompts' blocks where the trace tells them. `source`: a line that
    says where the requests come from. Raises ValueError naming the column, the request and the value.
    """

    source: str
    arrival_ns: Ints
    input_tokens: Ints
    output_tokens: Ints
    blocks: PromptBlocks | None = None

    def __post_init__(self) -> None:
        for name in ("arrival_ns", "input_tokens", "output_tokens"):
            column = np.array(getattr(self, name), dtype=np.int64)
            if column.shape != (len(self.arrival_ns),) or not column.size:
                raise ValueError(f"requests: {name} has shape {column.shape}; allowed: one axis, one entry a request")
            if name != "arrival_ns" and not ((column >= 1) & (column <= MAX_TOKENS)).all():
                request = int(np.flatnonzero((column < 1) | (column > MAX_TOKENS))[0])
                raise ValueError(f"requests: {name}[{request}] is {column[request]}; allowed: 1 to {MAX_TOKENS}")
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        falls = np.flatnonzero(np.diff(self.arrival_ns, prepend=0) < 0)
        if len(falls):
            raise ValueError(f"requests: arrival_ns[{falls[0]}] is {self.arrival_ns[falls[0]]}; times must not fall")
        if self.blocks is not None:
            self._check_blocks(self.blocks)

    def __len__(self) -> int:
        return len(self.arrival_ns)

    def _check_blocks(self, blocks: PromptBlocks) -> None:
        if blocks.block_tokens < 1:
            raise ValueError(f"requests: block_tokens is {blocks.block_tokens}; allowed: at least 1")
        needed = np.concatenate([[0], np.cumsum(-(-self.input_tokens // blocks.block_tokens))])
        if not np.array_equal(blocks.first, needed) or len(blocks.ids) != needed[-1]:
            raise ValueError(
                f"requests: {len(blocks.ids)} prompt blocks of {blocks.block_tokens} tokens in rows that end at "
                f"{blocks.first[-1:].tolist()}; allowed: every prompt in whole blocks, {needed[-1]} of them"
            )
