"""Latent (MLA), indexer and four-bit key-value caches: records that mix data types.

First link of the data's path for DeepSeek's attention: (page, token, channel) -> byte.  Caches of one data type are
layouts over elements; the others are a `Record` of named fields in one byte space, because their pages hold values
first and scales behind them.  The axes are page, token, head, dim, and tile for the scale of a group of channels.

Not modelled: how values are rounded; which pages a sequence has (`layouts.catalog.page_map`).

Versions read: FlashInfer fb28d724, FlashMLA 9241ae3e, DeepGEMM 54e22612, SGLang 0.5.23; of vLLM single files of the
main branch.
"""

from __future__ import annotations

from layouts.catalog.record import Field, Record, field
from layouts.catalog.sizes import check_choice, check_multiple, check_sizes, round_up, row_major, strided
from layouts.layout import Layout
from layouts.notation import NamedLayout
from layouts.shape import IntTuple

RANK, ROPE = 512, 64  # kv_lora_rank and the rotary part of DeepSeek V3
DS_TILE = 128  # channels per scale of fp8_ds_mla
MODEL1_NOPE, MODEL1_TILE, MODEL1_SCALE_BYTES, MODEL1_ALIGN = 448, 64, 8, 576
INDEXER_PAGES = (32, 64, 128)  # by architecture in DeepGEMM; SGLang takes 64
PRESHUFFLE_TILE = 16
NVFP4_GROUP = 16  # elements per scale
ORDERS = ("NHD", "HND")


def mla_bf16(pages: int, page_size: int, rank: int = RANK, rope: int = ROPE) -> NamedLayout:
    """The joint latent cache ``[pages, page_size, rank + rope]``: dims 0..rank-1 are ckv, the others k_pe.

    Source: flashinfer `docs/tutorials/kv_layout.rst`, fb28d724.
    """
    check_sizes("mla_bf16", rank=rank, rope=rope)
    return row_major("mla_bf16", "page token dim", {"page": pages, "token": page_size, "dim": rank + rope})


def flashmla_dense(pages: int, page_size: int = 64, head_k: int = RANK + ROPE) -> NamedLayout:
    """The same cache under the rules of FlashMLA's dense decoding: 64 tokens a page, head_k 576 or 512.

    Source: FlashMLA `csrc/api/dense_decode.h`, 9241ae3e.
    """
    check_choice("flashmla_dense", "page_size", page_size, (64,))
    check_choice("flashmla_dense", "head_k", head_k, (576, 512))
    return row_major("flashmla_dense", "page token dim", {"page": pages, "token": page_size, "dim": head_k})


def mla_split(
    pages: int, page_size: int, part: str = "ckv", joint: bool = False, rank: int = RANK, rope: int = ROPE
) -> NamedLayout:
    """One part of the split latent cache, ckv ``[pages, page_size, rank]`` or kpe ``[pages, page_size, rope]``.

    With `joint` it is a view of the joint tensor: strides of rank + rope, kpe behind ckv.  Source: flashinfer
    `docs/tutorials/kv_layout.rst`, fb28d724.
    """
    check_choice("mla_split", "part", part, ("ckv", "kpe"))
    check_sizes("mla_split", pages=pages, page_size=page_size, rank=rank, rope=rope)
    dim = rank if part == "ckv" else rope
    row = rank + rope if joint else dim
    start = rank if joint and part == "kpe" else 0
    return NamedLayout(("page", "token", "dim"), Layout((pages, page_size, dim), (page_size * row, row, 1), start))


def fp8_ds_mla(blocks: int, page_size: int = 64, spare_tokens: int = 0) -> Record:
    """DeepSeek V3.2's cache, 656 bytes a token: nope 512 x e4m3, scale 4 x fp32 (one per 128), rope 64 x bf16.

    The tensor is ``[blocks, page_size, 1, 656]`` with a contiguous block; FlashMLA's reference quantiser leaves a row
    free behind each block, ``spare_tokens=1``.  Source: FlashMLA `README.md`, `tests/quant.py`,
    `csrc/api/sparse_decode.h`, 9241ae3e.
    """
    check_sizes("fp8_ds_mla", blocks=blocks, page_size=page_size)
    if spare_tokens < 0:
        raise ValueError(f"fp8_ds_mla: spare_tokens is {spare_tokens}, at least 0 is needed")
    tiles = RANK // DS_TILE
    row = RANK + 4 * tiles + 2 * ROPE
    block = (page_size + spare_tokens) * row
    page, token = (blocks, 8 * block), (page_size, 8 * row)
    fields = {
        "nope": field(8, 0, page=page, token=token, dim=(RANK, 8)),
        "scale": field(32, RANK, page=page, token=token, tile=(tiles, 32)),
        "rope": field(16, RANK + 4 * tiles, page=page, token=token, dim=(ROPE, 16)),
    }
    return Record(fields, blocks * block)


