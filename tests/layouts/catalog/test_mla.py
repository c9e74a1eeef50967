"""Latent, indexer and four-bit caches against byte images: buffers cut and viewed as the stacks do it."""

import numpy as np
import pytest

from layouts.catalog import mla


def grid(layout, axes=None):
    names = axes or layout.axes
    assert sorted(names) == sorted(layout.axes)
    indices = np.indices([layout.size(axis) for axis in names], sparse=True)
    return layout.offsets(**dict(zip(names, indices, strict=True)))


def byte_grid(record, name, *axes):
    """The byte of every element of a field, with one axis of the result per axis."""
    layout = record.fields[name].layout
    assert sorted(axes) == sorted(layout.axes)
    indices = np.indices([layout.size(axis) for axis in axes], sparse=True)
    return record.addresses(name, **dict(zip(axes, indices, strict=True)))


def image(*shape):
    """A buffer whose byte n holds n."""
    return np.arange(np.prod(shape)).reshape(shape)


def elements(bytes_, width):
    """The first byte of every element of `width` bytes along the last axis."""
    return bytes_[..., ::width]


@pytest.mark.parametrize(("pages", "page"), [(3, 64), (5, 7), (1, 1)])
def test_the_split_caches_are_tensors_of_their_own_or_views_of_the_joint_one(pages, page):
    joint = image(pages, page, 576)
    assert np.array_equal(grid(mla.mla_bf16(pages, page)), joint)
    assert np.array_equal(grid(mla.mla_split(pages, page, "ckv", joint=True)), joint[..., :512])
    assert np.array_equal(grid(mla.mla_split(pages, page, "kpe", joint=True)), joint[..., 512:])
    assert np.array_equal(grid(mla.mla_split(pages, page, "ckv")), image(pages, page, 512))
    assert np.array_equal(grid(mla.mla_split(pages, page, "kpe")), image(pages, page, 64))
    assert mla.flashmla_dense(pages) == mla.mla_bf16(pages, 64)
    assert mla.flashmla_dense(pages, head_k=512) == mla.mla_bf16(pages, 64, 448, 64)


@pytest.mark.parametrize("spare", [0, 1, 3])
@pytest.mark.parametrize(("blocks", "page"), [(3, 64), (4, 5)])
def test_a_v32_token_is_656_bytes_of_values_scales_and_rope(blocks, page, spare):
    record = mla.fp8_ds_mla(blocks, page, spare)
    buffer = image(blocks, page + spare, 656)
    cache = buffer[:, :page]
    assert np.array_equal(byte_grid(record, "nope", "page", "token", "dim"), cache[..., :512])
    assert np.array_equal(byte_grid(record, "scale", "page", "token", "tile"), elements(cache[..., 512:528], 4))
    assert np.array_equal(byte_grid(record, "rope", "page", "token", "dim"), elements(cache[..., 528:], 2))
    assert record.size == buffer.size
    assert record.payload == cache.size
    assert [record.bits(name) for name in ("nope", "scale", "rope")] == [8, 32, 16]


