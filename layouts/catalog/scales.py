"""Scale tensors of block-quantised matrices: where the scale of (row, group of columns) lies.

Beside every narrow matrix stands a small one of scales, in the order its matrix unit reads it; producer and consumer
must agree on order and padding.  All constructors take the sizes of the MATRIX and the columns per scale `vec`; the
axis col counts scale columns, or with ``elements=True`` the matrix's own columns, neighbours sharing a scale.  Rows and
scale columns are padded in the strides, never in the shape; `sf_size` says what to allocate.

Not modelled: the values of scales and of padding, which kernels want zeroed.

Versions read: FlashInfer fb28d724, CUTLASS 7107b055, DeepGEMM 54e22612.
"""

from __future__ import annotations

from layouts.catalog.sizes import by_digits, ceil_div, check_choice, check_multiple, check_sizes, round_up, strided
from layouts.notation import NamedLayout

# rows of a tile, as digits (extent, stride); a tile has 4 scale columns of stride 1
_TILES = {"128x4": ((32, 16), (4, 4)), "8x4": ((8, 4),)}
_TILE_ROWS = {"128x4": 128, "8x4": 8}
TMA_ALIGN = 4  # 16 bytes of four-byte scales
BLOCK = 128  # DeepGEMM's fp32 scales: one per 128 columns, or per 128x128


def sf_128x4(rows: int, cols: int, vec: int = 1, elements: bool = False, batch: int | None = None) -> NamedLayout:
    """The 128x4 scale tiles of cuBLAS, CUTLASS, cuDNN, TensorRT-LLM, FlashInfer and TransformerEngine.

    With m the row and k the scale column: ``(m//128)*ceil(K/4)*512 + (k//4)*512 + (m%32)*16 + (m%128//32)*4 + k%4``.
    Rows are padded to 128, scale columns to 4; `batch` adds a leading axis of padded matrices.  vec is 32 for MXFP8
    and MXFP4 (e8m0), 16 for NVFP4 (e4m3).  Source: flashinfer
    `csrc/nv_internal/tensorrt_llm/kernels/quantization_utils.cuh` (`get_sf_out_offset_128x4`), fb28d724; cutlass
    `include/cutlass/detail/sm100_blockscaled_layout.hpp`, 7107b055.
    """
    return _tiled("128x4", rows, cols, vec, elements, batch)


def sf_8x4(rows: int, cols: int, vec: int = 1, elements: bool = False, batch: int | None = None) -> NamedLayout:
    """The 8x4 scale tiles of trtllm-gen for few rows (tiles of under 128 tokens).

    ``(m//8)*ceil(K/4)*32 + (k//4)*32 + (m%8)*4 + k%4``; rows are padded to 8, scale columns to 4.  Source: flashinfer
    `quantization_utils.cuh` (`get_sf_out_offset_8x4`), `csrc/trtllm_fused_moe_runner.cu`, fb28d724.
    """
    return _tiled("8x4", rows, cols, vec, elements, batch)


def sf_linear(rows: int, cols: int, vec: int = 1, elements: bool = False, batch: int | None = None) -> NamedLayout:
    """Scales in row-major order, without padding.  Source: flashinfer `include/flashinfer/fp4_layout.cuh`, fb28d724."""
    count = _columns("sf_linear", rows, cols, vec, batch)
    axes = {"row": (rows, [(rows, count)]), "col": _col(cols, vec, elements, [(count, 1)])}
    return by_digits(**_batched(batch, rows * count), **axes)


def sf_size(kind: str, rows: int, cols: int, vec: int = 1, batch: int = 1) -> int:
    """Return the scales to allocate for "128x4", "8x4" or "linear" order, padding included."""
    check_choice("sf_size", "kind", kind, (*_TILES, "linear"))
    count = _columns("sf_size", rows, cols, vec, batch)
    return batch * (rows * count if kind == "linear" else _padded(kind, rows, count))


def _tiled(kind: str, rows: int, cols: int, vec: int, elements: bool, batch: int | None) -> NamedLayout:
    count = _columns(f"sf_{kind}", rows, cols, vec, batch)
    tile = 4 * _TILE_ROWS[kind]
    across = ceil_div(count, 4)
    down = ceil_div(rows, _TILE_ROWS[kind])
    return by_digits(
        **_batched(batch, _padded(kind, rows, count)),
        row=(rows, [*_TILES[kind], (down, across * tile)]),
        col=_col(cols, vec, elements, [(4, 1), (across, tile)]),
    )


def _padded(kind: str, rows: int, count: int) -> int:
    return round_up(rows, _TILE_ROWS[kind]) * round_up(count, 4)


def _columns(where: str, rows: int, cols: int, vec: int, batch: int | None) -> int:
    """Check the sizes and return the number of scale columns."""
    check_sizes(where, rows=rows, cols=cols, vec=vec, batch=1 if batch is None else batch)
    return ceil_div(cols, vec)


def _batched(batch: int | None, size: int) -> dict[str, tuple[int, list[tuple[int, int]]]]:
    return {} if batch is None else {"batch": (batch, [(batch, size)])}


def _col(cols: int, vec: int, elements: bool, digits: list[tuple[int, int]]) -> tuple[int, list[tuple[int, int]]]:
    if elements and vec > 1:
        return cols, [(vec, 0), *digits]
    return ceil_div(cols, vec), digits


