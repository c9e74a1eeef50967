"""Random machines, kernels and streams, and how results differ: what laws about programs and engines are held on."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from hwmodel.result import Result
from hwmodel.spec import load_machine
from layouts import named
from workloads.buffers import allocate
from workloads.kernels import decode_attention, gemm
from workloads.schedule import SCHEDULES, schedule

CORES = st.sampled_from([1, 2, 3, 5, 7])


def differences(one: Result, other: Result) -> list[str]:
    """Return the names of all fields in which two results differ, those of the DRAM statistics among them."""
    found = [f.name for f in fields(Result) if f.name != "dram" and getattr(one, f.name) != getattr(other, f.name)]
    pairs = [(f.name, getattr(one.dram, f.name), getattr(other.dram, f.name)) for f in fields(one.dram)]
    return found + [name for name, a, b in pairs if not np.array_equal(a, b)]


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """A shipped machine with few cores and other sizes."""
    name = draw(
        st.sampled_from(["npu-hbm3", "npu-sram", "npu-sram-local", "h100-sxm", "b200-sxm", "mi300x", "tpu-v5e"])
    )
    spec = load_machine(name)
    changes: dict[str, Any] = {
        "cores.count": draw(CORES),
        "cores.dma.max_outstanding": draw(st.sampled_from([1, 2, 5, 48])),
        "cores.dma.request_bytes": draw(st.sampled_from(["256 B", "512 B", "8 KiB"])),
        "cores.dma.max_runs": draw(st.sampled_from([1, 3, 64])),
        "cores.dma.request_cycles": draw(st.integers(1, 70)),
        "cores.dma.min_transfer": draw(st.sampled_from(["32 B", "64 B", "256 B"])),  # a burst, or more
        "cores.dma.gather": draw(st.booleans()),
        "cores.dma.dimensions": draw(st.integers(1, 5)),
        "cores.matrix.accumulators": draw(st.sampled_from(["own", "scratchpad"])),
        "noc.port_bytes_per_cycle": draw(st.sampled_from([16, 64, 257])),
        "noc.latency": draw(st.sampled_from(["40 ns", "1 ps", "333 ns"])),
        "noc.multicast_window": None,  # which the engine leaves to the reference
        "launch.latency": draw(st.sampled_from(["1 us", "0 s"])),
    }
    if name == "npu-sram-local":  # a slice per core
        cores = changes["cores.count"]
        changes |= {"distributed_sram.slices": cores, "distributed_sram.capacity": f"{8 * cores} MiB"}
        changes["distributed_sram.interleave"] = draw(st.sampled_from(["256 B", "4 KiB"]))
    if draw(st.booleans()):
        changes["noc.bisection"] = draw(st.sampled_from(["1 TB/s", "77 GB/s"]))
    if spec.tlb is not None:
        changes |= {"tlb.entries": draw(st.integers(1, 3)), "tlb.page": draw(st.sampled_from(["4 KiB", "2 MiB"]))}
    if spec.shared_cache is not None and draw(st.booleans()):
        cache = spec.shared_cache
        ways = draw(st.sampled_from([1, 4]))
        changes |= {
            "shared_cache.capacity": f"{cache.slices * cache.ways * cache.line * ways * (cache.partitions or 1)} B",
            "shared_cache.outstanding_misses": draw(st.sampled_from([40, 300])),
        }
    return Machine(spec.with_overrides(changes))


@st.composite
def kernels(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """A template, a problem and knobs."""
    kind = draw(st.sampled_from(SCHEDULES))
    if draw(st.booleans()):
        problem = gemm.Problem(draw(st.integers(1, 90)), draw(st.integers(1, 90)), draw(st.integers(1, 200)), "bf16")
        knobs = gemm.Knobs(
            tile_m=draw(st.sampled_from([16, 33, 64])),
            tile_n=draw(st.sampled_from([16, 40])),
            tile_k=draw(st.sampled_from([16, 50])),
            stages=draw(st.integers(1, 4)),
            split_k=draw(st.integers(1, 3)),
            schedule=kind,
        )
        return gemm, problem, knobs
    contexts = tuple(draw(st.lists(st.integers(1, 150), min_size=1, max_size=4)))
    attention = decode_attention.Problem(4, draw(st.sampled_from([1, 2])), 32, "bf16", contexts)
    chosen = decode_attention.Knobs(
        layout=draw(st.sampled_from(["page kv token head dim", "page kv head dim token"])),
        page_size=draw(st.sampled_from([1, 7, 16])),
        tile=draw(st.sampled_from([5, 16, 64])),
        stages=draw(st.integers(1, 4)),
        split_tokens=draw(st.sampled_from([0, 33])),
        schedule=kind,
    )
    return decode_attention, attention, chosen


@st.composite
def streams(draw: st.DrawFn) -> Any:
    """A maker of programs that load, convert and store rows, by ranges or an index: ragged, empty, several phases."""
    rows, width = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    tile, slots = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    counts = draw(st.lists(st.integers(0, rows), min_size=1, max_size=8))
    starts = [draw(st.integers(0, rows - count)) for count in counts]
    gathers, phases = draw(st.booleans()), draw(st.integers(1, 3))
    kind, order = draw(st.sampled_from(SCHEDULES)), draw(st.permutations(range(rows)))
    spelt = draw(
        st.sampled_from(["row column", "column row", "row//3 column row%3"]) if rows % 3 == 0 else st.just("row column")
    )
    return lambda machine: _stream(
        machine, (rows, width, spelt), (tile, slots, gathers), (starts, counts), kind, phases, order
    )


def _stream(machine: Machine, shape: Any, way: Any, items: Any, kind: str, phases: int, order: list[int]) -> Program:
    (rows, width, spelt), (tile, slots, gathers), (starts, counts) = shape, way, items
    layout = named(spelt, {"row": rows, "column": width})
    size = -(-layout.cosize * 2 // 256) * 256
    index = Tensor(
        "index", named("entry", {"entry": rows}), "int32", 2 * size, machine.memory, np.array(order, np.int32)
    )
    tensors = (
        Tensor("from", layout, "bf16", 0, machine.memory),
        Tensor("to", layout, "bf16", size, machine.memory),
        index,
    )
    p = PhaseAssembler("copy", tensors, ("start", "count", "trips"))
    source, target = p.add_buffers(
        allocate((block("source", tile, width, "bf16", slots), block("target", tile, width, "bf16", slots)), machine)
    )
    loaded, free = p.counter("loaded", "memory"), p.counter("source free", "buffer")
    ready, out_free = p.counter("ready", "dependency"), p.counter("target free", "buffer")
    start, count, trips = (p.column(name) for name in ("start", "count", "trips"))
    gather = {"page_table": 2, "page_axis": "row", "position_axis": "row"} if gathers else {}

    def piece(i: Any) -> tuple[Affine, Affine]:
        return start + i.index * tile, (count - i.index * tile).clip(tile)

    with p.loop("load", trips) as i:
        region = Region(0, {"row": piece(i), "column": (0, width)}, **gather)
        p.load(Slot(source, i.running), region, wait=[(free, i.running - slots + 1)], signal=[loaded])
    with p.loop("vector", trips) as i:
        waits = [(loaded, i.running + 1), (out_free, i.running - slots + 1)]
        operands = (Slot(target, i.running), Slot(source, i.running))
        p.vector("convert", operands, (piece(i)[1], width), wait=waits, signal=[ready, free])
    with p.loop("store", trips) as i:
        region = Region(1, {"row": piece(i), "column": (0, width)})
        p.store(Slot(target, i.running), region, wait=[(ready, i.running + 1)], signal=[out_free])
    table = np.array([(a, n, -(-n // tile)) for a, n in zip(starts, counts, strict=True)], np.int64)
    dealt = schedule(kind, table[:, 2] + 1, machine.spec.cores.count)
    return Program("copy", tensors, (p.finish(table, dealt),) * phases)
