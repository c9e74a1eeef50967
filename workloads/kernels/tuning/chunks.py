"""How linear attention by chunks is cut: tokens of a chunk, value channels of an item, stages, the best first.

`by_head` and `by_channel` rank schedules of `linear_prefill` and `kda_prefill` by an estimate of their time;
`candidates` are the knobs to try in that order. The busiest core takes its items after one another, chunk by chunk, and
each item repeats what of a chunk does not depend on its value channels. A chunk takes as long as the slowest of matrix
unit, vector unit, scratchpad, engine and memory, and of two rounds that it waits for: from the end of the chunk before
the last through the vector unit and the state to its own end, and from its block's being free until it is so again.

Where no cache is shared, tiles of fewer than WIDE value channels come last, unless there are fewer heads than cores:
items of one head want the same rows, from the same channels of main memory, which the estimate does not tell.

Not modelled: conflicts between banks but for the rows of values and states that products read down their columns,
and tensors that lie in the same channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product as product_of
from typing import Any, TypeAlias

import numpy as np

from hwmodel import matrix
from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.vector import OPERATIONS
from workloads.kernels import kda_prefill, linear_prefill
from workloads.kernels.base import shrinking
from workloads.kernels.linear_prefill import Problem
from workloads.kernels.tuning.channels import Channels
from workloads.kernels.tuning.choice import Choice, ranked
from workloads.kernels.tuning.products import requests
from workloads.kernels.tuning.roof import Roof

CHUNKS, VALUES, STAGES = (4, 8, 16, 32, 64, 128), (8, 16, 32, 64, 128, 256), (4, 3, 2)  # to choose from
WIDE = 128  # assumed: value channels of an item, whose rows then keep channels of memory busy without a shared cache


@dataclass(frozen=True)
class Ahead:
    """Times of what is done for a chunk before it meets the state: products of its tokens, what else precedes `solved`.

    In femtoseconds, as all times here.
    """

    products: float
    faded: float
    solved: float

    @property
    def total(self) -> float:
        return max(self.products, self.faded) + self.solved


class Core:
    """What instructions take on a core: their unit's time or the scratchpad's, which `sram` adds up."""

    def __init__(self, roof: Roof) -> None:
        self._roof, self._cores = roof, roof.machine.spec.cores
        self._widths = {"2": 2, "4": 4, "p": 0 if self._cores.matrix.accumulators == "own" else 4}
        self.sram = 0.0

    def moved(self, size_bytes: float) -> float:
        """Return the time that bytes take of the scratchpad."""
        took = size_bytes * self._roof.sram_fs
        self.sram += took
        return took

    def multiply(self, m: int, n: int, k: int, dtype: str = "fp32", *, times: int = 1, swizzled: bool = False) -> float:
        """Return the time of products, added to another; of operands, the second lies row by row, or `swizzled`."""
        machine, unit = self._roof.machine, self._cores.matrix
        b = block("b", k, n, dtype, 1)
        read = b.size_bytes
        if not swizzled:
            read = matrix.reads(unit, machine.scratchpad, b, 0, n, k, unit.n).wavefronts * machine.sram_line_bytes
        took = self.moved(times * (m * k * b.element_bytes + read + 2 * m * n * self._widths["p"]))
        return max(took, times * matrix.cycles(unit, m, n, k, dtype) * self._roof.cycle_fs)

    def operate(self, name: str, operands: str, *sizes: int) -> float:
        """Return the time of a vector operation; `operands`: bytes of an element each, p of a matmul's result."""
        operation = OPERATIONS[name]
        touches = operation.touches((), *sizes)
        took = self.moved(
            sum(t.rows * t.columns * (t.reads + t.writes) * self._widths[operands[t.operand]] for t in touches)
        )
        return max(took, operation.work((), *sizes).cycles(self._cores.vector) * self._roof.cycle_fs)


Prepare: TypeAlias = Callable[[Core, Problem, int, int], Ahead]


def _prepare_by_head(core: Core, p: Problem, tokens: int, values: int) -> Ahead:
    return Ahead(
        core.multiply(tokens, tokens, p.key_dim, p.dtype, times=2, swizzled=True),
        core.operate("fade_chunk", "444p2224", tokens, p.key_dim, values),
        core.operate("solve_chunk", "44pp44", tokens),
    )


def _prepare_by_channel(core: Core, p: Problem, tokens: int, values: int) -> Ahead:
    keys, width = p.key_dim, min(kda_prefill.Knobs.block, tokens)
    later = range(width, tokens, width)  # blocks, by their first tokens, that have others before them
    faded = core.operate("sum_decays", "4", tokens, keys)
    faded += core.operate("fade_channels", "444p2224", tokens, keys, values)
    faded += sum(core.operate("fade_block", "444224", tokens, first, width, keys) for first in later)
    faded += sum(core.operate("pair_block", "44pp224", tokens, first, width, keys) for first in (0, *later))
    products = sum(core.multiply(width, first, keys, times=2, swizzled=True) for first in later)
    return Ahead(products, faded, core.operate("solve_faded_chunk", "44444", tokens))


@dataclass(frozen=True)
class _Kind:
    """What tells the kernels apart: knobs, what precedes the state and what fades it, decays of a token."""

    knobs: type[Any]
    prepare: Prepare
    fade_state: str
    decays: Callable[[Problem], int]


BY_HEAD = _Kind(linear_prefill.Knobs, _prepare_by_head, "fade_state", lambda p: 1)
BY_CHANNEL = _Kind(kda_prefill.Knobs, _prepare_by_channel, "fade_state_channels", lambda p: p.key_dim)


