"""Paged key-value caches of the serving stacks, and the tables that say which page holds which token.

First link of the data's path for attention: sequence position -> (page, token in page) -> element offset.  The
constructors are the caches as their stacks allocate them, strides, padding and rules included;
`layouts.catalog.page_map` is the step before.  Offsets count elements; the axes are page, kv, token, head, dim (layer,
and slot for caches that are addressed by single tokens).

Not modelled: which pages an allocator hands out, and caches of several data types (`layouts.catalog.mla`).

Versions read: FlashInfer fb28d724, SGLang 0.5.23, vLLM 0084b783 and 5704f34f; of TensorRT-LLM and vLLM's older
kernels single files of the main branch.
"""

from __future__ import annotations

from layouts.catalog.record import Record, field
from layouts.catalog.sizes import check_choice, check_multiple, check_sizes, round_up, row_major, strided
from layouts.notation import NamedLayout

ORDERS = ("NHD", "HND")
BLOCK_MULTIPLE = 16  # vLLM FlashAttention: block_size % 16 == 0
VECTOR_BYTES = 16  # vLLM's and AITER's x: one 16-byte load
ENTRY_ALIGN, ROW_ALIGN = 32, 16  # SGLang token_major.py: bytes of an entry, of a row

# (backend, order, with a leading layer axis) -> the permutation of the logical axes that gives memory order
_STRIDE_ORDERS = {
    ("fa", "NHD", False): (0, 1, 2, 3, 4),
    ("fa", "HND", False): (0, 1, 3, 2, 4),
    ("fi", "NHD", False): (0, 1, 2, 3, 4),
    ("fi", "HND", False): (0, 1, 3, 2, 4),
    ("fa", "NHD", True): (2, 0, 1, 3, 4, 5),
    ("fa", "HND", True): (2, 4, 0, 1, 3, 5),
    ("fi", "NHD", True): (1, 0, 2, 3, 4, 5),
    ("fi", "HND", True): (1, 2, 4, 0, 3, 5),
}
_LOGICAL_AXES = {"fa": ("kv", "page", "token", "head", "dim"), "fi": ("page", "kv", "token", "head", "dim")}


def fi_nhd(pages: int, page_size: int, heads: int, dim: int) -> NamedLayout:
    """FlashInfer's single tensor in NHD order: ``[pages, 2, page_size, heads, dim]``, K at kv 0, V at kv 1.

    Source: flashinfer `docs/tutorials/kv_layout.rst`, fb28d724.
    """
    sizes = {"page": pages, "kv": 2, "token": page_size, "head": heads, "dim": dim}
    return row_major("fi_nhd", "page kv token head dim", sizes)


def fi_hnd(pages: int, page_size: int, heads: int, dim: int) -> NamedLayout:
    """FlashInfer's single tensor in HND order: ``[pages, 2, heads, page_size, dim]``.

    Source: flashinfer `docs/tutorials/kv_layout.rst`, fb28d724.
    """
    sizes = {"page": pages, "kv": 2, "token": page_size, "head": heads, "dim": dim}
    return row_major("fi_hnd", "page kv head token dim", sizes)


def fi_tuple(pages: int, page_size: int, heads: int, dim: int, order: str = "NHD") -> NamedLayout:
    """One tensor, K or V, of FlashInfer's tuple form: ``[pages, page_size, heads, dim]`` or heads before page_size.

    K and V are two allocations, each with its own `dim`.  Source: flashinfer `docs/tutorials/kv_layout.rst`, fb28d724.
    """
    check_choice("fi_tuple", "order", order, ORDERS)
    sizes = {"page": pages, "token": page_size, "head": heads, "dim": dim}
    return row_major("fi_tuple", f"page {_inner(order)} dim", sizes)


def vllm_fa(
    blocks: int, block_size: int, heads: int, dim: int, order: str = "NHD", layers: int | None = None
) -> NamedLayout:
    """vLLM's FlashAttention cache: logical ``[2, blocks, block_size, heads, dim]``, all of K, then all of V.

    `order` and `layers` (cross-layer blocks) change strides alone, see `vllm_stride_order`.  block_size % 16 == 0.
    Source: vLLM `vllm/v1/attention/backends/flash_attn.py`, 0084b783 and 5704f34f.
    """
    return vllm_strided("fa", blocks, block_size, heads, dim, order, layers)


