"""How matrix products are cut: tiles, stages and parts of k for a problem on a machine, the most promising first.

`ranked` orders what libraries would try by an estimate (`roof`) of its time; `candidates` are the knobs to try in that
order, and behind them what fits very small scratchpads. Few rows are another matter: reading the weights is all the
work, and tiles are long along k, along which a row lies in memory. All templates of one pair of operands are here, told
apart by their problems; `gemv`, whose problem is that of `gemm`, has `few_rows`.

Where all cores share a cache, a tile is 128 bytes along k and as large as accumulators in registers allow. Where they
share none, each tile comes from main memory: tiles may be as large as the scratchpad lets them, with room for their
sums. The rows of a tile are runs at one stride, which meet few channels of memory at a time: only much in flight keeps
all of them busy, so that runs are longer there, and stages as many as there is room for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product as product_of
from math import ceil
from typing import Any

from hwmodel.description import DmaSpec
from hwmodel.machine import Machine
from hwmodel.program import DTYPES as DTYPE_BYTES
from layouts.catalog.scales import BLOCK
from layouts.catalog.sizes import round_up
from workloads.kernels import gemm, gemm_mx, gemm_w4a16, gemm_w8a8, gemv
from workloads.kernels.gemm_tiles import LINE_BYTES
from workloads.kernels.tuning import choice
from workloads.kernels.tuning.channels import Channels
from workloads.kernels.tuning.choice import CLOSE, Choice
from workloads.kernels.tuning.roof import Items, Roof

TILES = (8, 16, 32, 64, 96, 128, 160, 192, 224, 256)  # those libraries have, not only powers of two
LARGE_TILES = (320, 384, 512, 768, 1024, 1536, 2048)  # more, where no cache is shared
MOST_AREA, MOST_EDGES = 256 * 192, 448  # of a tile whose sums lie in registers
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_STAGES = 8
# assumed: times the line, where no cache is shared; fewer banks of memory are met in long runs
LONG_LINES = (32, 16, 8, 4, 2, 1)
FEW_ROWS = 64  # assumed: up to here reading the weights is all the work on the shipped machines
# for few rows: tiles of n and of k, and stages
FEW_N, FEW_K, FEW_STAGES = (32, 64, 128), (512, 256, 128), 4
# assumed: where no cache is shared; wide ones where cores have many, and do not all read the same channels in step
FEW_WIDE_N, MANY = (256, 512, 1024), 8
FEW_LONG_K = (1024, *FEW_K)
FEW_LONGEST_K = (8192, 4096, 2048, *FEW_LONG_K)  # of weights that are multiplied as they come
WITHOUT_SCALES = ("bf16", "fp16", "fp32")  # types whose results are rounded without scales in the scratchpad
SMALL_TILES = ((64, 64, 64, 3), (64, 64, 32, 2), (32, 32, 32, 2))  # of m, n and k, with stages: where nothing else fits


@dataclass(frozen=True)
class Tiled:
    """How products are tiled."""

    tile_m: int
    tile_n: int
    tile_k: int
    stages: int


@dataclass(frozen=True)
class Cut(Tiled):
    """How a product is tiled, and in how many parts of k."""

    split_k: int = 1


@dataclass(frozen=True)
class Form:
    """What the operands of a template mean for its tiles.

    `bits` of an element of a and of b, the `rate` that counts, the `line` of k in a tile and the `unit` of which it is
    a multiple. `knobs` makes those of the template of a cut. `widened_bytes`: of an element of b that is expanded.
    """

    knobs: Callable[..., Any]
    bits: tuple[int, int]
    rate: str
    line: int
    unit: int = 1
    widened_bytes: int = 0
    promoted: bool = False  # sums are added up in fp32 by the vector unit, tile by tile
    on_vector: bool = False
    loads: int = 2  # descriptors of a tile: operands, and scales that come with them
    block: int = 0  # elements that share a scale, of scales in tiles of 128 rows

    def made(self, cut: Cut) -> Any:
        """Return the template's knobs."""
        return self.knobs(**vars(cut))


