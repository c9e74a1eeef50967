"""Page maps: which page of a cache holds the token at a position of a sequence, in the forms the stacks use.

The link between a sequence and a paged cache (`layouts.catalog.kv`): position -> (page, token in page) -> offset.  Page
numbers are data, so this link is a table and not a stride.  `PageMap.layout` composes it with a cache as one layout,
`PageMap.offsets` does the same for arrays of any size.

Five forms are read: FlashInfer's compressed rows, the dense block tables of vLLM and FlashMLA, SGLang's token slots,
TensorRT-LLM's block offsets, and tensors without pages (ragged).

Not modelled: allocation over time; a page may belong to several sequences (shared prefixes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layouts.catalog.sizes import check_choice, check_sizes, strided
from layouts.layout import Layout, Stage
from layouts.notation import NamedLayout
from layouts.shape import as_int
from layouts.stride import E
from layouts.table import Table

IntArray: TypeAlias = NDArray[np.int64]

SECONDARY_POOL = 1 << 31  # TensorRT-LLM kvCacheIndex.h: the sign bit of an int32
MASK = SECONDARY_POOL - 1


@dataclass(frozen=True, eq=False)
class PageMap:
    """The pages of every sequence: `pages[starts[s] + p // page_size]` holds position p of sequence s.

    `pages`: int64, numbers below `pool_pages`; `starts`: [sequences + 1]; `lengths`: tokens per sequence;
    `secondary`: for TensorRT-LLM, whether a page lies in the secondary pool.  Made by the functions of this file.
    """

    page_size: int
    pool_pages: int
    pages: IntArray
    starts: IntArray
    lengths: IntArray
    secondary: NDArray[np.bool_] | None = None

    @property
    def sequences(self) -> int:
        """The number of sequences."""
        return len(self.lengths)

    def pages_of(self, sequence: int) -> IntArray:
        """Return the page numbers of a sequence in the order of its tokens."""
        return self.pages[self._slice(sequence)]

    def locate(self, sequence: ArrayLike, position: ArrayLike) -> tuple[IntArray, IntArray]:
        """Return (page, token in page) of positions, arrays broadcast together; ValueError beyond the length."""
        where, token = self._entry(sequence, position)
        return self.pages[where], token

    def slots(self, sequence: ArrayLike, position: ArrayLike) -> IntArray:
        """Return slots, ``page * page_size + token``: vLLM's slot_mapping, FlashMLA's sparse indices.

        Position -1 stands for no token and stays -1.
        """
        chosen, rows = np.broadcast_arrays(_integers("position", position), _integers("sequence", sequence))
        kept = chosen >= 0
        if (chosen < -1).any():
            raise ValueError(f"page map: position {chosen.min()} is not allowed, -1 stands for no token")
        page, token = self.locate(rows[kept], chosen[kept])
        result = np.full(chosen.shape, -1, dtype=np.int64)
        result[kept] = page * self.page_size + token
        return result

    def offsets(self, cache: NamedLayout, sequence: ArrayLike, position: ArrayLike, /, **rest: ArrayLike) -> Any:
        """Return the int64 offsets in `cache` of positions; `rest` gives the cache's other axes, all broadcast.

        `cache` has the axes page and token, or slot.  For TensorRT-LLM offsets count from the pool that
        `secondary` names.
        """
        self._check_cache(cache)
        page, token = self.locate(sequence, position)
        if "slot" in cache.axes:
            return cache.offsets(slot=page * self.page_size + token, **rest)
        return cache.offsets(page=page, token=token, **rest)

    def layout(self, cache: NamedLayout, sequence: int) -> NamedLayout:
        """Return the layout of one sequence in `cache`: axis position, then the cache's axes but page and token."""
        self._check_cache(cache)
        pages = self.pages_of(sequence)
        length = int(self.lengths[sequence])
        if length == 0:
            raise ValueError(f"page map: sequence {sequence} is empty")
        if self.secondary is not None and len(set(self.secondary[self._slice(sequence)].tolist())) > 1:
            raise ValueError(f"page map: sequence {sequence} has pages in both pools, one layout has one")
        rest = [axis for axis in cache.axes if axis not in ("page", "token", "slot")]
        sizes = [cache.size(axis) for axis in rest]
        ones = [E(2 + k) for k in range(len(rest))]
        first = Layout((length, *sizes), (E(0), *(E(1 + k) for k in range(len(rest)))))
        split = Layout(((self.page_size, 1), *sizes), ((E(1), E(0)), *ones))
        stages: list[Stage] = [split, Table(pages, 0)]
        held = ["page", "token"]
        if "slot" in cache.axes:
            ones = [E(1 + k) for k in range(len(rest))]
            stages.append(Layout((1, 1, *[1] * len(rest)), (E(0) * self.page_size, E(0), *ones)))
            held = ["slot"]
        return NamedLayout(("position", *rest), first.then(*stages, _in_order(cache, [*held, *rest])))

    def _slice(self, sequence: int) -> slice:
        if not 0 <= as_int(sequence, "page map: sequence") < self.sequences:
            raise ValueError(f"page map: sequence {sequence} is outside 0..{self.sequences - 1}")
        return slice(int(self.starts[sequence]), int(self.starts[sequence + 1]))

    def _entry(self, sequence: ArrayLike, position: ArrayLike) -> tuple[IntArray, IntArray]:
        rows, places = np.broadcast_arrays(_integers("sequence", sequence), _integers("position", position))
        if rows.size and (rows.min() < 0 or rows.max() >= self.sequences):
            wrong = rows.min() if rows.min() < 0 else rows.max()
            raise ValueError(f"page map: sequence {wrong} is outside 0..{self.sequences - 1}")
        wrong_at = np.flatnonzero((places < 0) | (places >= self.lengths[rows]))
        if wrong_at.size:
            row, place = rows.flat[wrong_at[0]], places.flat[wrong_at[0]]
            raise ValueError(f"page map: position {place} of sequence {row} is outside its {self.lengths[row]} tokens")
        block = places // self.page_size
        return self.starts[rows] + block, places - block * self.page_size

    def _check_cache(self, cache: NamedLayout) -> None:
        if "slot" in cache.axes:
            needed = (self.pool_pages - 1) * self.page_size + 1  # the last page may be cut
            if cache.size("slot") < needed:
                raise ValueError(f"page map: a cache of {cache.size('slot')} slots, the pages need at least {needed}")
            return
        if missing := [axis for axis in ("page", "token") if axis not in cache.axes]:
            raise ValueError(f"page map: the cache has the axes {cache.axes} and no axis {missing[0]!r}")
        if cache.size("token") != self.page_size:
            raise ValueError(f"page map: pages of {self.page_size} tokens in a cache of {cache.size('token')} a page")
        if cache.size("page") < self.pool_pages:
            raise ValueError(f"page map: the cache has {cache.size('page')} pages, the map {self.pool_pages}")


