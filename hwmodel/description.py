"""The description of a machine: frozen, every number with a unit and a source.

`hwmodel.spec.load_machine` reads one from YAML. A `MachineSpec` cannot be run; `hwmodel.machine.Machine`
resolves it into integers and checks that its parts fit together. Each component's description is one class below, a
line per field.

Not described yet: several levels of scratchpad or of shared caches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, PrivateAttr, StringConstraints, ValidationError

from hwmodel.dram.policy_spec import PolicySpec
from hwmodel.dram.standards import Standard, standard
from hwmodel.like import WORDS, groups, leaves, no_source
from hwmodel.quantities import (
    BitsPerSecond,
    Bytes,
    BytesPerSecond,
    Count,
    Femtojoules,
    FemtojoulesPerByte,
    Femtoseconds,
    Flag,
    Hertz,
    Microwatts,
    Part,
    Percent,
    Resolved,
)
from hwmodel.validation import first_problem, unknown
from hwmodel.yaml_file import read_scalar


class MatrixRateSpec(Part):
    """The rate of the matrix unit for operands of one type, where it is not that of 16 bits."""

    macs_per_cycle: Count  # dense multiply-accumulates
    sustained_percent: Percent | None = None  # of them, in long kernels; by default all


class MatrixSpec(Part):
    """The matrix unit of one core: `m x n x k` is the smallest block it works on; smaller operands are padded to it."""

    macs_per_cycle: Count  # dense 16-bit multiply-accumulates, of fp16 where bf16 has a rate of its own
    sustained_percent: Percent | None = None  # of them, in long kernels (power, clocks); by default all
    m: Count
    n: Count
    k: Count
    lane_bytes: Bytes  # of k that one lane of an operand fetch takes; the lanes of a fetch fill one row of banks
    accumulators: Literal["own", "scratchpad"]  # where products lie, and what the vector unit reads and writes there
    accumulator_capacity: Bytes | None = None  # of those of its own; by default as much as a kernel asks for
    bf16: MatrixRateSpec | None = None  # by default the rate of 16 bits, as for all that follow
    fp8: MatrixRateSpec | None = None
    int8: MatrixRateSpec | None = None
    fp32: MatrixRateSpec | None = None  # TF32 where the machine's source says so
    fp8_scaled: MatrixRateSpec | None = None  # e4m3 with a scale per block of k; None: the unit applies no such scales
    fp4_scaled: MatrixRateSpec | None = None  # e2m1, likewise

    def rate(self, dtype: str) -> MatrixRateSpec:
        """Return the rate for operands of a type, such as "bf16"."""
        own = {
            "bf16": self.bf16,
            "fp32": self.fp32,
            "int8": self.int8,
            "fp8_e4m3": self.fp8,
            "fp8_e5m2": self.fp8,
            "fp8_scaled": self.fp8_scaled,
            "fp4_scaled": self.fp4_scaled,
        }.get(dtype)
        return own or MatrixRateSpec(macs_per_cycle=self.macs_per_cycle, sustained_percent=self.sustained_percent)


class VectorSpec(Part):
    """The vector unit of one core: fp32 operations per cycle, by primitive class."""

    alu: Count
    exp: Count
    reduce: Count
    convert: Count


class SramSpec(Part):
    """The banked scratchpad of one core."""

    capacity: Bytes
    banks: Count
    bank_width: Bytes
    ports: Annotated[int, Field(strict=True, ge=1, le=8)]  # accesses per bank and cycle
    write_granule: Bytes  # what a bank writes at once; a smaller or unaligned piece is read, changed and written


class L1Spec(Part):
    """The tags of the cache that a core's loads pass where it shares the scratchpad's banks; see `hwmodel.l1`."""

    line: Bytes  # what a tag stands for
    tag_banks: Count  # each looks up one line per cycle


class DmaSpec(Part):
    """The load engine and the store engine of one core; each issues in order and completes in order."""

    issue_cycles: Count  # per descriptor
    dimensions: Annotated[int, Field(strict=True, ge=1, le=32)]  # of a descriptor; a tile with more takes several
    gather: Flag  # whether one descriptor takes many pages or tokens, by their indices; else it is one for each
    index_cycles: Count  # per index: an entry of a page or routing table
    transpose: Flag  # whether the engine can turn a tile whose order in memory is not that of its buffer
    min_transfer: Bytes  # the least a load fetches: whole aligned pieces of this size
    request_bytes: Bytes  # the largest memory request a descriptor is split into
    max_runs: Count  # runs of consecutive bursts in one request
    request_cycles: Count  # per request
    max_outstanding: Count  # requests in flight per engine
    write_bytes: Bytes  # of a tile that meet the scratchpad in one access: at most one row of banks


class CoresSpec(Part):
    count: Annotated[int, Field(strict=True, ge=1, le=4096)]
    clock: Hertz
    matrix: MatrixSpec
    vector: VectorSpec
    sram: SramSpec
    l1: L1Spec | None = None
    dma: DmaSpec


class NocSpec(Part):
    """The path between a core and the shared memory side."""

    port_bytes_per_cycle: Count  # per core and direction, at the core clock
    latency: Femtoseconds  # one way
    bisection: BytesPerSecond | None = None  # of all cores together, per direction; by default all ports at once
    multicast_window: Femtoseconds | None = None  # equal loads of other cores join one within it; by default none do


class TlbSpec(Part):
    """What translates the addresses of a DMA engine: the pages that it used last."""

    entries: Count
    page: Bytes
    miss_latency: Femtoseconds


class SharedCacheSpec(Part):
    """A write-back cache that all cores share."""

    capacity: Bytes
    partitions: Count | None = None  # each keeps what its own cores read; by default one
    line: Bytes  # what a tag stands for
    sector: Bytes  # what a miss fetches
    ways: Count
    slices: Count
    outstanding_misses: Count  # lines that wait for memory
    bandwidth: BytesPerSecond  # of all slices
    miss_latency: Femtoseconds  # added on the way to main memory

    @property
    def distinct_bytes(self) -> int:
        """How much of main memory it holds at once where cores of all partitions read the same."""
        return self.capacity // (self.partitions or 1)


class AddressMapSpec(Part):
    """Physical address to stack, channel, ... row, column; see `layouts.AddressMap`."""

    fields: tuple[str, ...]
    hashes: tuple[str, ...] = ()


class HbmSpec(Part):
    """The DRAM of main memory with its controllers: HBM stacks, or GDDR packages of 32 pins, each a stack here."""

    standard: str
    stacks: Annotated[int, Field(strict=True, ge=1, le=64)]
    pin_rate: BitsPerSecond
    rows: Count | None = None  # of a bank, where stacks of another capacity have the standard's timing
    controller: PolicySpec
    address_map: AddressMapSpec

    def part(self, where: str) -> Standard:
        """Return the part that `standard` names. Raises ValueError where there is none, or its file is wrong."""
        try:
            return standard(self.standard)
        except ValueError as error:
            raise ValueError(f"{where}: hbm.standard: {error}") from None


class DistributedSramSpec(Part):
    """Main memory on the chip: SRAM spread over it in slices, which all cores reach."""

    capacity: Bytes
    slices: Count
    interleave: Bytes  # consecutive bytes of one slice
    access: Bytes  # the least that is moved
    bandwidth: BytesPerSecond  # of all slices
    latency: Femtoseconds
    local: Flag | None = None  # whether slice i is core i's own, see `hwmodel.noc`; lines are then dealt in turn


class LaunchSpec(Part):
    """What a kernel costs before its first instruction."""

    latency: Femtoseconds
    graph: Femtoseconds | None = None  # between two launches of a graph of kernels, beside this; by default nothing


class HbmEnergySpec(Part):
    """What the stacks of `hbm` and the way to them spend."""

    activate: Femtojoules  # of one row, its precharge included
    read: FemtojoulesPerByte  # from the sense amplifiers to the edge of the stack
    write: FemtojoulesPerByte
    io: FemtojoulesPerByte  # between stack and chip, both directions alike
    refresh: Femtojoules  # of one bank, once


class MacEnergySpec(Part):
    """One multiply-accumulate of the matrix unit, by the type of its wider operand."""

    bf16: Femtojoules
    fp16: Femtojoules
    fp32: Femtojoules
    fp8: Femtojoules
    int8: Femtojoules


class VectorEnergySpec(Part):
    """One fp32 operation of the vector unit, by primitive class."""

    alu: Femtojoules
    exp: Femtojoules
    reduce: Femtojoules
    convert: Femtojoules


class ChipEnergySpec(Part):
    """What the chip spends on the way from the memory to a result."""

    shared_cache: FemtojoulesPerByte  # read or written; unused on a machine without one
    noc: FemtojoulesPerByte  # between a core and the shared memory side
    sram_read: FemtojoulesPerByte
    sram_write: FemtojoulesPerByte
    mac: MacEnergySpec
    vector: VectorEnergySpec


class EnergySpec(Part):
    """Energy per action; see `hwmodel.energy` for what is counted. `static` is spent whatever happens.

    In a file, `hbm` and `chip` may be `{like: NAME}`, a set of numbers with their sources, and change some of them.
    """

    hbm: HbmEnergySpec | None = None  # of main memory: this
    distributed_sram: FemtojoulesPerByte | None = None  # or that, read or written
    chip: ChipEnergySpec
    static: Microwatts


Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class RangeSpec(Part):
    """Between which values a number of the machine may really lie, as the number itself is written."""

    low: str | int | float
    high: str | int | float
    source: Words


class MachineSpec(Part):
    """A machine. `name` identifies it; `hash` identifies every number in it. `ranges`: of uncertain numbers."""

    name: str
    description: str
    cores: CoresSpec
    noc: NocSpec
    tlb: TlbSpec | None = None
    shared_cache: SharedCacheSpec | None = None
    hbm: HbmSpec | None = None  # main memory: this
    distributed_sram: DistributedSramSpec | None = None  # or that
    launch: LaunchSpec
    energy: EnergySpec | None = None
    sources: dict[str, Words]
    ranges: dict[str, RangeSpec] = Field(default_factory=dict)
    _where: str = PrivateAttr("")

    @property
    def where(self) -> str:
        """What an error about this machine begins with: the file it was read from, or the shipped name."""
        return self._where or f"machine {self.name}"

    @property
    def hash(self) -> str:
        """Sixteen hex digits over all numbers, those of its DRAM part too, independent of names, words and sources.

        Raises ValueError where its part cannot be read.
        """
        numbers = self.model_dump(exclude=WORDS)
        if self.hbm is not None:
            numbers["hbm"]["standard"] = self.hbm.part(self.where).digest
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]

    def with_overrides(self, changes: Mapping[str, object]) -> MachineSpec:
        """Return this machine with values at dotted paths (such as "hbm.stacks") replaced by texts or numbers.

        Raises ValueError naming an unknown path with the nearest ones, or a value that the field does not take. Lists
        are replaced by lists; a text for one is refused.
        """
        if not changes:
            return self
        tree = _resolved(self.model_dump())
        leaves = {path: there for path, there in settable(self) if path != "sources"}
        for path, value in changes.items():
            if path not in leaves:
                numbers = [name for name, there in leaves.items() if not isinstance(there, tuple)]
                raise ValueError(unknown("machine path", path, numbers, ask=True))
            if isinstance(leaves[path], tuple) and isinstance(value, str):
                raise ValueError(f"machine path {path!r} is a list, and lists cannot be set: write a machine file")
            *parents, last = path.split(".")
            node = tree
            for key in parents:
                node = node[key]
            node[last] = read_scalar(value)
            tree["sources"][path] = "what-if"
            tree["ranges"].pop(path, None)
        return validated(tree, self.where)

    def summary(self) -> dict[str, Any]:
        """Return the numbers of the machine as a JSON-able tree (bytes, Hz, fs), with their sources."""
        return self.model_dump() | {"hash": self.hash}


def validated(tree: dict[str, Any], where: str) -> MachineSpec:
    """Return the description that a whole tree holds; `where` is what an error about it begins with.

    Raises ValueError with one line for a wrong value, all missing keys, all numbers without a source, or parts that
    exclude each other.
    """
    try:
        spec = MachineSpec.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{where}: {first_problem(error, MachineSpec)}") from None
    spec._where = where
    if spec.hbm is None and spec.distributed_sram is None:
        raise ValueError(f"{where}: hbm: missing; a machine has hbm or distributed_sram")
    if spec.hbm is not None and spec.distributed_sram is not None:
        raise ValueError(f"{where}: distributed_sram: beside hbm; a machine has one of them")
    if spec.energy is not None:
        for memory in ("hbm", "distributed_sram"):
            if (getattr(spec, memory) is None) != (getattr(spec.energy, memory) is None):
                what = "missing" if getattr(spec.energy, memory) is None else f"this machine has no {memory}"
                raise ValueError(f"{where}: energy.{memory}: {what}")
    numbers = [path for path, value in leaves(spec.model_dump(exclude=WORDS)) if value is not None]
    if bare := [path for path in numbers if spec.sources.keys().isdisjoint(groups(path))]:
        raise ValueError(f"{where}: {no_source(*bare)}")
    known = {group: None for path, _ in settable(spec) if path not in WORDS for group in groups(path)}
    for path in spec.sources:
        if path not in known:
            raise ValueError(f"{where}: {nothing_at(spec, 'sources', 'path', path, known)}")
    return spec


def nothing_at(spec: MachineSpec, words: str, kind: str, path: str, known: Iterable[str]) -> str:
    """Return what is said of a path under `words`, "sources" or "ranges", that is no `kind` of the machine's."""
    node: Any = spec
    for group in groups(path):
        key = group.rpartition(".")[2]
        if not isinstance(node, BaseModel) or key not in type(node).model_fields:
            break
        node = getattr(node, key)
        if node is None:
            return f"{group}: missing, but {words} name {path}; allowed: both, or neither"
    return f"{words}: {unknown(kind, path, known)}"


def settable(part: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a part by their dotted paths: also numbers that it leaves out, not parts that it has not."""
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from settable(value, f"{prefix}{name}.")
        elif not any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in get_args(field.annotation)):
            yield f"{prefix}{name}", value


def _resolved(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _resolved(value) for key, value in tree.items()}
    return Resolved(tree) if type(tree) is int else tree
