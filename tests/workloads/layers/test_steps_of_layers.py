from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.spec import load_machine
from workloads.kernels import KERNELS, Kernel, gemm, norm
from workloads.kernels.base import shrinking
from workloads.layers.left_out import left_out
from workloads.layers.setting import Setting
from workloads.layers.softmax import softmax_steps
from workloads.layers.steps import layer_steps
from workloads.model import load_model
from workloads.model.attention import SoftmaxAttention
from workloads.model.feed_forward import Dense
from workloads.model.linear import LinearAttention
from workloads.model.model import Layer
from workloads.scheduled import Scheduled, decode, of
from workloads.scheduled import prefill as whole
from workloads.sequence import Step, plan
from workloads.sequence_result import simulate_call
from workloads.step import model_steps

MACHINES = {name: Machine(load_machine(name)) for name in ("h100-sxm", "npu-hbm3")}
NPU = MACHINES["npu-hbm3"]


def work(contexts: Sequence[int], prefill: bool) -> Scheduled:
    return whole(contexts) if prefill else decode(contexts)


def weights(step: Step) -> int:
    """Return the weights of a step's kernel, by its problem."""
    problem: Any = step.problem
    if step.kernel.startswith("gem") or step.kernel == "batched-gemm":
        return int((getattr(problem, "batch", None) or 1) * problem.n * problem.k)
    if step.kernel == "mla-prefill":
        return int(problem.heads * problem.rank * (problem.nope + problem.value_dim))
    if step.kernel == "embedding":
        return int(problem.vocabulary * problem.columns)
    if step.kernel == "rms-norm":
        return int(problem.columns)
    if step.kernel == "compress":
        return int(problem.ratio * problem.width)
    if step.kernel == "collapse-streams":
        return int(problem.weights + (3 if problem.rounds else 1))
    if step.kernel == "moe":
        return int(3 * problem.hidden * (problem.experts * problem.inter + problem.shared))
    return 0


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.1-70b", "tiny"])
@pytest.mark.parametrize("prefill", [False, True])
def test_the_weights_of_all_kernels_of_a_step_are_those_of_the_model(name: str, prefill: bool) -> None:
    model = load_model(name)
    steps = model_steps(model, work((16, 16), prefill), NPU)
    assert sum(step.count * weights(step) for step in steps) == model.parameters


def test_the_weights_of_a_mixture_of_experts_are_those_of_the_model_but_the_norms_of_heads(data_dir: Path) -> None:
    model = load_model(data_dir / "models" / "mistralai--Mixtral-8x7B-v0.1.json")
    steps = model_steps(model, decode((16,)), NPU)
    assert sum(step.count * weights(step) for step in steps) == model.parameters
    qwen = load_model(data_dir / "models" / "Qwen--Qwen3-30B-A3B.json")
    found = sum(step.count * weights(step) for step in model_steps(qwen, decode((16,)), NPU))
    assert qwen.parameters - found == 2 * 128 * 48  # a norm of head_dim on queries and one on keys, per layer


@pytest.mark.parametrize("prefill", [False, True])
def test_what_no_kernel_of_a_step_reads_is_a_fraction_of_the_weights(prefill: bool, data_dir: Path) -> None:
    """Biases, convolutions, and norms but the two of a layer: less than a thousandth."""
    for file in published(data_dir):
        model = load_model(file)
        steps = model_steps(model, work((64,), prefill), NPU)
        found = sum(step.count * weights(step) for step in steps)
        found -= model.vocabulary * model.hidden if model.tied_embeddings else 0  # the head reads the embedding again
        assert 0 <= model.parameters - found < model.parameters / 1000, file.stem


def kept_beside(step: Step) -> int:
    """Return the weights of a step's attention: a sink per head."""
    problem: Any = step.problem
    if step.kernel == "compressed-attention":
        return int(problem.heads.count)
    return int(problem.heads_q * problem.sinks) if step.kernel == "decode-attention" else 0


def test_what_a_step_reads_and_what_it_says_it_leaves_out_are_all_weights_of_every_published_model(
    data_dir: Path,
) -> None:
    for file in published(data_dir):
        model, now = load_model(file), decode((128,))
        steps = model_steps(model, now, NPU)
        found = sum(step.count * (weights(step) + kept_beside(step)) for step in steps)
        found -= model.vocabulary * model.hidden if model.tied_embeddings else 0  # the head reads the embedding again
        assert found + sum(weights for _, weights in left_out(model, now).values()) == model.parameters, file.stem