def vllm_fi(
    blocks: int, block_size: int, heads: int, dim: int, order: str = "NHD", layers: int | None = None
) -> NamedLayout:
    """vLLM's FlashInfer cache: logical ``[blocks, 2, block_size, heads, dim]``, K and V inside the block.

    `order` and `layers` as for `vllm_fa`.  Source: vLLM `vllm/v1/attention/backends/flashinfer.py`.
    """
    return vllm_strided("fi", blocks, block_size, heads, dim, order, layers)


def vllm_stride_order(backend: str, order: str, cross_layer: bool = False) -> tuple[int, ...]:
    """Return vLLM's permutation of the logical axes that gives the order in memory, outermost first.

    `backend` is "fa" or "fi"; with `cross_layer` a layer axis stands before the logical axes.  Source:
    `get_kv_cache_stride_order` of the two files of `vllm_fa` and `vllm_fi`.
    """
    check_choice("vllm_stride_order", "backend", backend, tuple(_LOGICAL_AXES))
    check_choice("vllm_stride_order", "order", order, ORDERS)
    return _STRIDE_ORDERS[backend, order, bool(cross_layer)]


def vllm_strided(
    backend: str,
    blocks: int,
    block_size: int,
    heads: int,
    dim: int,
    order: str = "NHD",
    layers: int | None = None,
) -> NamedLayout:
    """vLLM's cache of a `backend`, "fa" or "fi": the logical shape, with the strides of `vllm_stride_order`.

    With `layers` a layer axis stands first (cross-layer blocks).  Rules and source as for `vllm_fa` and `vllm_fi`.
    """
    permutation = vllm_stride_order(backend, order, layers is not None)
    where = f"vllm_{backend}"
    if backend == "fa":
        check_sizes(where, block_size=block_size)
        check_multiple(where, "block_size", block_size, BLOCK_MULTIPLE)
    known = {"page": blocks, "kv": 2, "token": block_size, "head": heads, "dim": dim}
    logical: tuple[str, ...] = _LOGICAL_AXES[backend]
    if layers is not None:
        known["layer"] = layers
        logical = ("layer", *logical)
    in_memory = " ".join(logical[k] for k in permutation)
    return row_major(where, in_memory, {axis: known[axis] for axis in logical})


def vllm_paged_v1(
    blocks: int, block_size: int, heads: int, dim: int, element_bytes: int = 2, side: str = "k"
) -> NamedLayout:
    """The paged-attention cache of older vLLM and FasterTransformer, one tensor per `side` ("k" or "v").

    K is ``[blocks, heads, dim/x, block_size, x]`` with x = 16 bytes, V ``[blocks, heads, dim, block_size]``.  dim % x
    == 0.  Source: vLLM `csrc/cache_kernels.cu`, `get_key_block_shape`.
    """
    where = "vllm_paged_v1"
    check_choice(where, "side", side, ("k", "v"))
    sizes = {"page": blocks, "head": heads, "token": block_size, "dim": dim}
    if side == "v":
        return row_major(where, "page head dim token", sizes)
    x = _vector(where, element_bytes)
    check_sizes(where, dim=dim)
    check_multiple(where, "dim", dim, x)
    return row_major(where, _vectors("page head", "dim", dim, x, "token"), sizes)


def sgl_nhd(size: int, page_size: int, heads: int, dim: int, fused: bool = True) -> NamedLayout:
    """SGLang's default cache of one layer, by token slot: ``[size + page_size, heads, dim]``.

    A page is page_size consecutive slots; page 0 takes the writes of padding tokens.  K and V of equal shape are the
    halves (axis kv) of one allocation, each padded to whole pages; with ``fused=False`` the layout is one tensor, as
    it is where V has another dim.  Source: sglang `srt/mem_cache/memory_pool.py`, `_kv_buffer_shapes` and
    `_create_buffers_normal`, 0.5.23.
    """
    check_sizes("sgl_nhd", size=size, page_size=page_size, heads=heads, dim=dim)
    slots = size + page_size
    modes = {"slot": (slots, heads * dim), "head": (heads, dim), "dim": (dim, 1)}
    half = round_up(slots, page_size) * heads * dim
    return strided(kv=(2, half), **modes) if fused else strided(**modes)


