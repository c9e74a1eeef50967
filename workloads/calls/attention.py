"""Calls of attention: decode steps, prefills, and both of latent attention.

Keys and values of new tokens are appended to the cache in a launch before, as serving stacks do; an encoder, which has
no causal mask, has no cache. Pages lie in order, as in the measurements. Caches in fp8 are multiplied in fp8 where the
matrix unit has that, and widened where it has not. As the kernels that were measured are not persistent, an item's
loads wait for the end of the one before (epilogue `exposed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hwmodel.machine import Machine
from layouts.notation import nearest_first
from workloads.calls.call import (
    MAX_QUERIES,
    MAX_TOKENS,
    Call,
    Launch,
    NotModelled,
    Row,
    Variant,
    ranked,
    require_within,
)
from workloads.kernels import decode_attention, kv_append, mla_decode, prefill_attention
from workloads.kernels.attention_problem import FP8
from workloads.kernels.latent import Heads
from workloads.kernels.tuning.roof import Items, Roof

PAGE_SIZE = 64
PAGES: dict[str, Any] = {"page_size": PAGE_SIZE, "page_order": "contiguous"}
TILES = (32, 64, 96, 128)  # tokens of a tile of keys
LATENT_TILES = (16, 32, 64)  # likewise, of a latent cache
ROWS = (32, 64, 128, 192)  # of a tile of queries
LATENT_ROWS = (16, 32, 64, 128)  # likewise, of latent attention
PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # of a sequence, on as many cores
STRIP = 8  # rows of a latent attention's result that are stored at a time
SOFTMAX_OPS = 6  # assumed, of the vector unit per score besides the exponential: scale, maximum, difference, sum, round
TILE_CYCLES = 64  # assumed, in estimates: what a tile takes besides, so that larger ones come first
CACHES = {"": "", "bfloat16": "", "float16": "", "fp8": FP8}


def decode_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op decode_attention."""
    batch, kv_len, heads_q, heads_kv, dim = row.need("batch", "kv_len", "heads_q", "heads_kv", "head_dim")
    dtype, kv_dtype = _dtypes(row)
    _check_heads(row, heads_q, heads_kv)
    require_within(row.op, "tokens times KV heads are", batch * kv_len * heads_kv, MAX_TOKENS)
    window = _window(row, kv_len)
    contexts = (kv_len,) * batch
    q_len = row.optional("q_len", 1)
    _check_queries(row, batch, q_len, kv_len, heads_q)
    problem = decode_attention.Problem(
        heads_q, heads_kv, dim, dtype, contexts, q_len=q_len, window=window, kv_dtype=kv_dtype
    )
    append = _append(heads_q, heads_kv, dim, dtype, kv_dtype, contexts, q_len)
    return Call((append, _decode(problem, machine)), graph=True)


def prefill_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op flash_prefill."""
    batch, q_len, kv_len, heads_q, heads_kv, dim = row.need(
        "batch", "q_len", "kv_len", "heads_q", "heads_kv", "head_dim"
    )
    dim_v = row.optional("head_dim_v", 128 if dim == 192 else dim)  # no model has 192 with values as long
    return _prefill_call(row, machine, (batch, q_len, kv_len, heads_q, heads_kv, dim, dim_v))


def latent_prefill_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op mla_prefill: keys and values of every head, or absorbed as in decode steps."""
    batch, q_len, kv_len, heads, dim = row.need("batch", "q_len", "kv_len", "heads_q", "head_dim")
    if dim == 576:
        return _latent_call(row, machine, batch, q_len, kv_len, heads)
    return _prefill_call(row, machine, (batch, q_len, kv_len, heads, heads, dim, row.optional("head_dim_v", 128)))


