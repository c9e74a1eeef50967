"""Serving a trace step by step: continuous batching with chunked prefill, and the page table after any step.

From a request table to mixed batches. In every step each decoding sequence computes one token, and what is left of the
token budget goes to prompts in the order of admission, in chunks (Agrawal et al. 2024, Sarathi-Serve,
arXiv:2403.02310). Requests are admitted in the order of arrival while there is a place and the pool has the pages that
they will have at their end; pages are taken as they are needed. The result depends on the table and the engine alone.
Not modelled: that an engine does not know how long an answer will be (so nothing is preempted here), priorities,
speculation, several replicas, transfer of KV between prefill and decode nodes. The time of a step is a line in its
tokens, not a simulation; it decides only how many requests are there at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layouts.notation import nearest_first
from workloads.allocator import ALLOCATORS
from workloads.batch import Batch
from workloads.paging import PageTable
from workloads.prefix import Prefixes
from workloads.prefix_cache import ROOT, PrefixCache
from workloads.traces import RequestTable

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Engine:
    """What a serving engine has and may do.

    `page_size`: tokens. `pool_pages`: pages of the KV pool. `token_budget`: tokens computed in a step at most, at
    least `max_sequences`, the sequences at most. `allocator`: a name in `allocator.ALLOCATORS`; "first-run" takes all
    pages at admission. `share_prefixes`: prompts that begin alike share pages. A step takes `step_ns`, and `token_ns`
    per token computed and `context_ns` per token of context read. Raises ValueError naming the field.
    """

    page_size: int
    pool_pages: int
    token_budget: int = 2048
    max_sequences: int = 256
    allocator: str = "oldest-first"
    share_prefixes: bool = False
    step_ns: int = 10_000_000  # assumed, as the two below: an 8B model on one accelerator with 3 TB/s and 1 PFLOP/s
    token_ns: int = 40_000
    context_ns: int = 50

    def __post_init__(self) -> None:
        for name in ("page_size", "pool_pages", "token_budget", "max_sequences", "step_ns"):
            if getattr(self, name) < 1:
                raise ValueError(f"engine: {name} is {getattr(self, name)}; allowed: an integer of at least 1")
        if self.max_sequences > self.token_budget:
            raise ValueError(
                f"engine: max_sequences is {self.max_sequences}; allowed: 1 to the token_budget, {self.token_budget}"
            )
        if self.allocator not in ALLOCATORS:
            known = nearest_first(self.allocator, ALLOCATORS)
            raise ValueError(f"engine: unknown allocator {self.allocator!r}; known: {known}")
        if self.share_prefixes and self.allocator == "first-run":
            raise ValueError("engine: share_prefixes with first-run; allowed: an allocator that takes page by page")


class Step(NamedTuple):
    """One pass through the model: per sequence its request, the tokens in the cache before, the tokens computed now.

    `is_prefill`: whether these are tokens of its prompt. The order is that of admission.
    """

    begin_ns: int
    requests: Ints
    contexts: Ints
    tokens: Ints
    is_prefill: NDArray[np.bool_]


@dataclass
class _Sequence:
    request: int
    prompt: int
    last: int  # tokens in the cache at its end: the last token of the answer is never read
    done: int = 0
    pages: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)  # blocks of its prompt that it owns in the tree, from the root
    joins: bool = True  # whether its next full block may join the tree

    def final_pages(self, page_size: int) -> int:
        return -(-self.last // page_size)


class Replay:
    """A trace being served; iterate over it for its steps. `snapshot` describes the step that came last."""

    def __init__(self, table: RequestTable, engine: Engine) -> None:
        self._table, self._engine = table, engine
        self._blocks = table.blocks if engine.share_prefixes else None
        if engine.share_prefixes and table.blocks is None:
            raise ValueError(f"{table.source}: does not tell the blocks of its prompts; share_prefixes needs them")
        if self._blocks is not None and self._blocks.block_tokens % engine.page_size:
            size, block = engine.page_size, self._blocks.block_tokens
            raise ValueError(f"engine: page_size is {size}; allowed: a divisor of the {block} tokens of a block")
        last = table.input_tokens + table.output_tokens - 1
        largest = int(last.argmax())
        if (pages := -(-int(last[largest]) // engine.page_size)) > engine.pool_pages:
            raise ValueError(f"engine: pool_pages is {engine.pool_pages}; request {largest} alone needs {pages}")
        self._free = ALLOCATORS[engine.allocator](engine.pool_pages)
        self._cache = PrefixCache(self._free)
        self._running: list[_Sequence] = []
        self._scheduled: list[tuple[_Sequence, int]] = []
        self._to_come = 0  # pages that running sequences will still take
        self._next = 0

    def __iter__(self) -> Iterator[Step]:
        now = 0
        arrival = self._table.arrival_ns
        while self._next < len(self._table) or self._running:
            if not self._running:
                now = max(now, int(arrival[self._next]))
            self._admit(now)
            self._scheduled = self._schedule()
            for sequence, tokens in self._scheduled:
                self._grow(sequence, -(-(sequence.done + tokens) // self._engine.page_size))
            step = self._step(now)
            yield step
            self._advance()
            reads = int((step.contexts + step.tokens).sum()) * self._engine.context_ns
            now += self._engine.step_ns + int(step.tokens.sum()) * self._engine.token_ns + reads

    def batch(self) -> Batch:
        """Return the last step as a batch: per sequence the tokens that it reads, with those of the step."""
        sequences = [sequence.request for sequence, _ in self._scheduled]
        contexts = tuple(sequence.done + tokens for sequence, tokens in self._scheduled)
        prefixes = None if self._table.blocks is None else Prefixes.of(self._table, sequences)
        return Batch(contexts, f"a step of {self._table.source} as it is served", prefixes)

    def snapshot(self) -> Snapshot:
        """Return the sequences of the last step with their pages, as attention sees them in that step."""
        batch = self.batch()
        sequences = [sequence for sequence, _ in self._scheduled]
        counts = [-(-context // self._engine.page_size) for context in batch.contexts]
        pages = np.array([p for s, n in zip(sequences, counts, strict=True) for p in s.pages[:n]], dtype=np.int32)
        first_page = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        several = np.bincount(pages)[pages] > 1
        shared = np.add.reduceat(several, first_page[:-1], dtype=np.int64)
        table = PageTable(self._engine.page_size, pages, first_page, self._engine.pool_pages, shared)
        return Snapshot(tuple(sequence.request for sequence in sequences), batch, table, self._free.count)

    def _admit(self, now: int) -> None:
        table, engine = self._table, self._engine
        while self._next < len(table) and table.arrival_ns[self._next] <= now:
            prompt = int(table.input_tokens[self._next])
            sequence = _Sequence(self._next, prompt, prompt + int(table.output_tokens[self._next]) - 1)
            needed = sequence.final_pages(engine.page_size)
            blocks: list[int] = []
            if self._blocks is not None:  # one token of the prompt at least is computed: the first answer needs it
                blocks = self._blocks.of(self._next)[: (prompt - 1) // self._blocks.block_tokens].tolist()
            path = self._cache.match(blocks)
            found = self._cache.pages(path)
            wanted = needed - len(found) + self._cache.unowned_pages(path)
            room = self._cache.available - self._to_come >= wanted
            if engine.allocator == "first-run":
                room = self._free.fits(needed)
            if len(self._running) == engine.max_sequences or not room:
                return
            self._cache.own(path)
            sequence.path, sequence.pages, sequence.done = path, found, len(found) * engine.page_size
            self._to_come += needed - len(found)
            if engine.allocator == "first-run":
                self._grow(sequence, needed)
            self._running.append(sequence)
            self._next += 1

    def _schedule(self) -> list[tuple[_Sequence, int]]:
        """Return which sequences compute how many tokens, in the order of admission."""
        budget = self._engine.token_budget - sum(s.done >= s.prompt for s in self._running)
        scheduled = []
        for sequence in self._running:
            tokens = 1
            if sequence.done < sequence.prompt:
                tokens = min(sequence.prompt - sequence.done, budget)
                budget -= tokens
            if tokens:
                scheduled.append((sequence, tokens))
        return scheduled

    def _grow(self, sequence: _Sequence, pages: int) -> None:
        more = pages - len(sequence.pages)
        if more > 0:
            sequence.pages += self._cache.take(more).tolist()
            self._to_come -= more

    def _step(self, now: int) -> Step:
        requests, contexts, tokens, prompts = (
            np.array(column, dtype=np.int64)
            for column in zip(*((s.request, s.done, n, s.prompt) for s, n in self._scheduled), strict=True)
        )
        return Step(now, requests, contexts, tokens, contexts < prompts)

    def _advance(self) -> None:
        ended = False
        for sequence, tokens in self._scheduled:
            was_prefill = sequence.done < sequence.prompt
            sequence.done += tokens
            if was_prefill and self._blocks is not None:
                self._join(sequence)
            if sequence.done == sequence.last:
                ended = True
                held = len(self._cache.pages(sequence.path))
                self._cache.give(np.array(sequence.pages[held:], dtype=np.int32))
                self._cache.disown(sequence.path)
        if ended:
            self._running = [sequence for sequence in self._running if sequence.done < sequence.last]

    def _join(self, sequence: _Sequence) -> None:
        """Put the prompt's full blocks that are computed now into the tree."""
        assert self._blocks is not None
        size = self._blocks.block_tokens
        per_block = size // self._engine.page_size
        blocks = self._blocks.of(sequence.request)
        for place in range(len(sequence.path), min(sequence.done, sequence.prompt) // size):
            if not sequence.joins:
                return
            pages = np.array(sequence.pages[place * per_block : (place + 1) * per_block], dtype=np.int32)
            parent = sequence.path[-1] if sequence.path else ROOT
            node = self._cache.insert(parent, int(blocks[place]), pages)
            if node is None:
                sequence.joins = False
            else:
                sequence.path.append(node)


class Snapshot(NamedTuple):
    """A step as attention sees it: its requests, and as a batch the tokens they read, those of the step among them.

    `table`: their pages. `free_pages`: pages of the pool that nobody holds.
    """

    requests: tuple[int, ...]
    batch: Batch
    table: PageTable
    free_pages: int
