"""What a step appends to an e4m3 cache is what its attention reads: both kernels in one call, in values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from kernels_ref.attention import attention
from kernels_ref.quant import fp8_static
from kernels_ref.rope import rope
from workloads.model import load_model
from workloads.scheduled import Scheduled, decode, of
from workloads.scheduled import prefill as whole
from workloads.sequence import Step, plan
from workloads.step import model_steps

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm"))
CONTEXTS = (20, 33)
SCALES = np.array([1.0, 0.011, 0.019])  # of queries, which 16-bit products leave as they are, of keys, of values
Floats = np.ndarray[Any, Any]


def step_of(work: Scheduled, kernel: str) -> Step:
    """Return the first step of a kernel in a step of the smallest model over an e4m3 cache."""
    steps = model_steps(load_model("tiny"), work, NPU, cache="fp8")
    return next(step for step in steps if step.kernel == kernel)


def linked(step: Step, name: str, **values: str) -> Step:
    shared = {"kv": "cache", "scales": "scales", "page table": "pages"}
    return Step(name, step.kernel, step.problem, step.knobs, values=shared | values)


def restored(values: Floats, scale: float) -> Floats:
    return fp8_static(values, float(np.float32(scale))) * float(np.float32(scale))


def by_sequence(rows: Floats, lengths: tuple[int, ...]) -> list[Floats]:
    return np.split(rows, np.cumsum(lengths)[:-1])


@pytest.mark.parametrize("chunk", [False, True])
def test_attention_over_what_was_appended_is_the_formula_over_keys_and_values_rounded_to_e4m3(
    chunk: bool, attention_tolerance: Callable[..., Floats]
) -> None:
    """Whole prompts are appended; then their last tokens attend, one as in a decode step, or a chunk of them."""
    append = step_of(whole(CONTEXTS), "kv-append")
    new = (17, 18)
    attend = (
        step_of(of(list(zip(CONTEXTS, new, strict=True))), "prefill-attention")
        if chunk
        else step_of(decode(CONTEXTS), "decode-attention")
    )
    assert (append.knobs.cache_dtype, attend.problem.kv_dtype, attend.knobs.products) == ("fp8_e4m3",) * 2 + ("16-bit",)
    call = plan([linked(append, "append"), linked(attend, "attend")], NPU, kept=("cache",))
    program = call.program()
    memory, rng, p = Memory(program), np.random.default_rng(3), append.problem
    memory.write("append.scales", SCALES)
    memory.write("append.new", rng.standard_normal((p.heads_q + 2 * p.heads_kv, p.tokens, p.head_dim)) * 3)
    length = new if chunk else (1, 1)
    memory.write("attend.q", rng.standard_normal((sum(length), p.heads_q, p.head_dim)))
    queries = by_sequence(memory.read("attend.q").astype(float), length)
    _, k, v = np.split(memory.read("append.new").astype(float), [p.heads_q, p.heads_q + p.heads_kv])
    memory.write("append.angles", rng.uniform(-1, 1, memory.read("append.angles").shape))
    rows = memory.read("append.angles")[list(p.positions)].astype(float)
    k = rope(k.transpose(1, 0, 2), rows[:, 0], rows[:, 1], append.knobs.rope)
    keys = by_sequence(restored(k, SCALES[1]), CONTEXTS)
    values = by_sequence(restored(v.transpose(1, 0, 2), SCALES[2]), CONTEXTS)
    run(program, memory, CORES)
    expected = np.concatenate(attention(queries, keys, values, p.head_dim**-0.5))
    limit = attention_tolerance(attend.problem, queries, keys, values)
    assert (np.abs(memory.read("attend.out").astype(float) - expected) <= limit).all()


def test_keys_and_values_have_one_scale_each_which_append_and_attention_share() -> None:
    append, attend = step_of(whole(CONTEXTS), "kv-append"), step_of(decode(CONTEXTS), "decode-attention")
    call = plan([linked(append, "append"), linked(attend, "attend")], NPU)
    places = [{t.name: (t.base_bytes, t.layout.text, t.dtype) for t in step.program.tensors} for step in call.steps]
    for name in ("kv", "scales", "page table"):
        assert places[0][name] == places[1][name]
    assert append.problem.heads_kv > 1


@pytest.mark.parametrize(("machine", "products"), [(NPU, "16-bit"), (H100, "fp8")])
def test_an_fp8_cache_is_multiplied_as_it_is_where_the_machine_multiplies_fp8_and_is_half_as_large(
    machine: Machine, products: str
) -> None:
    found = {}
    for cache in ("model", "fp8"):
        steps = model_steps(load_model("llama-3.1-8b"), decode((512,)), machine, cache=cache)
        (attend,) = (step for step in steps if step.kernel == "decode-attention")
        (append,) = (step for step in steps if step.kernel == "kv-append")
        made = [next(t for t in s.compile(machine, 0).program.tensors if t.name == "kv") for s in (append, attend)]
        assert made[0].size_bytes == made[1].size_bytes
        found[cache] = made[0].size_bytes
    assert found["fp8"] * 2 == found["model"]
    assert attend.knobs.products == products


@pytest.mark.parametrize(
    ("file", "kernel", "record"),
    [
        ("deepseek-ai--DeepSeek-V3", "mla-decode", "fp8_ds_mla"),
        ("deepseek-ai--DeepSeek-V3.2", "sparse-attention", "fp8_ds_mla"),
        ("deepseek-ai--DeepSeek-V4-Flash", "compressed-attention", "model1"),
    ],
)
def test_an_fp8_cache_of_latents_is_the_record_of_its_width_and_a_note_says_so(
    file: str, kernel: str, record: str, data_dir: Path
) -> None:
    model = load_model(data_dir / "models" / f"{file}.json")
    for cache, expected in (("model", "plain"), ("fp8", record)):
        steps = [s for s in model_steps(model, decode((256,)), H100, parallel=8, cache=cache) if s.kernel == kernel]
        assert {step.knobs.record for step in steps} == {expected}
        assert all((record in step.note) == (cache == "fp8") for step in steps)
