"""How attention is cut: tiles of queries and of keys, stages and parts of sequences, the most promising first.

`decode`, `prefill` and `latent` rank schedules by an estimate (`roof`) of their time, each with some knobs `given`;
`candidates` are the knobs to try in that order. Sequences may differ in length; parts of all are equally long.

Where cores share no cache, every tile comes from main memory for each core: tiles may be as large as the scratchpad
lets them. Engines that cannot gather need a descriptor for each page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import DTYPES
from layouts.catalog.sizes import round_up
from workloads.kernels import decode_attention, mla_decode, prefill_attention
from workloads.kernels.attention_problem import FP8
from workloads.kernels.base import shrinking
from workloads.kernels.latent_cache import FORMATS
from workloads.kernels.tuning.choice import CLOSE, Choice, ranked
from workloads.kernels.tuning.roof import Items, Roof

Lengths: TypeAlias = np.ndarray[Any, Any]  # tokens, or tiles, of every sequence

TILES = (32, 64, 96, 128)  # tokens of a tile of keys
LATENT_TILES = (8, 16, 32, 64)  # likewise, of a latent cache
ROWS = (32, 64, 128, 192)  # of a tile of queries
LATENT_ROWS = (8, 16, 32, 64, 128)  # likewise, of latent attention
TILE_KNOBS = ("tile", "tile_q", "tile_kv", "head_tile")
KINDS = ("pipeline", "packing")
LARGE = (256, 512, 1024)  # more of each, where no cache is shared
PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # of a sequence, on as many cores
STRIP = 8  # rows of a latent attention's result that are stored at a time
MOST_STAGES, MOST_LATENT_STAGES = 6, 4
SOFTMAX_OPS = 6  # assumed, of the vector unit per score besides the exponential: scale, maximum, difference, sum, round
TILE_CYCLES = 64  # assumed, in estimates: what a tile takes besides, so that larger ones come first


def candidates(ranking: Callable[..., tuple[Choice, ...]], problem: Any, machine: Machine) -> Iterator[Any]:
    """Yield knobs to try, the most promising first; behind them smaller and smaller ones of every kind.

    Kinds differ in what else lies in the scratchpad: parts of sequences, two tiles of queries that take turns, groups.
    """
    choices = [choice.knobs for choice in ranking(problem, machine)]
    yield from choices
    by_tiles = sorted(choices, key=lambda knobs: sum(getattr(knobs, name, 0) for name in TILE_KNOBS))
    least: dict[tuple[Any, ...], Any] = {}
    for knobs in by_tiles:
        least.setdefault((knobs.split_tokens > 0, *(getattr(knobs, name, "") for name in KINDS)), knobs)
    pairs = ([knobs, replace(knobs, strip=1)] if hasattr(knobs, "strip") else [knobs] for knobs in least.values())
    yield from shrinking(*(small for pair in pairs for small in pair))


def decode(p: decode_attention.Problem, machine: Machine, warm: bool = False, **given: Any) -> tuple[Choice, ...]:
    """Return schedules of a decode step over a paged cache, which is `warm` where a shared cache holds it."""
    roof, (_, seen) = Roof(machine, warm), decode_attention.loaded_keys(p)
    kv_bytes, value_dim = _width(p), p.head_dim_v or p.head_dim
    group, row_bytes = p.q_len * (p.heads_q // p.heads_kv), (p.head_dim + value_dim) * kv_bytes
    rows = -(-group // machine.spec.cores.matrix.m) * machine.spec.cores.matrix.m
    page = given.get("page_size", decode_attention.Knobs().page_size)
    found = []
    for tile in _with_large(TILES, machine):
        for split in _splits(seen, tile, p.heads_kv, machine):
            parts = -(-seen // (split or seen.max()))
            stages = _stages(machine, tile * row_bytes, group * (6 * p.head_dim + 4 * tile) + 8192)
            items = Items(
                count=p.heads_kv * int(parts.sum()),
                tiles=_mean_tiles(seen, split, tile),
                macs=_padded_macs(machine, rows, tile, p.head_dim, value_dim),
                dtype=rate(p, machine),
                tile_bytes=tile * row_bytes,
                unique_bytes=p.heads_kv * int(seen.sum()) * row_bytes,
                stages=stages,
                vector_ops=_softmax_ops(machine, group * tile),
                end_bytes=group * (2 * p.head_dim + value_dim * (4 if parts.max() > 1 else 2)),
                end_ops=2 * group * value_dim,
                loads=_loads(machine, tile, page, 2),
                takes_turns=not roof.has_cache,
            )
            merge_fs = _merge_fs(roof, items.count * group * value_dim) if parts.max() > 1 else 0
            knobs = decode_attention.Knobs(
                tile=tile, stages=stages, split_tokens=split, **_multiplied(p, machine), **given
            )
            estimate = _ragged_fs(roof, items, p.heads_kv, seen, split, tile) + merge_fs
            found.append(Choice(knobs, estimate, "split" if split else "whole"))
    return ranked(found)


def prefill(p: prefill_attention.Problem, machine: Machine, warm: bool = False, **given: Any) -> tuple[Choice, ...]:
    """Return schedules of a prefill, whose items are dealt evenly; `warm` as of `decode`."""
    roof, stages, longest = Roof(machine, warm), 2 if _fits_two(p, machine) else 1, max(p.lengths)
    sequences = Counter(zip(p.contexts, p.lengths, strict=True))
    found = []
    for packing in ("group", "head") if p.heads_q != p.heads_kv else ("head",):
        for lanes, pipeline in ((1, "two-stage"), (2, "warp-specialised")):
            for rows in _with_large(ROWS, machine):
                for tile in _with_large(TILES, machine):
                    heads = p.heads_q // p.heads_kv if packing == "group" else 1
                    if heads > rows or (rows > ROWS[0] and longest * heads <= rows // 2):
                        continue
                    knobs = prefill_attention.Knobs(
                        tile_q=rows, tile_kv=tile, packing=packing, pipeline=pipeline, schedule="balanced",
                        stages=stages, **_multiplied(p, machine), **given,
                    )  # fmt: skip
                    estimate = _prefill_fs(p, roof, sequences, (rows, lanes, tile, heads, stages))
                    found.append(Choice(knobs, estimate))
    return ranked(found)


def latent(p: mla_decode.Problem, machine: Machine, warm: bool = False, **given: Any) -> tuple[Choice, ...]:
    """Return schedules of a decode step over a paged latent cache; `warm` as of `decode`.

    Where no cache is shared, tiles of whole pages come first of those whose estimates are close to the least one.
    """
    roof, unit, heads = Roof(machine, warm), machine.spec.cores.matrix, p.heads
    is_widened = given.get("record", "plain") != "plain"
    token_bytes = latent_bytes(p, given.get("record", "plain"))
    page = given.get("page_size", mla_decode.Knobs().page_size)
    found = []
    for head_tile in _with_large(LATENT_ROWS, machine):
        if head_tile >= 2 * p.rows and head_tile > LATENT_ROWS[0]:
            break
        held = min(head_tile, p.rows)
        by_all, more = mla_decode.seen_by_tiles(p, held)
        seen = (by_all + more).reshape(-1)
        rows = -(-held // unit.m) * unit.m
        for tile in _with_large(LATENT_TILES, machine):
            for split in _splits(seen, tile, 1, machine):
                parts = -(-seen // (split or seen.max()))
                other = held * (2 * heads.dim + 2 * tile * 2 + 16) + 2 * STRIP * (heads.value_dim + 1) * 4 + 4096
                other += 3 * tile * heads.dim * is_widened
                stages = max(2, _stages(machine, tile * heads.dim * 2, other, MOST_LATENT_STAGES))
                items = Items(
                    count=int(parts.sum()),
                    tiles=_mean_tiles(seen, split, tile),
                    macs=_padded_macs(machine, rows, tile, heads.dim, heads.value_dim),
                    dtype=heads.dtype,
                    tile_bytes=tile * token_bytes,
                    unique_bytes=sum(p.contexts) * token_bytes,
                    stages=stages,
                    vector_ops=_softmax_ops(machine, held * tile),
                    end_bytes=head_tile * heads.value_dim * (4 if parts.max() > 1 else 2) + head_tile * heads.dim * 2,
                    end_ops=2 * head_tile * heads.value_dim,
                    loads=_loads(machine, tile, page, 1),
                    sram_bytes=2 * ((held + tile) * heads.dim + tile * heads.value_dim + 2 * held * tile),
                    takes_turns=not roof.has_cache,
                )
                merged = held * heads.value_dim * items.count if parts.max() > 1 else 0
                estimate = _ragged_fs(roof, items, 1, seen, split, tile)
                estimate += _merge_fs(roof, merged) if merged else 0
                knobs = mla_decode.Knobs(
                    head_tile=head_tile, tile=tile, stages=stages, split_tokens=split, strip=STRIP, queries=1, **given
                )
                found.append(Choice(knobs, estimate, "split" if split else "whole"))
    if roof.has_cache:
        return ranked(found)
    close = CLOSE * min(choice.estimate_fs for choice in found)
    return tuple(sorted(ranked(found), key=lambda choice: choice.estimate_fs > close or choice.knobs.tile % page != 0))


def products(machine: Machine) -> str:
    """Return how a cache in fp8 is multiplied: as it is where the matrix unit has that."""
    return "fp8" if machine.spec.cores.matrix.fp8 is not None else "16-bit"


def latent_bytes(p: mla_decode.Problem, record: str) -> int:
    """Return the bytes of a token in a latent cache."""
    if record == "plain":
        return 2 * p.heads.dim
    form = FORMATS[record]
    return form.scaled + form.groups * DTYPES[form.scale_dtype].itemsize + 2 * form.tail


def _multiplied(p: Any, machine: Machine) -> dict[str, Any]:
    """Return the knob that says how a cache in fp8 is multiplied; others have none."""
    return {"products": products(machine)} if _width(p) == 1 else {}


def scores(p: prefill_attention.Problem) -> int:
    """Return the pairs of a query and a key that it sees, of one head of all sequences."""
    total = 0
    for context, queries in zip(p.contexts, p.lengths, strict=True):
        last = np.arange(context - queries, context, dtype=np.int64) + 1
        total += queries * context if p.bidirectional else int(np.minimum(last, p.window or context).sum())
    return total


def _width(p: Any) -> int:
    return 1 if p.kv_dtype == FP8 else 2


def rate(p: Any, machine: Machine) -> str:
    """Return the type whose rate counts."""
    return FP8 if _width(p) == 1 and products(machine) == "fp8" else p.dtype


def _with_large(sizes: tuple[int, ...], machine: Machine) -> tuple[int, ...]:
    return sizes if machine.spec.shared_cache else (*sizes, *(size for size in LARGE if size > sizes[-1]))


def _loads(machine: Machine, tile: int, page: int, tensors: int) -> int:
    """Return in how many descriptors a tile of each of some tensors comes."""
    return tensors * (1 if machine.spec.cores.dma.gather or not page else -(-tile // page))


def _softmax_ops(machine: Machine, scores: int) -> float:
    """Return the operations of an online softmax of so many scores, exponentials as what they take of the rest."""
    vector = machine.spec.cores.vector
    return scores * (SOFTMAX_OPS + vector.alu / vector.exp)


def _splits(seen: Lengths, tile: int, blocks: int, machine: Machine) -> Iterator[int]:
    """Yield the tokens of a part by which sequences may be split over cores, 0: all; `blocks`: items of a sequence."""
    cores, longest, found = machine.spec.cores.count, int(seen.max()), set()
    for parts in PARTS:
        if parts > 1 and (len(seen) * blocks * parts > 4 * cores or longest < parts * tile):
            break
        split = -(-longest // (parts * tile)) * tile
        if split not in found:
            found.add(split)
            yield 0 if split >= longest else split


def _padded_macs(machine: Machine, rows: int, tile: int, dim: int, value_dim: int) -> int:
    """Return the multiply-accumulates of a tile of keys with both products in whole units; `rows` already are."""
    unit = machine.spec.cores.matrix
    scores, sums = round_up(tile, unit.n) * round_up(dim, unit.k), round_up(value_dim, unit.n) * round_up(tile, unit.k)
    return rows * (scores + sums)


def _mean_tiles(seen: Lengths, split: int, tile: int) -> float:
    """Return the tiles of an item, on average over the parts of all sequences, each as long as the first of its own."""
    longest = np.minimum(seen, split or seen.max())
    parts = -(-seen // longest)
    return float((parts * -(-longest // tile)).sum() / parts.sum())


def _ragged_fs(roof: Roof, items: Items, blocks: int, seen: Lengths, split: int, tile: int) -> float:
    """Return the estimate of items of which the longest may be what the others wait for; `blocks`: of a sequence."""
    longest = int(min(split or seen.max(), seen.max()))
    few = blocks * int((seen >= longest).sum())
    alone = replace(items, count=min(items.count, few), tiles=-(-longest // tile), unique_bytes=0)
    return max(roof.phase_fs(items), roof.phase_fs(alone))


def _stages(machine: Machine, tile_bytes: int, other_bytes: int, most: int = MOST_STAGES) -> int:
    return max(1, min(most, (machine.spec.cores.sram.capacity - other_bytes) // tile_bytes))


def _merge_fs(roof: Roof, elements: int) -> float:
    """Return the estimate of the launch that merges partial results in fp32."""
    return roof.launch_fs + 2 * roof.latency_fs + 4 * elements * max(roof.shared_fs, roof.port_fs / roof.cores)


def _fits_two(p: prefill_attention.Problem, machine: Machine) -> bool:
    """Return whether two tiles of keys and values in flight leave room for a tile of queries and its result."""
    return machine.spec.cores.sram.capacity > ROWS[1] * (2 * 2 * p.head_dim * _width(p) + 4 * p.head_dim)


def _prefill_fs(
    p: prefill_attention.Problem, roof: Roof, sequences: Mapping[tuple[int, int], int], cut: tuple[int, ...]
) -> float:
    """Return the estimate of a prefill by the tiles that each of its items walks.

    `sequences`: how many there are by (context, queries). `cut`: rows, lanes, tokens of a tile, heads, stages.
    """
    rows, lanes, tile, heads, stages = cut
    machine, dim_v = roof.machine, p.head_dim_v or p.head_dim
    unit, vector = machine.spec.cores.matrix, machine.spec.cores.vector
    walked = [_walked(p, *each, rows // heads * lanes, tile) for each in sequences]
    tiles, copies = np.concatenate(walked), p.heads_q // heads
    times = np.repeat(np.array(list(sequences.values())), [len(each) for each in walked])
    count, tiles_of_all = int(times.sum()), int((tiles * times).sum())
    padded = -(-min(rows, max(p.lengths) * heads) // unit.m) * unit.m * lanes
    matrix_fs = _padded_macs(machine, padded, tile, p.head_dim, dim_v) * roof.mac_fs(rate(p, machine))
    vector_fs = rows * lanes * tile * (SOFTMAX_OPS / vector.alu + 1 / vector.exp) * roof.cycle_fs
    loaded = tile * (p.head_dim + dim_v) * _width(p)
    overlap = max(matrix_fs, vector_fs) if lanes == 2 else max(matrix_fs, vector_fs) + 0.2 * min(matrix_fs, vector_fs)
    overlap += TILE_CYCLES * roof.cycle_fs
    if roof.has_cache:
        come_fs = max(loaded * roof.port_fs, loaded * roof.shared_fs * roof.cores)
    else:
        come_fs = roof.turn_fs(loaded, min(roof.cores, copies * count), stages)
    tile_fs = max(overlap, come_fs)
    end_fs = roof.latency_fs + rows * lanes * (2 * p.head_dim + 2 * dim_v) * roof.port_fs + matrix_fs + vector_fs
    total = copies * (float(tiles_of_all) * tile_fs + count * end_fs)
    most = float(tiles.max()) * tile_fs + end_fs
    waves = -(-copies * count // roof.cores)
    by_waves = waves * (tiles_of_all / count * tile_fs + end_fs)
    moved = sum(p.contexts) * p.heads_kv * (p.head_dim + dim_v) * _width(p)
    moved += 2 * sum(p.lengths) * p.heads_q * (p.head_dim + dim_v)
    return roof.launch_fs + roof.latency_fs + max(most, total / roof.cores, by_waves, moved * roof.steady_fs)


def _walked(p: prefill_attention.Problem, context: int, queries: int, positions: int, tile: int) -> Lengths:
    """Return the tiles of keys that each tile of queries of a sequence walks."""
    first = np.arange(0, queries, positions, dtype=np.int64) + context - queries
    last = np.minimum(first + positions, context)
    begin = np.maximum(first - p.window + 1, 0) // tile if p.window else np.zeros_like(first)
    return (np.full_like(first, -(-context // tile)) if p.bidirectional else -(-last // tile)) - begin
