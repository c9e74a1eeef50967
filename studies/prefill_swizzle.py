"""Which swizzle do the tiles of a prefill need: none, CuTe's, or one searched for the machine?

    python studies/prefill_swizzle.py --page studies/prefill_swizzle.md

Attention of a prompt keeps tiles of queries, keys, values and probabilities in the scratchpad. They are written row by
row and read in fragments of the matrix unit, keys and queries along the rows, values across them; words that meet in a
bank cost cycles. The program is the same each time but for where an element of these tiles lies: row by row, in CuTe's
swizzled atoms, in the best of the XOR swizzles that the kernel's template looks through (its default), or in what
`layouts.synthesis` finds for the machine's banks, with its proof of how few wavefronts there can be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from explorer.programs import machine_of
from explorer.study_page import (
    Answer,
    Picture,
    Row,
    Table,
    command,
    compared,
    in_parallel,
    least,
    listed,
    number,
    ties,
    where,
)
from hwmodel import matrix
from hwmodel.engine import simulate
from hwmodel.machine import Machine
from hwmodel.program import Buffer, Program
from hwmodel.sram_access import row_lines
from layouts import Layout
from layouts.analysis import Access
from layouts.catalog.smem import smem_tile
from layouts.synthesis import Synthesis, synthesize
from workloads.batch import uniform
from workloads.kernels import prefill_attention
from workloads.model import load_model

MACHINES = ("npu-hbm3", "h100-sxm", "tpu-v6e")
MODELS: dict[str, dict[str, int]] = {
    "llama-3.1-8b": {},
    "gpt-oss-20b": {"layer": 1},
}  # heads of 128 and of 64 elements; without a window
TOKENS = 1024
NONE, TEMPLATE, SEARCHED = "row-major", "template", "searched"
CUTE = {"CuTe 32B": "32B", "CuTe 64B": "64B", "CuTe 128B": "128B"}
KINDS = (NONE, *CUTE, TEMPLATE, SEARCHED)
OPERANDS = {"k": ("b", 1), "v": ("b", 0), "q": ("a", 1), "probabilities": ("a", 1)}  # side, axis that is summed over


@dataclass(frozen=True)
class Case:
    """A prompt of a model on a machine, its operands in one of KINDS."""

    machine: str
    model: str
    kind: str
    tokens: int = TOKENS


def with_layouts(program: Program, placed: Callable[[Buffer], Layout | None]) -> Program:
    """Return the program with every operand of the matrix unit where `placed` puts it; None: row by row."""
    phases = []
    for phase in program.phases:
        buffers = (replace(b, layout=placed(b)) if b.name in OPERANDS else b for b in phase.buffers)
        phases.append(replace(phase, buffers=tuple(buffers)))
    return replace(program, phases=tuple(phases))


def fragment(machine: Machine, buffer: Buffer) -> Access:
    """Return how the matrix unit reads an operand: `hwmodel.matrix.reads`."""
    side, axis = OPERANDS[buffer.name]
    unit, extents = machine.spec.cores.matrix, (buffer.rows, buffer.columns)
    along = max(1, min(unit.lane_bytes // buffer.element_bytes, unit.k))
    size = unit.m if side == "a" else unit.n
    across = max(1, min(machine.sram_line_bytes // (along * buffer.element_bytes), size))
    lanes = [(axis, min(along, extents[axis])), (1 - axis, min(across, extents[1 - axis]))]
    return Access.of_tile(extents, (1, 1), lanes, "fragments")


def filling(machine: Machine, buffer: Buffer) -> Access:
    """Return how an operand is written: row by row, whole words."""
    width = machine.spec.cores.dma.write_bytes // buffer.element_bytes
    word = min(max(1, machine.spec.cores.sram.bank_width // buffer.element_bytes), buffer.columns)
    here = min(width, buffer.columns)
    lanes = [(1, max(1, here // word)), (0, min(max(1, width // here), buffer.rows))]
    return Access.of_tile((buffer.rows, buffer.columns), (1, word), lanes, "rows")


@lru_cache(maxsize=256)
def searched(machine: str, buffer: Buffer) -> Synthesis:
    """Return the layout of an operand with the fewest wavefronts, and the proof."""
    on = machine_of(machine)
    accesses = [filling(on, buffer), fragment(on, buffer)]
    return synthesize((buffer.rows, buffer.columns), accesses, on.scratchpad.banks, buffer.element_bytes)


def layout_of(machine: str, kind: str, buffer: Buffer) -> Layout | None:
    """Return where an operand lies; `buffer` as the template lays it out."""
    if kind == SEARCHED:
        plain = replace(buffer, layout=None, address=0)
        return searched(machine, plain).layout
    if kind in CUTE:
        return smem_tile(buffer.rows, buffer.columns, CUTE[kind], bits=8 * buffer.element_bytes).layout
    return buffer.layout if kind == TEMPLATE else None


def wavefronts(machine: Machine, buffers: Sequence[Buffer]) -> int:
    """Return the wavefronts of writing and reading one tile of each operand once."""
    pad, spec, total = machine.scratchpad, machine.spec.cores, 0
    for b in buffers:
        side, axis = OPERANDS[b.name]
        across, k = (b.rows, b.columns) if axis == 1 else (b.columns, b.rows)
        size = spec.matrix.m if side == "a" else spec.matrix.n
        total += matrix.reads(spec.matrix, pad, b, axis, across, k, size).wavefronts
        total += row_lines(pad, b, b.rows, b.columns, spec.dma.write_bytes, True).wavefronts
    return total


def measure(case: Case) -> Row:
    """Return the time of one case, its conflicts, and the wavefronts of a tile of each operand with their bound."""
    machine = machine_of(case.machine)
    problem = prefill_attention.shape(load_model(case.model), uniform(1, case.tokens), MODELS[case.model])
    template = prefill_attention.compile(problem, prefill_attention.Knobs(), machine, 0)
    program = with_layouts(template, partial(layout_of, case.machine, case.kind))
    result = simulate(program, machine)
    operands = [b for b in program.phases[0].buffers if b.name in OPERANDS]
    proofs = [searched(case.machine, replace(b, layout=None, address=0)) for b in operands]
    return {
        "machine": case.machine,
        "model": case.model,
        "layout": case.kind,
        "time_us": result.time_us,
        "bound_us": result.bound.total_fs / 1e9,
        "conflict_cycles": sum(use.conflict_cycles for use in result.sram.values()),
        "sram_busy": result.utilisation["sram"],
        "tile_wavefronts": wavefronts(machine, operands),
        "least_wavefronts": sum(proof.lower for proof in proofs),
    }


def sentences(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the answer in words."""
    found = []
    for machine, model in dict.fromkeys((row["machine"], row["model"]) for row in rows):
        mine = where(rows, machine=machine, model=model)
        cute = least([row for row in mine if row["layout"] in CUTE], "time_us")
        best, tile = least(mine, "time_us"), where(mine, layout=SEARCHED)[0]
        against = {name: compared(number(row, "time_us"), number(best, "time_us")) for name, row in
                   ((NONE, where(mine, layout=NONE)[0]), ("cute", cute), (SEARCHED, tile))}  # fmt: skip
        found.append(
            f"{machine}, {model}: the fastest, {number(best, 'time_us'):.2f} us, "
            f"{listed([row['layout'] for row in ties(mine, 'time_us')])}. Row by row takes {against[NONE]}, the best "
            f"of CuTe's ({cute['layout']}) {against['cute']}, what is searched {against[SEARCHED]}. Searched tiles "
            f"take {tile['tile_wavefronts']} wavefronts where no XOR layout takes under {tile['least_wavefronts']}."
        )
    return tuple(found)


