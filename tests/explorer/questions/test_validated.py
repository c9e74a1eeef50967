from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from explorer.query import BatchSpec, Query
from explorer.questions.validated import MEASURED, ROWS, Group, Validated, types_text, validated, validation
from hwmodel.spec import MACHINES, machine_names

SIZES = {"batch": (4, 64), "kv_len": (128, 4096), "heads_q": (8, 32), "heads_kv": (1, 8), "head_dim": (64, 128)}
GROUP = Group("decode_attention", "h100-sxm", False, ("16-bit",), 12, 0.1, 0.2, -0.05, SIZES)
KNOWN = Validated("a command", 20.0, (GROUP,))
QUERY = Query("h100-sxm", "decode-attention", "llama-3.1-8b", BatchSpec(8, 1024))


def test_an_answer_inside_says_how_far_off_the_measured_calls_were() -> None:
    found = validation(QUERY, 30.0, KNOWN)
    assert (found.inside, found.rows, found.median_error, found.bias) == (True, 12, 0.1, -0.05)
    assert "in the range of 12 measured calls of decode_attention in 16-bit on h100-sxm, above 20 us" in found.text
    assert "off by 10 % in the median, 20 % in the mean (bias -5 %)" in found.text


@pytest.mark.parametrize(
    ("query", "time_us", "message"),
    [
        (replace(QUERY, machine="npu-hbm3"), 30.0, "not validated: no measurement of npu-hbm3"),
        (QUERY.with_knob("machine.hbm.stacks", "6"), 30.0, "a machine of other numbers than h100-sxm (hbm.stacks)"),
        (replace(QUERY, kernel="kv-append"), 30.0, "no measurement of kv-append as such"),
        (QUERY, 10.0, "no measurement of decode_attention in 16-bit on h100-sxm, up to 20 us"),
        (replace(QUERY, options=(("kv_fp8", 1),)), 30.0, "in 16-bit with a cache in fp8 on h100-sxm"),
        (replace(QUERY, batch=BatchSpec(65, 1024)), 30.0, "outside the validated range of decode_attention"),
        (replace(QUERY, batch=BatchSpec(65, 1024)), 30.0, "batch 65 (measured: 4 to 64)"),
        (replace(QUERY, batch=BatchSpec(8, 8192)), 30.0, "kv_len 8,192 (measured: 128 to 4,096)"),
    ],
)
def test_an_answer_outside_says_what_was_not_measured(query: Query, time_us: float, message: str) -> None:
    found = validation(query, time_us, KNOWN)
    assert not found.inside
    assert found.median_error is None
    assert message in found.text


def test_a_range_of_several_types_names_them() -> None:
    known = replace(KNOWN, groups=(replace(GROUP, types=("16-bit", "fp8")),))
    assert "12 measured calls of decode_attention in 16-bit or fp8 on" in validation(QUERY, 30.0, known).text


def test_a_file_that_calls_itself_like_a_measured_machine_is_another_one(tmp_path: Path) -> None:
    text = (MACHINES / "h100-sxm.yaml").read_text()
    same, other = tmp_path / "same.yaml", tmp_path / "other.yaml"
    same.write_text(text)
    other.write_text(text.replace("stacks: 5", "stacks: 6"))
    assert other.read_text() != text
    assert validation(replace(QUERY, machine=str(same)), 30.0, KNOWN).inside
    found = validation(replace(QUERY, machine=str(other)), 30.0, KNOWN)
    assert (found.inside, found.text) == (False, f"not validated: a machine of other numbers than h100-sxm ({other})")


def test_the_shipped_ranges_name_machines_operators_and_sizes_that_there_are() -> None:
    known = validated()
    operators = set(MEASURED)
    assert known.groups
    for group in known.groups:
        assert group.machine in machine_names()
        assert group.op in operators
        assert set(group.sizes) <= set(MEASURED[group.op])
        assert group.rows > 2
        assert all(low <= high for low, high in group.sizes.values())
        assert 0 <= group.median_error < 10


def test_every_kernel_with_measurements_gives_the_sizes_of_its_operator() -> None:
    """Sizes that a kernel's problem did not give would pass unchecked."""
    sizes = {"m": 8, "n": 16, "k": 32, "products": 2, "rows": 4, "columns": 64, "inter": 64, "heads": 16}
    sizes |= {"tokens": 4, "experts": 8, "topk": 2, "hidden": 64}
    from explorer import programs

    for kernel in ROWS:
        template = programs.kernel_of(kernel)
        names = [*template.options, *(name for name in ("columns", "hidden", "inter") if name in template.optional)]
        model = "llama-3.1-8b" if "model" in template.needs else None
        batch = BatchSpec(2, 64) if "batch" in template.needs else None
        query = Query("h100-sxm", kernel, model, batch, tuple((name, sizes[name]) for name in names))
        op, types, found = ROWS[kernel](programs.problem_of(query))
        assert set(MEASURED[op]) <= set(found), kernel
        assert types in ("16-bit", "fp8", "fp32")


def test_types_of_sixteen_bits_are_one() -> None:
    assert types_text("bf16") == types_text("float16", "float16") == "16-bit"
    assert types_text("bfloat16", "fp8") == types_text("bf16", "fp8_e4m3") == "16-bit with a cache in fp8"
