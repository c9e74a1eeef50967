"""Does the memory side give the plateaus that microbenchmarks measure?

Run as `python studies/memory_plateaus.py`. Beside the published measurements of RRZE-HPC's gpu-benches it prints what
the machines in `hwmodel/machines` give:

* bandwidth against footprint: every core streams through the memory side (network, cache, HBM) as the benchmark does:
  two blocks at a time, each reading 32 pieces of 16 KiB that lie as far apart as all blocks' pieces side by side;
* the plateau of HBM alone: the same requests, straight into the DRAM channels, with either way of refreshing;
* the rate at which BabelStream's Dot reads two arrays, and the fastest measured kernels, which it must exceed, and that
  of its Copy, whose writes find a cache full of those of the Copy before;
* the rate of tiles of a weight matrix, 128 bytes of each of 128 rows, against the pitch of the rows, beside that of
  pieces of 128 bytes that lie at random: no pitch of whole pieces may be much slower (`--pitches`, a minute for all
  machines); rows of 2880 bytes, where every other piece lies in two, reach 0.79 of it and more;
* latency against footprint: one core chases a pointer round the range, one burst at a time;
* bytes per cycle of L1 loads against the stride between lanes and the shape of a block: banks and tags.

The bandwidth of the L2 and the latencies of an L2 hit and of an unloaded HBM access stand in the machine descriptions
and were taken from the same measurements, so these rows check that nothing else limits. How an A100 refreshes was
taken from its Dot, how many writes wait, one number, from the three Copies, and which tags share a bank from an A40;
the other rows are predictions.

The file that gpu-benches calls `h200` is taken for a GH200 of 96 GB, an H100's die with six stacks of HBM3. Later files
and plots of its authors have a "GH200 480GB" where the earlier ones have an H200 (`device_order.py`, `gpu-stream`), and
even pure writes saturate at 3.90 TB/s there (`gpu-stream/h200.txt`; 3.94 in `gh200.txt`), while H200s read 4.5 TB/s.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from hwmodel.engine import phase_times
from hwmodel.l1 import Loads, loads
from hwmodel.machine import Machine
from hwmodel.main_memory import submit
from hwmodel.memory_side import Clock, MemorySide
from hwmodel.noc import Server
from hwmodel.reference import make_dram
from hwmodel.spec import load_machine
from layouts import Layout
from workloads.kernels import elementwise

DATA = Path(os.environ.get("ROWHIT_DATA") or Path(__file__).parents[1] / "../shared/data") / "kernels/layout_effects"
BURST_BYTES = 32  # of every machine here
STREAM_BYTES = 64 << 20  # assumed: long enough for a plateau of the L2
HBM_STREAM_BYTES = 256 << 20  # assumed: the bandwidth of HBM no longer changes by 1 % when this is doubled
PIECE_BYTES, PIECES = 16 << 10, 32  # of a block: two reads of 1024 doubles each, 32 times (gpu-benches, gpu-l2-cache)
DOT_ARRAY_BYTES, DOT_BLOCK_BYTES, DOT_BLOCKS = 1 << 28, 8 << 10, 4  # BabelStream: two of 2^25 doubles, blocks per core
READING = ("gemm", "decode_attention", "mla_decode")  # kernels whose bytes in the measurements are those they must read
KERNEL_BYTES = 4e9  # of kernels that count as bounds from below: far more than a cache keeps from one call to the next
GATHER_BYTES = 16 << 20  # assumed: twice as much changes the rate of a gather by less than 1 %
TILE_ROWS, TILE_BYTES = 128, 128  # of a matrix unit's operand: rows, and bytes of each, in one stage
PITCHES = (  # bytes: hidden and intermediate sizes of published models in 8 and 16 bits, and powers of two
    1024, 1408, 2048, 2816, 2880, 3072, 4096, 5120, 5632, 5760, 6144, 7168, 8192, 10240, 12288, 14336, 16384, 18432,
    24576, 25600, 28672, 32768, 36864, 51200, 53248, 57344, 65536, 106496,
)  # fmt: skip
SHIFTS = (0, 4, 8, 12, 20, 16, 24, 28)  # elements by which the loads of a loop of gpu-strides differ
CHASED = 512  # assumed: loads of which a latency is the mean
PLATEAU_TOLERANCE, SRAM_TOLERANCE = 0.07, 0.10


@dataclass(frozen=True)
class Device:
    """A measured device: the machine that describes it, and footprints in kB on its plateaus and between them."""

    machine: str
    name: str  # in the measurements
    footprints_kb: tuple[int, ...]


BANDWIDTHS = (
    Device("a100-sxm", "a100_80", (4_096, 18_432, 25_600, 33_792, 40_448, 52_736, 100_352, 281_600, 1_170_432)),
    Device("gh200", "h200", (9_216, 18_432, 30_720, 40_448, 52_736, 69_632, 120_832, 1_170_432)),
    Device("h100-pcie", "h100_pcie", (1_170_432,)),
)
LATENCIES = (
    Device("a100-sxm", "a100_80", (5_630, 13_789, 25_047, 33_757, 52_815, 82_630, 265_865)),
    Device("gh200", "gh200", (6_886, 16_856, 30_616, 41_260, 64_550, 100_988, 307_886)),
    Device("a40", "a40", (2_086, 4_401, 26_372, 100_988, 523_299, 1_511_715)),
    Device("l40", "l40", (16_856, 47_898, 86_992, 181_146, 889_426, 1_511_715)),
)
DOTS = (  # machine, device of the measured kernels, GB/s of Dot (Azure/AI-benchmarking-guide, ND A100 v4 to H200 v5)
    ("a100-sxm", "a100_sxm", (1750.0,)),
    ("h100-sxm", "h100_sxm", (3180.0,)),
    ("h200-sxm", "h200_sxm", (4480.0, 4570.0)),
)
COPIES = (("a100-sxm", 1610.0), ("h100-sxm", 2900.0), ("h200-sxm", 4010.0))  # machine, GB/s of Copy, from there as well
Requests = Callable[[Machine, int], Iterator[Any]]  # of a core: arrays of burst addresses


@dataclass(frozen=True)
class Load:
    """One request of a core."""

    engine: Core
    size_bytes: int


class Core:
    """The loads of one core; whenever one is complete, the next is sent."""

    def __init__(
        self, machine: Machine, memory: MemorySide, env: Clock, requests: Iterator[Any], done: list[tuple[int, int]]
    ) -> None:
        self._port, self._port_fs = Server(), machine.port_fs
        self._memory, self._env, self._requests, self._done = memory, env, requests, done

    def send(self) -> None:
        """Send the next request, if there is one: an array of burst addresses."""
        bursts = next(self._requests, None)
        if bursts is not None:
            self._memory.submit(Load(self, len(bursts) * BURST_BYTES), bursts, 0, len(bursts), False)

    def receive(self, load: Load, now_fs: int) -> None:
        """The data of a load reaches the port."""
        done_fs = self._port.serve(now_fs, self._port_fs(load.size_bytes))
        self._memory.at(done_fs - self._env.now, self.complete, load)

    def complete(self, event: Any) -> None:
        """Note when and how many bytes came, and send the next request."""
        self._done.append((self._env.now, event.value.size_bytes))
        self.send()


def memory_side(machine: Machine, held_bytes: int) -> tuple[MemorySide, Clock]:
    """Return a memory side whose cache has read the first bytes of the address space in order."""
    env = Clock()
    memory = MemorySide(env, machine, make_dram(machine))
    memory.hold([(0, held_bytes)])
    return memory, env


def block_requests(machine: Machine, core: int, footprint_bytes: int) -> Iterator[Any]:
    """Yield the burst addresses of every request of a core: two blocks run on it at a time, block after block.

    The benchmark runs so many blocks that cores are at different pieces of theirs; here they start at random ones.
    """
    begin = np.random.default_rng(core).integers(PIECES)
    cores, size = machine.spec.cores.count, min(machine.spec.cores.dma.request_bytes, PIECE_BYTES)
    blocks = max(1, footprint_bytes // (PIECES * PIECE_BYTES))
    offsets = np.arange(0, size, BURST_BYTES)
    for turn in count():
        here = [(2 * (turn * cores + core) + slot) % blocks for slot in (0, 1)]
        for piece in range(begin if turn == 0 else 0, PIECES):
            for block in here:
                first = (piece * blocks + block) * PIECE_BYTES
                yield from (first + part + offsets for part in range(0, PIECE_BYTES, size))


def dot_requests(machine: Machine, core: int) -> Iterator[Any]:
    """Yield the burst addresses of every request of a core: two blocks stride through two arrays by the whole grid."""
    cores, array, block = machine.spec.cores.count, DOT_ARRAY_BYTES, DOT_BLOCK_BYTES
    offsets = np.arange(0, min(machine.spec.cores.dma.request_bytes, block), BURST_BYTES)
    for turn in count():
        for slot in (0, 1):
            first = ((turn * DOT_BLOCKS + slot) * cores + core) * block % array
            for part in range(0, block, len(offsets) * BURST_BYTES):
                yield from (start + first + part + offsets for start in (0, array))


def tile_requests(machine: Machine, core: int, pitch: int) -> Iterator[Any]:
    """Yield the burst addresses of every request of a core: tiles along the rows of a matrix, core after core its own.

    `pitch`: bytes from one row to the next. A request takes as many rows of a tile as the copy engine lets it.
    """
    cores, size = machine.spec.cores.count, machine.spec.cores.dma.request_bytes
    lines = np.arange(max(1, min(TILE_ROWS, size // TILE_BYTES)))
    for turn in count():
        first = (turn * cores + core) * TILE_ROWS * pitch
        for column in range(0, pitch - TILE_BYTES + 1, TILE_BYTES):
            for line in range(0, TILE_ROWS, len(lines)):
                yield _pieces(machine, first + column + (line + lines) * pitch)


def gather_requests(machine: Machine, core: int) -> Iterator[Any]:
    """Yield the burst addresses of every request of a core: as many pieces as of tiles, anywhere in memory."""
    rng, lines = np.random.default_rng(core), max(1, machine.spec.cores.dma.request_bytes // TILE_BYTES)
    while True:
        yield _pieces(machine, rng.integers(machine.memory_capacity_bytes // TILE_BYTES, size=lines) * TILE_BYTES)


def _pieces(machine: Machine, starts: Any) -> Any:
    offsets = np.arange(0, TILE_BYTES, BURST_BYTES)
    return (starts[:, None] % machine.memory_capacity_bytes + offsets).ravel()


def gather_bandwidth(machine: Machine) -> float:
    """Return the bytes per second at which pieces at random are read, none of them from the cache."""
    return bandwidth(machine, 0, GATHER_BYTES, gather_requests)


def tile_bandwidth(machine: Machine, pitch: int) -> float:
    """Return the bytes per second at which tiles of a matrix of this pitch are read, none of them from the cache."""
    return bandwidth(machine, 0, GATHER_BYTES, lambda machine, core: tile_requests(machine, core, pitch))


def dot_bandwidth(machine: Machine) -> float:
    """Return the bytes per second of a Dot: what its cores stream, and the launch."""
    streamed = bandwidth(machine, 0, HBM_STREAM_BYTES, dot_requests)
    size = 2 * DOT_ARRAY_BYTES
    return size / (size / streamed + machine.spec.launch.latency / 1e15)


def copy_bandwidth(machine: Machine) -> float:
    """Return the bytes per second of a Copy: of a function of every number of an array, half of the traffic written."""
    columns = 1 << 12
    problem = elementwise.Problem(DOT_ARRAY_BYTES // 4 // columns, columns, "fp32", "relu")
    program = elementwise.compile(problem, elementwise.Knobs(tile_rows=1, stages=3), machine, 0)
    times = phase_times(replace(program, earlier_stores=0.5), machine)
    return 2 * DOT_ARRAY_BYTES / (sum(phase.fs for phase in times) / 1e15)


def bandwidth(machine: Machine, footprint_bytes: int, stream_bytes: int, requests: Requests | None = None) -> float:
    """Return the bytes per second that all cores together stream from a range of addresses in the steady state.

    They read it in blocks unless `requests` says otherwise.
    """
    dma, cores = machine.spec.cores.dma, machine.spec.cores.count
    memory, env = memory_side(machine, footprint_bytes)
    each = max(stream_bytes // dma.request_bytes // cores, 4 * dma.max_outstanding)
    done: list[tuple[int, int]] = []
    streams = [
        requests(machine, core) if requests else block_requests(machine, core, footprint_bytes) for core in range(cores)
    ]
    engines = [Core(machine, memory, env, islice(stream, each), done) for stream in streams]
    for _ in range(dma.max_outstanding):
        for engine in engines:
            engine.send()
    memory.run()
    first, last = len(done) // 4, len(done) - len(done) // 8  # between filling and draining
    moved = sum(size_bytes for _, size_bytes in done[first:last])
    return moved / (done[last - 1][0] - done[first - 1][0]) * 1e15


def hbm_bandwidth(machine: Machine, footprint_bytes: int, stream_bytes: int) -> float:
    """Return the bytes per second at which the DRAM channels alone answer the same requests.

    The one function of this study that knows the controller.
    """
    dma, cores = machine.spec.cores.dma, machine.spec.cores.count
    dram, step, tick = make_dram(machine), machine.timing.nRC, 0
    streams = [block_requests(machine, core, footprint_bytes) for core in range(cores)]
    whose: dict[int, int] = {}
    sending = [core for _ in range(dma.max_outstanding) for core in range(cores)]
    per_request = min(dma.request_bytes, PIECE_BYTES) // BURST_BYTES
    wanted, finished, started = stream_bytes // BURST_BYTES // per_request, 0, (0, 0)
    while finished < wanted:
        for core in sending:
            bursts = next(streams[core])
            whose[submit(dram, bursts, 0, len(bursts), False, tick)] = core
        tick += step
        sending = [whose.pop(number) for number in dram.advance(tick)[0].tolist()]
        finished += len(sending)
        if finished < wanted // 4:  # filling
            started = tick, finished
    moved = (finished - started[1]) * per_request * BURST_BYTES
    return moved * float(machine.timing.tick_hz) / (tick - started[0])


def latency_ns(machine: Machine, footprint_bytes: int) -> float:
    """Return the mean time of dependent loads of single bursts that go round all lines of a range at random."""
    line = machine.spec.shared_cache.line if machine.spec.shared_cache else machine.burst_bytes
    capacity = machine.spec.shared_cache.distinct_bytes if machine.spec.shared_cache else 0
    # Going round a range that is larger than the cache, the least recently used line is always the next one.
    memory, env = memory_side(machine, footprint_bytes if footprint_bytes <= capacity else 0)
    pages = machine.spec.tlb.entries * machine.spec.tlb.page if machine.spec.tlb else 0
    lines = np.random.default_rng(0).choice(footprint_bytes // line, CHASED + warm_loads(machine), replace=False)
    loads = (np.array([number * line]) for number in lines.tolist())
    done: list[tuple[int, int]] = []
    Core(machine, memory, env, loads, done).send()
    memory.run()
    skipped = warm_loads(machine) if footprint_bytes <= pages else 0  # until all pages are known
    return (done[-1][0] - done[skipped - 1][0] if skipped else done[-1][0]) / (len(done) - skipped) / 1e6


def warm_loads(machine: Machine) -> int:
    """Return a number of random loads after which the pages of a footprint within the TLB's reach are known."""
    return 16 * machine.spec.tlb.entries if machine.spec.tlb else 0


