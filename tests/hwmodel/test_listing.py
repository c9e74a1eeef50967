from __future__ import annotations

from dataclasses import replace
from typing import Any

from hwmodel.assembler import PhaseAssembler, Region, Slot, block
from hwmodel.listing import listing
from hwmodel.program import Program
from layouts import Layout, swizzle
from workloads.kernels import decode_attention as attention


def test_a_program_reads_as_it_was_written(make_program: Any) -> None:
    swizzled = Layout((8, 64), (64, 1)).then(swizzle(3, 3, 3))

    def write(p: PhaseAssembler) -> None:
        (a,) = p.add_buffers([replace(block("a", 8, 64, "bf16", 2, swizzled), address=128)])
        loaded = p.counter("a loaded", "memory")
        with p.loop("load", p.column("c0") + 1) as i:
            here = (i.index * 8, (100 - i.index * 8).clip(8))
            p.load(Slot(a, i.running), Region(0, {"x": here}), signal=[loaded])
        p.vector("convert", [Slot(a, p.begun)] * 2, (8, 64), wait=[(loaded, 1)])

    lines = listing(make_program(write)).splitlines()
    assert lines[1:] == [
        "  tensor t0: bf16 x, hbm at 0",
        "phase only: 1 tasks of (c0), dealt to 16 cores",
        "  buffer a: 2 x 8 x 64 bf16, S<3,3,3> o 0 o (8,64):(64,1), at 128 every 1024",
        "  counter a loaded: memory",
        "  load",
        "    loop i0 < 1 c0 + 1",
        "      load a[(1 n0) mod 2]; t0(x 8 i0 + min(-8 i0 + 100, 8)); signal a loaded",
        "    end",
        "  store",
        "  matrix",
        "  vector",
        "    convert a[(1 begun) mod 2], a[(1 begun) mod 2]; size (8, 64); wait a loaded >= 1",
    ]


def test_programs_that_differ_in_a_layout_differ_in_its_line(machine: Any) -> None:
    problem = attention.Problem(8, 2, 64, "bf16", (200, 37))

    def text(kind: str) -> list[str]:
        program: Program = attention.compile(problem, attention.Knobs(sram_layout=kind), machine, 0)
        return listing(program).splitlines()

    different = [(one, other) for one, other in zip(text("swizzled"), text("row-major"), strict=True) if one != other]
    assert {one.split(":")[0].strip() for one, _ in different[1:]} <= {
        f"buffer {n}" for n in ("q", "k", "v", "probabilities")
    }
    assert len(different) > 1
    assert "page by page table from 1 first_page" in "\n".join(text("swizzled"))
