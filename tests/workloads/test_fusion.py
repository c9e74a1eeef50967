from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.functional import Memory, _Core, run
from hwmodel.machine import Machine
from hwmodel.program import NONE, Op, Phase, Program, Tensor, task_lists
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from layouts import named
from workloads.buffers import allocate
from workloads.fusion import fuse
from workloads.placement import place
from workloads.schedule import schedule
from workloads.streams import LOAD, STORE

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
X, S, Y, T, Z, EXTRA, W, THIN = range(8)
OUT_COLUMNS = 24


@dataclass(frozen=True)
class Kernel:
    """How a kernel over bands of rows is written.

    `order`: its two inputs and its outputs, as they stand in the queues; `speaks`: the last transfer of a tile signals
    for all; `product`: it multiplies rows by a matrix instead of dividing them; `extra`: it also stores its input;
    `copy`: it does nothing but load rows and store them from the block that they were loaded to, with `extra` those of
    a second tensor too.
    """

    tile: int = 4
    stages: int = 2
    looped: bool = True
    first: bool = True
    speaks: bool = False
    product: bool = False
    extra: bool = False
    copy: bool = False
    deal: str = "static"


@dataclass(frozen=True)
class Chain:
    rows: int
    columns: int
    dtype: str
    a: Kernel
    b: Kernel


def tensors_of(chain: Chain) -> tuple[Tensor, ...]:
    full = named("row column", {"row": chain.rows, "column": chain.columns})
    thin = named("row one", {"row": chain.rows, "one": 1})
    width = OUT_COLUMNS if chain.b.product else chain.columns
    out = named("row column", {"row": chain.rows, "column": width})
    matrix = named("n column", {"n": OUT_COLUMNS, "column": chain.columns})
    shapes = [("x", full, "fp32"), ("s", thin, "fp32"), ("y", full, chain.dtype), ("t", thin, "fp32")]
    shapes += [("z", out, "bf16"), ("extra", full, "bf16"), ("w", matrix, "bf16"), ("thin", thin, "fp32")]
    return place([Tensor(name, layout, dtype, NONE) for name, layout, dtype in shapes], NPU)


