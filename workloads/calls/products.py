"""Calls of matrix products: dense and batched, in the formats of `gemm`'s templates.

Activations of fewer bits are quantised in a pass before, as the libraries that were measured do. Of a product of few
rows the operands change places: the weights' rows fill the matrix unit, and the result is written transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hwmodel.machine import Machine
from workloads.calls.call import DTYPES, MAX_RESULTS, Call, Launch, NotModelled, Row, Variant, ranked, require_within
from workloads.calls.roof import Items, Roof
from workloads.kernels import gemm, gemm_mx, gemm_w4a16, gemm_w8a8, quantise

TILES = (8, 16, 32, 64, 96, 128, 160, 192, 224, 256)  # those libraries have, not only powers of two
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_STAGES = 8
FEW_ROWS = 64  # up to which operands may change places: more, and the transposed result costs more than it saves
LINE_BYTES = 128  # of k in a tile: what a swizzled line of operands takes
QUANTISED = ("fp8", "fp8_block", "sq", "nvfp4")
NARROW = (*QUANTISED, "int4_wo", "int8_wo")


@dataclass(frozen=True)
class Cut:
    """How a product is tiled, operands exchanged or not."""

    tile_m: int
    tile_n: int
    tile_k: int
    stages: int
    split: int
    exchanged: bool


@dataclass(frozen=True)
class Format:
    """A template for one format: bits of an element of a and b, the type whose rate counts, and how knobs are made."""

    kernel: str
    bits: tuple[int, int]
    dtype: str
    make: Callable[[int, int, int, Cut], tuple[Any, Any]]  # problem and knobs of m, n, k
    may_exchange: bool = False
    widened_bytes: int = 0  # of an element of b that is expanded before it is multiplied
    scratch: int = 0  # tiles of fp32 sums that are promoted in the scratchpad or accumulators
    on_vector: bool = False
    loads: int = 2  # descriptors of a tile: operands, and scales that come with them


def product_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op gemm."""
    m, n, k = row.need("m", "n", "k")
    found = format_of(row.dtype)
    launches = [quantisation(m, k, machine)] if row.dtype in QUANTISED else []
    return Call((*launches, product("gemm", found, m, n, k, machine)))


def batched_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op batched_gemm."""
    m, n, k, batch = row.need("m", "n", "k", "batch")
    dtype = "fp8_e4m3" if row.dtype == "fp8" else row.float_dtype()
    found = _plain("batched-gemm", dtype, gemm.BatchedKnobs, batch)
    return Call((product("batched gemm", found, m, n, k, machine, batch),))


def quantisation(m: int, k: int, machine: Machine) -> Launch:
    """Return the pass that quantises activations of 16 bits, with a scale per 128 elements."""
    problem = quantise.Problem(m, k, "bf16", "block")
    wide = min(512, -(-k // 128) * 128)
    tall = max(1, min(16, -(-m * -(-k // wide) // machine.spec.cores.count)))
    return Launch("quantise", (Variant("quantise", problem, quantise.Knobs(tile_m=tall, tile_k=wide)),), "bf16", 0, 0)


def format_of(dtype: str) -> Format:
    """Return the template for a row's dtype. Raises NotModelled where there is none."""
    if dtype in ("bfloat16", "float16", "float32"):
        ours = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[dtype]
        return _plain("gemm-fp32" if ours == "fp32" else "gemm", ours, gemm.Knobs)
    if dtype in ("fp8", "sq"):
        return _plain(
            "gemm-fp8" if dtype == "fp8" else "gemm-int8", "fp8_e4m3" if dtype == "fp8" else "int8", gemm.Knobs
        )
    if dtype == "fp8_block":
        return Format("gemm-w8a8-block", (8, 8), "fp8_e4m3", _block_scaled, scratch=2, loads=4)
    if dtype == "int4_wo":
        return Format("gemm-w4a16", (16, 4), "bf16", _weights_of(4), widened_bytes=2, loads=3)
    if dtype == "int8_wo":
        return Format("gemm-w8a16", (16, 8), "bf16", _weights_of(8), widened_bytes=2, loads=3)
    if dtype == "nvfp4":
        return Format("gemm-nvfp4", (4, 4), "fp4_scaled", _nvfp4, loads=4)
    said = f"{dtype!r} has no kernel" if dtype else "is missing"
    raise NotModelled(f"gemm: dtype {said}; known: {', '.join((*DTYPES, *NARROW))}")