def form_of(problem: Any, **given: Any) -> Form:
    """Return the form of a problem of one of the templates of products, with some knobs `given`.

    Raises ValueError for a problem of another template.
    """
    if isinstance(problem, gemm.Problem):
        kind, bits = gemm.Knobs if problem.batch is None else gemm.BatchedKnobs, _bits(problem.dtype)
        on_vector = given.get("unit") == "vector"
        return Form(_of(kind, given), (bits, bits), problem.dtype, LINE_BYTES * 8 // bits, on_vector=on_vector)
    if isinstance(problem, gemm_w8a8.Problem):
        made = _of(_w8a8_knobs, {"accumulators": 2} | given)
        return Form(made, (8, 8), "fp8_e4m3", BLOCK, BLOCK, promoted=True, loads=4)
    if isinstance(problem, gemm_w4a16.Problem):
        per_byte, made = problem.stored.per_byte, _of(gemm_w4a16.Knobs, given)
        unit = per_byte if problem.group == problem.k else problem.group
        line = round_up(BLOCK, unit)
        return Form(made, (16, 8 // per_byte), problem.dtype, line, unit, widened_bytes=2, loads=3)
    if isinstance(problem, gemm_mx.Problem):
        form, bits = problem.form, 8 // problem.form.per_byte
        line, made = LINE_BYTES * 8 // bits, _of(gemm_mx.Knobs, given)
        return Form(made, (bits, bits), form.native, line, 4 * form.block, loads=4, block=form.block)
    raise ValueError(f"no product: {type(problem).__module__}")


def _of(kind: Callable[..., Any], given: dict[str, Any]) -> Callable[..., Any]:
    return partial(kind, order="grouped", **given)


def _bits(dtype: str) -> int:
    return 8 * DTYPE_BYTES[dtype].itemsize


def _w8a8_knobs(tile_k: int, **knobs: Any) -> gemm_w8a8.Knobs:
    """Return knobs of the template whose tile of k is a block."""
    return gemm_w8a8.Knobs(**knobs)


def ranked(problem: Any, machine: Machine, **given: Any) -> tuple[Choice, ...]:
    """Return schedules of a product by their estimates, the best first, with some knobs `given`."""
    form, roof = form_of(problem, **given), Roof(machine)
    pitches = [problem.k * bits // 8 for bits in form.bits]
    channels = [Channels(machine, rows, pitch) for rows, pitch in zip((problem.m, problem.n), pitches, strict=True)]
    choices = (
        Choice(form.made(cut), _estimate(form, problem, cut, roof, channels), "split" if cut.split_k > 1 else "whole")
        for cut in _cuts(form, problem, machine)
    )
    return choice.ranked(choices)


def candidates(problem: Any, machine: Machine, **given: Any) -> Iterator[Any]:
    """Yield knobs to try, the most promising first, with some `given`; small tiles behind them."""
    form = form_of(problem, **given)
    is_read = form.bits[1] < 16 or machine.spec.shared_cache is None
    if problem.m <= FEW_ROWS and is_read and _products(problem) == 1:
        height = round_up(problem.m, machine.spec.cores.matrix.m)
        yield from (form.made(cut) for cut in _few(form, problem, machine, height))
    yield from (choice.knobs for choice in ranked(problem, machine, **given))
    rows = round_up(problem.m, machine.spec.cores.matrix.m)
    last = {"expanded": 1} if form.widened_bytes else {}
    for tile_m, tile_n, tile_k, stages in SMALL_TILES:
        cut = Cut(min(tile_m, rows), tile_n, round_up(max(1, tile_k * 16 // max(form.bits)), form.unit), stages)
        yield form.knobs(**vars(cut), **last)


def few_rows(problem: gemm.Problem, machine: Machine) -> Iterator[gemv.Knobs]:
    """Yield knobs of `gemv` to try, the most promising first."""
    bits = _bits(problem.dtype)
    form = Form(_gemv_knobs, (bits, bits), problem.dtype, LINE_BYTES * 8 // bits)
    yield from (form.made(cut) for cut in _few(form, problem, machine, problem.m))


def _gemv_knobs(tile_m: int, **knobs: Any) -> gemv.Knobs:
    """Return knobs of the template whose tiles have all rows."""
    return gemv.Knobs(unit="matrix", **knobs)


def _cuts(form: Form, problem: Any, machine: Machine) -> Iterator[Cut]:
    cores, shared = machine.spec.cores, machine.spec.shared_cache is not None
    products, k = _products(problem), problem.k
    sizes = TILES if shared else TILES + LARGE_TILES
    rows, columns = tile_sizes(problem.m, cores.matrix.m, sizes), tile_sizes(problem.n, cores.matrix.n, sizes)
    lines = (1,) if shared or form.promoted else LONG_LINES
    for times, tile_m, tile_n in product_of(lines, rows, columns):
        tile_k = times * form.line
        if shared and (tile_m * tile_n > MOST_AREA or tile_m + tile_n > MOST_EDGES):
            continue
        stages = _stages(form, tile_m, tile_n, tile_k, machine)
        if stages < 2:
            continue
        tiles = -(-problem.m // tile_m) * -(-problem.n // tile_n) * products
        for split in SPLITS:
            if split > 1 and (tiles * split > 2 * cores.count or k < split * 4 * tile_k):
                break
            yield Cut(tile_m, tile_n, tile_k, stages, split)


def _products(problem: Any) -> int:
    return getattr(problem, "batch", None) or 1


def tile_sizes(size: int, unit: int, sizes: tuple[int, ...]) -> list[int]:
    """Return the sizes of a tile along an axis: multiples of the unit up to what covers the axis."""
    enough = -(-size // unit) * unit
    whole = min(enough, sizes[-1] // unit * unit)
    found = sorted({tile for tile in sizes if tile % unit == 0 and tile < enough} | {whole})
    return [tile for tile in found if tile >= 32 or tile == enough or len(found) == 1] or found


def _stages(form: Form, tile_m: int, tile_n: int, tile_k: int, machine: Machine) -> int:
    """Return how many stages the scratchpad has room for."""
    cores = machine.spec.cores
    out = tile_m * tile_n * (4 if form.rate == "fp32" else 2)
    has_room_for_sums = cores.matrix.accumulators == "own" and cores.matrix.accumulator_capacity is not None
    widened = 2 * tile_n * tile_k * form.widened_bytes
    per_stage = (tile_m * form.bits[0] + tile_n * form.bits[1]) * tile_k // 8 + (tile_m + tile_n) * 8
    if not has_room_for_sums:  # those whose room nobody has told are not without limit
        out += tile_m * tile_n * 4
    room = cores.sram.capacity - out - widened - 4096
    if form.block:  # scales in tiles of 128 rows, and operands in 16 bits where no unit applies them
        per_stage += (-(-tile_m // 128) + -(-tile_n // 128)) * 128 * tile_k // form.block
        room -= 0 if getattr(cores.matrix, form.rate) else 2 * (tile_m + tile_n) * tile_k
    found = min(MOST_STAGES, int(room // per_stage)) if room > 0 else 0
    if found < 2 and form.loads == 2 and not form.widened_bytes and form.rate in WITHOUT_SCALES:
        two = (tile_m * form.bits[0] + tile_n * form.bits[1]) * tile_k // 4
        return 2 if out + two <= cores.sram.capacity else found  # nothing else lies there
    return found


def _estimate(form: Form, problem: Any, cut: Cut, roof: Roof, channels: list[Channels]) -> float:
    unit, products = roof.machine.spec.cores.matrix, _products(problem)
    m, n, k = problem.m, problem.n, problem.k
    area, split = cut.tile_m * cut.tile_n, cut.split_k > 1
    steps = -(-k // (cut.tile_k * cut.split_k))
    items = Items(
        count=-(-m // cut.tile_m) * -(-n // cut.tile_n) * cut.split_k * products,
        tiles=steps,
        macs=round_up(cut.tile_m, unit.m) * round_up(cut.tile_n, unit.n) * round_up(cut.tile_k, unit.k),
        dtype=form.rate,
        tile_bytes=(cut.tile_m * form.bits[0] + cut.tile_n * form.bits[1]) * cut.tile_k / 8,
        unique_bytes=products * (m * form.bits[0] + n * form.bits[1]) * k / 8,
        stages=cut.stages,
        vector_ops=(cut.tile_n * cut.tile_k * 4 if form.widened_bytes else 0) + (area * 2 if form.promoted else 0),
        end_bytes=area * (4 if split else 2),
        end_ops=area * 2,
        on_vector=form.on_vector,
        loads=form.loads,
        channels=1.0 if roof.has_cache else _share(form, cut, steps, roof, channels),
        takes_turns=not roof.has_cache,
    )
    return roof.phase_fs(items) + (_reduction_fs(4 * m * n * products * cut.split_k, roof) if split else 0)


def _share(form: Form, cut: Cut, steps: int, roof: Roof, channels: list[Channels]) -> float:
    """Return the share of memory's channels that the tiles of a core in flight lie in: those of both operands."""
    rows, dma = (cut.tile_m, cut.tile_n), roof.machine.spec.cores.dma
    runs = [cut.tile_k * bits / 8 for bits in form.bits]
    asked = sum(requests(count, run, dma) for count, run in zip(rows, runs, strict=True))
    in_flight = min(cut.stages, steps, max(1, dma.max_outstanding / asked))
    operands = zip(channels, rows, runs, strict=True)
    return min(1.0, sum(of.share(count, in_flight * run, cut.split_k, steps * run) for of, count, run in operands))


def _reduction_fs(parts_bytes: int, roof: Roof) -> float:
    return roof.launch_fs + 2 * roof.latency_fs + parts_bytes * max(roof.shared_fs, roof.port_fs / roof.cores)


def _few(form: Form, problem: Any, machine: Machine, rows: int) -> list[Cut]:
    """Return cuts of few rows: with an estimate close to the least one, most stages and small tiles first, then others.

    The others are in order of their estimates; those of one stage, where cores load nothing while they multiply, come
    last. `rows` of a tile of a lie in the scratchpad. What is expanded holds its stages longer than the estimate knows:
    fewer stages or longer tiles are no use there.
    """
    roof, cores = Roof(machine), machine.spec.cores
    shared = machine.spec.shared_cache is not None
    height, channels = round_up(problem.m, cores.matrix.m), Channels(machine, problem.n, problem.k * form.bits[1] // 8)
    wanted = FEW_K if shared else FEW_LONG_K if form.widened_bytes else FEW_LONGEST_K
    depths = {form.line} if form.promoted else {round_up(min(depth, problem.k), form.unit) for depth in wanted}
    wide = [] if shared else [tile_n for tile_n in FEW_WIDE_N if problem.n >= MANY * cores.count * tile_n]
    sizes = list(product_of((*FEW_N, *wide), sorted(depths, reverse=True)))
    room = {size: max(1, _stages(form, rows, *size, machine)) for size in sizes}
    if shared:
        room = {size: FEW_STAGES if form.widened_bytes else min(room[size], FEW_STAGES) for size in sizes}
    found = []
    for (tile_n, tile_k), parts in product_of(sizes, SPLITS):
        if parts > 1 and (problem.k < 2 * parts * tile_k or -(-problem.n // tile_n) * parts > 2 * cores.count):
            continue
        stages = room[tile_n, tile_k]
        cut = Cut(height, tile_n, tile_k, stages, parts)
        items = _few_items(form, problem, cut, machine, channels)
        stops = stages == 1 and (items.count > cores.count or items.tiles > 1)
        estimate = roof.phase_fs(items)
        if parts > 1:
            estimate += _reduction_fs(4 * problem.m * problem.n * parts, roof)
        found.append((stops, estimate, cut))
    close = CLOSE * min(found, key=lambda each: each[:2])[1]
    order = sorted(found, key=lambda each: (each[0], max(close, each[1]), -each[2].stages))
    return [cut for *_, cut in order]


def requests(rows: int, run_bytes: float, dma: DmaSpec) -> int:
    """Return how many requests of memory rows take, a run of each."""
    return ceil(rows * run_bytes / min(dma.request_bytes, dma.max_runs * run_bytes))


def _few_items(form: Form, problem: Any, cut: Cut, machine: Machine, channels: Channels) -> Items:
    """Return the items of a cut of few rows."""
    cores, dma, m = machine.spec.cores, machine.spec.cores.dma, problem.m
    steps = -(-problem.k // (cut.tile_k * cut.split_k))
    deep = problem.k / (steps * cut.split_k)  # the last tile of k is shorter than the others
    run_a, run_b = deep * form.bits[0] / 8, deep * form.bits[1] / 8
    asked = requests(m, run_a, dma) + requests(cut.tile_n, run_b, dma)
    in_flight = min(cut.stages, steps, max(1, dma.max_outstanding / asked))
    return Items(
        count=-(-problem.n // cut.tile_n) * cut.split_k,
        tiles=steps,
        macs=cut.tile_m * cut.tile_n * deep,
        dtype=form.rate,
        tile_bytes=cut.tile_n * run_b + m * run_a,
        unique_bytes=problem.n * problem.k * form.bits[1] / 8,
        stages=cut.stages,
        vector_ops=2 * cut.tile_n * deep * cores.vector.alu / cores.vector.convert if form.widened_bytes else 0,
        loads=form.loads,
        requests=asked + form.loads - 2,
        channels=channels.share(cut.tile_n, in_flight * run_b, cut.split_k, steps * run_b),
    )
