"""Paged caches against NumPy: the shape a stack allocates, counted and transposed to logical axes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts.algebra import coalesce
from layouts.catalog import kv
from layouts.layout import Layout
from layouts.notation import NamedLayout

DATA = Path(os.environ.get("ROWHIT_DATA") or Path(__file__).parents[3] / "../shared/data") / "layouts"
SIZES = [(5, 16, 3, 24), (1, 32, 1, 8), (3, 16, 7, 40), (2, 64, 2, 576)]


def grid(layout, axes=None):
    """All offsets, with one axis of the result per axis of the layout."""
    names = axes or layout.axes
    assert sorted(names) == sorted(layout.axes)
    indices = np.indices([layout.size(axis) for axis in names], sparse=True)
    return layout.offsets(**dict(zip(names, indices, strict=True)))


def counted(shape, order):
    """The elements of a row-major tensor, its axes brought into another order."""
    return np.arange(np.prod(shape)).reshape(shape).transpose(order)


@pytest.mark.parametrize(("p", "b", "h", "d"), SIZES)
def test_a_flashinfer_cache_is_its_tensor_in_nhd_and_in_hnd_order(p, b, h, d):
    nhd, hnd = kv.fi_nhd(p, b, h, d), kv.fi_hnd(p, b, h, d)
    axes = ("page", "kv", "token", "head", "dim")
    assert np.array_equal(grid(nhd, axes), counted((p, 2, b, h, d), (0, 1, 2, 3, 4)))
    assert np.array_equal(grid(hnd, axes), counted((p, 2, h, b, d), (0, 1, 3, 2, 4)))
    at = {"page": p - 1, "kv": 1, "token": b - 1, "head": h - 1, "dim": d // 2}
    assert nhd.offset(**at) == ((((p - 1) * 2 + 1) * b + b - 1) * h + h - 1) * d + d // 2
    assert hnd.offset(**at) == ((((p - 1) * 2 + 1) * h + h - 1) * b + b - 1) * d + d // 2
    assert nhd.is_injective
    assert hnd.is_injective
    assert nhd.cosize == hnd.cosize == 2 * p * b * h * d


@pytest.mark.parametrize(("p", "b", "h", "d"), SIZES)
def test_the_tuple_form_is_one_tensor_per_side(p, b, h, d):
    axes = ("page", "token", "head", "dim")
    assert np.array_equal(grid(kv.fi_tuple(p, b, h, d), axes), counted((p, b, h, d), (0, 1, 2, 3)))
    assert np.array_equal(grid(kv.fi_tuple(p, b, h, d, "HND"), axes), counted((p, h, b, d), (0, 2, 1, 3)))


LOGICAL = {"fa": ("kv", "page", "token", "head", "dim"), "fi": ("page", "kv", "token", "head", "dim")}
IN_MEMORY = {  # the shapes in memory that the reference of the two backends gives
    ("fa", "NHD", None): ("kv", "page", "token", "head", "dim"),
    ("fa", "HND", None): ("kv", "page", "head", "token", "dim"),
    ("fi", "NHD", None): ("page", "kv", "token", "head", "dim"),
    ("fi", "HND", None): ("page", "kv", "head", "token", "dim"),
    ("fa", "NHD", 3): ("page", "layer", "kv", "token", "head", "dim"),
    ("fa", "HND", 3): ("page", "head", "layer", "kv", "token", "dim"),
    ("fi", "NHD", 3): ("page", "layer", "kv", "token", "head", "dim"),
    ("fi", "HND", 3): ("page", "kv", "head", "layer", "token", "dim"),
}


@pytest.mark.parametrize(("backend", "order", "layers"), IN_MEMORY)
def test_vllm_keeps_the_logical_shape_and_changes_only_the_strides(backend, order, layers):
    make = {"fa": kv.vllm_fa, "fi": kv.vllm_fi}[backend]
    layout = make(5, 16, 3, 8, order, layers)
    sizes = {"page": 5, "kv": 2, "token": 16, "head": 3, "dim": 8, "layer": layers}
    logical = LOGICAL[backend] if layers is None else ("layer", *LOGICAL[backend])
    memory = IN_MEMORY[backend, order, layers]
    assert layout.axes == logical
    assert layout.layout.shape == tuple(sizes[axis] for axis in logical)
    shape = [sizes[axis] for axis in memory]
    assert np.array_equal(grid(layout), counted(shape, [memory.index(axis) for axis in logical]))
    permutation = kv.vllm_stride_order(backend, order, layers is not None)
    assert tuple(logical[k] for k in permutation) == memory


@pytest.mark.parametrize("element_bytes", [1, 2, 4])
@pytest.mark.parametrize(("p", "b", "h", "d"), SIZES)
def test_the_older_paged_cache_has_vectors_of_16_bytes_of_k_and_transposed_v(p, b, h, d, element_bytes):
    x = 16 // element_bytes
    axes = ("page", "head", "token", "dim")
    if d % x:
        with pytest.raises(ValueError, match=rf"vllm_paged_v1: dim is {d}, a multiple of {x} is needed"):
            kv.vllm_paged_v1(p, b, h, d, element_bytes)
        return
    keys = kv.vllm_paged_v1(p, b, h, d, element_bytes)
    expected = counted((p, h, d // x, b, x), (0, 1, 3, 2, 4)).reshape(p, h, b, d)
    assert np.array_equal(grid(keys, axes), expected)
    values = kv.vllm_paged_v1(p, b, h, d, element_bytes, "v")
    assert np.array_equal(grid(values, axes), counted((p, h, d, b), (0, 1, 3, 2)))
    assert keys.is_injective
    assert values.is_injective


def test_sglang_pads_each_half_of_its_slots_to_whole_pages():
    size, page, h, d = 100, 64, 3, 8  # 164 slots, 192 with the last page filled up
    fused = grid(kv.sgl_nhd(size, page, h, d), ("kv", "slot", "head", "dim"))
    assert np.array_equal(fused, counted((2, 192, h, d), (0, 1, 2, 3))[:, :164])
    alone = kv.sgl_nhd(size, page, h, d, fused=False)
    assert np.array_equal(grid(alone), counted((164, h, d), (0, 1, 2)))


def test_sglang_head_first_pages_have_one_page_more_for_padding():
    fused = grid(kv.sgl_hnd(96, 32, 3, 8), ("kv", "page", "token", "head", "dim"))
    assert np.array_equal(fused, counted((2, 4, 3, 32, 8), (0, 1, 3, 2, 4)))
    alone = grid(kv.sgl_hnd(96, 32, 3, 8, fused=False), ("page", "token", "head", "dim"))
    assert np.array_equal(alone, counted((4, 3, 32, 8), (0, 2, 1, 3)))


@pytest.mark.parametrize("element_bytes", [1, 2])
@pytest.mark.parametrize("page", [16, 48])
def test_aiter_vectors_run_along_dim_for_k_and_along_tokens_for_v(page, element_bytes):
    x, h, d = 16 // element_bytes, 3, 32
    axes = ("page", "head", "token", "dim")
    keys = grid(kv.sgl_vec5d(2 * page, page, h, d, element_bytes), axes)
    expected = counted((3, h, d // x, page, x), (0, 1, 3, 2, 4)).reshape(3, h, page, d)
    assert np.array_equal(keys, expected)
    values = grid(kv.sgl_vec5d(2 * page, page, h, d, element_bytes, "v"), axes)
    expected = counted((3, h, page // x, d, x), (0, 1, 2, 4, 3)).reshape(3, h, page, d)
    assert np.array_equal(values, expected)


def test_the_token_major_entry_holds_k_and_v_of_all_layers():
    slots, layers, h, d, dv, anchor = 4, 3, 2, 12, 8, 128
    record = kv.sgl_token_major(slots, layers, h, d, dv, 2, anchor)
    row_k, row_v = 2 * h * d, 2 * h * dv
    entry = -(-layers * (row_k + row_v) // 32) * 32
    assert entry > layers * (row_k + row_v)
    assert record.size == anchor + slots * entry
    t, layer, head, c = np.indices((slots, layers, h, d), sparse=True)
    start = anchor + t * entry + layer * (row_k + row_v)
    assert np.array_equal(record.addresses("k", slot=t, layer=layer, head=head, dim=c), start + 2 * (head * d + c))
    c = c[..., :dv]
    expected = start + row_k + 2 * (head * dv + c)
    assert np.array_equal(record.addresses("v", slot=t, layer=layer, head=head, dim=c), expected)


def test_the_token_major_entry_of_mla_has_one_latent_row_a_layer():
    record = kv.sgl_token_major_mla(5, 3, 512, 64)
    assert record.size == 5 * 3 * 1152
    assert record.address("kv", slot=4, layer=2, head=0, dim=575) == 4 * 3456 + 2 * 1152 + 2 * 575


@pytest.mark.parametrize("kv_factor", [1, 2])
def test_the_trtllm_pool_and_its_scales_follow_their_local_indices(kv_factor):
    p, n, h, t, d = 3, 4, 5, 8, 7
    axes = ("page", "layer", "kv", "head", "token", "dim")
    pool = kv.trtllm_pool(p, n, h, t, d, kv_factor)
    assert np.array_equal(grid(pool, axes), counted((p, n, kv_factor, h, t, d), range(6)))
    scales = kv.trtllm_scales(p, n, h, t, kv_factor)
    assert np.array_equal(grid(scales, axes[:-1]), counted((p, n, kv_factor, h, t), range(5)))
    state = kv.trtllm_recurrent_pool(n, p, 100, kv_factor)
    assert state.offset(layer=3, page=2, kv=kv_factor - 1, element=99) == n * p * kv_factor * 100 - 1


@given(st.integers(1, 6), st.integers(0, 4), st.integers(1, 5), st.integers(1, 9))
def test_every_cache_of_one_type_is_injective_and_dense(pages, log_page, heads, vectors):
    page, dim = 16 << log_page, 8 * vectors
    dense = [
        kv.fi_nhd(pages, page, heads, dim),
        kv.vllm_fa(pages, page, heads, dim, "HND", 2),
        kv.vllm_paged_v1(pages, page, heads, dim),
        kv.sgl_hnd(pages * page, page, heads, dim),
        kv.sgl_vec5d(pages * page, page, heads, dim, 2, "v"),
        kv.trtllm_pool(pages, 3, heads, page, dim),
    ]
    for layout in dense:
        assert layout.is_injective
        assert layout.cosize == layout.layout.size


BAD = [
    (lambda: kv.fi_nhd(0, 16, 8, 128), "fi_nhd: the size of axis page is 0, at least 1 is needed"),
    (lambda: kv.fi_nhd(1, 16, 8.0, 128), "fi_nhd: the size of axis head: 8.0 is not an integer"),
    (lambda: kv.fi_tuple(1, 1, 1, 1, "DHN"), "fi_tuple: order is 'DHN', allowed are NHD, HND"),
    (lambda: kv.vllm_fa(4, 24, 8, 128), "vllm_fa: block_size is 24, a multiple of 16 is needed"),
    (lambda: kv.vllm_fa(4, 0, 8, 128), "vllm_fa: block_size is 0, at least 1 is needed"),
    (lambda: kv.vllm_fi(4, 16, 8, 128, "HND", 0), "vllm_fi: the size of axis layer is 0, at least 1 is needed"),
    (lambda: kv.vllm_stride_order("fb", "NHD"), "vllm_stride_order: backend is 'fb', allowed are fa, fi"),
    (lambda: kv.vllm_paged_v1(1, 16, 1, 12), "vllm_paged_v1: dim is 12, a multiple of 8 is needed"),
    (lambda: kv.vllm_paged_v1(1, 16, 1, 16, 3), "vllm_paged_v1: element_bytes is 3, allowed are 1, 2, 4"),
    (lambda: kv.vllm_paged_v1(1, 16, 1, 16, 2, "q"), "vllm_paged_v1: side is 'q', allowed are k, v"),
    (lambda: kv.sgl_hnd(100, 64, 1, 8), "sgl_hnd: size is 100, a multiple of 64 is needed"),
    (lambda: kv.sgl_vec5d(40, 20, 1, 8), "sgl_vec5d: page_size is 20, a multiple of 8 is needed"),
    (lambda: kv.sgl_vec5d(40, 8, 1, 12), "sgl_vec5d: dim is 12, a multiple of 8 is needed"),
    (lambda: kv.sgl_token_major(4, 2, 1, 4), "sgl_token_major: bytes of a row of k is 8, a multiple of 16 is needed"),
    (lambda: kv.sgl_token_major(4, 2, 1, 8, anchor=-16), "sgl_token_major: anchor is -16, at least 0 is needed"),
    (lambda: kv.trtllm_pool(1, 1, 1, 48, 8), "trtllm_pool: tokens_per_block is 48, a power of two is needed"),
    (lambda: kv.trtllm_scales(1, 1, 1, 32, 3), "trtllm_scales: kv_factor is 3, allowed are 1, 2"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_a_size_that_the_stack_refuses_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=r"^[^\n]{1,200}$") as error:
        make()
    assert str(error.value) == message


KINDS = {
    "fi_nhd": lambda s: kv.fi_nhd(s["page"], s["t"], s["h"], s["d"]),
    "fi_hnd": lambda s: kv.fi_hnd(s["page"], s["t"], s["h"], s["d"]),
    "trtllm": lambda s: kv.trtllm_pool(s["page"], s["layer"], s["h"], s["t"], s["d"], s["kv"]),
    "vllm_k_x": lambda s: kv.vllm_paged_v1(s["page"], s["t"], s["h"], s["d"], 16 // s["x"]),
    "vllm_v_legacy": lambda s: kv.vllm_paged_v1(s["page"], s["t"], s["h"], s["d"], side="v"),
}
NAMES = {"d": "dim", "t": "token", "h": "head", "kv": "kv", "layer": "layer", "page": "page"}


def nested(value):
    return tuple(map(nested, value)) if isinstance(value, list) else value


@pytest.mark.skipif(not DATA.exists(), reason="the conformance cases are not here")
def test_every_kv_block_agrees_in_strides_offsets_span_and_coalesced_form():
    cases = [c for c in json.loads((DATA / "named_layouts.json").read_text()) if c["op"] == "kv_block"]
    assert len(cases) == 80
    for case in cases:
        axes = case["axes"].split(",")
        given_layout = Layout(nested(case["layout"]["shape"]), nested(case["layout"]["stride"]))
        sizes = {axis: given_layout.mode(k).size for k, axis in enumerate(axes)}
        first = given_layout.shape[0]
        layout = KINDS[case["kind"]](sizes | {"x": first[0] if isinstance(first, tuple) else 1})
        names = tuple(NAMES[axis] for axis in axes)
        assert layout == NamedLayout(names, given_layout), case["id"]
        assert layout.cosize == case["cosize"], case["id"]
        points = np.array(case["points"])
        offsets = layout.offsets(**{name: points[:, k] for k, name in enumerate(names)})
        assert offsets.tolist() == case["offsets"], case["id"]
        modes = [layout.mode(name) for name in names]
        flat = coalesce(Layout(tuple(m.shape for m in modes), tuple(m.stride for m in modes)))
        assert flat.shape == nested(case["coalesced"]["shape"]), case["id"]
        assert flat.stride == nested(case["coalesced"]["stride"]), case["id"]
