"""Triton's layouts and bank conflicts against Triton's own answers."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from layouts import f2
from layouts.interop import triton
from layouts.interop.triton import LinearMap, from_bases

FOLDER = Path(os.environ.get("ROWHIT_DATA") or Path(__file__).parents[3] / "../shared/data") / "layouts"
needs_cases = pytest.mark.skipif(not FOLDER.exists(), reason="the conformance cases are not here")


def cases(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / name).read_text())  # type: ignore[no-any-return]


def as_map(given: dict[str, Any]) -> LinearMap:
    return from_bases(dict(given["bases"]), dict(given["out"]))


def same(found: LinearMap, given: dict[str, Any]) -> bool:
    expected = as_map(given)
    sizes = {axis: expected.size(axis) for axis in expected.axes}
    same_sizes = {axis: found.size(axis) for axis in found.axes} == sizes
    return found == expected and same_sizes and dict(found.results) == dict(expected.results)


def factor(kind: str, size: int, *rest: Any) -> LinearMap:
    stride, source, result = rest if kind == "strided_1d" else (1, *rest[:2])
    bits = range(f2.log2(size))
    if kind == "zeros_1d":
        return from_bases({source: [[0] for _ in bits]}, {result: rest[2]})
    return from_bases({source: [[stride << k] for k in bits]}, {result: stride * size})


OPERATIONS = {
    "invert": lambda case: triton.invert(as_map(case["L"])),
    "pseudoinvert": lambda case: triton.pseudo_invert(as_map(case["L"])),
    "compose": lambda case: triton.compose(as_map(case["A"]), as_map(case["B"])),
    "invert_and_compose": lambda case: triton.invert_and_compose(as_map(case["A"]), as_map(case["B"])),
    "product": lambda case: triton.product(*(factor(*given) for given in case["factors"])),
}


@needs_cases
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_give_the_maps_of_triton(operation: str) -> None:
    asked = [case for case in cases("triton_linear_layout.json") if case["op"] == operation]
    assert asked
    assert [case["id"] for case in asked if not same(OPERATIONS[operation](case), case["expect"])] == []


@needs_cases
def test_apply_gives_the_coordinates_of_triton() -> None:
    asked = [case for case in cases("triton_linear_layout.json") if case["op"] == "apply"]
    assert asked
    for case in asked:
        linear = as_map(case["L"])
        for point in case["apply"]:
            assert triton.apply(linear, dict(point["in"])) == dict(point["out"]), case["id"]


REGISTER = ("size_per_thread", "threads_per_warp", "warps_per_cta", "order")
SHARED = {
    "SwizzledSharedLayout": (triton.swizzled_shared, ("vec", "per_phase", "max_phase", "order")),
    "NVMMASharedLayout": (triton.nvmma_shared, ("swizzle_byte_width", "element_bitwidth", "transposed")),
}


@needs_cases
def test_constructors_and_bank_conflicts_are_those_of_triton() -> None:
    for case in cases("triton_shared_bank_conflicts.json"):
        shape, linear = case["shape"], case["reg_linear"]
        register = triton.blocked(*(case["reg"][name] for name in REGISTER), shape)
        bases = {name: linear[f"{name.replace('ister', '')}_bases"] for name in triton.HARDWARE}
        assert register == triton.distributed_linear(bases, linear["shape"]), case["id"]
        make, names = SHARED[case["shared"]["type"]]
        memory = make(shape=shape, **{name: case["shared"][name] for name in names})
        assert memory == triton.shared_linear(case["shared_linear"]["offset_bases"], shape), case["id"]
        found = triton.shared_bank_conflicts(register, memory, case["elem_bits"])
        assert found == case["bank_conflicts"], case["id"]
