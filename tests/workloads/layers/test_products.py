"""Products and experts of narrow weights: which kernels, and that they read the bytes that checkpoints store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.kernels.moe_formats import FORMATS
from workloads.layers.feed_forward import expert_format
from workloads.layers.formats import CHOICES, FP8, WEIGHTS, Formats, Weights
from workloads.layers.products import product
from workloads.layers.setting import Setting
from workloads.model import Model, load_model
from workloads.scheduled import Scheduled, decode, prefill
from workloads.sequence import Step
from workloads.step import model_steps

MACHINES = {name: Machine(load_machine(name)) for name in ("h100-sxm", "npu-hbm3", "a100-sxm", "b200-sxm")}
H100, NPU, A100, B200 = MACHINES.values()
FEW = ("npu-hbm3", "b200-sxm")  # without a shared cache, and with block scales of its own
WORKS = {"decode": decode((64,)), "prefill": prefill((96,))}
BLOCK = 128


def published(data_dir: Path, name: str) -> Model:
    return load_model(data_dir / "models" / f"{name}.json")


def blocks(n: int, k: int) -> int:
    return -(-n // BLOCK) * -(-k // BLOCK)


def weight_bytes(step: Step) -> int:
    """Return the bytes of the weights of a step's kernel with their scales, by its problem, of each element once."""
    p: Any = step.problem
    if step.kernel in ("gemm", "gemv", "batched-gemm"):
        return int(2 * (p.batch or 1) * p.n * p.k)
    if step.kernel == "gemm-w8a8-block":
        return int(p.n * p.k + 4 * blocks(p.n, p.k))
    if step.kernel == "gemm-w8a16-fp8":
        return int(p.n * p.k + 2 * p.n * -(-p.k // p.group))
    if step.kernel == "mla-prefill":
        return int(2 * p.heads * p.rank * (p.nope + p.value_dim))
    if step.kernel in ("embedding", "rms-norm"):
        return int(2 * p.columns * getattr(p, "vocabulary", 1))
    if step.kernel == "moe":
        return sum(_expert_bytes(p, inter) * count for inter, count in ((p.inter, p.experts), (p.shared, 1)) if inter)
    return 0


def _expert_bytes(p: Any, inter: int) -> int:
    elements = 3 * p.hidden * inter
    if p.format == "w8a8-block":
        return int(elements + 4 * 3 * blocks(p.hidden, inter))
    if p.format == "w4a16-mxfp4":
        return int(elements // 2 + elements // 32)
    assert p.format == "16-bit"
    return int(2 * elements)


def by_title(steps: list[Step]) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {}
    for step in steps:
        found.setdefault(step.name.split(": ")[-1], []).append(step)
    return found


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize(("name", "stored"), [("120b", 65_248_815_744), ("20b", 13_761_264_768)])
def test_a_step_of_gpt_oss_reads_what_its_checkpoint_stores_but_biases_and_sinks(
    name: str, stored: int, work: Scheduled, data_dir: Path
) -> None:
    """The size of all tensors is `total_size` in model.safetensors.index.json of openai/gpt-oss-120b and -20b."""
    model = published(data_dir, f"openai--gpt-oss-{name}")
    found = sum(step.count * weight_bytes(step) for step in model_steps(model, work, H100))
    biases = 0  # of queries, keys and values, of the output, of the router, of both matrices of experts; and sinks
    for group in model.groups:
        a: Any = group.layer.attention
        f: Any = group.layer.feed_forward
        attention = (a.heads_q + 2 * a.heads_kv) * a.head_dim_qk + a.hidden + a.heads_q
        biases += group.count * (attention + f.routed * (1 + 2 * f.intermediate + f.hidden))
    assert stored - found == 2 * biases


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_a_step_of_deepseek_v3_reads_what_its_checkpoint_stores_but_up_projections_of_latents_twice(
    work: Scheduled, data_dir: Path
) -> None:
    """Elements by type as the headers of deepseek-ai/DeepSeek-V3 have them: bf16, fp8, and fp32, mostly scales.

    Multi-token prediction has a layer of experts, embedding and head again, a projection and three norms in bf16; each
    layer of experts has a bias in fp32 per router. What makes keys and values from latents is read in 16 bits.
    """
    model = published(data_dir, "deepseek-ai--DeepSeek-V3")
    stored = 2 * 3_918_786_560 + 680_571_043_840 + 4 * 41_555_600
    steps = model_steps(model, work, H100)
    found = sum(step.count * weight_bytes(step) for step in steps)
    experts = [step for step in steps if "experts, layer 3:" in step.name]
    again = sum(map(weight_bytes, experts))
    hidden, vocabulary = model.hidden, model.vocabulary
    mtp = 2 * (2 * vocabulary * hidden + 2 * hidden * hidden + 3 * hidden)
    n, k = 128 * (128 + 128), 512
    widened = 62 * (n * k - 4 * blocks(n, k))
    assert found + again - widened + mtp + 59 * 4 * 256 == stored


@pytest.mark.parametrize("parallel", [2, 8])
def test_a_device_of_a_group_reads_its_part_of_the_scales_too(parallel: int, data_dir: Path) -> None:
    model = published(data_dir, "deepseek-ai--DeepSeek-V3")
    whole, part = (by_title(model_steps(model, decode((64,)), H100, parallel=degree)) for degree in (1, parallel))
    for title in ("gate and up", "down", "q up", "out", "experts"):
        divided = [sum(map(weight_bytes, steps[title])) for steps in (whole, part)]
        assert divided[0] == parallel * divided[1], title


def test_what_a_block_excludes_and_what_no_method_converts_stays_in_16_bits(data_dir: Path) -> None:
    steps = by_title(model_steps(published(data_dir, "openai--gpt-oss-20b"), decode((64,)), H100))
    assert {step.kernel for title in ("qkv", "out", "router", "head") for step in steps[title]} == {"gemv"}
    assert {step.problem.format for step in steps["experts"]} == {"w4a16-mxfp4"}
    steps = by_title(model_steps(published(data_dir, "deepseek-ai--DeepSeek-V3.2"), decode((64,)), H100))
    assert {step.kernel for title in ("index weights", "router", "head") for step in steps[title]} == {"gemv"}
    assert {step.kernel for title in ("index q", "index k", "kv down") for step in steps[title]} == {"gemm-w8a8-block"}


# weights, machine: kernel of a product, pass before it, format of experts
CHOSEN = [
    ("fp8", H100, "gemm-w8a8-block", "quantise", "w8a8-block"),
    ("fp8", A100, "gemm-w8a16-fp8", None, "w8a16-fp8"),
    ("fp8", NPU, "gemm-w8a16-fp8", None, "w8a16-fp8"),
    ("mxfp8", B200, "gemm-mxfp8", "quantise-mxfp8", "mxfp8"),
    ("mxfp8", H100, "gemm-w8a16-mxfp8", None, "mxfp8"),
    ("nvfp4", B200, "gemm-nvfp4", "quantise-nvfp4", "nvfp4"),
    ("nvfp4", H100, "gemm-w4a16-nvfp4", None, "w4a16-nvfp4"),
    ("mxfp4", B200, "gemm-w4a16-mxfp4", None, "w4a8-mxfp4-mxfp8"),
    ("mxfp4", NPU, "gemm-w4a16-mxfp4", None, "w4a16-mxfp4"),
    ("w4a16", A100, "gemm-w4a16", None, "w4a16"),
    ("16-bit", H100, "gemv", None, "16-bit"),
]


@pytest.mark.parametrize(("weights", "machine", "kernel", "before", "experts"), CHOSEN)
def test_kernels_follow_from_the_format_and_what_the_machine_multiplies(
    weights: str, machine: Machine, kernel: str, before: str | None, experts: str, data_dir: Path
) -> None:
    model = published(data_dir, "mistralai--Mixtral-8x7B-v0.1")
    steps = model_steps(model, decode((64,)), machine, parallel=8, weights=weights)
    (qkv,), (moe,) = by_title(steps)["qkv"], by_title(steps)["experts"]
    assert (qkv.kernel, moe.problem.format) == (kernel, experts)
    passes = {step.name.split(" quantise for ")[-1]: step for step in steps if "quantise for" in step.name}
    assert set(passes) == ({"qkv", "out"} if before else set())
    if before:
        at = next(i for i, step in enumerate(steps) if step is qkv)
        assert steps[at - 1].kernel == before
        assert (steps[at - 1].problem.m, steps[at - 1].problem.k) == (qkv.problem.m, qkv.problem.k)


@pytest.mark.parametrize(
    "machine",
    [pytest.param(one, id=name, marks=[pytest.mark.slow] * (name not in FEW)) for name, one in MACHINES.items()],
)
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_format_has_programs_that_fit_every_machine(weights: str, work: Scheduled, machine: Machine) -> None:
    assert model_steps(load_model("llama-3.1-8b"), work, machine, parallel=8, weights=weights)
    assert model_steps(load_model("gpt-oss-20b"), work, machine, parallel=8, weights=weights)


@pytest.mark.parametrize("weights", CHOICES)
def test_narrow_weights_read_with_activations_in_fp16_do_not_become_bf16(weights: str) -> None:
    setting = Setting(decode((64,)), 1, "fp16", B200)
    form, why = expert_format(CHOICES[weights], setting)
    assert FORMATS[form].quantise == ""
    assert ("16 bits" in why) == (form == "16-bit" and weights != "16-bit")


@pytest.mark.parametrize(
    ("weights", "machine", "kernel", "experts"),
    [
        (Weights("fp8"), H100, "gemm-w8a16-fp8", "w8a16-fp8"),
        (Weights("fp8-block", 128), H100, "gemm-w8a16-fp8", "w8a16-fp8"),
        (Weights("mxfp8", 32), B200, "gemm-w8a16-mxfp8", "mxfp8"),
        (Weights("nvfp4", 16), B200, "gemm-w4a16-nvfp4", "w4a16-nvfp4"),
        (Weights("mxfp4", 32), B200, "gemm-w4a16-mxfp4", "w4a16-mxfp4"),
    ],
)
def test_weights_alone_take_the_kernels_that_expand_them(
    weights: Weights, machine: Machine, kernel: str, experts: str
) -> None:
    alone = replace(weights, alone=True)
    setting = Setting(decode((64,)), 1, "bf16", machine, formats=Formats(alone, alone))
    assert product("out", setting, 256, 512).kernel == kernel
    form, why = expert_format(alone, setting)
    assert form == experts
    assert bool(why) is (weights.name in ("fp8", "mxfp8"))  # experts have no such kernel, and the note says so


def test_experts_in_groups_that_no_kernel_has_are_read_in_16_bits_and_say_so() -> None:
    form, why = expert_format(Weights("int4", 64), Setting(decode((64,)), 1, "bf16", H100))
    assert (form, why.startswith("read in 16 bits: ")) == ("16-bit", True)
    assert expert_format(Weights("int4", 32), Setting(decode((64,)), 1, "bf16", H100)) == ("w4a16-g32", "")


def test_a_group_that_is_longer_than_k_is_one_scale_for_all_of_it() -> None:
    for weights in (Weights("int4", 1024), Weights("fp8-block", 1024)):
        setting = Setting(decode((64,)), 1, "bf16", A100, formats=Formats(weights))
        (scales,) = (
            t for t in product("down", setting, 256, 512).compile(A100, 0).program.tensors if "scales" in t.name
        )
        assert scales.size_bytes == 2 * 256


def test_products_in_batches_are_read_in_16_bits_and_a_note_says_so(data_dir: Path) -> None:
    model = published(data_dir, "deepseek-ai--DeepSeek-V3")
    for weights in ("model", "16-bit"):
        steps = by_title(model_steps(model, decode((64,)), H100, parallel=8, weights=weights))
        for title in ("absorb", "value up"):
            assert {step.problem.dtype for step in steps[title]} == {"bf16"}
            assert all(("read in 16 bits" in step.note) == (weights == "model") for step in steps[title])


def test_an_expert_that_all_tokens_pass_is_apart_where_it_is_stored_otherwise(data_dir: Path) -> None:
    model = published(data_dir, "deepseek-ai--DeepSeek-V4-Flash")
    for weights, apart in (("model", True), ("fp8", False)):
        steps = by_title(model_steps(model, decode((64,)), H100, parallel=8, weights=weights))
        assert ("shared down" in steps) == ("shared add" in steps) == apart
        assert all((step.problem.shared == 0) == apart for step in steps["experts"])


def test_a_cache_that_the_model_has_in_fp8_is_fp8() -> None:
    model = replace(load_model("tiny"), kv_dtype=FP8)
    attend = next(s for s in model_steps(model, decode((64,)), H100) if s.kernel == "decode-attention")
    assert attend.problem.kv_dtype == FP8