def deepgemm_sfa(rows: int, k: int, experts: int | None = None, elements: bool = False) -> NamedLayout:
    """DeepGEMM's SM90 scales of 1x128 blocks (fp32): ``[rows, ceil(k/128)]`` with strides (1, rows rounded up to 4).

    Columns start on 16 bytes for TMA.  `experts` adds a leading axis of stride columns * column stride.  Source:
    DeepGEMM `csrc/utils/layout.hpp` (`check_sf_layout`), `csrc/utils/math.hpp`, 54e22612.
    """
    count = _groups("deepgemm_sfa", k, BLOCK, experts, rows=rows)
    column = round_up(rows, TMA_ALIGN)
    axes = {"row": (rows, [(rows, 1)]), "col": _col(k, BLOCK, elements, [(count, column)])}
    return by_digits(**_grouped(experts, count * column), **axes)


def deepgemm_sfb(
    n: int, k: int, experts: int | None = None, transposed: bool = False, elements: bool = False
) -> NamedLayout:
    """DeepGEMM's SM90 scales of 128x128 blocks (fp32): ``[ceil(n/128), ceil(k/128)]``, contiguous, or `transposed`.

    With `elements` the axes count the weight's own rows and columns.  Source: as for `deepgemm_sfa`.
    """
    count = _groups("deepgemm_sfb", k, BLOCK, experts, n=n)
    blocks = ceil_div(n, BLOCK)
    down, across = (1, blocks) if transposed else (count, 1)
    axes = {"row": _col(n, BLOCK, elements, [(blocks, down)]), "col": _col(k, BLOCK, elements, [(count, across)])}
    return by_digits(**_grouped(experts, blocks * count), **axes)


def deepgemm_packed(
    mn: int, k: int, gran_k: int = 128, experts: int | None = None, elements: bool = False
) -> NamedLayout:
    """DeepGEMM's SM100 scales: ue8m0 bytes, four of consecutive columns packed in an int32, MN-major.

    The tensor of ints is ``[mn, ceil(k/(4 gran_k))]`` with strides (1, mn rounded up to 4); offsets here count BYTES,
    4 per int.  gran_k is 32 or 128.  Source: DeepGEMM `csrc/utils/layout.hpp`, `csrc/apis/layout.hpp`, 54e22612.
    """
    check_choice("deepgemm_packed", "gran_k", gran_k, (32, 128))
    count = _groups("deepgemm_packed", k, gran_k, experts, mn=mn)
    words, column = ceil_div(count, 4), 4 * round_up(mn, TMA_ALIGN)
    axes = {"row": (mn, [(mn, 4)]), "col": _col(k, gran_k, elements, [(4, 1), (words, column)])}
    return by_digits(**_grouped(experts, words * column), **axes)


def deepgemm_utccp(
    mn: int, k: int, gran_k: int = 32, experts: int | None = None, elements: bool = False
) -> NamedLayout:
    """`deepgemm_packed` with the rows of each 128 in the order UTCCP copies them: row 32 q + p of 128 at 4 p + q.

    mn % 128 == 0; the rows are those of `sf_128x4` on packed ints.  Offsets count bytes.  Source: DeepGEMM
    `deep_gemm/mega/__init__.py` (`_transpose_sf_for_utccp`), 54e22612.
    """
    where = "deepgemm_utccp"
    check_choice(where, "gran_k", gran_k, (32, 128))
    count = _groups(where, k, gran_k, experts, mn=mn)
    check_multiple(where, "mn", mn, 128)
    words = ceil_div(count, 4)
    return by_digits(
        **_grouped(experts, words * 4 * mn),
        row=(mn, [(32, 16), (4, 4), (mn // 128, 512)]),
        col=_col(k, gran_k, elements, [(4, 1), (words, 4 * mn)]),
    )


def _groups(where: str, k: int, gran_k: int, experts: int | None, **rows: int) -> int:
    """Check the sizes and return the number of scale columns."""
    check_sizes(where, **rows, k=k, experts=1 if experts is None else experts)
    return ceil_div(k, gran_k)


def _grouped(experts: int | None, size: int) -> dict[str, tuple[int, list[tuple[int, int]]]]:
    return {} if experts is None else {"expert": (experts, [(experts, size)])}


def mixed_input_scales(experts: int, rows: int, k: int, group: int = 32, element_bytes: int = 1) -> NamedLayout:
    """The folded weight scales of the SM90 mixed-input MoE GEMM (W4A16, W4A8), axes expert, row, col (k / group).

    A block of 64 rows x 128 columns is stored as rows of 16 bytes: ``[experts, rows/64, k/128, 64/s, s, 128/group]``
    with s = (16 / element_bytes) / (128 / group), row 64/s * i + j of a block at (j, i).  rows % 64 == 0, k % 128 ==
    0.  Source: flashinfer `flashinfer/fused_moe/prepare.py` (`interleave_moe_scales_for_sm90_mixed_gemm`), fb28d724.
    """
    where = "mixed_input_scales"
    check_sizes(where, experts=experts, rows=rows, k=k, group=group)
    check_choice(where, "element_bytes", element_bytes, (1, 2, 4))
    check_multiple(where, "rows", rows, 64)
    check_multiple(where, "k", k, 128)
    per_k, width = 128 // group, 16 // element_bytes
    if 128 % group or width % per_k:
        raise ValueError(f"{where}: group is {group}, a divisor of 128 of at least {128 // width} is needed")
    folds = width // per_k
    block, across = 64 * per_k, k // 128
    return strided(
        expert=(experts, rows // 64 * across * block),
        row=((64 // folds, folds, rows // 64), (width, per_k, across * block)),
        col=((per_k, across), (1, block)),
    )