def _in_order(cache: NamedLayout, axes: list[str]) -> Layout:
    """Return the layout of a cache with its modes in the order of `axes`, to be read as a stage."""
    inner = [cache.mode(axis) for axis in axes]
    layout = cache.layout
    return Layout(tuple(m.shape for m in inner), tuple(m.stride for m in inner), layout.offset, layout.stages)


# --- the forms --------------------------------------------------------------------------------------------------------


def csr_pages(indptr: ArrayLike, indices: ArrayLike, last_page_len: ArrayLike, page_size: int, pages: int) -> PageMap:
    """Read FlashInfer's page table: ``indices[indptr[s]:indptr[s+1]]`` are the pages of sequence s.

    Its length is ``page_size * (its pages - 1) + last_page_len[s]``, 1 <= last_page_len <= page_size; a sequence
    without pages is empty.  All three are int32.  Source: flashinfer `docs/tutorials/kv_layout.rst` and
    `include/flashinfer/page.cuh` (`get_length`), fb28d724.
    """
    where = "csr_pages"
    check_sizes(where, page_size=page_size, pages=pages)
    starts, ids = _indptr(where, "indptr", indptr), _int32(where, "indices", indices)
    last = _int32(where, "last_page_len", last_page_len)
    counts = np.diff(starts)
    if len(last) != len(counts):
        raise ValueError(f"{where}: {len(last)} entries of last_page_len for {len(counts)} sequences")
    if starts[-1] != len(ids):
        raise ValueError(f"{where}: indptr ends with {starts[-1]}, there are {len(ids)} indices")
    wrong = np.flatnonzero((counts > 0) & ((last < 1) | (last > page_size)))
    if wrong.size:
        s = int(wrong[0])
        raise ValueError(f"{where}: last_page_len of sequence {s} is {last[s]}, allowed are 1..{page_size}")
    _check_ids(where, "page", ids, pages)
    return PageMap(page_size, pages, ids, starts, np.where(counts > 0, page_size * (counts - 1) + last, 0))


