"""Mixture-of-experts tensors: expert weights in the orders kernels want them, and activations grouped by expert.

First link of the data's path for MoE layers: (expert, row, col) of the weights, or (token, choice, col) of the
activations, -> element offset.  Weights are fixed permutations of rows and columns; activations depend on the router,
so `align_blocks` and `contiguous_groups` compute the tables that kernels are given and the layouts that follow.

Not modelled: the router itself, and the order of the tokens of one expert where a kernel leaves it open (here: by
token).

Versions read: FlashInfer fb28d724 (the SM90 interleave: 0.7.2.post1), DeepGEMM 54e22612, SGLang 0.5.23; of DeepEP a
single file of the main branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layouts.catalog.sizes import (
    ceil_div,
    check_choice,
    check_multiple,
    check_sizes,
    row_major,
    strided,
)
from layouts.layout import Layout
from layouts.notation import NamedLayout
from layouts.shape import as_int
from layouts.stride import E
from layouts.table import Table

IntArray: TypeAlias = NDArray[np.int64]
Digits: TypeAlias = list[tuple[int, int]]

GROUP_ALIGNS = tuple(range(32, 225, 32))  # DeepGEMM on SM100; the default is 128
MAX_DISPATCH_TOKENS = 1024  # SGLang's assertion on DeepEP's low-latency mode
_PASS_ON = Layout((1, 1), (E(0), E(1)))  # in front of a table, so that an axis alone still has the coordinate it reads


# --- weights ----------------------------------------------------------------------------------------------------------


def moe_major_k(experts: int, rows: int, cols: int) -> NamedLayout:
    """Expert-major weights, the reduction last: w13 ``[experts, 2 * inter, hidden]``, w2 ``[experts, hidden, inter]``.

    Source: flashinfer `flashinfer/tllm_enums.py` (`WeightLayout.MajorK`), fb28d724; vLLM and SGLang fused_moe.
    """
    return row_major("moe_major_k", "expert row col", {"expert": experts, "row": rows, "col": cols})


def moe_major_mn(experts: int, rows: int, cols: int) -> NamedLayout:
    """Expert-major weights with the rows last, ``[experts, cols, rows]``.

    Source: flashinfer `flashinfer/tllm_enums.py` (`WeightLayout.MajorMn`), fb28d724.
    """
    return row_major("moe_major_mn", "expert col row", {"expert": experts, "row": rows, "col": cols})


def moe_block_major_k(experts: int, rows: int, cols: int, element_bits: int = 8, block_bytes: int = 128) -> NamedLayout:
    """Weights in blocks of columns, ``[experts, cols/B, rows, B]`` with B = 128 (or 64) bytes; cols % B == 0.

    Source: flashinfer `flashinfer/fused_moe/core.py` (`convert_to_block_layout`), `flashinfer/tllm_enums.py`, fb28d724.
    """
    where = "moe_block_major_k"
    check_sizes(where, experts=experts, rows=rows, cols=cols)
    check_choice(where, "element_bits", element_bits, (4, 8, 16, 32))
    check_choice(where, "block_bytes", block_bytes, (64, 128))
    block = 8 * block_bytes // element_bits
    check_multiple(where, "cols", cols, block)
    return strided(expert=(experts, rows * cols), row=(rows, block), col=((block, cols // block), (1, rows * block)))


def gated_interleave(experts: int, rows: int, cols: int) -> NamedLayout:
    """Weights of a gated activation, rows ``[gate; up]``: gate row i at row 2i, up row i at row 2i + 1.

    rows is even.  Source: flashinfer `flashinfer/fused_moe/core.py` (`reorder_rows_for_gated_act_gemm`), fb28d724.
    """
    return _gated("gated_interleave", experts, rows, cols, 1)


def deepgemm_l1(experts: int, rows: int, cols: int, granularity: int = 8) -> NamedLayout:
    """DeepGEMM's mega-MoE L1 weights, rows ``[gate; up]``: gate 0..7, up 0..7, gate 8..15, ...

    rows is a multiple of 2 * granularity.  Source: DeepGEMM `deep_gemm/mega/__init__.py` (`_interleave_weights`),
    54e22612.
    """
    return _gated("deepgemm_l1", experts, rows, cols, granularity)


def _gated(where: str, experts: int, rows: int, cols: int, run: int) -> NamedLayout:
    check_sizes(where, experts=experts, rows=rows, cols=cols, granularity=run)
    check_multiple(where, "rows", rows, 2 * run)
    digits = [(run, 1), (rows // 2 // run, 2 * run), (2, run)]
    return _rows_moved(experts, rows, cols, digits)


def epilogue_shuffle(
    experts: int, rows: int, cols: int, epilogue_tile_m: int = 128, gated: bool = False
) -> NamedLayout:
    """trtllm-gen's "shuffled matrix A": rows permuted in blocks of 16, of 32 where epilogue_tile_m % 128 == 0.

    Row r of a block of 16 goes to ``r%2 * 8 + r//2``, of 32 to ``r%4 * 8 + r//4``; `gated` applies `gated_interleave`
    first.  rows is a multiple of the block.  Source: flashinfer `flashinfer/utils.py`
    (`get_shuffle_matrix_a_row_indices`), fb28d724.
    """
    where = "epilogue_shuffle"
    check_sizes(where, experts=experts, rows=rows, cols=cols, epilogue_tile_m=epilogue_tile_m)
    return _rows_moved(experts, rows, cols, _shuffled(where, rows, epilogue_tile_m, gated))


def shuffled_sf(experts: int, rows: int, cols: int, epilogue_tile_m: int = 128, gated: bool = False) -> NamedLayout:
    """The scales of a shuffled matrix A: rows permuted as by `epilogue_shuffle`, then in `sf_128x4` order.

    `cols` counts scale columns, padded to 4; rows % 128 == 0.  Source: flashinfer `flashinfer/utils.py`
    (`get_shuffle_matrix_sf_a_row_indices`), fb28d724.
    """
    where = "shuffled_sf"
    check_sizes(where, experts=experts, rows=rows, cols=cols, epilogue_tile_m=epilogue_tile_m)
    check_multiple(where, "rows", rows, 128)
    across = ceil_div(cols, 4)
    digits: Digits = []
    for extent, step in _shuffled(where, rows, epilogue_tile_m, gated):
        while extent > 1 and step < 128:  # a step of rows in a tile: 16 each up to 32, then 4 each
            part = min(extent, (32 if step < 32 else 128) // step)
            digits.append((part, step * 16 if step < 32 else step // 32 * 4))
            extent, step = extent // part, step * part
        if extent > 1:
            digits.append((extent, step // 128 * across * 512))
    col = (cols, 1) if cols <= 4 else ((4, across), (1, 512))
    row = (tuple(e for e, _ in digits), tuple(s for _, s in digits))
    if cols <= 4 or cols % 4 == 0:
        return strided(expert=(experts, rows * across * 4), row=row, col=col)
    first = Layout((experts, rows, cols), (E(0), E(1), E(2)))
    shapes, strides = zip((experts, rows * across * 4), row, col, strict=True)
    return NamedLayout(("expert", "row", "col"), first.then(Layout(shapes, strides)))


def _shuffled(where: str, rows: int, epilogue_tile_m: int, gated: bool) -> Digits:
    """Return the digits of a row, and what one step of each moves it."""
    block = 32 if epilogue_tile_m % 128 == 0 else 16
    check_multiple(where, "rows", rows, block)
    fold = block // 8  # rows r, r + fold, ... become neighbours
    if not gated:
        return [(fold, 8), (8, 1), (rows // block, block)]
    low = [(fold // 2, 16)] if fold > 2 else []  # gate and up alternate: a row's place is 2 i + half
    return [*low, (8, 1), (rows // block, block), (2, 8)]


def _rows_moved(experts: int, rows: int, cols: int, digits: Digits) -> NamedLayout:
    row = (tuple(extent for extent, _ in digits), tuple(step * cols for _, step in digits))
    return strided(expert=(experts, rows * cols), row=row, col=(cols, 1))


# (source bit -> bit) within a word of 32: bytes (row, byte b), (row + 8, b), (row, b + 4), (row + 8, b + 4)
_FP4_BITS = (
    *(6, 7, 8, 15, 22, 23, 24, 31),
    *(3, 4, 5, 12, 19, 20, 21, 28),
    *(0, 1, 2, 9, 16, 17, 18, 25),
    *(13, 10, 11, 14, 29, 26, 27, 30),
)
# the signs (bit 3 of each value) of a word move on to other values, all else stays
_FP4_FP8_SIGNS = {3: 7, 7: 15, 11: 23, 15: 31, 19: 3, 23: 11, 27: 19, 31: 27}


def sm90_mixed_weights(experts: int, rows: int, cols: int, kind: str = "int4") -> NamedLayout:
    """The interleaved four-bit weights of the SM90 mixed-input MoE GEMM, axes expert, row, col, bit -> BIT offset.

    `kind`: "int4" (W4A8; values move whole), "fp4" (W4A16; a word's 32 bits are permuted for the conversion to bf16),
    "fp4_fp8" (signs move within a word).  rows % 16 == 0, cols % 64 == 0.  Source: flashinfer
    `csrc/nv_internal/tensorrt_llm/kernels/cutlass_kernels/moe_gemm/moe_gemm_mixed_utils.cu`, 0.7.2.post1.
    """
    where = "sm90_mixed_weights"
    check_choice(where, "kind", kind, ("int4", "fp4", "fp4_fp8"))
    check_sizes(where, experts=experts, rows=rows, cols=cols)
    check_multiple(where, "rows", rows, 16)
    check_multiple(where, "cols", cols, 64)
    line = 4 * cols  # bits of a row
    half = 8 if kind == "fp4" else 16  # bits of a row's run in a word, its partner is row + 8
    runs = ((2, 4), (4, 32), (2, 16)) if kind == "fp4" else ((4, 4), (4, 32))  # columns: places within and among words
    col: Digits = [*runs, (2, 8 * line), (2, 128), (cols // 64, 256)]
    row: Digits = [(8, line), (2, half), (rows // 16, 16 * line)]
    modes = {"expert": [(experts, rows * line)], "row": row, "col": col, "bit": [(4, 1)]}
    if kind == "int4":
        return strided(**{axis: _pairs(digits) for axis, digits in modes.items()})
    bits = list(_FP4_BITS) if kind == "fp4" else [_FP4_FP8_SIGNS.get(bit, bit) for bit in range(32)]
    shapes, strides = [], []
    for digits in modes.values():
        shapes.append(tuple(extent for extent, _ in digits))
        strides.append(tuple(E(0) * step if step < 32 else E(1) * (step // 32) for _, step in digits))
    layout = Layout(tuple(shapes), tuple(strides)).then(_PASS_ON, Table(bits, 0), Layout((1, 1), (1, 32)))
    return NamedLayout(tuple(modes), layout)


def _pairs(digits: Digits) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(extent for extent, _ in digits), tuple(step for _, step in digits)


# --- activations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Routing:
    """Tokens sorted by expert, every expert padded to whole blocks; made by `align_blocks`.

    `sorted_ids`: int64 [rows], the expanded id ``token * topk + choice`` of every row, ``tokens * topk`` on padding
    (vLLM and SGLang: sorted_token_ids); `block_experts`: the expert of every block (expert_ids; trtllm-gen:
    cta_idx_xy_to_batch_idx); `counts`: tokens per expert.
    """

    tokens: int
    topk: int
    block: int
    sorted_ids: IntArray
    block_experts: IntArray
    counts: IntArray

    @property
    def rows(self) -> int:
        """The rows with padding: num_tokens_post_pad, trtllm-gen's total_num_padded_tokens."""
        return len(self.sorted_ids)

    @cached_property
    def permuted(self) -> IntArray:
        """The row of every expanded id, -1 for a choice without an expert here: expanded_idx_to_permuted_idx."""
        rows = np.full(self.tokens * self.topk + 1, -1, dtype=np.int64)
        rows[self.sorted_ids] = np.arange(self.rows)
        return rows[:-1]

    def gathered(self, cols: int) -> NamedLayout:
        """Return (row, col) -> offset in the activations ``[tokens, cols]``, as fused kernels read them.

        A padding row is row `tokens`, one behind the last; kernels mask it.
        """
        check_sizes("gathered", cols=cols, rows=self.rows)
        first = Layout((self.rows, cols), (E(0), E(1))).then(_PASS_ON)
        return NamedLayout(
            ("row", "col"), first.then(Table(self.sorted_ids // self.topk, 0), Layout((1, 1), (cols, 1)))
        )

    def scattered(self, cols: int) -> NamedLayout:
        """Return (token, choice, col) -> offset in the permuted activations ``[rows, cols]``.

        ValueError if a choice has no expert here.
        """
        check_sizes("scattered", cols=cols, rows=self.rows)
        if (lost := np.flatnonzero(self.permuted < 0)).size:
            token, choice = divmod(int(lost[0]), self.topk)
            raise ValueError(f"scattered: choice {choice} of token {token} has no expert here")
        first = Layout((self.tokens, self.topk, cols), (E(0) * self.topk, E(0), E(1))).then(_PASS_ON)
        return NamedLayout(("token", "choice", "col"), first.then(Table(self.permuted, 0), Layout((1, 1), (cols, 1))))


def align_blocks(topk_ids: ArrayLike, experts: int, block: int) -> Routing:
    """Sort the choices ``topk_ids[tokens, topk]`` by expert and pad every expert to a multiple of `block` rows.

    An id of -1 is a choice whose expert is not here.  Source: sglang `kernels/ops/moe/__init__.py`
    (`moe_align_block_size`), 0.5.23; flashinfer `csrc/trtllm_fused_moe_runner.cu`, fb28d724 (block =
    tile_tokens_dim).
    """
    where = "align_blocks"
    check_sizes(where, experts=experts, block=block)
    ids = np.asarray(topk_ids)
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(f"{where}: topk_ids is {ids.dtype} {ids.shape}, integers [tokens, topk] are needed")
    if int(ids.min()) < -1 or int(ids.max()) >= experts:
        wrong = int(ids.min()) if int(ids.min()) < -1 else int(ids.max())
        raise ValueError(f"{where}: expert {wrong} is outside -1..{experts - 1}")
    flat = ids.astype(np.int64).ravel()
    order = np.argsort(flat, kind="stable")[np.count_nonzero(flat < 0) :]
    counts = np.bincount(flat[order], minlength=experts).astype(np.int64)
    padded = -(-counts // block) * block
    starts = np.cumsum(padded) - padded
    sorted_ids = np.full(int(padded.sum()), ids.size, dtype=np.int64)
    within = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    sorted_ids[np.repeat(starts, counts) + within] = order
    block_experts = np.repeat(np.arange(experts, dtype=np.int64), padded // block)
    return Routing(ids.shape[0], ids.shape[1], block, sorted_ids, block_experts, counts)


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows of activations grouped by expert, each group starting on a multiple of `align` rows.

    `counts`: rows per expert; `starts`: the first row of each group; `rows`: all rows with padding.
    """

    align: int
    counts: IntArray
    starts: IntArray
    rows: int

    @property
    def psum(self) -> IntArray:
        """The row behind the last of each group, DeepGEMM's psum form of the same."""
        return self.starts + self.counts

    def layout(self, k: int) -> NamedLayout:
        """Return the layout ``[rows, k]`` of all rows."""
        return row_major("groups", "row col", {"row": self.rows, "col": k})

    def expert(self, expert: int, k: int) -> NamedLayout:
        """Return the layout (row, col) of the rows of one expert; ValueError if it has none."""
        if not 0 <= as_int(expert, "groups: expert") < len(self.counts):
            raise ValueError(f"groups: expert {expert} is outside 0..{len(self.counts) - 1}")
        check_sizes(f"groups: expert {expert}", rows=int(self.counts[expert]), k=k)
        return NamedLayout(("row", "col"), Layout((int(self.counts[expert]), k), (k, 1), int(self.starts[expert]) * k))


def contiguous_groups(counts: ArrayLike, align: int = 128) -> Groups:
    """DeepGEMM's contiguous grouped activations ``[sum of align(m_e), k]``.

    `align` is 128 by default, 32 to 224 in steps of 32 on SM100.  Source: DeepGEMM `README.md`,
    `csrc/jit_kernels/heuristics/runtime.hpp`, 54e22612.
    """
    check_choice("contiguous_groups", "align", align, GROUP_ALIGNS)
    held = _counts("contiguous_groups", counts)
    padded = -(-held // align) * align
    return Groups(align, held, np.cumsum(padded) - padded, int(padded.sum()))


def masked_groups(experts: int, max_m: int, k: int, masked_m: ArrayLike | None = None) -> NamedLayout:
    """DeepGEMM's masked grouped activations ``[experts, max_m, k]``; ``masked_m[e]`` rows of expert e are valid.

    Source: DeepGEMM `README.md`, 54e22612.
    """
    where = "masked_groups"
    if masked_m is not None:
        held = _counts(where, masked_m)
        if len(held) != experts or held.max() > max_m:
            raise ValueError(
                f"{where}: masked_m has {len(held)} entries up to {held.max()}, {experts} of 0..{max_m} fit"
            )
    return row_major(where, "expert row col", {"expert": experts, "row": max_m, "col": k})


def _counts(where: str, counts: ArrayLike) -> IntArray:
    held = np.asarray(counts)
    if held.ndim != 1 or held.size == 0 or held.dtype.kind not in "iu" or held.min() < 0:
        raise ValueError(f"{where}: counts of rows are a non-empty list of integers of at least 0")
    return held.astype(np.int64)


def deepep_recv(experts: int, tokens_per_rank: int, ranks: int, hidden: int) -> NamedLayout:
    """DeepEP's low-latency receive buffer ``[experts, tokens_per_rank * ranks, hidden]``, e4m3 or bf16.

    experts are the local ones, tokens_per_rank at most 1024.  Source: DeepEP `deep_ep/buffer.py`; sglang
    `srt/layers/moe/token_dispatcher/deepep.py`, 0.5.23.
    """
    rows = _deepep_rows("deepep_recv", tokens_per_rank, ranks)
    return row_major("deepep_recv", "expert row col", {"expert": experts, "row": rows, "col": hidden})


def deepep_scales(experts: int, tokens_per_rank: int, ranks: int, hidden: int, packed: bool = False) -> NamedLayout:
    """The scales of `deepep_recv`, one per 128 columns, the two last axes column-major for TMA.

    fp32 ``[experts, rows, hidden/128]``, or `packed` ue8m0, ``hidden/512`` ints; packed offsets count BYTES, one per
    scale.  hidden % 128 == 0, packed % 512 == 0.  Source: as for `deepep_recv`.
    """
    where = "deepep_scales"
    rows = _deepep_rows(where, tokens_per_rank, ranks)
    check_sizes(where, experts=experts, hidden=hidden)
    check_multiple(where, "hidden", hidden, 512 if packed else 128)
    count = hidden // 128
    if packed:
        return strided(expert=(experts, rows * count), row=(rows, 4), col=((4, count // 4), (1, 4 * rows)))
    return strided(expert=(experts, rows * count), row=(rows, 1), col=(count, rows))


def _deepep_rows(where: str, tokens_per_rank: int, ranks: int) -> int:
    check_sizes(where, tokens_per_rank=tokens_per_rank, ranks=ranks)
    if tokens_per_rank > MAX_DISPATCH_TOKENS:
        raise ValueError(f"{where}: tokens_per_rank is {tokens_per_rank}, at most {MAX_DISPATCH_TOKENS} are allowed")
    return tokens_per_rank * ranks