@pytest.mark.parametrize("parallel", [2, 4, 8])
def test_a_device_of_a_group_has_its_part_of_the_weights(parallel: int) -> None:
    model = load_model("llama-3.1-70b")
    alone, part = (
        [step for step in model_steps(model, decode((16,)), NPU, parallel=degree) if step.kernel in ("gemm", "gemv")]
        for degree in (1, parallel)
    )
    assert sum(map(weights, alone)) == parallel * sum(map(weights, part))


def published(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "models").glob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("prefill", [False, True])
def test_every_published_model_compiles_to_a_step(machine: str, prefill: bool, data_dir: Path) -> None:
    files = published(data_dir)
    assert len(files) == 19
    for file in files:
        target, contexts = MACHINES[machine], (96,) if prefill else (96, 33)
        model = load_model(file)
        steps = model_steps(model, work(contexts, prefill), target, parallel=8)
        assert plan(steps, target).steps
        assert sum(step.count for step in steps if step.name.endswith(": norm")) == len(model.layers)


def test_a_step_takes_the_sum_of_its_kernels_and_none_is_below_its_bound() -> None:
    steps = model_steps(load_model("tiny"), decode((40, 7)), NPU)
    result = simulate_call(plan(steps, NPU), NPU)
    assert result.total_fs == sum(line.count * line.result.makespan_fs for line in result.lines)
    assert all(line.result.bound.total_fs <= line.result.makespan_fs for line in result.lines)
    assert sum(line.count for line in result.lines) == sum(step.count for step in steps)


V4 = "deepseek-ai--DeepSeek-V4-Flash.json"  # residual streams, compressed entries, experts


@pytest.mark.parametrize(
    ("name", "prefill"), [("tiny", False), ("tiny", True), ("llama-3.1-70b", False), (V4, False), (V4, True)]
)
def test_every_program_of_a_step_is_compiled_once(
    name: str, prefill: bool, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[tuple[str, Any, Any]] = []

    def counted(kernel: Kernel) -> Kernel:
        def compile(problem: Any, knobs: Any, machine: Machine, seed: int) -> Program:
            program = kernel.compile(problem, knobs, machine, seed)  # does not return where it does not fit
            fitted.append((kernel.name, problem, knobs))
            return program

        return replace(kernel, compile=compile)

    kernels = {name: counted(kernel) for name, kernel in KERNELS.items()}
    monkeypatch.setattr(type(KERNELS), "__getitem__", lambda _, name: kernels[name])
    model = load_model(data_dir / "models" / name if name == V4 else name)
    steps = model_steps(model, work((40, 7), prefill), NPU, seed=3)
    call = plan(steps, NPU, 3)
    assert len(fitted) == len(steps) == len(call.steps)
    for step in steps:  # in another order: passes before products are compiled behind them, the embedding by the plan
        fitted.remove((step.kernel, step.problem, step.knobs))
    assert not fitted


def test_a_step_that_was_compiled_for_another_seed_or_with_other_knobs_is_compiled_again() -> None:
    steps = model_steps(load_model("tiny"), decode((40, 7)), NPU, seed=3)
    number, attend = next((n, step) for n, step in enumerate(steps) if step.kernel == "decode-attention")
    same, seed, tile = (
        plan(given, NPU, seed).steps[number].program.hash
        for given, seed in ((steps, 3), (steps, 4), ([*steps[:number], _retiled(attend), *steps[number + 1 :]], 3))
    )
    fresh = KERNELS["decode-attention"].compile(attend.problem, attend.knobs, NPU, 3)
    assert [replace(tensor, base_bytes=0) for tensor in fresh.tensors] == [
        replace(tensor, base_bytes=0) for tensor in plan(steps, NPU, 3).steps[number].program.tensors
    ]
    assert len({same, seed, tile}) == 3


def _retiled(step: Step) -> Step:
    return replace(step, knobs=replace(step.knobs, tile=16))


def test_sizes_that_a_group_does_not_divide_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"parallel: 3 does not divide heads_q \(64\)"):
        model_steps(load_model("llama-3.1-70b"), decode((16,)), NPU, parallel=3)
    with pytest.raises(ValueError, match=r"parallel: 128 does not divide heads_q \(64\)"):
        model_steps(load_model("llama-3.1-70b"), decode((16,)), NPU, parallel=128)
    with pytest.raises(ValueError, match="parallel: 0; allowed: from 1"):
        model_steps(load_model("tiny"), decode((16,)), NPU, parallel=0)


