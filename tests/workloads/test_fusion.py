from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import NONE, Phase, Program, Tensor
from hwmodel.spec import load_machine
from layouts import named
from workloads.buffers import allocate
from workloads.fusion import fuse
from workloads.placement import place
from workloads.schedule import schedule

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
X, S, Y, T, Z, EXTRA, W = range(7)
OUT_COLUMNS = 24


@dataclass(frozen=True)
class Kernel:
    """How a kernel over bands of rows is written.

    `order`: its two inputs and its outputs, as they stand in the queues; `speaks`: the last transfer of a tile signals
    for all; `product`: it multiplies rows by a matrix instead of dividing them; `extra`: it also stores its input.
    """

    tile: int = 4
    stages: int = 2
    looped: bool = True
    first: bool = True
    speaks: bool = False
    product: bool = False
    extra: bool = False
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
    shapes += [("z", out, "bf16"), ("extra", full, "bf16"), ("w", matrix, "bf16")]
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
        for queue, write in (("load", self.load), ("matrix", self.multiply), ("vector", self.compute)):
            if queue != "matrix" or self.kernel.product:
                self.tile_by_tile(queue, write)
        self.tile_by_tile("store", self.store)
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


def computed(program: Program, names: tuple[str, ...]) -> list[bytes]:
    memory, rng = Memory(program), np.random.default_rng(7)
    inputs = ("x", "s", "t", "w")
    sizes = {t.name: [t.layout.size(axis) for axis in t.layout.axes] for t in program.tensors}
    for name in inputs:
        if name in sizes:
            memory.write(name, rng.uniform(0.5, 2, sizes[name]))
    run(program, memory, CORES)
    return [memory.read(name).tobytes() for name in names]


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    flag = st.booleans()
    a = Kernel(draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(flag), draw(flag), draw(flag), False, draw(flag))
    product = draw(flag)
    dtype = "bf16" if product else draw(st.sampled_from(["bf16", "fp32"]))
    b = replace(a, first=draw(flag), speaks=draw(flag), product=product, extra=False)
    return Chain(draw(st.integers(1, 40)), draw(st.integers(1, 20)), dtype, a, b)


def check_values(chain: Chain) -> None:
    program = program_of(chain)
    found = fuse(program, 0, NPU)
    (phase,) = found.program.phases
    names = ("z", "extra") if chain.a.extra else ("z",)
    assert computed(found.program, names) == computed(program, names)
    assert "y" not in {tensor.name for tensor in found.program.tensors}
    size = 2 if chain.dtype == "bf16" else 4
    assert (found.tensor, found.saved_bytes) == ("y", 2 * chain.rows * chain.columns * size)
    assert phase.sram_bytes < sum(before.sram_bytes for before in program.phases)


@settings(max_examples=50)
@given(chains())
def test_a_fused_chain_computes_the_same_bits(chain: Chain) -> None:
    check_values(chain)


@pytest.mark.nightly
@settings(max_examples=2000)
@given(chains())
def test_many_fused_chains_compute_the_same_bits(chain: Chain) -> None:
    check_values(chain)