def study(jobs: int) -> Answer:
    """Return the answer of the whole study."""
    cases = [Case(machine, model, kind) for machine in MACHINES for model in MODELS for kind in KINDS]
    rows = tuple(in_parallel(measure, cases, jobs))
    tables = [
        Table(machine, tuple(where(rows, machine=machine)), (Picture("layout", "time_us", "model"),))
        for machine in MACHINES
    ]
    knobs = prefill_attention.Knobs()
    return Answer(
        "prefill_swizzle",
        "Which swizzle do the tiles of a prefill need: none, CuTe's, or one searched for the machine?",
        (
            f"{len(rows)} simulations: attention of one layer over a prompt of {TOKENS} tokens, tiles of "
            f"{knobs.tile_q} rows of queries and {knobs.tile_kv} tokens, in bf16.",
            "tile_wavefronts: cycles of the banks to write and read one tile of each operand once; least_wavefronts: "
            "what no layout that is linear over F2 takes fewer of, from the proofs of layouts.synthesis.",
        ),
        sentences(rows),
        tuple(tables),
        (
            "Scores, maxima, sums and results lie row by row in every case; their conflicts are in conflict_cycles.",
            "Padding of rows was not tried, nor other tiles: a tile that fits its banks by chance needs no swizzle.",
            "Fragments, one row of banks each, are the model's; how a matrix unit reads its operands is not published. "
            "Prefill in the model is faster than measured kernels (studies/accuracy.md).",
        ),
    )


if __name__ == "__main__":
    command(study, __doc__)