def test_norms_of_a_large_model_walk_rows_in_parts_where_a_scratchpad_has_64_kib() -> None:
    machine = Machine(load_machine("mi300x"))
    steps = model_steps(load_model("llama-3.1-70b"), decode((64,) * 4), machine)
    norms = [step.knobs for step in steps if step.kernel == "rms-norm" and step.problem.residual]
    assert norms
    assert all(0 < knobs.tile_columns < 8192 for knobs in norms)


def test_knobs_shrink_to_the_least_stages_and_tiles() -> None:
    found = list(shrinking(gemm.Knobs()))
    assert found[0] == gemm.Knobs()
    assert (found[-1].stages, found[-1].tile_m, found[-1].tile_n, found[-1].tile_k) == (1, 4, 4, 4)
    assert len({repr(knobs) for knobs in found}) == len(found)
    assert [knobs.tile_rows for knobs in shrinking(norm.Knobs())] == [8, 4, 2, 1, 1]


def test_tiles_below_16_come_after_all_that_are_not() -> None:
    found = list(shrinking(gemm.Knobs(), gemm.Knobs(tile_m=64, tile_k=32)))
    small = [min(knobs.tile_m, knobs.tile_n, knobs.tile_k) < 16 for knobs in found]
    assert small == sorted(small)
    assert [knobs.stages for knobs in found if (knobs.tile_m, knobs.tile_n, knobs.tile_k) == (16, 16, 16)] == [2, 1]


def test_products_of_few_rows_split_k_where_most_cores_were_idle_and_k_is_long(data_dir: Path) -> None:
    model = load_model(data_dir / "models" / V4)
    steps = {step.name.split(": ")[-1]: step for step in model_steps(model, decode((64,)), NPU)}
    logits = steps["stream logits"]
    assert (logits.problem.n, logits.problem.k, logits.knobs.split_k) == (24, 4 * 4096, 8)  # parts of four loads of 512
    assert steps["router"].knobs.split_k == steps["q up"].knobs.split_k == 1


def test_chunks_are_sequences_of_their_own(data_dir: Path) -> None:
    model = load_model(data_dir / "models" / "meta-llama--Llama-4-Scout-17B-16E-Instruct.json")
    chunked = next(step for step in model_steps(model, decode((8200,)), NPU) if step.kernel == "decode-attention")
    assert (chunked.problem.contexts, chunked.problem.window) == ((8,), 0)
    prompt = next(step for step in model_steps(model, whole((8200,)), NPU) if step.kernel == "prefill-attention")
    assert (prompt.problem.contexts, prompt.problem.q_len) == ((8192, 8), 0)
    across = next(step for step in model_steps(model, of([(8200, 30)]), NPU) if step.kernel == "prefill-attention")
    assert (across.problem.contexts, across.problem.q_len) == ((8192, 8), (22, 8))


def test_a_prefill_longer_than_an_indexer_selects_attends_sparsely(data_dir: Path) -> None:
    model = load_model(data_dir / "models" / "deepseek-ai--DeepSeek-V3.2.json")
    for tokens, kernels in ((2048, {"mla-prefill"}), (2049, {"indexer", "sparse-attention"})):
        steps = model_steps(model, whole((tokens,)), NPU)
        assert {step.kernel for step in steps} & {"mla-prefill", "indexer", "sparse-attention"} == kernels
        assert all(step.problem.q_len == tokens for step in steps if step.kernel in ("indexer", "sparse-attention"))