class Writer:
    """Writes one phase of a chain: `x` over `s` to `out`."""

    def __init__(self, name: str, tensors: tuple[Tensor, ...], numbers: tuple[int, int, int], kernel: Kernel) -> None:
        self.x, self.s, self.out = numbers
        self.kernel, self.tensors = kernel, tensors
        rows, self.columns = (tensors[self.x].layout.size(axis) for axis in ("row", "column"))
        bands = min(rows, 2 * CORES) if kernel.looped else -(-rows // kernel.tile)
        edges = np.arange(bands + 1) * rows // bands if kernel.looped else np.arange(bands + 1) * kernel.tile
        lengths = np.minimum(edges[1:], rows) - edges[:-1]
        self.tasks = np.stack([edges[:-1], lengths, -(-lengths // kernel.tile)], axis=1)
        self.p = p = PhaseAssembler(name, tensors, ("row", "rows", "tiles"))
        width = OUT_COLUMNS if kernel.product else self.columns
        requests = [
            block("x", kernel.tile, self.columns, tensors[self.x].dtype, kernel.stages),
            block("s", kernel.tile, 1, "fp32", kernel.stages),
            block("out", kernel.tile, width, tensors[self.out].dtype, kernel.stages),
            block("extra", kernel.tile, self.columns, "bf16", kernel.stages),
            block("w", OUT_COLUMNS, self.columns, "bf16", 1),
            block("sum", kernel.tile, width, "fp32", kernel.stages),
        ]
        self.buffers = p.add_buffers(allocate(requests, NPU))
        memory, buffer = ("x loaded", "s loaded", "w loaded"), ("x free", "s free", "out free", "extra free")
        self.counters = {name: p.counter(name, "memory") for name in memory}
        self.counters |= {name: p.counter(name, "buffer") for name in buffer}
        self.counters |= {name: p.counter(name, "dependency") for name in ("out", "sum", "sum free")}

    def waits(self, number: Affine, *names: str) -> list[tuple[int, Affine | int]]:
        """Wait for tile `number` to be there, or for its block to be free."""
        by = {True: 1 - self.kernel.stages, False: 1}
        return [(self.counters[name], number + by[name.endswith("free")]) for name in names]

    def signals(self, *names: str) -> list[int]:
        return [self.counters[name] for name in names]

    def phase(self) -> Phase:
        p = self.p
        if self.kernel.product:
            used = p.running(0) if self.kernel.looped else p.begun
            wait = [(self.counters["x free"], used)]
            p.load(Slot(self.buffers[4], p.begun), Region(W, {}), wait=wait, signal=self.signals("w loaded"))
        self.tile_by_tile("load", self.load_copies if self.kernel.copy else self.load)
        if self.kernel.product:
            self.tile_by_tile("matrix", self.multiply)
        if not self.kernel.copy:
            self.tile_by_tile("vector", self.compute)
        self.tile_by_tile("store", self.store_copies if self.kernel.copy else self.store)
        return p.finish(self.tasks, schedule(self.kernel.deal, self.tasks[:, 1], CORES))

    def tile_by_tile(self, queue: str, write: Any) -> None:
        p = self.p
        if self.kernel.looped:
            with p.loop(queue, p.column("tiles")) as i:
                write(i.running, i.index)
        else:
            write(p.begun, Affine.of(0))

    def rows(self, index: Affine) -> Affine:
        return (self.p.column("rows") - index * self.kernel.tile).clip(self.kernel.tile)

    def region(self, tensor: int, index: Affine) -> Region:
        return Region(tensor, {"row": (self.p.column("row") + index * self.kernel.tile, self.rows(index))})

    def copies(self) -> list[tuple[str, int, int]]:
        """Return name, source and target of what a copy moves, as they stand in the queues."""
        found = [("x", self.x, self.out), *([("s", self.s, THIN)] if self.kernel.extra else [])]
        return found if self.kernel.first else found[::-1]

    def load_copies(self, number: Affine, index: Affine) -> None:
        for name, source, _ in self.copies():
            wait, signal = self.waits(number, f"{name} free"), self.signals(f"{name} loaded")
            to = Slot(self.buffers[("x", "s").index(name)], number)
            self.p.load(to, self.region(source, index), wait=wait, signal=signal)

    def store_copies(self, number: Affine, index: Affine) -> None:
        names = [name for name, _, _ in self.copies()]
        for name, _, target in self.copies():
            last = [f"{each} free" for each in names] if name == names[-1] else []
            signal = self.signals(*(last if self.kernel.speaks else [f"{name} free"]))
            wait = self.waits(number, f"{name} loaded")
            source = Slot(self.buffers[("x", "s").index(name)], number)
            self.p.store(source, self.region(target, index), wait=wait, signal=signal)

    def load(self, number: Affine, index: Affine) -> None:
        names = [("x", self.x), ("s", self.s)] if self.kernel.first else [("s", self.s), ("x", self.x)]
        for i, (name, tensor) in enumerate(names):
            last = i == len(names) - 1
            said = self.signals(*(["x loaded", "s loaded"] if last else [])) if self.kernel.speaks else None
            to = Slot(self.buffers[("x", "s").index(name)], number)
            signal = said if said is not None else self.signals(f"{name} loaded")
            self.p.load(to, self.region(tensor, index), wait=self.waits(number, f"{name} free"), signal=signal)

    def multiply(self, number: Affine, index: Affine) -> None:
        x, w, total = (Slot(self.buffers[i], number) for i in (0, 4, 5))
        wait = [*self.waits(number, "x loaded", "sum free"), (self.counters["w loaded"], self.p.begun + 1)]
        sizes = (self.rows(index), OUT_COLUMNS, self.columns)
        self.p.matmul(total, x, w, sizes, transpose_b=True, wait=wait, signal=self.signals("sum", "x free"))

    def compute(self, number: Affine, index: Affine) -> None:
        x, s, out, extra, total = (Slot(self.buffers[i], number) for i in (0, 1, 2, 3, 5))
        rows, product = self.rows(index), self.kernel.product
        ready = self.waits(number, "sum" if product else "x loaded", "s loaded", "out free")
        if self.kernel.extra:
            self.p.vector("convert", (extra, x), (rows, self.columns), wait=[*ready, *self.waits(number, "extra free")])
        source, width = (total, OUT_COLUMNS) if product else (x, self.columns)
        signal = self.signals("out", "s free", "sum free" if product else "x free")
        wait = [] if self.kernel.extra else ready
        self.p.vector("normalise", (out, source, s), (rows, width), wait=wait, signal=signal)

    def store(self, number: Affine, index: Affine) -> None:
        names = [("out", self.out), *([("extra", EXTRA)] if self.kernel.extra else [])]
        names = names if self.kernel.first else names[::-1]
        for i, (name, tensor) in enumerate(names):
            last = i == len(names) - 1
            said = self.signals(*(["out free", "extra free"] if last else [])) if self.kernel.speaks else None
            source = Slot(self.buffers[2 if name == "out" else 3], number)
            signal = said if said is not None else self.signals(f"{name} free")
            self.p.store(source, self.region(tensor, index), wait=self.waits(number, "out"), signal=signal)


def program_of(chain: Chain) -> Program:
    tensors = tensors_of(chain)
    a = Writer("first", tensors, (X, S, Y), chain.a).phase()
    b = Writer("second", tensors, (Y, T, Z), chain.b).phase()
    return Program("chain", tensors, (a, b))


class Impatient(_Core):
    """A core on which a queue goes on as soon as it can, those first in `order` before the others."""

    order: tuple[int, ...] = (0, 1, 2, 3)

    def run(self, tasks: list[int]) -> None:
        waiting = [self._queue(number, tasks) for number in self.order]
        while waiting:
            for stream in waiting:
                before = list(self._counters)
                if next(stream, None) is None:
                    waiting.remove(stream)
                    break
                if self._counters != before:
                    break
            else:
                raise AssertionError("deadlock")


def run_in_order(program: Program, memory: Memory, order: tuple[int, ...]) -> None:
    for phase in program.phases:
        for tasks in task_lists(phase.schedule, CORES):
            core = Impatient(program, phase, memory)
            core.order = order
            core.run(list(tasks))


def computed(program: Program, names: tuple[str, ...], order: tuple[int, ...] = ()) -> list[bytes]:
    memory, rng = Memory(program), np.random.default_rng(7)
    inputs = ("x", "s", "t", "w")
    sizes = {t.name: [t.layout.size(axis) for axis in t.layout.axes] for t in program.tensors}
    for name in inputs:
        if name in sizes:
            memory.write(name, rng.uniform(0.5, 2, sizes[name]))
    if order:
        run_in_order(program, memory, order)
    else:
        run(program, memory, CORES)
    return [memory.read(name).tobytes() for name in names]


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    flag = st.booleans()
    copy = draw(flag)
    a = Kernel(
        tile=draw(st.integers(1, 6)),
        stages=draw(st.integers(1, 4)),
        looped=draw(flag),
        first=draw(flag),
        speaks=draw(flag),
        extra=draw(flag),
        copy=copy,
    )
    product = not copy and draw(flag)
    dtype = "bf16" if product else "fp32" if copy else draw(st.sampled_from(["bf16", "fp32"]))
    b = replace(a, first=draw(flag), speaks=draw(flag), product=product, extra=False, copy=False)
    return Chain(draw(st.integers(1, 40)), draw(st.integers(1, 20)), dtype, a, b)


Orders = st.permutations(range(4)).map(tuple)


def check_values(chain: Chain, order: tuple[int, ...]) -> None:
    """Whichever queue is the fastest: a block that is read too early, or written again too early, changes a bit."""
    program = program_of(chain)
    found = fuse(program, 0, NPU)
    (phase,) = found.program.phases
    names = ("z", "thin" if chain.a.copy else "extra") if chain.a.extra else ("z",)
    assert computed(found.program, names) == computed(found.program, names, order) == computed(program, names)
    assert "y" not in {tensor.name for tensor in found.program.tensors}
    size = 2 if chain.dtype == "bf16" else 4
    assert (found.tensor, found.saved_bytes) == ("y", 2 * chain.rows * chain.columns * size)
    assert phase.sram_bytes < sum(before.sram_bytes for before in program.phases)


@settings(max_examples=50)
@given(chains(), Orders)
def test_a_fused_chain_computes_the_same_bits(chain: Chain, order: tuple[int, ...]) -> None:
    check_values(chain, order)


@pytest.mark.nightly
@settings(max_examples=2000)
@given(chains(), Orders)
def test_many_fused_chains_compute_the_same_bits(chain: Chain, order: tuple[int, ...]) -> None:
    check_values(chain, order)


def one(a: Kernel | None = None, b: Kernel | None = None) -> Chain:
    return Chain(30, 12, "bf16", a or Kernel(), b or Kernel())


def test_fusion_saves_the_bytes_and_the_launch_that_it_says() -> None:
    program = program_of(one())
    found = fuse(program, 0, NPU)
    apart, together = simulate(program, NPU), simulate(found.program, NPU)
    traffic = [sum(t.load_useful_bytes + t.store_useful_bytes for t in r.traffic) for r in (apart, together)]
    assert traffic[0] - traffic[1] == found.saved_bytes
    assert found.saved_launch_fs == NPU.spec.launch.latency
    assert together.makespan_fs < apart.makespan_fs - found.saved_launch_fs
    assert together.bound.total_fs <= together.makespan_fs


def test_the_phases_take_turns_tile_by_tile() -> None:
    (phase,) = fuse(program_of(one()), 0, NPU).program.phases
    trips = [sum(instruction.op is Op.LOOP for instruction in stream) for stream in phase.decoded]
    assert trips == [1, 1, 0, 1]
    assert phase.columns == ("row", "rows", "tiles")
    assert len({counter.name for counter in phase.counters}) == len(phase.counters)
    assert len({buffer.name for buffer in phase.buffers}) == len(phase.buffers)


def swapped(program: Program) -> Program:
    return replace(program, phases=program.phases[::-1])


def with_layout_of_y(program: Program) -> Program:
    """The second phase takes y by a tensor of its own, column by column."""
    y = program.tensors[Y]
    other = replace(y, name="y2", layout=named("column row", {axis: y.layout.size(axis) for axis in y.layout.axes}))
    tiles = program.phases[1].tiles.copy()
    tiles["tensor"][tiles["tensor"] == Y] = len(program.tensors)
    second = replace(program.phases[1], tiles=tiles)
    return replace(program, tensors=(*program.tensors, other), phases=(program.phases[0], second))


def with_a_third(program: Program) -> Program:
    return replace(program, phases=(*program.phases, program.phases[1]))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (program_of(one(b=Kernel(tile=3))), "phases first and second cut y into different tiles"),
        (program_of(one(b=Kernel(stages=3))), "buffers out and x have slots 2 and 3"),
        (program_of(one(b=Kernel(looped=False))), "phases first and second deal different tasks to the cores"),
        (program_of(one(Kernel(deal="dynamic"), Kernel(deal="dynamic"))), "a dynamic schedule cannot be fused"),
        (swapped(program_of(one())), "phases second and first: 0 tensors go from one to the other; allowed: one"),
        (with_layout_of_y(program_of(one())), "phases first and second: y and y2 are not one tensor to both"),
        (with_a_third(program_of(one())), "tensor y is also used by phase second"),
    ],
)
def test_phases_that_do_not_go_together_are_refused_and_the_reason_is_named(program: Program, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        fuse(program, 0, NPU)
    assert "\n" not in str(error.value)


def test_the_last_phase_has_none_to_be_fused_with() -> None:
    with pytest.raises(ValueError, match="phase 1: program chain has 2; the last has no next one"):
        fuse(program_of(one()), 1, NPU)


def test_buffers_of_both_must_fit() -> None:
    tight = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES, "cores.sram.capacity": "64 KiB"}))
    with pytest.raises(ValueError, match=r"phase first \+ second needs \d+ B of scratchpad, \d+ B more than"):
        fuse(program_of(Chain(64, 600, "bf16", Kernel(tile=4), Kernel(tile=4))), 0, tight)


