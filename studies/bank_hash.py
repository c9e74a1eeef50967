"""Which pitches of a matrix collapse without a bank hash, with a simple XOR, and with an irreducible one?

    python studies/bank_hash.py --page studies/bank_hash.md

A product of few rows reads a block of a weight matrix, the same bytes in the same order each time; only the pitch of
the matrix's rows differs, as where the block is what one device owns of a wider matrix. Each machine is simulated with
four address maps over the same fields: without a hash, with banks XORed with the low bits of the row, with channels
XORed with bits of the row, and with the rule of irreducible polynomials. What a pitch reads per second, over what the
same product reads where the block lies tile by tile and every load is one run of addresses, is its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from explorer.study_page import (
    Answer,
    Picture,
    Row,
    Table,
    command,
    in_parallel,
    least,
    listed,
    number,
    where,
)  # fmt: skip
from hwmodel.engine import simulate
from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from hwmodel.spec import load_machine
from layouts import Layout
from layouts.notation import NamedLayout
from workloads.kernels import gemm
from workloads.placement import place

MACHINES = ("npu-hbm3", "h100-sxm")
PROBLEM = gemm.Problem(m=16, n=8192, k=512, dtype="bf16")
KNOBS = gemm.Knobs(tile_m=16, tile_n=128, tile_k=64)  # 128 bytes of each of 128 rows in one load
TILED = "n//128 k//64 n%128 k%64"
NONE, BANKS, CHANNELS, IRREDUCIBLE = "none", "XOR of banks", "XOR of channels", "irreducible"
HASHES: dict[str, tuple[str, ...]] = {  # `hashes` of the address map
    NONE: (),
    BANKS: ("bank_group[0] ^= row[0]", "bank_group[1] ^= row[1]", "bank[0] ^= row[2]", "bank[1] ^= row[3]"),
    CHANNELS: (
        "pseudo_channel[0] ^= row[0] row[5]",
        *(f"channel[{bit}] ^= row[{bit + 1}] row[{bit + 6}]" for bit in range(4)),
    ),
    IRREDUCIBLE: ("irreducible",),
}
PITCHES = (  # bytes: hidden and intermediate sizes of published models in 8 and 16 bits, and powers of two
    1024, 2048, 2880, 3072, 4096, 5120, 5760, 7168, 8192, 10240, 12288, 14336, 16384, 18432, 24576, 28672, 32768,
    36864, 53248, 57344, 65536, 106496, 131072, 262144,
)  # fmt: skip
COLLAPSED = 0.5  # assumed: a pitch that reads less than half of what tiles side by side read has collapsed


@dataclass(frozen=True)
class Case:
    """A block of a matrix on a machine with one of HASHES: its rows `pitch_bytes` apart, 0: tile by tile."""

    machine: str
    hash: str
    pitch_bytes: int
    problem: gemm.Problem = PROBLEM


@lru_cache(maxsize=len(MACHINES) * len(HASHES))
def machine_with(name: str, hashes: str) -> Machine:
    """Return a machine with other hashes in its address map."""
    return Machine(load_machine(name).with_overrides({"hbm.address_map.hashes": HASHES[hashes]}))


def pitched(program: Program, pitch_bytes: int, machine: Machine) -> Program:
    """Return a product's program with the rows of b so many bytes apart, and its tensors placed anew."""
    tensors = [_pitched(tensor, pitch_bytes) if tensor.name == "b" else tensor for tensor in program.tensors]
    return replace(program, tensors=place(tensors, machine))


