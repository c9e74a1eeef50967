"""Expert weights and routed activations against reshapes, loops and the kernels' own byte moves."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts.catalog import moe
from layouts.catalog.scales import sf_128x4


def grid(layout, *axes):
    names = axes or layout.axes
    indices = np.indices([layout.size(axis) for axis in names], sparse=True)
    return layout.offsets(**dict(zip(names, indices, strict=True)))


def matrices(experts, rows, cols):
    return np.arange(experts * rows * cols).reshape(experts, rows, cols)


def place(memory, layout, plain):
    """Tell whether the memory a stack fills holds, at the layout's offsets, the plain elements."""
    return np.array_equal(memory.ravel()[grid(layout, "expert", "row", "col")], plain)


@pytest.mark.parametrize(("e", "m", "k"), [(3, 32, 256), (1, 7, 128), (2, 50, 384)])
def test_the_three_weight_orders_are_views_of_each_other(e, m, k):
    plain = matrices(e, m, k)
    assert place(plain, moe.moe_major_k(e, m, k), plain)
    assert place(plain.swapaxes(1, 2), moe.moe_major_mn(e, m, k), plain)
    for bits, block_bytes in ((8, 128), (16, 128), (4, 64), (8, 64)):
        block = 8 * block_bytes // bits
        blocks = plain.reshape(e, m, k // block, block).transpose(0, 2, 1, 3)
        assert place(blocks, moe.moe_block_major_k(e, m, k, bits, block_bytes), plain)


@pytest.mark.parametrize(("e", "m", "k"), [(2, 32, 5), (1, 96, 8), (3, 2, 3)])
def test_gate_and_up_rows_alternate(e, m, k):
    plain = matrices(e, m, k)
    memory = np.empty_like(plain)
    memory[:, 0::2], memory[:, 1::2] = plain[:, : m // 2], plain[:, m // 2 :]
    assert place(memory, moe.gated_interleave(e, m, k), plain)
    for gran in (8, 1, 4):
        if m % (2 * gran) == 0:
            gate = plain[:, : m // 2].reshape(e, m // 2 // gran, gran, k)
            up = plain[:, m // 2 :].reshape(e, m // 2 // gran, gran, k)
            assert place(np.stack([gate, up], axis=2), moe.deepgemm_l1(e, m, k, gran), plain)


MAP16 = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]
MAP32 = [8 * (r % 4) + r // 4 for r in range(32)]


def shuffled_rows(m, tile, gated):
    """The old row that each new row holds, gate and up first brought together."""
    block, table = (32, MAP32) if tile % 128 == 0 else (16, MAP16)
    old = np.arange(m)
    if gated:
        old = np.stack([old[: m // 2], old[m // 2 :]], axis=1).ravel()
    new = np.empty(m, dtype=int)
    for r in range(m):
        new[r // block * block + table[r % block]] = old[r]
    return new


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("m", "tile"), [(32, 128), (16, 64), (160, 128), (48, 8), (256, 256)])
def test_the_epilogue_shuffle_permutes_rows_in_blocks(m, tile, gated):
    plain = matrices(2, m, 3)
    memory = plain[:, shuffled_rows(m, tile, gated)]
    layout = moe.epilogue_shuffle(2, m, 3, tile, gated)
    assert place(memory, layout, plain)
    assert layout.is_injective


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tile", [128, 64])
@pytest.mark.parametrize(("m", "cols"), [(128, 4), (256, 8), (384, 7), (128, 3)])
def test_the_scales_of_a_shuffled_matrix_are_shuffled_and_then_tiled(m, cols, tile, gated):
    plain = matrices(2, m, cols)
    kp = -(-cols // 4) * 4
    padded = np.zeros((2, m, kp), dtype=int)
    padded[:, :, :cols] = plain[:, shuffled_rows(m, tile, gated)]
    memory = padded.reshape(2, m // 128, 4, 32, kp // 4, 4).transpose(0, 1, 4, 3, 2, 5)
    layout = moe.shuffled_sf(2, m, cols, tile, gated)
    assert place(memory, layout, plain)
    tiled, rows = grid(sf_128x4(m, cols), "row", "col"), np.argsort(shuffled_rows(m, tile, gated))
    assert np.array_equal(grid(layout, "expert", "row", "col")[0], tiled[rows])


# --- the interleave of four-bit weights, as its kernels move bytes ----------------------------------------------------

FP4_MOVES = [  # (mask, bits to the left, or to the right where negative)
    *((1 << 7, 24), (7 << 4, 18), (1 << 3, 12), (7, 6)),
    *((1 << 15, 13), (7 << 12, 7), (1 << 11, 1), (7 << 8, -5)),
    *((1 << 23, 2), (7 << 20, -4), (1 << 19, -10), (7 << 16, -16)),
    *((1 << 31, -1), (1 << 28, 1), (3 << 29, -3), (1 << 27, -13), (1 << 24, -11), (3 << 25, -15)),
]


def fp4_kernel(weight, rows, cols):
    out = np.zeros(rows * cols // 2, dtype=np.uint8)
    flat = weight.ravel()
    for row in (r for r in range(rows) if r % 16 < 8):
        for part in range(cols // 64):
            for lane in range(16):
                mma = lane // 4
                first = row * cols // 2 + part * 32 + mma * 8 + lane % 4
                second = first + 8 * cols // 2
                raw = sum(int(flat[at]) << 8 * b for b, at in enumerate((first, second, first + 4, second + 4)))
                word = 0
                for mask, shift in FP4_MOVES:
                    word |= (raw & mask) << shift if shift >= 0 else (raw & mask) >> -shift
                at = (row + mma % 2 * 8) * cols // 2 + part * 32 + lane // 8 * 16 + lane % 4 * 4
                out[at : at + 4] = [word >> 8 * b & 255 for b in range(4)]
    return out


def pair_kernel(weight, rows, cols, signs):
    flat = weight.ravel().view("<u2")
    out = np.zeros(rows * cols // 4, dtype="<u2")
    for row in (r for r in range(rows) if r % 16 < 8):
        for part in range(cols // 64):
            for lane in range(16):
                source = row * cols // 4 + part * 16 + lane
                word = int(flat[source]) | int(flat[source + 8 * cols // 4]) << 16
                if signs:
                    kept = word & 0x77777777
                    moves = ((3, 4), (7, 8), (11, 12), (15, 16), (19, -16), (23, -12), (27, -8), (31, -4))
                    word = kept | sum(1 << bit + move for bit, move in moves if word >> bit & 1)
                at = (row + lane % 8 // 4 * 8) * cols // 4 + part * 16 + lane // 8 * 8 + lane % 4 * 2
                out[at : at + 2] = [word & 0xFFFF, word >> 16]
    return out.view(np.uint8)


@pytest.mark.parametrize("kind", ["int4", "fp4", "fp4_fp8"])
@pytest.mark.parametrize(("rows", "cols"), [(16, 64), (48, 128)])
def test_interleaved_four_bit_weights_hold_every_bit_where_the_kernel_puts_it(rows, cols, kind):
    weight = np.random.default_rng(7).integers(0, 256, (rows, cols // 2), dtype=np.uint8)
    memory = fp4_kernel(weight, rows, cols) if kind == "fp4" else pair_kernel(weight, rows, cols, kind == "fp4_fp8")
    layout = moe.sm90_mixed_weights(2, rows, cols, kind)
    offsets = grid(layout, "expert", "row", "col", "bit")
    assert np.array_equal(np.sort(offsets.ravel()), np.arange(2 * rows * cols * 4))
    bits = np.unpackbits(memory, bitorder="little")
    plain = np.unpackbits(weight, bitorder="little").reshape(rows, cols, 4)
    assert np.array_equal(bits[offsets[0]], plain)
    assert np.array_equal(offsets[1], offsets[0] + rows * cols * 4)


# --- activations ------------------------------------------------------------------------------------------------------


@st.composite
def choices(draw):
    experts = draw(st.integers(1, 6))
    tokens, topk = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    first = draw(st.sampled_from([0, -1]))
    ids = draw(st.lists(st.integers(first, experts - 1), min_size=tokens * topk, max_size=tokens * topk))
    return experts, draw(st.integers(1, 8)), np.array(ids).reshape(tokens, topk)


@given(choices(), st.integers(1, 5))
def test_every_expert_gets_its_choices_in_order_and_whole_blocks(case, cols):
    experts, block, ids = case
    routing = moe.align_blocks(ids, experts, block)
    expected, blocks = [], []
    for expert in range(experts):
        mine = [t * ids.shape[1] + j for t in range(len(ids)) for j in range(ids.shape[1]) if ids[t, j] == expert]
        padding = -len(mine) % block
        expected += mine + [ids.size] * padding
        blocks += [expert] * ((len(mine) + padding) // block)
    assert routing.sorted_ids.tolist() == expected
    assert routing.block_experts.tolist() == blocks
    assert routing.rows == len(expected)
    assert routing.counts.sum() == np.count_nonzero(ids >= 0)
    for expanded, row in enumerate(routing.permuted.tolist()):
        assert row == (expected.index(expanded) if ids.flat[expanded] >= 0 else -1)
    tokens = [e // ids.shape[1] if e < ids.size else -1 for e in expected]
    if expected:
        row, col = np.indices((len(expected), cols))
        read = np.where(np.array(tokens) < 0, len(ids), tokens)[row] * cols + col
        assert np.array_equal(grid(routing.gathered(cols), "row", "col"), read)
    if (ids >= 0).all():
        token, choice, col = np.indices((*ids.shape, cols))
        written = routing.permuted[token * ids.shape[1] + choice] * cols + col
        found = routing.scattered(cols)
        assert np.array_equal(grid(found, "token", "choice", "col"), written)
        assert len(np.unique(written)) == written.size
        assert found.offset(token=0, choice=0, col=cols - 1) == written[0, 0, -1]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=5), st.sampled_from([32, 128, 224]))
def test_contiguous_groups_start_on_multiples_and_say_whose_each_row_is(counts, align):
    groups = moe.contiguous_groups(counts, align)
    start = 0
    for expert, count in enumerate(counts):
        assert groups.starts[expert] == start
        assert groups.psum[expert] == start + count
        padded = -(-count // align) * align
        if count:
            rows = groups.expert(expert, 8)
            assert rows.offset(row=count - 1, col=7) == (start + count) * 8 - 1
            assert rows.size("row") == count
        start += padded
    assert groups.rows == start
    if start:
        assert groups.layout(8).cosize == start * 8


def test_masked_groups_and_the_low_latency_buffers_are_rectangles():
    assert place(matrices(3, 10, 7), moe.masked_groups(3, 10, 7, [0, 10, 4]), matrices(3, 10, 7))
    plain = matrices(4, 6 * 8, 512)
    assert place(plain, moe.deepep_recv(4, 6, 8, 512), plain)
    scales = matrices(4, 48, 4)
    assert place(scales.swapaxes(1, 2), moe.deepep_scales(4, 6, 8, 512), scales)
    packed = matrices(4, 48, 8).reshape(4, 48, 2, 4).swapaxes(1, 2)
    assert place(packed, moe.deepep_scales(4, 6, 8, 1024, packed=True), matrices(4, 48, 8))


BAD = [
    (lambda: moe.moe_major_k(0, 1, 1), "moe_major_k: the size of axis expert is 0"),
    (lambda: moe.moe_block_major_k(1, 8, 100), "moe_block_major_k: cols is 100, a multiple of 128 is needed"),
    (lambda: moe.moe_block_major_k(1, 8, 128, 8, 32), "moe_block_major_k: block_bytes is 32, allowed are 64, 128"),
    (lambda: moe.gated_interleave(1, 7, 8), "gated_interleave: rows is 7, a multiple of 2 is needed"),
    (lambda: moe.deepgemm_l1(1, 24, 8), "deepgemm_l1: rows is 24, a multiple of 16 is needed"),
    (lambda: moe.epilogue_shuffle(1, 48, 8), "epilogue_shuffle: rows is 48, a multiple of 32 is needed"),
    (lambda: moe.epilogue_shuffle(1, 40, 8, 64), "epilogue_shuffle: rows is 40, a multiple of 16 is needed"),
    (lambda: moe.shuffled_sf(1, 64, 8), "shuffled_sf: rows is 64, a multiple of 128 is needed"),
    (lambda: moe.sm90_mixed_weights(1, 8, 64), "sm90_mixed_weights: rows is 8, a multiple of 16 is needed"),
    (lambda: moe.sm90_mixed_weights(1, 16, 96), "sm90_mixed_weights: cols is 96, a multiple of 64 is needed"),
    (
        lambda: moe.sm90_mixed_weights(1, 16, 64, "fp8"),
        "sm90_mixed_weights: kind is 'fp8', allowed are int4, fp4, fp4_fp8",
    ),
    (lambda: moe.align_blocks([[0, 4]], 4, 16), "align_blocks: expert 4 is outside -1..3"),
    (lambda: moe.align_blocks([[0, -2]], 4, 16), "align_blocks: expert -2 is outside -1..3"),
    (
        lambda: moe.align_blocks([0, 1], 4, 16),
        "align_blocks: topk_ids is int64 (2,), integers [tokens, topk] are needed",
    ),
    (lambda: moe.align_blocks([[0, 1]], 4, 0), "align_blocks: block is 0, at least 1 is needed"),
    (lambda: moe.align_blocks([[0, -1]], 4, 2).scattered(8), "scattered: choice 1 of token 0 has no expert here"),
    (lambda: moe.align_blocks([[-1]], 4, 2).gathered(8), "gathered: rows is 0, at least 1 is needed"),
    (lambda: moe.contiguous_groups([3], 48), "contiguous_groups: align is 48, allowed are 32, 64, 96"),
    (lambda: moe.contiguous_groups([-1]), "contiguous_groups: counts of rows are a non-empty list of integers"),
    (lambda: moe.contiguous_groups([3, 0]).expert(1, 8), "groups: expert 1: rows is 0, at least 1 is needed"),
    (lambda: moe.contiguous_groups([3]).expert(1, 8), "groups: expert 1 is outside 0..0"),
    (lambda: moe.masked_groups(2, 4, 8, [1, 5]), "masked_groups: masked_m has 2 entries up to 5, 2 of 0..4 fit"),
    (lambda: moe.deepep_recv(1, 1025, 2, 512), "deepep_recv: tokens_per_rank is 1025, at most 1024 are allowed"),
    (lambda: moe.deepep_scales(1, 8, 2, 640, True), "deepep_scales: hidden is 640, a multiple of 512 is needed"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_a_size_that_the_stack_refuses_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