@pytest.mark.parametrize("prefill", [False, True])
def test_kimi_delta_attention_has_its_own_prefill_and_reads_all_its_weights_but_small_ones(prefill: bool) -> None:
    """Sizes of Kimi-Linear-48B-A3B; not read: the convolution, biases and logarithms of decays, the norm of a head."""
    kda = LinearAttention(2304, 32, 32, 128, 128, 4, decay="channel")
    setting = Setting(work((70, 33), prefill), 1, "bf16", NPU)
    steps = layer_steps(Layer(kda, Dense(2304, 9216)), setting, "layer", 1)
    (attention,) = (step for step in steps if step.name == "layer attention")
    assert attention.kernel == ("kda-prefill" if prefill else "linear-decode")
    assert (attention.problem.heads, attention.problem.key_heads, attention.problem.key_dim) == (32, 32, 128)
    convolution, decays, of_head = 4 * 3 * 4096, 32 + 4096, 128
    unread = Layer(kda, Dense(2304, 9216)).parameters - sum(map(weights, steps))
    assert unread == convolution + decays + of_head


def test_the_weights_of_a_model_of_several_streams_are_all_but_those_of_sinks_and_of_entries_not_complete(
    data_dir: Path,
) -> None:
    """Beside the expert biases of 40 layers, and where no entry of 128 tokens is complete, its bias and norm."""
    model = load_model(data_dir / "models" / V4)
    assert model.streams == 4
    for contexts, prefill, open_windows in (((64,), False, 20), ((128,), False, 0), ((300,), True, 0)):
        found = sum(step.count * weights(step) for step in model_steps(model, work(contexts, prefill), NPU))
        unread = 43 * 64 + 40 * 256 + open_windows * (128 * 512 + 512)
        assert model.parameters - found == unread < model.active_parameters / 1000


def test_an_entry_is_made_when_its_window_is_full(data_dir: Path) -> None:
    model = load_model(data_dir / "models" / V4)

    def windows(*contexts: int, prefill: bool = False) -> dict[str, tuple[int, ...]]:
        steps = model_steps(model, work(contexts, prefill), NPU)
        return {
            f"{step.problem.ratio} {step.problem.dim}": step.problem.windows
            for step in steps
            if step.kernel == "compress"
        }

    assert windows(127, 3) == {}
    assert windows(128, 12, 13) == {"4 512": (1, 1), "4 128": (1, 1), "128 512": (1,)}
    assert windows(300, 3, prefill=True) == {"4 512": (75,), "4 128": (75,), "128 512": (2,)}


KINDS = {
    "decode": decode((300, 64)),
    "drafts": decode((300, 64), 3),
    "prompts": whole((64, 33)),
    "chunk": of([(300, 100)]),
    "mixed": of([(300, 1), (64, 5), (64, 64), (300, 100)]),
}


@pytest.mark.parametrize("name", ["tiny", "llama-3.1-70b", "mistralai--Mixtral-8x7B-v0.1", "openai--gpt-oss-20b"])
def test_the_weights_that_a_step_reads_do_not_depend_on_what_is_in_it(name: str, data_dir: Path) -> None:
    model = load_model(data_dir / "models" / f"{name}.json" if "--" in name else name)
    found = {
        kind: sum(step.count * weights(step) for step in model_steps(model, steps, NPU, parallel=4))
        for kind, steps in KINDS.items()
    }
    assert len(set(found.values())) == 1, found


def test_prompts_beside_sequences_that_decode_read_the_weights_of_latents_once_more(data_dir: Path) -> None:
    model = load_model(data_dir / "models" / "deepseek-ai--DeepSeek-V3.json")
    found = {
        kind: sum(step.count * weights(step) for step in model_steps(model, steps, NPU, parallel=8))
        for kind, steps in KINDS.items()
    }
    latents = len(model.layers) * 512 * 128 // 8 * (128 + 128)
    assert found["decode"] == found["drafts"] == found["prompts"] == found["chunk"] == found["mixed"] - latents


@pytest.mark.parametrize("machine", MACHINES)
def test_a_mixed_step_takes_at_least_as_long_as_each_of_its_parts(machine: str) -> None:
    def total_fs(steps: Scheduled) -> int:
        target = MACHINES[machine]
        return simulate_call(plan(model_steps(load_model("tiny"), steps, target), target), target).total_fs

    mixed = KINDS["mixed"]
    assert total_fs(mixed) >= max(map(total_fs, mixed.parts()))