def _pitched(tensor: Tensor, pitch_bytes: int) -> Tensor:
    n, k = tensor.layout.size("n"), tensor.layout.size("k")
    return replace(tensor, layout=NamedLayout(("n", "k"), Layout((n, k), (pitch_bytes // tensor.element_bytes, 1))))


def measure(case: Case) -> Row:
    """Return the time and the rate of one case, and what its bursts found in their banks."""
    machine = machine_with(case.machine, case.hash)
    knobs = KNOBS if case.pitch_bytes else replace(KNOBS, layout_b=TILED)
    program = gemm.compile(case.problem, knobs, machine, 0)
    if case.pitch_bytes:
        program = pitched(program, case.pitch_bytes, machine)
    result = simulate(program, machine)
    rate = result.hbm_read_bytes * 10**15 / (result.makespan_fs - machine.spec.launch.latency)
    return {
        "machine": case.machine,
        "hash": case.hash,
        "pitch_bytes": case.pitch_bytes,
        "time_us": result.time_us,
        "read_bytes": result.hbm_read_bytes,
        "of_peak": rate / float(machine.hbm_peak_bytes_per_second),
        "row_conflicts_per_burst": result.dram.row_conflicts * result.burst_bytes / result.hbm_read_bytes,
    }


def with_shares(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows of pitches with their rate over that of tiles side by side, on the same machine and map."""
    tiled = {(row["machine"], row["hash"]): number(row, "of_peak") for row in where(rows, pitch_bytes=0)}
    found = ({**row, "of_tiled": number(row, "of_peak") / tiled[row["machine"], row["hash"]]} for row in rows)
    return tuple(row for row in found if row["pitch_bytes"])


def sentences(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the answer in words."""
    return tuple(text for name in dict.fromkeys(str(row["machine"]) for row in rows) for text in _of(name, rows))


def _of(machine: str, rows: Sequence[Row]) -> list[str]:
    slowest = {name: least(where(rows, machine=machine, hash=name), "of_tiled") for name in HASHES}
    worst = {name: number(row, "of_tiled") for name, row in slowest.items()}
    best = max(worst, key=lambda name: worst[name])
    found = [
        f"On {machine} the hash that keeps the most at its slowest pitch is {best}: {worst[best]:.2f} of the rate of "
        f"tiles side by side, against {worst[NONE]:.2f} without a hash."
    ]
    for name, row in slowest.items():
        mine = where(rows, machine=machine, hash=name)
        fallen = [row["pitch_bytes"] for row in mine if number(row, "of_tiled") < COLLAPSED]
        which = f" ({listed(fallen)} B)" if 0 < len(fallen) < len(mine) else ""
        found.append(
            f"{machine}, {name}: {len(fallen)} of {len(mine)} pitches read less than {COLLAPSED:.2f} of that{which}; "
            f"the slowest, {row['pitch_bytes']} B, takes {number(row, 'time_us'):.1f} us."
        )
    return found


def study(jobs: int) -> Answer:
    """Return the answer of the whole study."""
    p = PROBLEM
    cases = [Case(machine, name, pitch) for machine in MACHINES for name in HASHES for pitch in (0, *PITCHES)]
    measured = in_parallel(measure, cases, jobs)
    rows = with_shares(measured)
    tables = [Table("Tiles side by side", tuple(where(measured, pitch_bytes=0)))]
    for machine in MACHINES:
        picture = Picture("pitch_bytes", "of_tiled", "hash", logarithmic=True)
        tables.append(Table(f"Rates by pitch, {machine}", tuple(where(rows, machine=machine)), (picture,)))
    return Answer(
        "bank_hash",
        "Which pitches of a matrix collapse without a bank hash, with a simple XOR, and with an irreducible one?",
        (
            f"{len(cases)} simulations: rows of b {len(PITCHES)} distances apart, or tiles side by side, in a product "
            f"of {p.m} x {p.k} and {p.k} x {p.n} in {p.dtype}, loaded as {KNOBS.tile_n} rows x {2 * KNOBS.tile_k} B.",
            *(f"Hash {name}: {', '.join(lines) or 'fields as they are'}." for name, lines in HASHES.items()),
        ),
        sentences(rows),
        tuple(tables),
        (
            "Two machines, one shape of tiles, reads alone; with other numbers of stacks and channels other pitches "
            "collapse (`python -m studies.memory_plateaus --pitches MACHINE` prints those of any machine).",
            "Where rows do not begin at a burst, more bytes are read than needed; the rates count all that is read.",
            "What maps vendors use is not published, so that none of the four is held against a measured machine here.",
        ),
    )


if __name__ == "__main__":
    command(study, __doc__)