def sgl_hnd(size: int, page_size: int, heads: int, dim: int, fused: bool = True) -> NamedLayout:
    """SGLang's cache of one layer with SGLANG_USE_HND_KVCACHE: ``[pages, heads, page_size, dim]``.

    pages = size / page_size + 1, page 0 for padding; `fused` as for `sgl_nhd`.  Source: the same.
    """
    pages = _sgl_pages("sgl_hnd", size, page_size)
    sizes = {"page": pages, "token": page_size, "head": heads, "dim": dim}
    if fused:
        return row_major("sgl_hnd", "kv page head token dim", {"kv": 2, **sizes})
    return row_major("sgl_hnd", "page head token dim", sizes)


def sgl_vec5d(size: int, page_size: int, heads: int, dim: int, element_bytes: int = 2, side: str = "k") -> NamedLayout:
    """SGLang's "vectorized_5d" cache for AITER on ROCm, one tensor per `side` ("k" or "v"), X = 16 bytes.

    K is ``[pages, heads, dim/X, page_size, X]``, V ``[pages, heads, page_size/X, dim, X]``; dim and page_size are
    multiples of X.  Source: sglang `srt/mem_cache/memory_pool.py`, 0.5.23.
    """
    where = "sgl_vec5d"
    check_choice(where, "side", side, ("k", "v"))
    x = _vector(where, element_bytes)
    pages = _sgl_pages(where, size, page_size)
    check_sizes(where, dim=dim)
    check_multiple(where, "page_size", page_size, x)
    check_multiple(where, "dim", dim, x)
    sizes = {"page": pages, "head": heads, "token": page_size, "dim": dim}
    outer, inner = ("dim", "token") if side == "k" else ("token", "dim")
    return row_major(where, _vectors("page head", outer, sizes[outer], x, inner), sizes)


def sgl_token_major(
    slots: int,
    layers: int,
    heads: int,
    dim: int,
    dim_v: int | None = None,
    element_bytes: int = 2,
    anchor: int = 0,
) -> Record:
    """SGLang's unified pool: every token slot holds the rows of all layers, ``[K_0 | V_0 | K_1 | V_1 | ...]``.

    Fields k and v over slot, layer, head, dim; the entry of a slot is rounded up to 32 bytes, rows are multiples of
    16 bytes, and the pool starts at byte `anchor` of its buffer.  Source: sglang `srt/mem_cache/layout/token_major.py`
    and `unified_memory_pool.py`, 0.5.23.
    """
    widths = {"k": dim, "v": dim if dim_v is None else dim_v}
    check_sizes("sgl_token_major", heads=heads, dim=dim, dim_v=widths["v"])
    shapes = {name: (heads, width) for name, width in widths.items()}
    return _token_major("sgl_token_major", slots, layers, shapes, element_bytes, anchor)


def sgl_token_major_mla(
    slots: int, layers: int, rank: int = 512, rope: int = 64, element_bytes: int = 2, anchor: int = 0
) -> Record:
    """SGLang's unified pool for MLA: the entry is ``[latent_0 | latent_1 | ...]``, one field kv of rank + rope.

    Rules and source as for `sgl_token_major`.
    """
    check_sizes("sgl_token_major_mla", rank=rank, rope=rope)
    return _token_major("sgl_token_major_mla", slots, layers, {"kv": (1, rank + rope)}, element_bytes, anchor)