def latent_decode_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op mla_decode."""
    batch, kv_len, heads = row.need("batch", "kv_len", "heads_q")
    return _latent_call(row, machine, batch, row.optional("q_len", 1), kv_len, heads)


def _dtypes(row: Row) -> tuple[str, str]:
    """Return the types of results and of the cache. Raises NotModelled for others than 16 bits and fp8."""
    kv = row.names.get("kv_dtype", "")
    if kv not in CACHES:
        raise NotModelled(f"{row.op}: kv_dtype {kv!r} has no kernel; known: {nearest_first(kv, filter(None, CACHES))}")
    dtype = "bf16" if row.dtype == "fp8" else row.float_dtype()
    if dtype == "fp32":
        raise NotModelled(f"{row.op}: dtype 'float32' has no kernel")
    return dtype, CACHES[kv]


def _check_heads(row: Row, heads_q: int, heads_kv: int) -> None:
    if heads_q % heads_kv:
        raise NotModelled(f"{row.op}: heads_q {heads_q} is no multiple of heads_kv {heads_kv}")


def _check_queries(row: Row, batch: int, q_len: int, kv_len: int, heads: int) -> None:
    if q_len > kv_len:
        raise NotModelled(f"{row.op}: q_len {q_len} is more than kv_len {kv_len}")
    require_within(row.op, "tokens are", batch * kv_len, MAX_TOKENS)
    require_within(row.op, "queries times heads are", batch * q_len * heads, MAX_QUERIES)


def _window(row: Row, kv_len: int) -> int:
    window = row.sizes.get("window", 0)
    if window < 0:
        raise NotModelled(f"{row.op}: window is {window}; allowed: from 0, which stands for none")
    return window if window < kv_len else 0


def _append(
    heads_q: int, heads_kv: int, dim: int, dtype: str, kv_dtype: str, contexts: tuple[int, ...], new: int
) -> Launch:
    problem = kv_append.Problem(heads_q, heads_kv, dim, dtype, contexts, new)
    knobs = kv_append.Knobs(cache_dtype=kv_dtype or "model", **PAGES)
    small = (
        kv_append.Knobs(cache_dtype=kv_dtype or "model", tile_rows=rows, stages=stages, **PAGES)
        for rows, stages in ((2, 2), (1, 2), (1, 1))
    )
    variants = tuple(Variant("kv-append", problem, each) for each in (knobs, *small))
    return Launch("append", variants, dtype, 0, 0)


def _products(machine: Machine) -> str:
    return "fp8" if machine.spec.cores.matrix.fp8 is not None else "16-bit"


def _decode(p: decode_attention.Problem, machine: Machine) -> Launch:
    roof, sequences = Roof(machine), len(p.contexts)
    seen = min(p.contexts[0], p.window or p.contexts[0])
    kv_bytes = 1 if p.kv_dtype == FP8 else 2
    group, moved = p.q_len * (p.heads_q // p.heads_kv), sequences * p.heads_kv * seen * 2 * p.head_dim * kv_bytes
    products = _products(machine)
    rate = FP8 if kv_bytes == 1 and products == "fp8" else p.dtype
    rows = -(-group // machine.spec.cores.matrix.m) * machine.spec.cores.matrix.m
    variants = []
    for tile in TILES:
        for parts, split in _splits(seen, tile, sequences * p.heads_kv, machine):
            stages = _stages(machine, 2 * tile * p.head_dim * kv_bytes, group * (6 * p.head_dim + 4 * tile) + 8192)
            items = Items(
                count=sequences * p.heads_kv * parts,
                tiles=-(-min(split or seen, seen) // tile),
                macs=2 * rows * tile * p.head_dim,
                dtype=rate,
                tile_bytes=2 * tile * p.head_dim * kv_bytes,
                unique_bytes=moved,
                stages=stages,
                vector_ops=_softmax_ops(machine, group * tile),
                end_bytes=group * p.head_dim * (6 if parts > 1 else 4),
                end_ops=2 * group * p.head_dim,
            )
            estimate = roof.phase_fs(items) + (_merge_fs(roof, items.count * group * p.head_dim) if parts > 1 else 0)
            knobs = decode_attention.Knobs(
                tile=tile, stages=stages, split_tokens=split, products=products, epilogue="exposed", **PAGES
            )
            variants.append(Variant("decode-attention", p, knobs, estimate, "split" if split else "whole"))
    return Launch("attention", ranked(variants), rate, _decode_macs(p), moved)


def _decode_macs(p: decode_attention.Problem) -> int:
    """Return the multiply-accumulates of the pairs of a query and a key that it sees."""
    pairs = sum(min(p.contexts[0] - ahead, p.window or p.contexts[0]) for ahead in range(p.q_len))
    return 2 * len(p.contexts) * p.heads_q * pairs * p.head_dim


def _softmax_ops(machine: Machine, scores: int) -> float:
    """Return the operations of an online softmax of so many scores, exponentials as what they take of the rest."""
    vector = machine.spec.cores.vector
    return scores * (SOFTMAX_OPS + vector.alu / vector.exp)


def _splits(seen: int, tile: int, items: int, machine: Machine) -> Iterator[tuple[int, int]]:
    """Yield (parts, tokens of a part; 0: all) by which the tokens of an item may be split over cores."""
    cores, found = machine.spec.cores.count, set()
    for parts in PARTS:
        if parts > 1 and (items * parts > 4 * cores or seen < parts * tile):
            break
        split = -(-seen // (parts * tile)) * tile
        if split not in found:
            found.add(split)
            yield -(-seen // split), 0 if split >= seen else split


def _stages(machine: Machine, tile_bytes: int, other_bytes: int, most: int = 6) -> int:
    return max(1, min(most, (machine.spec.cores.sram.capacity - other_bytes) // tile_bytes))


def _merge_fs(roof: Roof, elements: int) -> float:
    """Return the estimate of the launch that merges partial results in fp32."""
    return roof.launch_fs + 2 * roof.latency_fs + 4 * elements * max(roof.shared_fs, roof.port_fs / roof.cores)


def _prefill_call(row: Row, machine: Machine, sizes: tuple[int, ...]) -> Call:
    batch, q_len, kv_len, heads_q, heads_kv, dim, dim_v = sizes
    _check_queries(row, batch, q_len, kv_len, heads_q)
    _check_heads(row, heads_q, heads_kv)
    dtype, kv_dtype = _dtypes(row)
    causal = row.sizes.get("causal", 1) != 0
    contexts = (kv_len,) * batch
    problem = prefill_attention.Problem(
        heads_q, heads_kv, dim, dtype, contexts,
        q_len=0 if q_len == kv_len else q_len,
        window=_window(row, kv_len) if causal else 0,
        bidirectional=int(not causal),
        head_dim_v=0 if dim_v == dim else dim_v,
        kv_dtype=kv_dtype,
        q_fp8=int(row.dtype == "fp8" and kv_dtype == FP8),
    )  # fmt: skip
    main = _prefill(problem, machine, q_len, dim_v)
    if not causal:
        return Call((main,), graph=True)
    width = -(-(dim + dim_v) // 2)
    return Call((_append(heads_q, heads_kv, width, dtype, kv_dtype, contexts, q_len), main), graph=True)


def _prefill(p: prefill_attention.Problem, machine: Machine, q_len: int, dim_v: int) -> Launch:
    kv_bytes = 1 if p.kv_dtype == FP8 else 2
    products = _products(machine)
    rate = FP8 if kv_bytes == 1 and products == "fp8" else p.dtype
    stages = 2 if _fits_two(p, machine) else 1
    variants = []
    for packing in ("group", "head") if p.heads_q != p.heads_kv else ("head",):
        for lanes, pipeline in ((1, "two-stage"), (2, "warp-specialised")):
            for rows in ROWS:
                for tile in TILES:
                    heads = p.heads_q // p.heads_kv if packing == "group" else 1
                    if heads > rows or (rows > ROWS[0] and q_len * heads <= rows // 2):
                        continue
                    knobs = prefill_attention.Knobs(
                        tile_q=rows, tile_kv=tile, packing=packing, pipeline=pipeline, schedule="balanced",
                        products=products, epilogue="exposed", stages=stages,
                    )  # fmt: skip
                    estimate = _prefill_fs(p, machine, (rows, lanes, tile, heads), q_len, dim_v, rate)
                    variants.append(Variant("prefill-attention", p, knobs, estimate))
    pairs = _scores(p, q_len)
    macs = len(p.contexts) * p.heads_q * pairs * (p.head_dim + dim_v)
    return Launch("attention", ranked(variants), rate, macs, 0)


def _fits_two(p: prefill_attention.Problem, machine: Machine) -> bool:
    """Return whether two tiles of keys and values in flight leave room for a tile of queries and its result."""
    width = p.head_dim * (1 if p.kv_dtype == FP8 else 2)
    return machine.spec.cores.sram.capacity > ROWS[1] * (2 * 2 * width + 4 * p.head_dim)


def _scores(p: prefill_attention.Problem, q_len: int) -> int:
    """Return the pairs of a query and a key that it sees, of one head of one sequence."""
    context = p.contexts[0]
    if p.bidirectional:
        return q_len * context
    last = np.arange(context - q_len, context, dtype=np.int64) + 1
    return int(np.minimum(last, p.window or context).sum())


def _prefill_fs(
    p: prefill_attention.Problem, machine: Machine, cut: tuple[int, int, int, int], q_len: int, dim_v: int, rate: str
) -> float:
    """Return the estimate of a prefill whose items are dealt evenly, by the tiles that each walks."""
    rows, lanes, tile, heads = cut
    roof, context = Roof(machine), p.contexts[0]
    unit, vector = machine.spec.cores.matrix, machine.spec.cores.vector
    positions = rows // heads * lanes
    first = np.arange(0, q_len, positions, dtype=np.int64) + context - q_len
    last = np.minimum(first + positions, context)
    begin = np.maximum(first - p.window + 1, 0) // tile if p.window else np.zeros_like(first)
    tiles = (np.full_like(first, -(-context // tile)) if p.bidirectional else -(-last // tile)) - begin
    copies = len(p.contexts) * p.heads_q // heads
    padded = -(-min(rows, q_len * heads) // unit.m) * unit.m * lanes
    width = -(-p.head_dim // unit.k) * unit.k
    kv_bytes = 1 if p.kv_dtype == FP8 else 2
    matrix_fs = padded * tile * (width + dim_v) * roof.mac_fs(rate)
    vector_fs = rows * lanes * tile * (SOFTMAX_OPS / vector.alu + 1 / vector.exp) * roof.cycle_fs
    loaded = tile * (p.head_dim + dim_v) * kv_bytes
    overlap = max(matrix_fs, vector_fs) if lanes == 2 else max(matrix_fs, vector_fs) + 0.2 * min(matrix_fs, vector_fs)
    overlap += TILE_CYCLES * roof.cycle_fs
    tile_fs = max(overlap, loaded * roof.port_fs, loaded * roof.shared_fs * roof.cores)
    end_fs = roof.latency_fs + rows * lanes * (2 * p.head_dim + 2 * dim_v) * roof.port_fs + matrix_fs + vector_fs
    total = copies * (float(tiles.sum()) * tile_fs + len(tiles) * end_fs)
    longest = float(tiles.max()) * tile_fs + end_fs
    waves = -(-copies * len(tiles) // roof.cores)
    by_waves = waves * (float(tiles.mean()) * tile_fs + end_fs)
    return roof.launch_fs + roof.latency_fs + max(longest, total / roof.cores, by_waves)


def _latent_call(row: Row, machine: Machine, batch: int, q_len: int, kv_len: int, heads: int) -> Call:
    dtype, kv_dtype = _dtypes(row)
    _check_queries(row, batch, q_len, kv_len, heads)
    contexts, roof = (kv_len,) * batch, Roof(machine)
    record = "fp8_ds_mla" if kv_dtype == FP8 else "plain"
    token_bytes = 656 if record != "plain" else 1152
    problem = mla_decode.Problem(Heads(heads, 512, 64, 512, 192**-0.5, dtype), q_len, contexts)
    unit = machine.spec.cores.matrix
    variants = []
    for head_tile in LATENT_ROWS:
        blocks = -(-heads * q_len // head_tile)
        if head_tile >= 2 * heads * q_len and head_tile > LATENT_ROWS[0]:
            break
        for tile in LATENT_TILES:
            for parts, split in _splits(kv_len, tile, batch * blocks, machine):
                held = min(head_tile, heads * q_len)
                rows = -(-held // unit.m) * unit.m
                other = held * (576 * 2 + 2 * tile * 2 + 16) + 2 * STRIP * 513 * 4 + 4096
                stages = max(2, _stages(machine, tile * 576 * 2, other + 3 * tile * 576 * (record != "plain"), 4))
                items = Items(
                    count=batch * blocks * parts,
                    tiles=-(-min(split or kv_len, kv_len) // tile),
                    macs=rows * tile * (576 + 512),
                    dtype=dtype,
                    tile_bytes=tile * token_bytes,
                    unique_bytes=batch * kv_len * token_bytes,
                    stages=stages,
                    vector_ops=_softmax_ops(machine, min(head_tile, heads * q_len) * tile),
                    end_bytes=head_tile * 512 * (4 if parts > 1 else 2) + head_tile * 576 * 2,
                    end_ops=2 * head_tile * 512,
                )
                estimate = roof.phase_fs(items)
                estimate += _merge_fs(roof, batch * heads * q_len * 512 * parts) if parts > 1 else 0
                knobs = mla_decode.Knobs(
                    record=record,
                    head_tile=head_tile,
                    tile=tile,
                    stages=stages,
                    split_tokens=split,
                    strip=STRIP,
                    queries=1,
                    **PAGES,
                )
                variants.append(Variant("mla-decode", problem, knobs, estimate, "split" if split else "whole"))
    seen = batch * heads * q_len * (kv_len - (q_len - 1) / 2)
    macs, moved = int(seen * (576 + 512)), batch * kv_len * token_bytes
    append = _append(1, 1, 288, dtype, kv_dtype, contexts, q_len)
    return Call((append, Launch("attention", ranked(variants), dtype, macs, moved)), graph=True)