def block_table_pages(block_table: ArrayLike, lengths: ArrayLike, page_size: int, pages: int) -> PageMap:
    """Read a dense table ``[sequences, max_blocks]`` of int32, as of vLLM (block_table) and FlashMLA.

    Only the first ceil(length / page_size) entries of a row are read, what stands behind them is free.  Source: vLLM
    `csrc/cache_kernels.cu`; FlashMLA `flash_mla/flash_mla_interface.py`, 9241ae3e.
    """
    where = "block_table_pages"
    check_sizes(where, page_size=page_size, pages=pages)
    table, tokens, used = _rows(where, "block_table", block_table, lengths, page_size)
    ids = table[np.arange(table.shape[1])[None, :] < used[:, None]]
    _check_ids(where, "page", ids, pages)
    return PageMap(page_size, pages, ids, _starts(used), tokens)


def token_slots(req_to_token: ArrayLike, lengths: ArrayLike, size: int, page_size: int = 1) -> PageMap:
    """Read SGLang's req_to_token ``[requests, max_context]`` of int32 slots, in a pool of size + page_size slots.

    The slots of page 0 take the writes of padding tokens and belong to no request.  With ``page_size > 1`` the rows
    must keep the allocator's contract: position p lies in slot ``page * page_size + p % page_size``.  Source: sglang
    `srt/mem_cache/memory_pool.py`, 0.5.23.
    """
    where = "token_slots"
    check_sizes(where, size=size, page_size=page_size)
    table, tokens, used = _rows(where, "req_to_token", req_to_token, lengths, 1)
    columns = np.broadcast_to(np.arange(table.shape[1]), table.shape)
    inside = columns < used[:, None]
    _check_ids(where, "slot", table[inside], size + page_size, first=page_size)
    leading = np.take_along_axis(table, columns // page_size * page_size, axis=1) if table.size else table
    wrong = np.argwhere(inside & ((table != leading + columns % page_size) | (leading % page_size != 0)))
    if len(wrong):
        r, p = wrong[0].tolist()
        raise ValueError(f"{where}: slot {table[r, p]} of request {r}, position {p}, breaks pages of {page_size}")
    ids = table[inside & (columns % page_size == 0)] // page_size
    pool = -(-(size + page_size) // page_size)
    return PageMap(page_size, pool, ids, _starts(-(-tokens // page_size)), tokens)


def trtllm_pages(
    offsets: ArrayLike, lengths: ArrayLike, tokens_per_block: int, blocks: int, layers: int, kv_factor: int = 2
) -> PageMap:
    """Read TensorRT-LLM's block offsets ``[sequences, kv_factor, max_blocks]`` of int32.

    An entry counts K or V blocks of one layer, ``(block * layers + 0) * kv_factor + kv``; its sign bit says that the
    block lies in the secondary pool.  Source: TensorRT-LLM `cpp/tensorrt_llm/kernels/kvCacheIndex.h` and
    `batch_manager/kvCacheManager.cpp` (`getKOrVBlockIndex`).
    """
    where = "trtllm_pages"
    check_sizes(where, tokens_per_block=tokens_per_block, blocks=blocks, layers=layers)
    check_choice(where, "kv_factor", kv_factor, (1, 2))
    given = _int32(where, "offsets", offsets, rank=3)
    if given.shape[1] != kv_factor:
        raise ValueError(f"{where}: offsets have {given.shape[1]} rows per sequence, kv_factor is {kv_factor}")
    _, tokens, used = _rows(where, "offsets", given[:, 0], lengths, tokens_per_block)
    inside = np.arange(given.shape[2])[None, :] < used[:, None]
    flags, index = given < 0, given & MASK
    block, field = np.divmod(index, layers * kv_factor)
    for kv in range(kv_factor):
        wrong = inside & ((field[:, kv] != kv) | (block[:, kv] != block[:, 0]) | (flags[:, kv] != flags[:, 0]))
        if wrong.any():
            s, b = np.argwhere(wrong)[0].tolist()
            raise ValueError(f"{where}: entry {given[s, kv, b]} of sequence {s}, kv {kv}, is no offset of its block")
    ids = block[:, 0][inside]
    _check_ids(where, "block", ids, blocks)
    return PageMap(tokens_per_block, blocks, ids, _starts(used), tokens, flags[:, 0][inside])


def ragged(indptr: ArrayLike, sequence: int, heads: int, dim: int) -> NamedLayout:
    """Return the layout of one sequence of a tensor without pages, ``data[indptr[-1], heads, dim]``.

    Axes position, head, dim; position 0 is row ``indptr[sequence]``.  Source: flashinfer
    `docs/tutorials/kv_layout.rst`, fb28d724.
    """
    check_sizes("ragged", heads=heads, dim=dim)
    first, length = _segment("ragged", _indptr("ragged", "indptr", indptr), sequence)
    found = strided(position=(length, heads * dim), head=(heads, dim), dim=(dim, 1))
    return NamedLayout(found.axes, Layout(found.layout.shape, found.layout.stride, first * heads * dim))


def ragged_mask_indptr(qo_indptr: ArrayLike, kv_indptr: ArrayLike) -> tuple[IntArray, IntArray]:
    """Return FlashInfer's mask_indptr in elements, the running sum of qo_len * kv_len, and that of the packed bytes.

    Source: flashinfer `flashinfer/prefill.py` (`_compute_mask_indptr`, `segment_packbits`), fb28d724.
    """
    queries = np.diff(_indptr("ragged_mask", "qo_indptr", qo_indptr))
    keys = np.diff(_indptr("ragged_mask", "kv_indptr", kv_indptr))
    if len(queries) != len(keys):
        raise ValueError(f"ragged_mask: {len(queries)} sequences in qo_indptr, {len(keys)} in kv_indptr")
    return _starts(queries * keys), _starts(-(-(queries * keys) // 8))


def ragged_mask(qo_indptr: ArrayLike, kv_indptr: ArrayLike, sequence: int) -> NamedLayout:
    """Return the BIT in FlashInfer's packed mask of (query, key) of a sequence; bit 0 of a byte is its lowest.

    Every sequence starts a byte.  Source: as for `ragged_mask_indptr`.
    """
    _, packed = ragged_mask_indptr(qo_indptr, kv_indptr)
    _, queries = _segment("ragged_mask", _indptr("ragged_mask", "qo_indptr", qo_indptr), sequence)
    _, keys = _segment("ragged_mask", _indptr("ragged_mask", "kv_indptr", kv_indptr), sequence)
    return NamedLayout(("query", "key"), Layout((queries, keys), (keys, 1), 8 * int(packed[sequence])))


# --- checks -----------------------------------------------------------------------------------------------------------


def _integers(name: str, values: ArrayLike) -> IntArray:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"page map: {name} of type {array.dtype} is not an integer")
    return array.astype(np.int64)


def _int32(where: str, name: str, values: ArrayLike, rank: int = 1) -> IntArray:
    array = np.asarray(values)
    if array.ndim != rank or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{where}: {name} is {array.dtype} {array.shape}, integers along {rank} axes are needed")
    if array.size and not (int(array.min()) >= -(2**31) and int(array.max()) < 2**31):
        raise ValueError(f"{where}: {name} has values beyond 32 bits, the kernels read int32")
    return array.astype(np.int64)


def _indptr(where: str, name: str, values: ArrayLike) -> IntArray:
    array = _int32(where, name, values)
    if len(array) < 2 or array[0] != 0:
        raise ValueError(f"{where}: {name} must start with 0 and have an entry more than there are sequences")
    if (steps := np.flatnonzero(np.diff(array) < 0)).size:
        s = int(steps[0])
        raise ValueError(f"{where}: {name} falls from {array[s]} to {array[s + 1]} at sequence {s}")
    return array


def _segment(where: str, starts: IntArray, sequence: int) -> tuple[int, int]:
    if not 0 <= as_int(sequence, f"{where}: sequence") < len(starts) - 1:
        raise ValueError(f"{where}: sequence {sequence} is outside 0..{len(starts) - 2}")
    first, end = int(starts[sequence]), int(starts[sequence + 1])
    if first == end:
        raise ValueError(f"{where}: sequence {sequence} is empty")
    return first, end - first


def _rows(
    where: str, name: str, table: ArrayLike, lengths: ArrayLike, page_size: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Return a dense table, the lengths and the entries used per row."""
    entries, tokens = _int32(where, name, table, rank=2), _int32(where, "lengths", lengths)
    if len(entries) != len(tokens):
        raise ValueError(f"{where}: {len(entries)} rows of {name} for {len(tokens)} lengths")
    used = -(-tokens // page_size)
    wrong = np.flatnonzero((tokens < 0) | (used > entries.shape[1]))
    if wrong.size:
        s = int(wrong[0])
        most = entries.shape[1] * page_size
        raise ValueError(f"{where}: the length of sequence {s} is {tokens[s]}, its row holds 0..{most}")
    return entries, tokens, used


def _check_ids(where: str, name: str, ids: IntArray, pool: int, first: int = 0) -> None:
    wrong = np.flatnonzero((ids < first) | (ids >= pool))
    if wrong.size:
        raise ValueError(f"{where}: {name} {ids[wrong[0]]} is outside {first}..{pool - 1}")


def _starts(counts: IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