def _token_major(
    where: str, slots: int, layers: int, shapes: dict[str, tuple[int, int]], element_bytes: int, anchor: int
) -> Record:
    check_sizes(where, slots=slots, layers=layers)
    check_choice(where, "element_bytes", element_bytes, (1, 2, 4))
    if anchor < 0:
        raise ValueError(f"{where}: anchor is {anchor}, at least 0 is needed")
    check_multiple(where, "anchor", anchor, element_bytes)
    rows = {name: heads * dim * element_bytes for name, (heads, dim) in shapes.items()}
    for name, row in rows.items():
        check_multiple(where, f"bytes of a row of {name}", row, ROW_ALIGN)
    layer = sum(rows.values())
    entry = round_up(layers * layer, ENTRY_ALIGN)
    bits, at = 8 * element_bytes, anchor
    fields = {}
    for name, (heads, dim) in shapes.items():
        fields[name] = field(
            bits, at, slot=(slots, 8 * entry), layer=(layers, 8 * layer), head=(heads, dim * bits), dim=(dim, bits)
        )
        at += rows[name]
    return Record(fields, anchor + slots * entry)


def trtllm_pool(
    blocks: int, layers: int, heads: int, tokens_per_block: int, dim: int, kv_factor: int = 2
) -> NamedLayout:
    """TensorRT-LLM's pool: ``[blocks, layers, kv_factor, heads, tokens_per_block, dim]``.

    kv_factor is 1 for K alone (MLA); tokens_per_block is a power of two.  An FP4 pool is the same in elements, two to
    a byte.  Source: TensorRT-LLM `cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp`,
    `cpp/tensorrt_llm/kernels/kvCacheUtils.h` (`getKVLocalIdx`).
    """
    sizes = {"page": blocks, "layer": layers, "kv": kv_factor, "head": heads, "token": tokens_per_block, "dim": dim}
    _trtllm_rules("trtllm_pool", tokens_per_block, kv_factor)
    return row_major("trtllm_pool", "page layer kv head token dim", sizes)


def trtllm_recurrent_pool(layers: int, blocks: int, block_elements: int, kv_factor: int = 1) -> NamedLayout:
    """TensorRT-LLM's pool of recurrent states, layers outermost: ``[layers, blocks, kv_factor, block_elements]``.

    Source: TensorRT-LLM `cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp`.
    """
    check_choice("trtllm_recurrent_pool", "kv_factor", kv_factor, (1, 2))
    sizes = {"layer": layers, "page": blocks, "kv": kv_factor, "element": block_elements}
    return row_major("trtllm_recurrent_pool", "layer page kv element", sizes)


def trtllm_scales(blocks: int, layers: int, heads: int, tokens_per_block: int, kv_factor: int = 2) -> NamedLayout:
    """TensorRT-LLM's pool of K and V scales: one per head and token, ``[heads, tokens_per_block]`` in a block.

    Source: TensorRT-LLM `cpp/tensorrt_llm/kernels/kvCacheUtils.h` (`getKVScaleLocalIdx`).
    """
    sizes = {"page": blocks, "layer": layers, "kv": kv_factor, "head": heads, "token": tokens_per_block}
    _trtllm_rules("trtllm_scales", tokens_per_block, kv_factor)
    return row_major("trtllm_scales", "page layer kv head token", sizes)


def _trtllm_rules(where: str, tokens_per_block: int, kv_factor: int) -> None:
    check_choice(where, "kv_factor", kv_factor, (1, 2))
    check_sizes(where, tokens_per_block=tokens_per_block)
    if tokens_per_block & (tokens_per_block - 1):  # the kernels take the token in a block by a bit mask
        raise ValueError(f"{where}: tokens_per_block is {tokens_per_block}, a power of two is needed")


def _inner(order: str) -> str:
    return "token head" if order == "NHD" else "head token"


def _vector(where: str, element_bytes: int) -> int:
    check_choice(where, "element_bytes", element_bytes, (1, 2, 4))
    return VECTOR_BYTES // element_bytes


def _vectors(outer: str, split: str, size: int, x: int, inner: str) -> str:
    """Return the notation of ``[outer, split/x, inner, x]``; a factor over a whole axis has no quotient."""
    return f"{outer} {split}//{x} {inner} {split}%{x}" if size > x else f"{outer} {inner} {split}"


def _sgl_pages(where: str, size: int, page_size: int) -> int:
    check_sizes(where, size=size, page_size=page_size)
    check_multiple(where, "size", size, page_size)
    return size // page_size + 1
