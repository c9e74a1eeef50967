"""What decode attention demands, in closed form: items are of a few kinds, by how many keys they have.

Stages, the order of pages, the layout in the scratchpad and the epilogue change none of it. Masks are left out, so that
an item with more keys never costs less, and of the scratchpad's accesses what queries, probabilities and sums take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import block
from hwmodel.bound_table import Counts, Demand
from hwmodel.machine import Machine
from hwmodel.program import DTYPES
from workloads.kernels import decode_attention as attention
from workloads.kernels.attention_parts import split
from workloads.kernels.attention_placement import Homes
from workloads.kernels.attention_problem import FP8, Types, types_of
from workloads.kernels.demands.columns import Array, Columns, Gathered, distinct, groups
from workloads.kernels.demands.fetch import Dma, tile_transfers
from workloads.kernels.demands.share import Share, share_of
from workloads.kernels.demands.tally import Tally, matmul_cycles
from workloads.schedule import beside

KNOBS = ("layout", "page_size", "tile", "split_tokens", "schedule", "products", "placement")


def demands(problem: attention.Problem, columns: Columns, machine: Machine) -> Gathered:
    """Return what points demand, by `columns` of KNOBS; nothing of those of which no schedule can be made."""
    found = Gathered(len(columns["tile"]), phases=2)
    common = ["split_tokens", "schedule", "placement"]
    common += ["products"] if problem.kv_dtype == FP8 else []
    common += ["page_size"] if problem.window else []  # the keys that are loaded are whole pages
    layouts, layout = np.unique(columns["layout"], return_inverse=True)
    for rows, values in groups(columns, common):
        try:
            items = _Items.of(problem, attention.Knobs(**values), machine)
        except ValueError:
            continue
        cases, which = distinct([layout.reshape(-1)[rows], columns["page_size"][rows], columns["tile"][rows]])
        transfers = [items.transfers(layouts.tolist(), cases, dim) for dim in items.dims]
        cases, again = distinct([*cases[1:], *transfers])
        found.put(rows, again[which], *items.demand(*(case[:, None] for case in cases)))
    return found


@dataclass(frozen=True)
class _Items:
    """The work items of a schedule. `kinds`: how many keys they have, ascending; `whole`: how many heads of sequences.

    Where arrays are not explained, they are int64[cases, kinds of items], or one of both is 1.
    """

    problem: attention.Problem
    knobs: attention.Knobs
    machine: Machine
    types: Types
    kinds: Array
    share: Share
    whole: int

    @staticmethod
    def of(problem: attention.Problem, knobs: attention.Knobs, machine: Machine) -> _Items:
        """Return the items under those of KNOBS that they depend on."""
        _, loaded = attention.loaded_keys(problem, knobs)
        sequence = np.repeat(np.arange(len(loaded)), problem.heads_kv)
        owner, _, skipped = split(loaded, knobs.split_tokens, sequence)
        tokens = loaded[sequence[owner]] - skipped
        tokens = np.minimum(tokens, knobs.split_tokens) if knobs.split_tokens else tokens
        cores, order = machine.spec.cores.count, None
        if knobs.schedule == "beside":
            order = beside(Homes(problem.heads_kv, cores).core(sequence[owner], owner % problem.heads_kv), cores)
        kinds, share = share_of(tokens, knobs.schedule, cores, order)
        return _Items(problem, knobs, machine, types_of(problem, knobs.products), kinds, share, len(sequence))

    @property
    def dims(self) -> tuple[int, int]:
        """The elements of a key and of a value."""
        return self.problem.head_dim, self.problem.dim_v

    @property
    def rows(self) -> int:
        """The rows of queries of an item."""
        return self.problem.q_len * self.problem.group

    @property
    def is_split(self) -> bool:
        return int(self.share.items.sum()) > self.whole

    def transfers(self, layouts: list[str], cases: list[Array], dim: int) -> Array:
        """Return the transfers of a whole tile of keys, or of values, of `dim` elements; int64[cases].

        `cases`: which of the layouts, page sizes and tiles.
        """
        sides, transfer, dtype = 2 if len(set(self.dims)) == 1 else 1, Dma(self.machine).transfer_bytes, self.types.kv
        found = []
        for layout, page_size, tile in zip(*(column.tolist() for column in cases), strict=True):
            aligned = self.knobs.placement == "interleaved" and self.knobs.split_tokens % min(tile, page_size) == 0
            axes = ("kv", sides), ("head", self.problem.heads_kv), ("token", page_size), ("dim", dim)
            least = -(-tile * dim * DTYPES[dtype].itemsize // transfer)
            found.append(tile_transfers(layouts[layout], axes, tile, dtype, transfer) if aligned else least)
        return np.array(found, np.int64)

    def demand(self, page_size: Array, tile: Array, k: Array, v: Array) -> tuple[tuple[Demand, ...], Counts]:
        """Return what cases demand; `k` and `v` are transfers of a whole tile."""
        tally = Tally(self.machine, self.share.items)
        phases = [self._attend(tally, page_size, tile, k, v)]
        if self.is_split:
            phases.append(self._combine(tally))
        return tuple(phases), tally.counts

    def _attend(self, tally: Tally, page_size: Array, tile: Array, k: Array, v: Array) -> Demand:
        share, dma, types = self.share, Dma(self.machine), self.types
        kinds = self.kinds
        full = kinds // tile
        rest = kinds - full * tile
        last = np.where(rest > 0, rest, tile)
        bursts, cycles, lines = self._loads(tally, page_size, tile, (full, rest), (k, v))
        products, vector = self._units(tally, tile, full, rest)
        finish, out_bytes = self._finish(tally), self._out_bytes(self.is_split)
        weigh = matmul_cycles(self.machine, (self.rows, self.dims[1], last), types.product)
        tally.store(out_bytes)
        moved = kinds * sum(self.dims) * DTYPES[types.kv].itemsize
        first = np.minimum(tile, kinds[0]) * self.dims[0] * DTYPES[types.kv].itemsize
        stores = dma.bursts(out_bytes)
        return Demand(
            load_cycles=share.busiest(cycles),
            store_cycles=share.busiest(dma.issue_cycles(stores)),
            matrix_cycles=share.busiest(products),
            vector_cycles=share.busiest(vector + finish),
            wavefronts=share.busiest(lines + dma.lines(out_bytes)),
            loaded_bytes=share.busiest(bursts) * dma.burst_bytes,
            stored_bytes=share.busiest(stores) * dma.burst_bytes,
            first_bytes=first[:, 0] + self._q_bytes,
            after_load_cycles=weigh.min(axis=-1) + finish,
            after_matrix_cycles=finish,
            last_store_bytes=out_bytes,
            total_loaded_bytes=tally.total(bursts) * dma.burst_bytes,
            total_stored_bytes=tally.total(stores) * dma.burst_bytes,
            read_bursts=dma.bursts(tally.total(moved)) if dma.reuses_loads else tally.total(bursts),
            written_bursts=dma.stored_bursts(tally.total(out_bytes), tally.total(stores)),
        )

    @property
    def _q_bytes(self) -> int:
        return self.rows * self.dims[0] * DTYPES[self.types.q].itemsize

    def _out_bytes(self, partial: bool) -> int:
        return self.rows * ((self.dims[1] + 1) * 4 if partial else self.dims[1] * DTYPES[self.types.out].itemsize)

    def _loads(
        self, tally: Tally, page_size: Array, tile: Array, tiles: tuple[Array, Array], transfers: tuple[Array, Array]
    ) -> tuple[Array, Array, Array]:
        """Return bursts, cycles of issue and accesses to the scratchpad of an item's loads.

        `tiles`: how many whole ones, and the keys of the rest; `transfers` of a whole one, of keys and of values.
        """
        dma, element, (full, rest) = Dma(self.machine), DTYPES[self.types.kv].itemsize, tiles
        q = dma.bursts(self._q_bytes)
        bursts, cycles, lines = q, dma.issue_cycles(q), dma.lines(self._q_bytes)
        tally.load(self._q_bytes)
        for dim, whole in zip(self.dims, transfers, strict=True):
            row_bytes = dim * element
            cut = dma.bursts(rest * row_bytes)
            for times, keys, moved in ((full, tile, whole * dma.per_transfer), (rest > 0, rest, cut)):
                bursts = bursts + times * moved
                pages = -(-keys // page_size)
                cycles = cycles + times * dma.issue_cycles(moved, pages, pages)
                lines = lines + times * (dma.lines(keys * row_bytes) + dma.operand_lines(keys * row_bytes))
            tally.load(self.kinds * row_bytes)
        return bursts, cycles, lines

    def _units(self, tally: Tally, tile: Array, full: Array, rest: Array) -> tuple[Any, Any]:
        """Return the cycles of an item's tiles in the matrix unit and in the vector unit."""
        problem, types, rows, (dim, dim_v) = self.problem, self.types, self.rows, self.dims
        scales = [block("scales", 1, 3, "fp32")] * types.scaled
        scores = block("scores", 1, 1, "fp32")
        state = [block(name, 1, width, "fp32") for name, width in (("maximum", 1), ("sum", 1), ("accumulator", dim_v))]
        probabilities = block("probabilities", 1, 1, types.product)
        widened = [block("widened", 1, 1, types.product), block("loaded", 1, 1, types.kv)]
        products, vector = 0, 0
        for times, keys in ((full, tile), ((rest > 0).astype(np.int64), rest)):
            products = products + tally.matmul(times, (rows, keys, dim), (types.product, "fp32"))
            products = products + tally.matmul(times, (rows, dim_v, keys), (types.product, "fp32"), adds=times)
            step = [probabilities, scores, *state, *([] if problem.soft_cap else scales)]
            vector = vector + tally.vector(times, "softmax_step", step, rows, keys, 0)
            if problem.soft_cap:
                vector = vector + tally.vector(times, "soft_cap", [scores, *scales], rows, keys, problem.soft_cap)
            for width in self.dims if types.widens else ():
                vector = vector + tally.vector(times, "convert", widened, keys, width)
        return products, vector

    def _finish(self, tally: Tally) -> Any:
        """Return the cycles of an item's last vector operation."""
        scales = [block("scales", 1, 3, "fp32")] * self.types.scaled
        state = [block(name, 1, 1, "fp32") for name in ("accumulator", "maximum", "sum")]
        if self.is_split:
            operands = [block("out", 1, 1, "fp32"), *state, *scales]
            return tally.vector(1, "partial", operands, self.rows, self.dims[1])
        operands = [block("out", 1, 1, self.types.out), state[0], state[2], *scales]
        return tally.vector(1, "normalise", operands, self.rows, self.dims[1])

    def _combine(self, tally: Tally) -> Demand:
        """Return the merging of parts: all of it, as if the cores shared it evenly and memory reused all."""
        dma, cores, parts = Dma(self.machine), self.machine.spec.cores.count, int(self.share.items.sum())
        loaded = parts * self._out_bytes(partial=True)
        stored = self.whole * self._out_bytes(partial=False)
        once = Tally(self.machine, np.ones(1, np.int64))
        operands = [block("out", 1, 1, self.types.out), block("partials", 1, 1, "fp32")]
        cycles = once.vector(1, "combine", operands, parts, self.rows, self.dims[1])
        once.load(loaded)
        once.store(stored)
        tally.add(once)
        return Demand(
            vector_cycles=-(-cycles // cores),
            loaded_bytes=-(-loaded // cores),
            stored_bytes=-(-stored // cores),
            last_store_bytes=1,
            total_loaded_bytes=loaded,
            total_stored_bytes=stored,
            read_bursts=dma.loaded_again_bursts(loaded, dma.bursts(loaded)),
            written_bursts=dma.stored_bursts(stored, dma.bursts(stored)),
        )