def strided(stride: int) -> Any:
    """Return the elements that gpu-strides loads, lane by lane and load by load: two warps, `SHIFTS` loads of each."""
    warps = np.arange(64).reshape(2, 1, 32)
    return (warps * stride + np.reshape(SHIFTS, (1, -1, 1))).ravel()


def blocked(width: int, pitch: int) -> Any:
    """Return the elements that gpu-strides loads, lane by lane and load by load: threads in rows of a width."""
    thread = np.arange(1024)
    element = thread % width % 64 + (thread // width % 32 + 1) * pitch
    return (element.reshape(-1, 1, 32) + np.reshape(SHIFTS, (1, -1, 1))).ravel()


def l1_loads(machine: Machine, elements: Any, element_bytes: int) -> Loads:
    """Return what warps cost that load these elements of a plain array."""
    return loads(machine.l1, Layout(int(elements.max()) + 1, 1), elements, 32, element_bytes)


def measured(file: str, device: str, column: str) -> dict[int, float]:
    """Return a column of a file of measurements by footprint in kB."""
    with (DATA / file).open(newline="") as rows:
        chosen = [row for row in csv.DictReader(rows) if row["device"] == device]
    return {round(float(row["footprint_kB"])): float(row[column]) for row in chosen}


def measured_latencies(device: str) -> dict[int, float]:
    """Return latencies in ns: cycles over the clock of the small footprints, at which the large ones idled too."""
    cycles = measured("latency_vs_footprint.csv", device, "latency_cycles")
    small_ns = measured("latency_vs_footprint.csv", device, "col4")
    period_ns = float(np.median([small_ns[kb] / cycles[kb] for kb in sorted(cycles)[:20]]))
    return {kb: value * period_ns for kb, value in cycles.items()}


def row(name: str, what: str, here: float, there: float, unit: str, tolerance: float | None) -> str:
    """Return one line: what, measured, model, difference, and a verdict where there is a goal."""
    off = here / there - 1
    verdict = "" if tolerance is None else "within" if abs(off) <= tolerance else "OFF"
    return f"{name:9} {what:22} {there:9.1f} {here:9.1f} {unit:6} {off:+7.1%}  {verdict}"


def fastest_kernel(device: str) -> float:
    """Return the highest rate in GB/s of a kernel that was measured on a device and reads far more than its cache."""
    with gzip.open(DATA.parent / "measured.csv.gz", "rt", newline="") as rows:
        return max(
            float(row["achieved_gbps"])
            for row in csv.DictReader(rows)
            if row["device"] == device and row["op"] in READING and float(row["bytes"]) > KERNEL_BYTES
        )


def print_bandwidths(device: Device) -> None:
    """Print bandwidth against footprint, and what HBM alone would give."""
    machine = Machine(load_machine(device.machine))
    assert machine.spec.shared_cache is not None
    there = measured("l2_bandwidth_vs_footprint.csv", device.name, "GBps")
    capacity_kb = machine.spec.shared_cache.capacity / 1024
    for kb in device.footprints_kb:
        level = "L2" if kb < 0.65 * capacity_kb else "HBM" if kb > 6 * capacity_kb else "between"
        tolerance = None if level == "between" else PLATEAU_TOLERANCE
        here = bandwidth(machine, kb * 1024, HBM_STREAM_BYTES if level == "HBM" else STREAM_BYTES) / 1e9
        print(row(device.machine, f"{level} {kb / 1024:.0f} MiB", here, there[kb], "GB/s", tolerance))
    peak, last = float(machine.hbm_peak_bytes_per_second) / 1e9, device.footprints_kb[-1]
    for refresh in ("per-bank", "all-bank"):
        other = Machine(machine.spec.with_overrides({"hbm.controller.refresh": refresh}))
        here = hbm_bandwidth(other, last * 1024, HBM_STREAM_BYTES) / 1e9
        print(row(device.machine, f"HBM alone, {refresh}", here, there[last], "GB/s", PLATEAU_TOLERANCE))
        print(f"{'':10}of the peak of {peak:.0f} GB/s: measured {there[last] / peak:.3f}, model {here / peak:.3f}")


def print_latencies(device: Device) -> None:
    """Print latency against footprint."""
    machine, there = Machine(load_machine(device.machine)), measured_latencies(device.name)
    for kb in device.footprints_kb:
        here = latency_ns(machine, kb * 1024)
        print(row(device.machine, f"latency {kb / 1024:.0f} MiB", here, there[kb], "ns", None))


def print_dots() -> None:
    """Print the rate of BabelStream's Dot, and that no kernel was faster."""
    for name, device, measurements in DOTS:
        here = dot_bandwidth(Machine(load_machine(name))) / 1e9
        for there in measurements:
            print(row(name, "HBM, BabelStream Dot", here, there, "GB/s", PLATEAU_TOLERANCE))
        there = fastest_kernel(device)
        verdict = "exceeds it" if here >= there else "BELOW"
        print(f"{row(name, 'HBM, fastest kernel', here, there, 'GB/s', None)}{verdict}")


def print_copies() -> None:
    """Print the rate of BabelStream's Copy."""
    for name, there in COPIES:
        here = copy_bandwidth(Machine(load_machine(name))) / 1e9
        print(row(name, "HBM, BabelStream Copy", here, there, "GB/s", PLATEAU_TOLERANCE))


def print_strides() -> None:
    """Print what L1 loads give, by pattern and type: how many are within the tolerance, and those that are not."""
    machine = Machine(load_machine("a100-sxm"))
    groups: dict[str, list[tuple[str, float, float, Loads]]] = {}
    with (DATA / "l1_stride_bytes_per_cycle.csv").open(newline="") as rows:
        for r in csv.DictReader(rows):
            width, pitch = int(r["stride_elems_or_block_width"]), int(r["pitch"])
            size = {"float": 4, "double": 8}[r["dtype"]]
            elements = strided(width) if r["pattern"] == "stride" else blocked(width, pitch)
            cost = l1_loads(machine, elements, size)
            what, there = f"{r['dtype']} {r['pattern']}", float(r["bytes_per_cycle_per_SM"])
            groups.setdefault(what, []).append((f"{what} {width}", len(elements) * size / cost.cycles, there, cost))
    for what, found in groups.items():
        errors = np.array([here / there - 1 for _, here, there, _ in found])
        by_tags = sum(cost.tag_cycles > cost.data_cycles for *_, cost in found)
        banks_only = sum(
            abs(here * cost.cycles / cost.data_cycles / there - 1) <= SRAM_TOLERANCE for _, here, there, cost in found
        )
        print(
            f"a100-sxm  L1 {what:14} {(abs(errors) <= SRAM_TOLERANCE).sum()} of {len(found)} within, off by "
            f"{abs(errors).mean():.1%} on average; tags decide in {by_tags}; banks alone: {banks_only} within"
        )
        for name, here, there, _ in found:
            if abs(here / there - 1) > SRAM_TOLERANCE:
                print(row("a100-sxm", f"L1 {name}", here, there, "B/cyc", SRAM_TOLERANCE))


def print_pitches(name: str) -> None:
    """Print what part of the peak a stream and pieces at random reach, and what part of the latter each pitch."""
    machine = Machine(load_machine(name))
    peak = float(machine.hbm_peak_bytes_per_second)
    gathered, streamed = gather_bandwidth(machine), hbm_bandwidth(machine, 4 * HBM_STREAM_BYTES, HBM_STREAM_BYTES)
    print(f"{name}: of the peak a stream {streamed / peak:.3f}, at random {gathered / peak:.3f}; of that, by pitch:")
    found = ((pitch, tile_bandwidth(machine, pitch) / gathered) for pitch in PITCHES)
    print(" ", *(f"{pitch}:{part:.2f}" for pitch, part in found), flush=True)


REASONS = """
Where the model is off, and why
  between: half of an L2 is near a core and half far from it, and what cores of both halves read stands in both. Here
      both keep the same and have one latency: what one core reads alone (latency) would find the far half, too, and
      how long blocks that read the same stay together, which the benchmark does not say, decides what is fetched anew.
  HBM: how the devices refresh, where they put an address and in which order blocks drift apart is not published.
      Refreshes of all banks at once leave at most 0.910 of HBM2E and HBM3 (350 ns in 3.9 us) and 0.885 of HBM3E. What
      the H100 PCIe (0.975) and the GH200 (0.967) read is above that, as is the fastest kernel of an H200 (0.950): with
      these times, which are those of Ramulator 2.1, they must refresh per bank. An A100 has the H100 PCIe's HBM2E at
      the same rate and reads 0.849; it is described as refreshing all banks, because its Dot (0.858) would else be 15
      % too fast. That is an inference: from footprints of 76 to 130 MB the same A100 reads 0.915 to 0.921, more than
      such refreshes leave unless its L2 still keeps a part, and between 130 and 700 MB it falls steadily, which the
      model does not; and an A100 of 40 GB writes 0.967 of its peak (gpu-stream/a100_40.txt). ECC, refresh management
      and the traffic of page walks are not modelled.
      An L40 reads 0.978 of its peak up to 250 MB and 0.922 from 1.3 GB on, a seventeenth less: as if it then read check
      bits of ECC, a sixteenth of the data, which its L2 kept before. The model of it reads 0.999, that of an A40, which
      reads 0.977, the same: refreshes of single banks hide behind reads of others.
  L1: strides of 3 and 5 floats and blocks 2 doubles wide take up to 13 % longer than banks and tags account for. The
      tag stage's counters on an A40 show the same: three lines in three banks of tags sometimes take two cycles.
"""


def main() -> int:
    """Print the tables; return 1 where the measurements are missing."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.memory_plateaus",
        description="Print bandwidth, latency and L1 stride figures of machines beside measured ones, from the folder"
        " ROWHIT_DATA or ../shared/data.",
    )
    parser.add_argument("--pitches", nargs="+", metavar="MACHINE", help="print only rates by pitch, of these machines")
    given = parser.parse_args()
    if given.pitches:
        for name in given.pitches:
            print_pitches(name)
        return 0
    if not DATA.is_dir():
        print(f"memory_plateaus: no measurements in {DATA}: set ROWHIT_DATA to the folder that holds kernels/")
        return 1
    print(f"{'machine':9} {'what':22} {'measured':>9} {'model':>9}")
    for device in BANDWIDTHS:
        print_bandwidths(device)
    print_dots()
    print_copies()
    for device in LATENCIES:
        print_latencies(device)
    print_strides()
    print(REASONS, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