def _plain(kernel: str, dtype: str, kind: Any, batch: int | None = None) -> Format:
    def make(m: int, n: int, k: int, cut: Cut) -> tuple[Any, Any]:
        layout: dict[str, Any] = {"unit": "vector"} if dtype == "fp32" else {}
        if cut.exchanged:
            m, n = n, m
            layout["layout_c"] = "n m" if batch is None else "batch n m"
        knobs = kind(
            tile_m=cut.tile_m, tile_n=cut.tile_n, tile_k=cut.tile_k, stages=cut.stages, split_k=cut.split,
            order="grouped", **layout,
        )  # fmt: skip
        return gemm.Problem(m, n, k, dtype, batch), knobs

    bits = {"bf16": 16, "fp16": 16, "fp32": 32, "fp8_e4m3": 8, "int8": 8}[dtype]
    return Format(kernel, (bits, bits), dtype, make, may_exchange=dtype != "fp32", on_vector=dtype == "fp32")


def _block_scaled(m: int, n: int, k: int, cut: Cut) -> tuple[Any, Any]:
    knobs = gemm_w8a8.Knobs(
        tile_m=cut.tile_m, tile_n=cut.tile_n, stages=cut.stages, split_k=cut.split, accumulators=2, order="grouped"
    )
    return gemm_w8a8.Problem(m, n, k), knobs


def _weights_of(bits: int) -> Callable[[int, int, int, Cut], tuple[Any, Any]]:
    def make(m: int, n: int, k: int, cut: Cut) -> tuple[Any, Any]:
        knobs = gemm_w4a16.Knobs(
            tile_m=cut.tile_m, tile_n=cut.tile_n, tile_k=128, stages=cut.stages, split_k=cut.split, order="grouped"
        )
        return gemm_w4a16.Problem(m, n, k, "bf16", gemm_w4a16.GROUP if bits == 4 else k, f"int{bits}"), knobs

    return make


def _nvfp4(m: int, n: int, k: int, cut: Cut) -> tuple[Any, Any]:
    knobs = gemm_mx.Knobs(
        tile_m=cut.tile_m, tile_n=cut.tile_n, tile_k=cut.tile_k, stages=cut.stages, split_k=cut.split, order="grouped"
    )
    return gemm_mx.Problem(m, n, k, "nvfp4"), knobs


def product(name: str, found: Format, m: int, n: int, k: int, machine: Machine, batch: int | None = None) -> Launch:
    """Return a product with its schedules."""
    roof, count = Roof(machine), batch or 1
    require_within(name, "elements of the result are", m * n * count, MAX_RESULTS)
    variants = []
    for cut in _cuts(found, m, n, k, machine, count):
        problem, knobs = found.make(m, n, k, cut)
        estimate = _estimate(found, m, n, k, cut, roof, count)
        variants.append(Variant(found.kernel, problem, knobs, estimate, "split" if cut.split > 1 else "whole"))
    out_bits = 32 if found.dtype == "fp32" else 16
    moved = count * (m * k * found.bits[0] + n * k * found.bits[1] + m * n * out_bits) // 8
    return Launch(name, ranked(variants), found.dtype, count * m * n * k, moved, on_vector=found.on_vector)


