"""What the decode attention of MLA demands: items are of a few kinds, by how many keys and how many rows they have.

Layouts, stages, blocks of queries and the order of pages change none of it.
"""

from __future__ import annotations

from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.program import DTYPES
from workloads.kernels import mla_decode
from workloads.kernels.demands.attend import Attention, Items, Stream, Widening
from workloads.kernels.demands.columns import Columns, Gathered, distinct, groups
from workloads.kernels.demands.fetch import Dma
from workloads.kernels.demands.share import share_of
from workloads.kernels.latent_cache import FORMATS, check_record

ITEMS = ("record", "head_tile", "split_tokens", "schedule", "strip")  # what items depend on
KNOBS = (*ITEMS, "tile", "page_size")


def demands(problem: mla_decode.Problem, columns: Columns, machine: Machine) -> Gathered:
    """Return what points demand, by `columns` of KNOBS; nothing of those with a record that cannot hold the keys."""
    found, dma = Gathered(len(columns["tile"]), phases=2), Dma(machine)
    for rows, values in groups(columns, ITEMS):
        knobs = mla_decode.Knobs(**values)
        try:
            check_record(knobs.record, problem.heads.dim, problem.heads.dtype)
        except ValueError:
            continue
        cases, which = distinct([columns["tile"][rows], columns["page_size"][rows]])
        tile, page_size = (case[:, None] for case in cases)
        streams = [Stream.plain(size_bytes, tile, dma, page_size) for size_bytes in _key_bytes(problem, knobs.record)]
        found.put(rows, which, *_items(problem, knobs, machine).demand(tile, streams))
    return found


def _key_bytes(problem: mla_decode.Problem, record: str) -> list[int]:
    """Return the bytes of a key in each tensor of the cache."""
    if record not in FORMATS:
        return [problem.heads.dim * DTYPES[problem.heads.dtype].itemsize]
    known = FORMATS[record]
    return [known.scaled, known.groups * DTYPES[known.scale_dtype].itemsize, known.tail * DTYPES["bf16"].itemsize]


def _items(problem: mla_decode.Problem, knobs: mla_decode.Knobs, machine: Machine) -> Items:
    """Return the items under those of KNOBS that they depend on."""
    heads, tasks = problem.heads, mla_decode.work_items(problem, knobs)
    tokens = tasks["tokens"]
    (keys, rows), share = share_of([tokens, tasks["rows"]], tokens, knobs.schedule, machine.spec.cores.count)
    sequences = len(problem.contexts)
    return Items(
        attention=Attention(
            (heads.dim, heads.value_dim), heads.dtype, heads.dtype, heads.dtype,
            one_stream=True, strips=knobs.strip > 0, widenings=_widenings(heads.dtype, knobs.record),
        ),
        machine=machine,
        share=share,
        keys=keys,
        lanes=(rows,),
        whole_rows=sequences * problem.rows,
        is_split=len(tokens) > sequences * -(-problem.rows // min(knobs.head_tile, problem.rows)),
        distinct_bytes=sum(problem.contexts) * sum(_key_bytes(problem, knobs.record)),
    )  # fmt: skip


def _widenings(dtype: str, record: str) -> tuple[Widening, ...]:
    """Return what makes keys of a record."""
    if record not in FORMATS:
        return ()
    known = FORMATS[record]
    fields = (("latent", dtype), ("nope", "fp8_e4m3"), ("scale", known.scale_dtype), ("rope", "bf16"))
    operands = [block(name, 1, 1, kind) for name, kind in fields]
    return (Widening("dequantise_record", operands, (known.scaled, known.groups, known.tail)),)