def model1_mla(pages: int, page_size: int = 64) -> Record:
    """DeepSeek V4's cache (FlashMLA's MODEL1): the values of a page's tokens, then their scales.

    A page is page_size x (nope 448 x e4m3, rope 64 x bf16), then page_size x (scale 7 x ue8m0, 1 byte free), in all a
    multiple of 576 bytes.  Source: FlashMLA `tests/quant.py`, 9241ae3e; sglang
    `srt/mem_cache/deepseek_v4_memory_pool.py`, 0.5.23.
    """
    check_sizes("model1_mla", pages=pages, page_size=page_size)
    row = MODEL1_NOPE + 2 * ROPE
    size = round_up(page_size * (row + MODEL1_SCALE_BYTES), MODEL1_ALIGN)
    page, token = (pages, 8 * size), (page_size, 8 * row)
    scale_token = (page_size, 8 * MODEL1_SCALE_BYTES)
    tiles = MODEL1_NOPE // MODEL1_TILE
    fields = {
        "nope": field(8, 0, page=page, token=token, dim=(MODEL1_NOPE, 8)),
        "rope": field(16, MODEL1_NOPE, page=page, token=token, dim=(ROPE, 16)),
        "scale": field(8, page_size * row, page=page, token=scale_token, tile=(tiles, 8)),
    }
    return Record(fields, pages * size)


def indexer_fp8(pages: int, page_size: int = 64, head_dim: int = 128) -> Record:
    """The keys of the sparse-attention indexer, per page first all e4m3 keys, then one fp32 scale per token.

    The tensor is ``[pages, page_size, 1, head_dim + 4]`` in name only.  page_size is 32, 64 or 128 by architecture
    (SGLang: 64), head_dim 32, 64 or 128.  Source: DeepGEMM `csrc/apis/attention.hpp`, 54e22612; sglang
    `srt/mem_cache/index_key_cache.py`, 0.5.23; vLLM `indexer_k_quant_and_cache_kernel`.
    """
    check_choice("indexer_fp8", "page_size", page_size, INDEXER_PAGES)
    check_choice("indexer_fp8", "head_dim", head_dim, (32, 64, 128))
    modes: dict[str, tuple[IntTuple, IntTuple]] = {"token": (page_size, 8 * head_dim), "dim": (head_dim, 8)}
    return _indexer("indexer_fp8", pages, page_size, head_dim, modes)


