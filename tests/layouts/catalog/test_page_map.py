"""Page maps against walking the tables token by token."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts.catalog import kv
from layouts.catalog.mla import mla_bf16
from layouts.catalog.page_map import (
    block_table_pages,
    csr_pages,
    ragged,
    ragged_mask,
    ragged_mask_indptr,
    token_slots,
    trtllm_pages,
)


@st.composite
def batches(draw):
    """A page size, the length of every sequence, and its pages drawn at random from a pool."""
    page_size = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(0, 20), min_size=1, max_size=4))
    pool = draw(st.integers(1, 12))
    pages = [
        draw(st.lists(st.integers(0, pool - 1), min_size=n, max_size=n)) for n in (-(-t // page_size) for t in lengths)
    ]
    return page_size, lengths, pool, pages


def csr(page_size, lengths, pool, pages):
    indptr = np.cumsum([0, *map(len, pages)])
    last = [(n - 1) % page_size + 1 if n else 0 for n in lengths]
    return csr_pages(indptr, np.array([p for row in pages for p in row], dtype=np.int32), last, page_size, pool)


def dense(page_size, lengths, pool, pages, width=25):
    table = np.full((len(pages), width), -7, dtype=np.int32)  # what stands behind a row's pages is free
    for row, ids in zip(table, pages, strict=True):
        row[: len(ids)] = ids
    return block_table_pages(table, lengths, page_size, pool)


@given(batches(), st.integers(1, 3), st.integers(1, 4))
def test_compressed_rows_and_dense_tables_lead_every_token_to_the_same_element(batch, heads, dim):
    page_size, lengths, pool, pages = batch
    cache = kv.fi_hnd(pool, page_size, heads, dim)
    for made in (csr(*batch), dense(*batch)):
        assert made.lengths.tolist() == lengths
        for s, length in enumerate(lengths):
            if not length:
                with pytest.raises(ValueError, match=f"sequence {s} is empty"):
                    made.layout(cache, s)
                continue
            found = made.layout(cache, s)
            assert found.axes == ("position", "kv", "head", "dim")
            p, k, h, d = np.indices((length, 2, heads, dim), sparse=True)
            page = np.array(pages[s])[p // page_size]
            expected = (((page * 2 + k) * heads + h) * page_size + p % page_size) * dim + d
            assert np.array_equal(found.offsets(position=p, kv=k, head=h, dim=d), expected)
            assert np.array_equal(made.offsets(cache, s, p, kv=k, head=h, dim=d), expected)
            at = {"kv": 1, "head": heads - 1, "dim": dim - 1}
            assert found.offset(position=length - 1, **at) == expected[-1, -1, -1, -1]


@given(batches())
def test_slots_count_page_times_page_size_plus_token_and_keep_minus_one(batch):
    page_size, lengths, _, pages = batch
    made = csr(*batch)
    for s, length in enumerate(lengths):
        positions = np.array([-1, *range(length), -1])
        expected = [-1, *(pages[s][p // page_size] * page_size + p % page_size for p in range(length)), -1]
        assert made.slots(s, positions).tolist() == expected


def test_a_batch_of_mixed_sequences_is_looked_up_at_once():
    made = csr(4, [6, 3], 5, [[4, 0], [2]])
    cache = mla_bf16(5, 4, 8, 2)
    sequence, position = [0, 1, 0], [5, 2, 0]
    assert made.locate(sequence, position)[0].tolist() == [0, 2, 4]
    assert made.offsets(cache, sequence, position, dim=3).tolist() == [(0 * 4 + 1) * 10 + 3, (2 * 4 + 2) * 10 + 3, 163]


def test_sglang_slots_index_the_default_cache_and_by_page_the_head_first_one():
    table = np.array([[8, 9, 10, 11, 4, 5, 0], [20, 21, 22, 0, 0, 0, 0]], dtype=np.int32)
    lengths = [6, 3]
    made = token_slots(table, lengths, 20, 4)
    assert made.pages.tolist() == [2, 1, 5]
    for cache in (kv.sgl_nhd(20, 4, 3, 8), kv.sgl_hnd(20, 4, 3, 8)):
        found = made.layout(cache, 0)
        for p in range(6):
            slot = int(table[0, p])
            where = {"slot": slot} if "slot" in cache.axes else {"page": slot // 4, "token": slot % 4}
            expected = cache.offset(kv=1, head=2, dim=3, **where)
            assert found.offset(position=p, kv=1, head=2, dim=3) == expected
            assert made.offsets(cache, 0, p, kv=1, head=2, dim=3) == expected
    scattered = token_slots([[5, 3, 9]], [3], 20)
    assert scattered.slots(0, [0, 1, 2]).tolist() == [5, 3, 9]


@pytest.mark.parametrize("kv_factor", [1, 2])
def test_trtllm_offsets_count_blocks_of_all_layers_and_flag_the_secondary_pool(kv_factor):
    layers, blocks, size = 3, 6, 8
    used = [(4, False), (1, True), (5, False)]
    offsets = np.zeros((1, kv_factor, 4), dtype=np.int32)
    for b, (block, secondary) in enumerate(used):
        for k in range(kv_factor):
            index = block * layers * kv_factor + k
            offsets[0, k, b] = index - (1 << 31) if secondary else index
    made = trtllm_pages(offsets, [20], size, blocks, layers, kv_factor)
    pool = kv.trtllm_pool(blocks, layers, 2, size, 4, kv_factor)
    assert made.secondary.tolist() == [False, True, False]
    for k in range(kv_factor):
        start = (int(offsets[0, k, 2]) + 2 * kv_factor) * (2 * size * 4)  # layer 2 lies 2 * kv_factor blocks on
        assert made.offsets(pool, 0, 17, layer=2, kv=k, head=1, dim=3) == start + 1 * size * 4 + 1 * 4 + 3
    with pytest.raises(ValueError, match="sequence 0 has pages in both pools"):
        made.layout(pool, 0)
    primary = trtllm_pages(offsets[:, :, [0, 2]], [10], size, blocks, layers, kv_factor)
    at = {"layer": 1, "kv": 0, "head": 0, "dim": 0}
    assert primary.layout(pool, 0).offset(position=9, **at) == pool.offset(page=5, token=1, **at)


def test_a_ragged_sequence_starts_at_its_row():
    indptr = np.array([0, 3, 3, 8], dtype=np.int32)
    data = np.arange(8 * 2 * 5).reshape(8, 2, 5)
    found = ragged(indptr, 2, 2, 5)
    p, h, d = np.indices((5, 2, 5), sparse=True)
    assert np.array_equal(found.offsets(position=p, head=h, dim=d), data[3:])
    with pytest.raises(ValueError, match="ragged: sequence 1 is empty"):
        ragged(indptr, 1, 2, 5)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=4), st.randoms())
def test_the_packed_mask_is_packbits_of_every_sequence(lengths, random):
    qo, keys = np.cumsum([0, *(q for q, _ in lengths)]), np.cumsum([0, *(k for _, k in lengths)])
    masks = [np.array([random.randrange(2) for _ in range(q * k)], dtype=np.uint8) for q, k in lengths]
    packed = np.concatenate([np.packbits(mask, bitorder="little") for mask in masks])
    bits = np.unpackbits(packed, bitorder="little")
    elements, starts = ragged_mask_indptr(qo, keys)
    assert elements.tolist() == np.cumsum([0, *map(len, masks)]).tolist()
    assert starts[-1] == len(packed)
    for s, (q, k) in enumerate(lengths):
        if q * k:
            query, key = np.indices((q, k))
            found = ragged_mask(qo, keys, s).offsets(query=query, key=key)
            assert np.array_equal(bits[found], masks[s].reshape(q, k))


def table(*rows):
    return np.array(rows, dtype=np.int32)


BAD = [
    (lambda: csr_pages([0, 2], [0, 1], [0], 4, 2), "csr_pages: last_page_len of sequence 0 is 0, allowed are 1..4"),
    (lambda: csr_pages([0, 2], [0, 1], [5], 4, 2), "csr_pages: last_page_len of sequence 0 is 5, allowed are 1..4"),
    (lambda: csr_pages([0, 2], [0, 2], [1], 4, 2), "csr_pages: page 2 is outside 0..1"),
    (lambda: csr_pages([0, 2], [0, -1], [1], 4, 2), "csr_pages: page -1 is outside 0..1"),
    (lambda: csr_pages([0, 3], [0, 1], [1], 4, 2), "csr_pages: indptr ends with 3, there are 2 indices"),
    (lambda: csr_pages([0, 2, 1], [0], [1, 1], 4, 2), "csr_pages: indptr falls from 2 to 1 at sequence 1"),
    (lambda: csr_pages([1, 2], [0], [1], 4, 2), "csr_pages: indptr must start with 0"),
    (lambda: csr_pages([0, 1], [0], [1, 1], 4, 2), "csr_pages: 2 entries of last_page_len for 1 sequences"),
    (lambda: csr_pages([0, 1], [1 << 31], [1], 4, 2), "csr_pages: indices has values beyond 32 bits"),
    (lambda: csr_pages([0, 1], [0.5], [1], 4, 2), "csr_pages: indices is float64 (1,), integers"),
    (
        lambda: block_table_pages(table([0, 1]), [9], 4, 2),
        "block_table_pages: the length of sequence 0 is 9, its row holds 0..8",
    ),
    (lambda: block_table_pages(table([0, -1]), [5], 4, 2), "block_table_pages: page -1 is outside 0..1"),
    (lambda: block_table_pages(table([0, 1]), [1, 2], 4, 2), "block_table_pages: 1 rows of block_table for 2 lengths"),
    (
        lambda: token_slots(table([4, 5, 7]), [3], 8, 4),
        "token_slots: slot 7 of request 0, position 2, breaks pages of 4",
    ),
    (
        lambda: token_slots(table([5, 6, 7]), [3], 8, 4),
        "token_slots: slot 5 of request 0, position 0, breaks pages of 4",
    ),
    (lambda: token_slots(table([0, 1]), [2], 8, 4), "token_slots: slot 0 is outside 4..11"),
    (
        lambda: trtllm_pages(table([0])[None], [1], 4, 2, 1),
        "trtllm_pages: offsets have 1 rows per sequence, kv_factor is 2",
    ),
    (
        lambda: trtllm_pages([[[2], [2]]], [1], 4, 2, 1),
        "trtllm_pages: entry 2 of sequence 0, kv 1, is no offset of its block",
    ),
    (lambda: trtllm_pages([[[8], [9]]], [1], 4, 2, 2), "trtllm_pages: block 2 is outside 0..1"),
    (lambda: csr(4, [6], 3, [[0, 1]]).locate(0, 6), "page map: position 6 of sequence 0 is outside its 6 tokens"),
    (lambda: csr(4, [6], 3, [[0, 1]]).locate(1, 0), "page map: sequence 1 is outside 0..0"),
    (lambda: csr(4, [6], 3, [[0, 1]]).locate(0, 1.5), "page map: position of type float64 is not an integer"),
    (lambda: csr(4, [6], 3, [[0, 1]]).slots(0, -2), "page map: position -2 is not allowed, -1 stands for no token"),
    (
        lambda: csr(4, [6], 3, [[0, 1]]).layout(kv.fi_nhd(3, 8, 1, 8), 0),
        "page map: pages of 4 tokens in a cache of 8 a page",
    ),
    (lambda: csr(4, [6], 3, [[0, 1]]).layout(kv.fi_nhd(2, 4, 1, 8), 0), "page map: the cache has 2 pages, the map 3"),
    (lambda: csr(4, [6], 3, [[0, 1]]).layout(ragged([0, 2], 0, 1, 8), 0), "and no axis 'page'"),
    (
        lambda: token_slots(table([9]), [1], 40).layout(kv.sgl_nhd(8, 1, 1, 8), 0),
        "page map: a cache of 9 slots, the pages need at least 41",
    ),
    (lambda: ragged_mask_indptr([0, 1], [0, 1, 2]), "ragged_mask: 1 sequences in qo_indptr, 2 in kv_indptr"),
    (lambda: ragged([0, 2], 1, 1, 1), "ragged: sequence 1 is outside 0..0"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_a_table_that_breaks_its_form_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