def _cuts(found: Format, m: int, n: int, k: int, machine: Machine, count: int) -> Iterator[Cut]:
    cores = machine.spec.cores
    unit, cores_count = cores.matrix, cores.count
    tile_k = LINE_BYTES * 8 // max(found.bits)
    if found.kernel in ("gemm-w8a8-block", "gemm-w4a16", "gemm-w8a16"):
        tile_k = 128
    for exchanged in (False, True) if found.may_exchange and m <= FEW_ROWS else (False,):
        rows, columns = (n, m) if exchanged else (m, n)
        for tile_m in _tiles(rows, unit.m):
            for tile_n in _tiles(columns, unit.n):
                if tile_m * tile_n > 256 * 192 or tile_m + tile_n > 448:
                    continue
                stages = _stages(found, tile_m, tile_n, tile_k, machine)
                if stages < 2:
                    continue
                tiles = -(-rows // tile_m) * -(-columns // tile_n) * count
                for split in SPLITS:
                    if split > 1 and (tiles * split > 2 * cores_count or k < split * 4 * tile_k):
                        break
                    yield Cut(tile_m, tile_n, tile_k, stages, split, exchanged)


def _tiles(size: int, unit: int) -> list[int]:
    """Return the sizes of a tile along an axis: multiples of the unit up to what covers the axis."""
    enough = -(-size // unit) * unit
    found = sorted(
        {tile for tile in TILES if tile % unit == 0 and tile < enough} | {min(enough, TILES[-1] // unit * unit)}
    )
    return [tile for tile in found if tile >= 32 or tile == enough or len(found) == 1] or found


def _stages(found: Format, tile_m: int, tile_n: int, tile_k: int, machine: Machine) -> int:
    """Return how many stages the scratchpad has room for."""
    cores = machine.spec.cores
    out = tile_m * tile_n * (4 if found.dtype == "fp32" else 2)
    widened = 2 * tile_n * tile_k * found.widened_bytes
    per_stage = (tile_m * found.bits[0] + tile_n * found.bits[1]) * tile_k // 8 + (tile_m + tile_n) * 8
    if cores.matrix.accumulators == "scratchpad":
        out += tile_m * tile_n * 4
    room = cores.sram.capacity - out - widened - 4096
    if found.kernel == "gemm-nvfp4":  # scales in tiles of 128 rows, and operands in 16 bits where no unit applies them
        per_stage += (-(-tile_m // 128) + -(-tile_n // 128)) * 128 * tile_k // 16
        room -= 0 if cores.matrix.fp4_scaled else 2 * (tile_m + tile_n) * tile_k
    return min(MOST_STAGES, int(room // per_stage)) if room > 0 else 0


def _estimate(found: Format, m: int, n: int, k: int, cut: Cut, roof: Roof, count: int) -> float:
    rows, columns = (n, m) if cut.exchanged else (m, n)
    unit = roof.machine.spec.cores.matrix
    tiles_m, tiles_n = -(-rows // cut.tile_m), -(-columns // cut.tile_n)
    tiles_k = -(-k // (cut.tile_k * cut.split))
    bits_m, bits_n = (found.bits[1], found.bits[0]) if cut.exchanged else found.bits
    padded = -(-cut.tile_m // unit.m) * unit.m * -(-cut.tile_n // unit.n) * unit.n
    area = cut.tile_m * cut.tile_n
    split = cut.split > 1
    estimate = roof.phase_fs(
        Items(
            count=tiles_m * tiles_n * cut.split * count,
            tiles=tiles_k,
            macs=padded * cut.tile_k,
            dtype=found.dtype,
            tile_bytes=(cut.tile_m * bits_m + cut.tile_n * bits_n) * cut.tile_k / 8,
            unique_bytes=count * (rows * bits_m + columns * bits_n) * k / 8,
            stages=cut.stages,
            vector_ops=(cut.tile_n * cut.tile_k * 4 if found.widened_bytes else 0) + (area * 2 if found.scratch else 0),
            end_bytes=area * (4 if split else 2),
            end_ops=area * 2,
            on_vector=found.on_vector,
            loads=found.loads,
        )
    )
    if split:
        parts_bytes = 4 * m * n * count * cut.split
        estimate += roof.launch_fs + 2 * roof.latency_fs + parts_bytes * max(roof.cache_fs, roof.port_fs / roof.cores)
    return estimate
