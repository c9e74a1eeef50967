from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.machine import Machine
from hwmodel.program import NONE, Tensor
from hwmodel.spec import load_machine
from layouts import named
from workloads.placement import ALIGNMENT_BYTES, place

NPU = Machine(load_machine("npu-hbm3"))


def tensor(name: str, elements: int, dtype: str = "bf16") -> Tensor:
    return Tensor(name, named("x", {"x": elements}), dtype, NONE)


@given(st.lists(st.tuples(st.integers(1, 10**7), st.sampled_from(["bf16", "fp32", "int32"])), min_size=1, max_size=12))
def test_tensors_are_aligned_apart_and_in_order(sizes: list[tuple[int, str]]) -> None:
    tensors = [tensor(f"t{i}", elements, dtype) for i, (elements, dtype) in enumerate(sizes)]
    placed = place(tensors, NPU)
    end = 0
    for before, after in zip(tensors, placed, strict=True):
        assert (after.name, after.layout, after.dtype) == (before.name, before.layout, before.dtype)
        assert after.base_bytes % ALIGNMENT_BYTES == 0
        assert end <= after.base_bytes < end + ALIGNMENT_BYTES
        end = after.base_bytes + after.size_bytes


def test_a_set_of_tensors_that_fills_hbm_fits_and_one_byte_more_does_not() -> None:
    capacity = 64 * 2**30
    place([tensor("half", capacity // 4), tensor("rest", capacity // 4)], NPU)
    with pytest.raises(
        ValueError, match=f"need {capacity + ALIGNMENT_BYTES} B of HBM, {ALIGNMENT_BYTES} B more"
    ) as error:
        place([tensor("half", capacity // 4), tensor("rest", capacity // 4 + 1)], NPU)
    assert f"than the {capacity} B of npu-hbm3: half {capacity // 2} B, rest {capacity // 2 + 2} B" in str(error.value)


def test_tensors_reside_in_the_shared_cache_only_while_they_fit_it_together() -> None:
    def near(name: str, size_bytes: int) -> Tensor:
        return Tensor(name, named("x", {"x": size_bytes // 2}), "bf16", NONE, "cache")

    h100 = Machine(load_machine("h100-sxm"))  # 25 MiB in each partition
    tensors = [near("q", 15_000_000), near("partial", 15_000_000), near("out", 10_000_000), tensor("kv", 8)]
    assert [t.resident for t in place(tensors, h100)] == ["cache", "hbm", "cache", "hbm"]
    assert {t.resident for t in place(tensors, NPU)} == {"hbm"}