def by_head(p: Problem, machine: Machine) -> tuple[Choice, ...]:
    """Return schedules of `linear_prefill`."""
    return _ranked(BY_HEAD, p, machine)


def by_channel(p: Problem, machine: Machine) -> tuple[Choice, ...]:
    """Return schedules of `kda_prefill`."""
    return _ranked(BY_CHANNEL, p, machine)


def candidates(ranking: Callable[..., tuple[Choice, ...]], problem: Problem, machine: Machine) -> Iterator[Any]:
    """Yield knobs to try, the most promising first; behind them smaller and smaller ones."""
    choices = [choice.knobs for choice in ranking(problem, machine)]
    yield from choices
    yield from shrinking(min(choices, key=lambda knobs: (knobs.chunk, knobs.tile_v, knobs.stages)))


def _ranked(kind: _Kind, p: Problem, machine: Machine) -> tuple[Choice, ...]:
    roof = Roof(machine)
    chunks = [chunk for chunk in CHUNKS if chunk < 2 * max(p.tokens) or chunk == CHUNKS[0]]
    values = [tile for tile in VALUES if tile < 2 * p.value_dim or tile == VALUES[0]]
    cuts = product_of(chunks, values, STAGES)
    found = ranked(
        Choice(kind.knobs(chunk=chunk, tile_v=tile, stages=stages), _phase_fs(kind, p, roof, (chunk, tile, stages)))
        for chunk, tile, stages in cuts
    )
    if roof.has_cache or len(p.tokens) * p.heads < roof.cores:
        return found
    least = min(WIDE, values[-1])
    return tuple(sorted(found, key=lambda choice: choice.knobs.tile_v < least))


def _phase_fs(kind: _Kind, p: Problem, roof: Roof, cut: tuple[int, int, int]) -> float:
    """Return the estimate of a phase; `cut`: tokens of a chunk, value channels of an item, stages."""
    tokens, values = min(cut[0], max(p.tokens)), min(cut[1], p.value_dim)
    active = min(roof.cores, len(p.tokens) * p.heads * -(-p.value_dim // values))
    whole, rest = np.divmod(np.array(p.tokens), tokens)
    sizes = sorted({tokens, *rest.tolist()} - {0})
    chunk_fs, begin_fs = zip(*(_chunk_fs(kind, p, roof, (size, values, cut[2]), active) for size in sizes), strict=True)
    of_rest = np.interp(rest, [0, *sizes], [0.0, *chunk_fs])
    state_bytes = 2 * 4 * p.key_dim * values  # that come and go
    ends = begin_fs[-1] + state_bytes * max(roof.port_fs, roof.memory_fs * active)
    items = np.repeat(whole * chunk_fs[-1] + of_rest + ends, p.heads * -(-p.value_dim // values))
    return float(roof.launch_fs + np.bincount(np.arange(len(items)) % roof.cores, items).max())


def _chunk_fs(kind: _Kind, p: Problem, roof: Roof, cut: tuple[int, int, int], active: int) -> tuple[float, float]:
    """Return the time of a chunk where so many cores have some, and that until the first of an item meets its state."""
    tokens, values, stages = cut
    core = Core(roof)
    ahead = kind.prepare(core, p, tokens, values)
    fading = core.operate(kind.fade_state, "p4", tokens, p.key_dim, values)
    converting = core.operate("convert", "2p", tokens, values)
    reading = core.multiply(tokens, values, p.key_dim, times=2)
    solving = core.multiply(tokens, values, tokens, times=2)
    ending = core.multiply(p.key_dim, values, tokens)
    engine, come = _loads_fs(kind, p, roof, (tokens, values), active)
    core.moved(_loaded_bytes(kind, p, tokens, values) + 2 * tokens * values)
    loading = roof.load_fs + come
    return max(
        ahead.products + reading + max(solving, fading) + ending,
        ahead.faded + ahead.solved + fading + converting,
        core.sram,
        engine,
        come,
        ahead.total + fading + ending,
        (loading + ahead.total + fading) / (stages - 1),
    ), loading + ahead.total


def _loaded_bytes(kind: _Kind, p: Problem, tokens: int, values: int) -> int:
    """Return the bytes of a chunk: queries, keys, values, decays and strengths."""
    return tokens * (2 * 2 * p.key_dim + 2 * values + 4 * kind.decays(p) + 4)


def _loads_fs(kind: _Kind, p: Problem, roof: Roof, tile: tuple[int, int], active: int) -> tuple[float, float]:
    """Return the times that a chunk takes of an engine that loads, and of port, cache and main memory.

    Rows of tokens may lie in a few of memory's channels, those of queries, keys and values in others each. A shared
    cache has what another item of the head has loaded: these follow each other.
    """
    (tokens, values), dma, loaded = tile, roof.dma, _loaded_bytes(kind, p, *tile)
    rows = 2 * requests(tokens, 2 * p.key_dim, dma) + requests(tokens, 2 * values, dma)
    asked = rows + 1 + -(-4 * tokens * kind.decays(p) // dma.request_bytes)
    engine = (5 * dma.issue_cycles + asked * dma.request_cycles) * roof.cycle_fs
    shared = -(-p.value_dim // values) if roof.has_cache else 1
    moved: float = active * (loaded + 2 * tokens * values)
    for heads, dim, width in ((p.key_heads, p.key_dim, 2 * p.key_dim), (p.heads, p.value_dim, 2 * values)):
        share = Channels(roof.machine, tokens, 2 * heads * dim).share(tokens, width)
        moved += 2 * tokens * width * (1 / min(1.0, 3 * share) - 1)
    memory = roof.memory_fs / shared * moved
    return engine, max(loaded * max(roof.port_fs, roof.shared_fs * active), memory)
