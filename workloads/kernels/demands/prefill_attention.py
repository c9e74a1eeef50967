"""What prefill attention demands: items are of a few kinds, by how many keys and how many rows of queries they have.

Layouts, stages, pages and the epilogue change none of it.
"""

from __future__ import annotations

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import DTYPES
from workloads.kernels import prefill_attention as attention
from workloads.kernels.attention_problem import FP8, types_of
from workloads.kernels.demands.attend import Items, Stream
from workloads.kernels.demands.columns import Array, Columns, Gathered, distinct, groups
from workloads.kernels.demands.decode_attention import computed
from workloads.kernels.demands.fetch import Dma
from workloads.kernels.demands.share import share_of

ITEMS = ("tile_q", "packing", "pipeline", "order", "schedule", "split_tokens")  # what items depend on
KNOBS = (*ITEMS, "tile_kv", "products", "page_size")


def demands(problem: attention.Problem, columns: Columns, machine: Machine) -> Gathered:
    """Return what points demand, by `columns` of KNOBS; nothing of those of which no items can be made."""
    found, paged = Gathered(len(columns["tile_kv"]), phases=2), columns["page_size"] > 0
    common = [*ITEMS, *(["products"] if problem.kv_dtype == FP8 else []), *(["tile_kv"] if problem.window else [])]
    for rows, values in groups({**columns, "paged": paged}, [*common, "paged"]):
        is_paged = values.pop("paged")
        knobs = attention.Knobs(**values)
        try:
            items = _items(problem, knobs, machine, is_paged)
        except ValueError:
            continue
        (tile,), which = distinct([columns["tile_kv"][rows]])
        element = DTYPES[types_of(problem, knobs.products).kv].itemsize
        dims = (problem.head_dim, problem.dim_v)
        streams = [Stream.plain(dim * element, tile[:, None], Dma(machine)) for dim in dims]
        found.put(rows, which, *items.demand(tile[:, None], streams))
    return found


def _items(problem: attention.Problem, knobs: attention.Knobs, machine: Machine, is_paged: bool) -> Items:
    """Return the items under those of KNOBS that they depend on."""
    tasks = attention.in_order(attention.work_items(problem, knobs), knobs)
    columns = [tasks["tokens"], tasks["q_tokens"], *([tasks["q_more"]] if knobs.lanes == 2 else [])]
    (keys, *lanes), share = share_of(columns, attention.costs(tasks), knobs.schedule, machine.spec.cores.count)
    types, dims = types_of(problem, knobs.products), (problem.head_dim, problem.dim_v)
    may_be_cached = machine.spec.shared_cache is not None and not is_paged
    return Items(
        attention=computed(dims, types, problem.soft_cap),
        machine=machine,
        share=share,
        keys=keys,
        lanes=tuple(positions * attention.heads_of_tile(problem, knobs) for positions in lanes),
        whole_rows=sum(problem.lengths) * problem.heads_q,
        is_split="part" in tasks,
        distinct_bytes=0 if may_be_cached else _keys(problem, tasks) * sum(dims) * DTYPES[types.kv].itemsize,
    )


def _keys(problem: attention.Problem, tasks: dict[str, Array]) -> int:
    """Return how many keys of all heads are loaded, each counted once: from the first that a sequence loads on."""
    first = np.full(len(problem.contexts), np.iinfo(np.int64).max)
    np.minimum.at(first, tasks["sequence"], tasks["begin"])
    return int((np.array(problem.contexts, np.int64) - first).sum()) * problem.heads_kv