def test_the_store_before_takes_over_what_the_one_that_is_left_out_signalled() -> None:
    found = fuse(program_of(one(Kernel(first=False, speaks=True, extra=True))), 0, NPU)
    stores = [i for i in found.program.phases[0].decoded[STORE] if i.op is Op.STORE]
    names = [found.program.phases[0].counters[counter].name for counter in stores[0].signals]
    assert len(stores) == 2
    assert names == ["out free", "extra free"]


def edited(program: Program, queue: int, position: int, signals: list[int]) -> Program:
    """Return the program with what an instruction of the second phase signals replaced."""
    second = program.phases[1]
    queues = [stream.copy() for stream in second.queues]
    queues[queue][position]["signal"] = (signals + [NONE] * 4)[:4]
    return replace(program, phases=(program.phases[0], replace(second, queues=tuple(queues))))


def test_a_load_that_may_speak_for_an_earlier_one_is_not_left_out() -> None:
    program = program_of(one(b=Kernel(product=True)))
    assert len(fuse(program, 0, NPU).program.phases) == 1
    with pytest.raises(ValueError, match="the transfer that is left out may speak for one that signals nothing"):
        fuse(edited(program, LOAD, 0, []), 0, NPU)


def test_a_load_whose_counter_others_signal_too_is_not_left_out() -> None:
    program = program_of(one())
    x_loaded, s_loaded = (int(program.phases[1].queues[LOAD][i]["signal"][0]) for i in (1, 2))
    with pytest.raises(ValueError, match="others signal what the transfer that is left out signals"):
        fuse(edited(program, LOAD, 2, [s_loaded, x_loaded]), 0, NPU)


@pytest.mark.parametrize("shift", [1, 2])
def test_a_program_that_waits_wrongly_is_not_taken_for_one_that_hands_over(shift: int) -> None:
    """The store of the first phase waits for later tiles than its own."""
    program = program_of(one())
    first = program.phases[0]
    queues = [stream.copy() for stream in first.queues]
    position = next(p for p, row in enumerate(queues[STORE]) if row["op"] == Op.STORE)
    row = first.expressions[queues[STORE][position]["wait_value"][0]].copy()
    row[2] -= shift
    queues[STORE][position]["wait_value"][0] = len(first.expressions)
    wrong = replace(first, queues=tuple(queues), expressions=np.concatenate([first.expressions, row[None]]))
    with pytest.raises(ValueError, match="phase first: tile 0 of a core is not stored as its number 0"):
        fuse(replace(program, phases=(wrong, program.phases[1])), 0, NPU)