@pytest.mark.parametrize(("pages", "page"), [(3, 64), (4, 5), (2, 72)])
def test_a_model1_page_has_values_then_scales_and_is_padded_to_576_bytes(pages, page):
    record = mla.model1_mla(pages, page)
    padded = -(-page * 584 // 576) * 576
    buffer = image(pages, padded)
    values = buffer[:, : page * 576].reshape(pages, page, 576)
    scales = buffer[:, page * 576 : page * 584].reshape(pages, page, 8)[..., :7]
    assert np.array_equal(byte_grid(record, "nope", "page", "token", "dim"), values[..., :448])
    assert np.array_equal(byte_grid(record, "rope", "page", "token", "dim"), elements(values[..., 448:], 2))
    assert np.array_equal(byte_grid(record, "scale", "page", "token", "tile"), scales)
    assert record.size == buffer.size
    assert record.payload == pages * page * 583


def test_a_model1_page_of_64_tokens_has_the_size_the_stacks_allocate():
    assert mla.model1_mla(1).size == 37440  # 64 * 584 = 37376, rounded up to 65 * 576


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("page", [32, 64, 128])
def test_indexer_keys_of_a_page_come_before_its_scales(page, head_dim):
    record = mla.indexer_fp8(3, page, head_dim)
    buffer = image(3, page * (head_dim + 4))
    keys = buffer[:, : page * head_dim].reshape(3, page, head_dim)
    scales = elements(buffer[:, page * head_dim :].reshape(3, page, 4), 4)[..., 0]
    assert np.array_equal(byte_grid(record, "key", "page", "token", "dim"), keys)
    assert np.array_equal(byte_grid(record, "scale", "page", "token"), scales)
    assert record.size == record.payload == buffer.size


@pytest.mark.parametrize("head_dim", [64, 128])
def test_four_bit_indexer_keys_lie_two_to_a_byte_the_even_one_low(head_dim):
    page = 64
    record = mla.indexer_fp4(2, page, head_dim)
    buffer = image(2, page * (head_dim // 2 + 4))
    keys = buffer[:, : page * head_dim // 2].reshape(2, page, head_dim // 2)
    assert np.array_equal(byte_grid(record, "key", "page", "token", "dim"), np.repeat(keys, 2, axis=-1))
    assert record.bit("key", page=0, token=0, dim=3) == 12
    scales = buffer[:, page * head_dim // 2 :].reshape(2, page, 4)[..., : head_dim // 32]
    assert np.array_equal(byte_grid(record, "scale", "page", "token", "tile"), scales)
    assert record.size == buffer.size


@pytest.mark.parametrize(("page", "head_dim"), [(64, 128), (16, 32), (48, 16)])
def test_preshuffled_indexer_keys_are_tiles_of_16_tokens_by_16_bytes(page, head_dim):
    record = mla.indexer_preshuffle(3, page, head_dim)
    buffer = image(3, page * (head_dim + 4))
    tiles = buffer[:, : page * head_dim].reshape(3, page // 16, head_dim // 16, 16, 16)
    keys = tiles.transpose(0, 1, 3, 2, 4).reshape(3, page, head_dim)
    assert np.array_equal(byte_grid(record, "key", "page", "token", "dim"), keys)
    assert byte_grid(record, "scale", "page", "token")[2, 5] == 2 * page * (head_dim + 4) + page * head_dim + 20


def swizzled(scales, order):
    """V scales [pages, token, head, tile] in memory order, four tokens interleaved, as FlashInfer permutes them."""
    pages, page, heads, tiles = scales.shape
    if order == "NHD":
        parts = scales.reshape(pages, page // 4, 4, heads, 4, tiles // 4)
        return parts.transpose(0, 1, 4, 3, 5, 2).reshape(pages, page, heads, tiles)
    parts = scales.transpose(0, 2, 1, 3).reshape(pages, heads, page // 4, 4, 4, tiles // 4)
    return parts.transpose(0, 1, 2, 4, 5, 3).reshape(pages, heads, page, tiles)


@pytest.mark.parametrize("order", ["NHD", "HND"])
@pytest.mark.parametrize(("page", "heads", "dim"), [(16, 3, 128), (4, 2, 64), (12, 1, 192)])
def test_nvfp4_v_scales_are_interleaved_over_four_tokens(page, heads, dim, order):
    pages, tiles = 3, dim // 16
    axes = ("page", "token", "head", "tile")
    logical = image(pages, page, heads, tiles)
    stored = swizzled(logical, order).ravel()
    offsets = grid(mla.nvfp4_scales(pages, page, heads, dim, order, "v"), axes)
    assert np.array_equal(stored[offsets], logical)
    assert mla.nvfp4_scales(pages, page, heads, dim, order, "v").is_injective
    linear = image(pages, page, heads, tiles) if order == "NHD" else image(pages, heads, page, tiles).swapaxes(1, 2)
    assert np.array_equal(grid(mla.nvfp4_scales(pages, page, heads, dim, order), axes), linear)
    data = grid(mla.nvfp4_data(pages, page, heads, dim, order), ("page", "token", "head", "dim"))
    expected = image(pages, page, heads, dim) if order == "NHD" else image(pages, heads, page, dim).swapaxes(1, 2)
    assert np.array_equal(data, expected)


@pytest.mark.parametrize("swizzle_v", [True, False])
@pytest.mark.parametrize("order", ["NHD", "HND"])
@pytest.mark.parametrize(("block", "heads", "dim"), [(16, 3, 128), (4, 2, 64)])
def test_a_vllm_nvfp4_block_is_k_values_k_scales_v_values_v_scales(block, heads, dim, order, swizzle_v):
    blocks, tiles = 3, dim // 16
    record = mla.vllm_nvfp4(blocks, block, heads, dim, order, swizzle_v)
    values, scales = block * heads * dim // 2, block * heads * tiles
    buffer = image(blocks, 2, values + scales)
    assert record.size == record.payload == buffer.size

    def by_token(part, last):
        inner = (block, heads, last) if order == "NHD" else (heads, block, last)
        found = part.reshape(blocks, *inner)
        return found if order == "NHD" else found.swapaxes(1, 2)

    for side, name in enumerate(("k", "v")):
        data = by_token(buffer[:, side, :values], dim // 2)
        assert np.array_equal(byte_grid(record, name, "page", "token", "head", "dim"), np.repeat(data, 2, axis=-1))
        found = byte_grid(record, f"{name}_scale", "page", "token", "head", "tile")
        region = buffer[:, side, values:]
        if name == "k" or not swizzle_v:
            assert np.array_equal(found, by_token(region, tiles))
        else:
            logical = image(blocks, block, heads, tiles)
            stored = np.zeros(buffer.size, dtype=np.int64)
            stored[region.ravel()] = swizzled(logical, order).ravel()
            assert np.array_equal(stored[found], logical)


def test_a_vllm_nvfp4_v_scale_lies_where_its_kernel_writes_it():
    block, heads, dim, tiles = 8, 2, 128, 8
    record = mla.vllm_nvfp4(2, block, heads, dim)
    side = block * heads * (dim // 2 + tiles)
    t, s = 6, 5
    row, column = t // 4 * 4 + s // (tiles // 4), s % (tiles // 4) * 4 + t % 4
    expected = 2 * side + side + block * heads * dim // 2 + 1 * block * tiles + row * tiles + column
    assert record.address("v_scale", page=1, token=t, head=1, tile=s) == expected


BAD = [
    (lambda: mla.mla_bf16(1, 64, 0), "mla_bf16: rank is 0, at least 1 is needed"),
    (lambda: mla.flashmla_dense(1, 32), "flashmla_dense: page_size is 32, allowed are 64"),
    (lambda: mla.flashmla_dense(1, 64, 192), "flashmla_dense: head_k is 192, allowed are 576, 512"),
    (lambda: mla.mla_split(1, 64, "v"), "mla_split: part is 'v', allowed are ckv, kpe"),
    (lambda: mla.fp8_ds_mla(0), "fp8_ds_mla: blocks is 0, at least 1 is needed"),
    (lambda: mla.fp8_ds_mla(1, 64, -1), "fp8_ds_mla: spare_tokens is -1, at least 0 is needed"),
    (lambda: mla.model1_mla(2, 0), "model1_mla: page_size is 0, at least 1 is needed"),
    (lambda: mla.indexer_fp8(1, 16), "indexer_fp8: page_size is 16, allowed are 32, 64, 128"),
    (lambda: mla.indexer_fp8(1, 64, 96), "indexer_fp8: head_dim is 96, allowed are 32, 64, 128"),
    (lambda: mla.indexer_fp4(1, 64, 32), "indexer_fp4: head_dim is 32, allowed are 64, 128"),
    (lambda: mla.indexer_preshuffle(1, 24), "indexer_preshuffle: page_size is 24, a multiple of 16 is needed"),
    (lambda: mla.vllm_nvfp4(1, 6, 1, 64), "vllm_nvfp4: block_size is 6, a multiple of 4 is needed"),
    (lambda: mla.vllm_nvfp4(1, 6, 1, 24, "HND", False), "vllm_nvfp4: dim is 24, a multiple of 16 is needed"),
    (lambda: mla.nvfp4_data(1, 8, 1, 96), "nvfp4_data: dim is 96, a multiple of 64 is needed"),
    (lambda: mla.nvfp4_scales(1, 6, 1, 64), "nvfp4_scales: page_size is 6, a multiple of 4 is needed"),
    (lambda: mla.nvfp4_scales(1, 8, 1, 64, "HND", "q"), "nvfp4_scales: side is 'q', allowed are k, v"),
    (lambda: mla.nvfp4_scales(1, 8, 1, 64, "DHN"), "nvfp4_scales: order is 'DHN', allowed are NHD, HND"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_a_size_that_the_stack_refuses_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=r"^[^\n]{1,200}$") as error:
        make()
    assert str(error.value) == message
