"""What decode attention demands: items are of a few kinds, by how many keys they have.

Stages, the order of pages, the layout in the scratchpad and the epilogue change none of it.
"""

from __future__ import annotations

import numpy as np

from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.program import DTYPES
from workloads.kernels import decode_attention as attention
from workloads.kernels.attention_parts import split
from workloads.kernels.attention_placement import Homes
from workloads.kernels.attention_problem import FP8, Types, types_of
from workloads.kernels.demands.attend import Attention, Items, Stream, Widening
from workloads.kernels.demands.columns import Array, Columns, Gathered, distinct, groups
from workloads.kernels.demands.fetch import Dma, tile_transfers
from workloads.kernels.demands.share import share_of
from workloads.schedule import beside

KNOBS = ("layout", "page_size", "tile", "split_tokens", "schedule", "products", "placement")


def demands(problem: attention.Problem, columns: Columns, machine: Machine) -> Gathered:
    """Return what points demand, by `columns` of KNOBS; nothing of those of which no schedule can be made."""
    found = Gathered(len(columns["tile"]), phases=2)
    common = ["split_tokens", "schedule", "placement"]
    common += ["products"] if problem.kv_dtype == FP8 else []
    layouts, layout = np.unique(columns["layout"], return_inverse=True)
    dma, dims = Dma(machine), (problem.head_dim, problem.dim_v)
    for rows, values in groups(columns, common):
        knobs = attention.Knobs(**values)
        try:
            items = _items(problem, knobs, machine)
        except ValueError:
            continue
        cases, which = distinct([layout.reshape(-1)[rows], columns["page_size"][rows], columns["tile"][rows]])
        transfers = [_transfers(problem, knobs, machine, layouts.tolist(), cases, dim) for dim in dims]
        (page_size, tile, *moved), again = distinct([*cases[1:], *transfers])
        element = DTYPES[types_of(problem, knobs.products).kv].itemsize
        streams = [
            Stream(dim * element, count[:, None] * dma.per_transfer, page_size[:, None])
            for dim, count in zip(dims, moved, strict=True)
        ]
        found.put(rows, again[which], *items.demand(tile[:, None], streams))
    return found


def computed(dims: tuple[int, int], types: Types, soft_cap: int) -> Attention:
    """Return what an item of softmax attention over keys and values of these types computes."""
    operands = [block("widened", 1, 1, types.product), block("loaded", 1, 1, types.kv)]
    widenings = tuple(Widening("convert", operands, (dim,)) for dim in dims) if types.widens else ()
    return Attention(dims, types.q, types.product, types.out, types.scaled, soft_cap, widenings=widenings)


def _items(problem: attention.Problem, knobs: attention.Knobs, machine: Machine) -> Items:
    """Return the items under those of KNOBS that they depend on."""
    _, loaded = attention.loaded_keys(problem)
    sequence = np.repeat(np.arange(len(loaded)), problem.heads_kv)
    owner, _, skipped = split(loaded, knobs.split_tokens, sequence)
    tokens = loaded[sequence[owner]] - skipped
    tokens = np.minimum(tokens, knobs.split_tokens) if knobs.split_tokens else tokens
    cores, order = machine.spec.cores.count, None
    if knobs.schedule == "beside":
        order = beside(Homes(problem.heads_kv, cores).core(sequence[owner], owner % problem.heads_kv), cores)
    (keys,), share = share_of([tokens], tokens, knobs.schedule, cores, order)
    types, dims, rows = (
        types_of(problem, knobs.products),
        (problem.head_dim, problem.dim_v),
        problem.q_len * problem.group,
    )
    return Items(
        attention=computed(dims, types, problem.soft_cap),
        machine=machine,
        share=share,
        keys=keys,
        lanes=(np.full(len(keys), rows),),
        whole_rows=rows * len(sequence),
        is_split=len(owner) > len(sequence),
        distinct_bytes=int(tokens.sum()) * sum(dims) * DTYPES[types.kv].itemsize,
    )


def _transfers(
    problem: attention.Problem,
    knobs: attention.Knobs,
    machine: Machine,
    layouts: list[str],
    cases: list[Array],
    dim: int,
) -> Array:
    """Return the transfers of a whole tile of keys, or of values, of `dim` elements; int64[cases].

    `cases`: which of the layouts, page sizes and tiles.
    """
    dtype, transfer = types_of(problem, knobs.products).kv, Dma(machine).transfer_bytes
    sides = 2 if problem.head_dim == problem.dim_v else 1
    first, _ = attention.loaded_keys(problem)
    found = []
    for layout, page_size, tile in zip(*(column.tolist() for column in cases), strict=True):
        starts = np.append(first, knobs.split_tokens)
        aligned = knobs.placement == "interleaved" and not (starts % min(tile, page_size)).any()
        axes = ("kv", sides), ("head", problem.heads_kv), ("token", page_size), ("dim", dim)
        least = -(-tile * dim * DTYPES[dtype].itemsize // transfer)
        found.append(tile_transfers(layouts[layout], axes, tile, dtype, transfer) if aligned else least)
    return np.array(found, np.int64)
