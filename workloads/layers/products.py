"""Products of tokens with weights: the kernel follows from how the weights are stored and what the machine multiplies.

| weights | machine that multiplies their type | other machines |
|---|---|---|
| 16 bits | `gemv` or `gemm` | the same |
| e4m3, a scale per 128 x 128 | `gemm-w8a8-block` | `gemm-w8a16-fp8`, scales repeated per row in 16 bits |
| e4m3, a scale per matrix (or per channel, taken as that) | `gemm-fp8` | `gemm-w8a16-fp8`, a 16-bit scale per row |
| mxfp8 | `gemm-mxfp8` | `gemm-w8a16-mxfp8` |
| nvfp4 | `gemm-nvfp4` | `gemm-w4a16-nvfp4` |
| mxfp4, 4-bit integers | `gemm-w4a16-mxfp4`, `gemm-w4a16` | the same |

The kernels of the other machines, and of the last row, expand weights on the vector unit, as Marlin does. Those whose
activations are not of 16 bits have a step of their own before them that quantises these, as vLLM has without fusion; it
is not fused with the norm or activation before, not shared by products of the same activations, and finds scales also
where a checkpoint gives them. Activations in fp16, or which the checkpoint says nothing of beside narrow weights, take
the kernels of the other machines, as results of the others are bf16. Their scales are a tensor of each step. Products
in batches, of a head or a group each, have weights that serving stacks dequantise when they load them: they are read in
16 bits, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product as product_of
from typing import Any

from hwmodel.machine import Machine
from layouts.catalog.scales import BLOCK
from layouts.catalog.sizes import round_up
from workloads.calls.roof import Items, Roof
from workloads.kernels import gemm, gemm_mx, gemm_w4a16, gemm_w8a8, gemv, quantise, quantise_scaled
from workloads.layers.formats import SIXTEEN, Weights
from workloads.layers.setting import Setting, Values, by_rows, fitting, noted
from workloads.sequence import Step
from workloads.values import Part

FEW_ROWS = 64  # assumed: up to here `gemv` beats tiles of 128 rows on the shipped machines
# for few rows of narrow weights, where reading these is all the work: tiles of n and of k, parts of k, and stages
FEW_N, FEW_K, FEW_PARTS, FEW_STAGES = (32, 64, 128), (512, 256, 128), (1, 2, 3, 4, 6, 8, 12, 16), 4


@dataclass(frozen=True)
class Narrow:
    """A template for narrow weights: its kernel, problem and knobs, and the type whose rate counts.

    `bits`: of an element of weights and of activations. `unit`: elements of k in a tile are a multiple of it.
    `expands`: whether weights are expanded by the vector unit, with a knob for expanded tiles.
    """

    kernel: str
    problem: Callable[[int, int, int], Any]
    knobs: Callable[..., Any]
    rate: str
    bits: tuple[int, int]
    unit: int
    expands: bool = False


def product(
    title: str,
    setting: Setting,
    n: int,
    k: int,
    takes: str | Part = "",
    leaves: str | Part = "",
    *,
    m: int | None = None,
    batch: int | None = None,
) -> Step:
    """Return a matrix product of the new tokens (or `m` rows) with weights of `n` rows and `k` columns.

    The title says whose weights they are (`formats`). `takes`, `leaves`: the values of its rows and of what it
    computes, where they have names.
    """
    rows, weights = setting.tokens if m is None else m, setting.formats.of(title)
    values = {name: value for name, value in (("a", takes), ("c", leaves)) if value}
    if weights == SIXTEEN:
        return _plain(title, setting, gemm.Problem(rows, n, k, setting.dtype, batch), values)
    if batch is not None:
        step = _plain(title, setting, gemm.Problem(rows, n, k, setting.dtype, batch), values)
        return in_16_bits(step, title, setting)
    way = _way(weights, setting, k)
    knobs = _knobs(way, rows, n, k, setting.machine)
    return fitting(title, way.kernel, way.problem(rows, n, k), knobs, setting, values)


def in_16_bits(step: Step, title: str, setting: Setting) -> Step:
    """Return a step with the note that the weights of a module, if stored in fewer bits, are read in 16."""
    weights = setting.formats.of(title)
    why = "read in 16 bits, to which serving stacks dequantise them when they load them"
    return step if weights == SIXTEEN else noted(step, f"{title}: weights are stored as {weights.text}, {why}")


def _plain(title: str, setting: Setting, problem: gemm.Problem, values: Values) -> Step:
    """Return a product of weights of 16 bits.

    Few rows take the kernel that reads weights once, their k split where idle cores are enough for four parts of four
    loads or more; others the candidates of `gemm`. A batch lies within each row, as heads do.
    """
    if problem.m <= FEW_ROWS and problem.batch is None:
        few = gemv.Knobs(unit="matrix")
        few = replace(few, split_k=_split(problem.n, problem.k, few.tile_n, few.tile_k, setting.machine))
        try:
            return fitting(title, "gemv", problem, [few], setting, values)
        except ValueError:  # all rows of a core's tile must fit
            pass
    tiles = gemm.candidates(problem, setting.machine)
    if problem.batch is None:
        return fitting(title, "gemm", problem, tiles, setting, values)
    within = (replace(knobs, layout_a="m batch k", layout_c="m batch n") for knobs in tiles)
    return fitting(title, "batched-gemm", problem, within, setting, values)


def _split(n: int, k: int, tile_n: int, tile_k: int, machine: Machine) -> int:
    parts = min(machine.spec.cores.count // -(-n // tile_n), k // (4 * tile_k))
    return parts if parts >= 4 else 1


def _way(weights: Weights, setting: Setting, k: int) -> Narrow:
    """Return the template for weights of a format."""
    matrix, dtype, name = setting.machine.spec.cores.matrix, setting.dtype, weights.name
    narrow = dtype == "bf16" and not weights.alone  # activations
    if narrow and name in ("fp8", "fp8-block") and matrix.fp8 is not None:
        if name == "fp8":
            plain = partial(gemm.Problem, dtype="fp8_e4m3")
            return Narrow("gemm-fp8", plain, gemm.Knobs, "fp8_e4m3", (8, 8), 1)
        return Narrow("gemm-w8a8-block", gemm_w8a8.Problem, _w8a8_knobs, "fp8_e4m3", (8, 8), BLOCK)
    scaled = {"mxfp8": matrix.fp8_scaled, "nvfp4": matrix.fp4_scaled}.get(name)
    if narrow and scaled is not None:
        bits = (8, 8) if name == "mxfp8" else (4, 4)
        problem = partial(gemm_mx.Problem, format=name)
        return Narrow(f"gemm-{name}", problem, gemm_mx.Knobs, dtype, bits, 4 * weights.group)
    stored = "fp8" if name in ("fp8", "fp8-block") else name
    group = min(weights.group or k, k)  # where k is shorter, all of it shares one scale
    expanded = partial(gemm_w4a16.Problem, dtype=dtype, group=group, weights=stored)
    known = gemm_w4a16.WEIGHTS[stored]
    bits = 8 // known.per_byte, 16
    return Narrow(known.kernel, expanded, gemm_w4a16.Knobs, dtype, bits, group if group < k else 2, expands=True)


def _w8a8_knobs(tile_k: int, **tiles: Any) -> gemm_w8a8.Knobs:
    """Return knobs of the template whose tile of k is a block."""
    return gemm_w8a8.Knobs(**tiles)


def _knobs(way: Narrow, m: int, n: int, k: int, machine: Machine) -> Iterator[Any]:
    """Yield knobs to try, the best first, as `_plain` and `gemm` have them."""
    for tiles in _tiles(way, m, n, k, machine):
        yield way.knobs(**tiles)
        if way.expands:
            yield way.knobs(**tiles, expanded=1)


def _tiles(way: Narrow, m: int, n: int, k: int, machine: Machine) -> Iterator[dict[str, int]]:
    if m <= FEW_ROWS:
        yield from _few(way, m, n, k, machine)
    for found in gemm.candidates(gemm.Problem(m, n, k, way.rate), machine):
        tiles = {name: getattr(found, name) for name in ("tile_m", "tile_n", "stages", "split_k")}
        yield tiles | {"tile_k": round_up(found.tile_k, way.unit)}


def _few(way: Narrow, m: int, n: int, k: int, machine: Machine) -> list[dict[str, int]]:
    """Return tiles for few rows, those of the least estimate first."""
    height, roof = round_up(m, machine.spec.cores.matrix.m), Roof(machine)
    tiles_k = (BLOCK,) if way.kernel == "gemm-w8a8-block" else {round_up(min(wanted, k), way.unit) for wanted in FEW_K}
    convert = machine.spec.cores.vector.alu / machine.spec.cores.vector.convert
    found = []
    for tile_n, tile_k, parts in product_of(FEW_N, sorted(tiles_k), FEW_PARTS):
        if parts > 1 and k < 2 * parts * tile_k:
            continue
        items = Items(
            count=-(-n // tile_n) * parts,
            tiles=-(-k // (tile_k * parts)),
            macs=height * tile_n * tile_k,
            dtype=way.rate,
            tile_bytes=(tile_n * way.bits[0] + m * way.bits[1]) * tile_k / 8,
            unique_bytes=n * k * way.bits[0] / 8,
            stages=FEW_STAGES,
            vector_ops=2 * tile_n * tile_k * convert if way.expands else 0,
            loads=3 if way.expands else 4,
        )
        estimate = roof.phase_fs(items) + (roof.launch_fs + 2 * roof.latency_fs if parts > 1 else 0)
        tiles = {"tile_m": height, "tile_n": tile_n, "tile_k": tile_k, "stages": FEW_STAGES, "split_k": parts}
        found.append((estimate, tiles))
    return [tiles for _, tiles in sorted(found, key=lambda pair: pair[0])]


def with_passes(steps: Iterable[Step], setting: Setting) -> Iterator[Step]:
    """Yield the steps, and before each product whose activations are not of 16 bits the pass that quantises them."""
    for step in steps:
        if step.kernel in _PASSES:
            made = _pass(step, _PASSES[step.kernel], setting)
            yield made
            step = replace(step, values={**step.values, "a": made.name})
        yield step


_PASSES = {
    "gemm-w8a8-block": "block",
    "gemm-fp8": "tensor",
    "gemm-mxfp8": "mxfp8",
    "gemm-nvfp4": "nvfp4",
}


def _pass(step: Step, per: Any, setting: Setting) -> Step:
    title, m, k = f"quantise for {step.name}", step.problem.m, step.problem.k
    values = {"q": title, **({"x": step.values["a"]} if "a" in step.values else {})}
    if per in quantise_scaled.NAMES:
        problem: Any = quantise_scaled.Problem(m, k, setting.dtype, per)
        return by_rows(title, quantise_scaled.NAMES[per], problem, quantise_scaled.Knobs, setting, values)
    wide = min(512, round_up(k, BLOCK))
    tall = max(1, min(16, -(-m * -(-k // wide) // setting.machine.spec.cores.count)))
    problem = quantise.Problem(m, k, setting.dtype, per)
    knobs = [quantise.Knobs(tile_m=rows, tile_k=wide) for rows in (tall, 1)]
    return fitting(title, quantise.NAMES[per], problem, knobs, setting, values)