def test_products_run_over_all_new_tokens_and_attention_over_each_part(data_dir: Path) -> None:
    steps = {step.name.split(": ")[-1]: step for step in model_steps(load_model("llama-3.1-8b"), KINDS["mixed"], NPU)}
    assert {steps[name].problem.m for name in ("qkv", "out", "gate and up", "down")} == {1 + 5 + 64 + 100}
    assert steps["head"].problem.m == 1 + 5 + 1 + 1
    attention = {name: step for name, step in steps.items() if "attention" in name}
    assert list(attention) == ["attention of decode", "attention of 5 tokens", "attention of prefill"]
    problems = [step.problem for step in attention.values()]
    assert [problem.contexts for problem in problems] == [(300,), (64,), (64, 300)]
    assert [problem.q_len for problem in problems] == [1, 5, (64, 100)]
    appended = [step.problem for name, step in steps.items() if name.startswith("append")]
    assert [problem.contexts for problem in appended] == [(300,), (64,), (64, 300)]
    assert [problem.new for problem in appended] == [1, 5, (64, 100)]


def test_drafts_are_verified_by_every_kind_of_attention_but_linear(data_dir: Path) -> None:
    for file in published(data_dir):
        model, drafts = load_model(file), decode((300, 96), 7)
        if any(isinstance(layer.attention, LinearAttention) for layer in model.layers):
            with pytest.raises(ValueError, match=r"^model: attention \w+ has no kernel that verifies drafts;"):
                model_steps(model, drafts, NPU, parallel=8)
            continue
        steps = model_steps(model, drafts, NPU, parallel=8)
        kernels = ("decode-attention", "mla-decode", "sparse-attention", "compressed-attention")
        attention = [step for step in steps if step.kernel in kernels]
        assert attention, file.stem
        assert {step.problem.q_len for step in attention} == {8}, file.stem
        assert next(step for step in steps if step.name == "head").problem.m == 16


def test_a_chunk_of_latents_expands_those_of_earlier_chunks_and_attends_with_its_own(data_dir: Path) -> None:
    model = load_model(data_dir / "models" / "deepseek-ai--DeepSeek-V3.json")
    steps = model_steps(model, of([(300, 100), (64, 64)]), NPU, parallel=8)
    attention = next(step for step in steps if step.kernel == "mla-prefill")
    assert (attention.problem.tokens, attention.problem.new) == ((300, 64), (100, 64))


@pytest.mark.parametrize("sequences", [1, 3])
def test_few_sequences_are_cut_into_parts_for_idle_cores(sequences: int) -> None:
    machine = Machine(load_machine("h100-sxm"))
    cores = machine.spec.cores.count
    steps = model_steps(load_model("llama-3.1-8b"), decode((4096,) * sequences), machine)
    (program,) = (step.compile(machine, 0).program for step in steps if step.kernel == "decode-attention")
    items = len(program.phases[0].tasks)
    assert 2 * 8 * sequences <= items <= 4 * cores


@pytest.mark.parametrize("machine", ["h100-sxm", "npu-hbm3"])
def test_attention_of_a_step_has_the_knobs_that_are_suggested(machine: str) -> None:
    on = Machine(load_machine(machine))
    for work in (decode((1024,) * 4), of([(512, 512)])):
        steps = model_steps(load_model("llama-3.1-8b"), work, on)
        step = next(step for step in steps if step.kernel.endswith("attention"))
        assert step.knobs == KERNELS[step.kernel].suggested(step.problem, on)


@pytest.mark.parametrize(
    ("machine", "heads", "dim", "work"),
    [
        ("t4", (8, 1), 256, (512, 512)),
        ("mi300x", (16, 8), 256, (512, 512)),
        ("mi300a", (16, 8), 256, (2048, 8)),
        ("l4", (32, 8), 128, (8192, 16)),
        ("v100-pcie", (64, 8), 128, (2048, 8)),
    ],
)
def test_attention_finds_room_in_small_scratchpads(
    machine: str, heads: tuple[int, int], dim: int, work: tuple[int, int]
) -> None:
    """Long heads, and drafts whose rows a decode step takes together."""
    attention = SoftmaxAttention(1024, *heads, dim, dim)
    setting = Setting(of([work] * 2), 1, "bf16", Machine(load_machine(machine)))
    assert any(step.kernel.endswith("attention") for step in softmax_steps(attention, setting))