def indexer_preshuffle(pages: int, page_size: int = 64, head_dim: int = 128) -> Record:
    """The indexer's keys as AITER reads them: a page is ``[page_size/16, head_dim/16, 16 tokens, 16 bytes]``.

    The scales follow as in `indexer_fp8`; page_size and head_dim are multiples of 16.  Source: sglang
    `srt/mem_cache/index_key_cache.py`, 0.5.23.
    """
    where, tile = "indexer_preshuffle", PRESHUFFLE_TILE
    check_sizes(where, page_size=page_size, head_dim=head_dim)
    check_multiple(where, "page_size", page_size, tile)
    check_multiple(where, "head_dim", head_dim, tile)
    modes: dict[str, tuple[IntTuple, IntTuple]] = {
        "token": ((tile, page_size // tile), (8 * tile, 8 * tile * head_dim)),
        "dim": ((tile, head_dim // tile), (8, 8 * tile * tile)),
    }
    return _indexer(where, pages, page_size, head_dim, modes)


def _indexer(
    where: str, pages: int, page_size: int, head_dim: int, key: dict[str, tuple[IntTuple, IntTuple]]
) -> Record:
    check_sizes(where, pages=pages)
    size = page_size * (head_dim + 4)
    page = (pages, 8 * size)
    fields = {
        "key": field(8, 0, page=page, **key),
        "scale": field(32, page_size * head_dim, page=page, token=(page_size, 32)),
    }
    return Record(fields, pages * size)


def indexer_fp4(pages: int, page_size: int = 64, head_dim: int = 128) -> Record:
    """The indexer's keys in four bits: per page all keys, then 4 bytes per token with a ue8m0 scale per 32 channels.

    page_size is 32, 64 or 128 by architecture, head_dim 64 or 128 (64 leaves 2 of the 4 scale bytes free).  Source:
    DeepGEMM `csrc/apis/attention.hpp`, 54e22612.
    """
    check_choice("indexer_fp4", "page_size", page_size, INDEXER_PAGES)
    check_choice("indexer_fp4", "head_dim", head_dim, (64, 128))
    check_sizes("indexer_fp4", pages=pages)
    keys = head_dim // 2
    size = page_size * (keys + 4)
    page = (pages, 8 * size)
    fields = {
        "key": field(4, 0, page=page, token=(page_size, 8 * keys), dim=(head_dim, 4)),
        "scale": field(8, page_size * keys, page=page, token=(page_size, 32), tile=(head_dim // 32, 8)),
    }
    return Record(fields, pages * size)


def vllm_nvfp4(
    blocks: int, block_size: int, heads: int, dim: int, order: str = "HND", swizzle_v: bool = True
) -> Record:
    """vLLM's NVFP4 cache: a block is K values, K scales, V values, V scales; dim/2 + dim/16 bytes per head and token.

    Fields k, v (4 bits; axes page, token, head, dim) and k_scale, v_scale (e4m3; axis tile, 16 channels each).  V
    scales are interleaved over 4 tokens for SM100 (`swizzle_v`), linear for SM12x.  block_size % 4 == 0, dim % 64 ==
    0, without `swizzle_v` dim % 16 == 0.  Source: vLLM `csrc/libtorch_stable/nvfp4_kv_cache_kernels.cu`.
    """
    where = "vllm_nvfp4"
    _nvfp4_rules(where, dim, order, swizzle_v, block_size=block_size)
    check_sizes(where, blocks=blocks, heads=heads)
    values = heads * block_size * dim // 2
    side = values + heads * block_size * dim // NVFP4_GROUP
    fields: dict[str, Field] = {}
    for place, name in enumerate(("k", "v")):
        at = place * side
        page = (blocks, 8 * 2 * side)
        tokens, head = _inner_strides(order, block_size, heads, 4 * dim)
        fields[name] = field(4, at, page=page, token=(block_size, tokens), head=(heads, head), dim=(dim, 4))
        scales = _scale_modes(order, block_size, heads, dim, swizzle_v and name == "v", 8)
        fields[f"{name}_scale"] = field(8, at + values, page=page, **scales)
    return Record(fields, blocks * 2 * side)


def nvfp4_data(pages: int, page_size: int, heads: int, dim: int, order: str = "HND") -> NamedLayout:
    """The K or V values of FlashInfer's NVFP4 cache ``[pages, heads, page_size, dim/2]`` of bytes, or NHD.

    Offsets count four-bit elements, two to a byte, the even one low.  page_size % 4 == 0, dim % 64 == 0.  Source:
    flashinfer `flashinfer/quantization/fp4_quantization.py` (`nvfp4_quantize_paged_kv_cache`), fb28d724.
    """
    _nvfp4_rules("nvfp4_data", dim, order, True, page_size=page_size)
    inner = "token head" if order == "NHD" else "head token"
    sizes = {"page": pages, "token": page_size, "head": heads, "dim": dim}
    return row_major("nvfp4_data", f"page {inner} dim", sizes)


def nvfp4_scales(pages: int, page_size: int, heads: int, dim: int, order: str = "HND", side: str = "k") -> NamedLayout:
    """The scales of FlashInfer's NVFP4 cache, one e4m3 byte per 16 channels: linear for K, interleaved for V.

    V, with S = dim/16: element (t, s) of a page lies where (4*(t//4) + s//(S/4), 4*(s % (S/4)) + t%4) would.  Axes
    page, token, head, tile; rules and source as for `nvfp4_data`.
    """
    _nvfp4_rules("nvfp4_scales", dim, order, True, page_size=page_size)
    check_choice("nvfp4_scales", "side", side, ("k", "v"))
    check_sizes("nvfp4_scales", pages=pages, heads=heads)
    size = page_size * heads * dim // NVFP4_GROUP
    return strided(page=(pages, size), **_scale_modes(order, page_size, heads, dim, side == "v", 1))


def _nvfp4_rules(where: str, dim: int, order: str, swizzled: bool, **page: int) -> None:
    check_choice(where, "order", order, ORDERS)
    check_sizes(where, **page, dim=dim)
    check_multiple(where, "dim", dim, 64 if swizzled else NVFP4_GROUP)
    if swizzled:
        for name, tokens in page.items():
            check_multiple(where, name, tokens, 4)


def _inner_strides(order: str, page_size: int, heads: int, row: int) -> tuple[int, int]:
    """Return the strides of token and head when a token of a head takes `row`."""
    return (heads * row, row) if order == "NHD" else (row, page_size * row)


def _scale_modes(
    order: str, page_size: int, heads: int, dim: int, interleaved: bool, unit: int
) -> dict[str, tuple[IntTuple, IntTuple]]:
    """Return the modes token, head, tile of a page's scales, in units of `unit`."""
    tiles = dim // NVFP4_GROUP
    token, head = _inner_strides(order, page_size, heads, tiles * unit)
    if not interleaved:
        return {"token": (page_size, token), "head": (heads, head), "tile": (tiles, unit)}
    return {
        "token": ((4, page_size // 4), (unit, 4 * token)),
        "head": (heads, head),
        "tile": ((tiles // 4, 4), (4 * unit, token)),
    }
