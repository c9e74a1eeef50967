"""What links the kernels of a layer: values, their parts, memory and conversions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwmodel.engine import simulate
from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.spec import load_machine
from workloads.layers.setting import RESULT, STREAM, Setting
from workloads.layers.steps import layer_steps
from workloads.model import load_model
from workloads.model.attention import Indexer, LatentAttention, SoftmaxAttention
from workloads.model.compressed import CompressedAttention, Compressor
from workloads.model.feed_forward import Dense
from workloads.model.linear import LinearAttention
from workloads.model.model import Layer
from workloads.scheduled import Scheduled, decode, of, prefill
from workloads.sequence import Call, Step, plan
from workloads.sequence_result import simulate_call
from workloads.step import model_steps
from workloads.streams import STORE, touched
from workloads.values import Part

CORES = 3
SMALL = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
NPU = Machine(load_machine("npu-hbm3"))
H200 = Machine(load_machine("h200-sxm"))
HIDDEN = 32
MIXED = of([(20, 1), (9, 1), (12, 3), (10, 10), (40, 20)])
UNDRAFTED = of([(20, 1), (9, 1), (10, 10), (40, 20)])
INDEXER = Indexer(HIDDEN, 16, 2, 8, 8)
MIXERS: dict[str, tuple[Any, Scheduled]] = {
    "heads in groups": (SoftmaxAttention(HIDDEN, 4, 2, 16, 16, sinks=True), MIXED),
    "prompts alone": (SoftmaxAttention(HIDDEN, 4, 2, 16, 16), prefill((20, 9))),
    "gated, in windows": (SoftmaxAttention(HIDDEN, 4, 2, 16, 16, window=7, gate=True), MIXED),
    "narrow values": (SoftmaxAttention(HIDDEN, 4, 2, 16, 8), MIXED),
    "keys that are values": (SoftmaxAttention(HIDDEN, 4, 2, 16, 16, shared_kv=True), prefill((20, 9))),
    "chunks": (SoftmaxAttention(HIDDEN, 4, 2, 16, 16, window=8, chunked=True), MIXED),
    "latents": (LatentAttention(HIDDEN, 2, 16, 32, 16, 8, 16), MIXED),
    "latents of prompts": (LatentAttention(HIDDEN, 2, None, 32, 16, 8, 16), prefill((20, 9))),
    "selected latents": (LatentAttention(HIDDEN, 2, 16, 32, 16, 8, 16, INDEXER), MIXED),
    "states": (LinearAttention(HIDDEN, 2, 4, 16, 16, 4), UNDRAFTED),
    "states that fade by channel": (LinearAttention(HIDDEN, 2, 2, 16, 16, 4, decay="channel"), UNDRAFTED),
    "compressed entries": (
        CompressedAttention(HIDDEN, 4, 16, 8, 16, 2, 8, 8, Compressor(HIDDEN, 16, 4, True)),
        MIXED,
    ),
}


def layer(mixer: Any, work: Scheduled, streams: int = 1, machine: Machine = SMALL) -> list[Step]:
    setting = Setting(work, 1, "bf16", machine)
    return layer_steps(Layer(mixer, Dense(HIDDEN, 48), streams=streams), setting, "layer", 1)


class Copies:
    """Runs steps one by one, each at addresses of its own: values are copied in before and out after."""

    def __init__(self) -> None:
        self.values: dict[str, np.ndarray[Any, Any]] = {}

    def run(self, step: Step) -> None:
        program = step.compile(SMALL, 0).program
        memory = Memory(program)
        fill(memory, program, step.name, list(step.values))
        parts = {name: given if isinstance(given, Part) else Part(given) for name, given in step.values.items()}
        for name, part in parts.items():
            matrix, axes = self._of(part, memory.read(name)), ordered(program, name, part)
            memory.write(name, matrix.reshape([size for _, size in axes]).transpose(back(program, name, part)))
        run(program, memory, CORES)
        numbers = {tensor for phase in program.phases for tensor in touched(phase, STORE)}
        for name in {program.tensors[number].name for number in numbers} & set(parts):
            part, stored = parts[name], memory.read(name)
            there = np.argsort(back(program, name, part))
            self._of(part, stored)[:] = stored.transpose(there).reshape(self._of(part, stored).shape)

    def _of(self, part: Part, like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows, width = part.shape or (1, like.size)
        if part.value not in self.values:
            self.values[part.value] = initial(part.value, rows * width, like.dtype)
        height = part.rows or rows - part.row
        columns = like.size // height
        whole = self.values[part.value].reshape(rows, width)
        return whole[part.row : part.row + height, part.column : part.column + columns]


def initial(value: str, size: int, dtype: Any) -> np.ndarray[Any, Any]:
    """What a value holds before the call: the streams something, others nothing."""
    if value in (RESULT, STREAM):
        return np.random.default_rng(len(value)).standard_normal(size).astype(dtype)
    return np.zeros(size, dtype)


def fill(memory: Memory, program: Program, step: str, named: list[str]) -> None:
    """Write what is nobody's value, the same wherever it lies."""
    prefix = f"{step}."
    for tensor in program.tensors:
        name = tensor.name.removeprefix(prefix)
        if name not in named and tensor.values is None and name != "partial":
            rng = np.random.default_rng(list(f"{prefix}{name}".encode()))
            shape = [tensor.layout.size(axis) for axis in tensor.layout.axes]
            scale = -0.1 if name == "log decay" else 0.25
            memory.write(tensor.name, scale * np.abs(rng.standard_normal(shape)))


def ordered(program: Program, name: str, part: Part) -> list[tuple[str, int]]:
    (layout,) = (tensor.layout for tensor in program.tensors if tensor.name == name)
    return [(axis, layout.size(axis)) for axis in part.axes or layout.axes]


def back(program: Program, name: str, part: Part) -> list[int]:
    """The places of the template's axes among the ordered ones."""
    (axes,) = (tensor.layout.axes for tensor in program.tensors if tensor.name == name)
    order = [axis for axis, _ in ordered(program, name, part)]
    return [order.index(axis) for axis in axes]


def linked(steps: list[Step], call: Call) -> dict[str, np.ndarray[Any, Any]]:
    """Return the values that the layers pass on, of one run of the whole call over one memory."""
    program = call.program()
    memory = Memory(program)
    for step, compiled in zip(steps, call.steps, strict=True):
        own = [tensor for tensor in program.tensors if tensor.name.startswith(f"{step.name}.")]
        fill(memory, Program("own", tuple(own), ()), step.name, list(step.values))
        for tensor, value in zip(own, compiled.values, strict=True):
            if value in (RESULT, STREAM):
                there = memory.read(tensor.name)
                memory.write(tensor.name, initial(value, there.size, there.dtype).reshape(there.shape))
    run(program, memory, CORES)
    found = {}
    for compiled in call.steps:
        for tensor, value in zip(compiled.program.tensors, compiled.values, strict=True):
            if value in (RESULT, STREAM):
                found[value] = memory.read(f"{compiled.name}.{tensor.name}").reshape(-1)
    return found


@pytest.mark.parametrize("mixer", MIXERS)
def test_linked_kernels_compute_what_each_computes_when_values_are_copied_to_it(mixer: str) -> None:
    attention, work = MIXERS[mixer]
    steps = layer(attention, work, streams=2 if mixer == "compressed entries" else 1)
    call = plan(steps, SMALL, kept=("layer absorbed",))  # whose rotated columns no kernel stores: nought in both
    assert [step.name for step in call.steps] == [step.name for step in steps]  # no conversions
    alone = Copies()
    for step in steps:
        alone.run(step)
    found = linked(steps, call)
    assert set(found) == {RESULT, STREAM}
    for value, result in found.items():
        assert np.isfinite(result.astype(float)).all()
        assert np.ptp(result.astype(float)) > 0
        assert (result == alone.values[value]).all(), value


@pytest.mark.parametrize("mixer", MIXERS)
def test_values_that_are_read_have_been_stored_but_for_those_of_the_layer_before(mixer: str) -> None:
    attention, work = MIXERS[mixer]
    call = plan(layer(attention, work), SMALL)
    stored = {RESULT, STREAM}
    for step in call.steps:
        own = {f"{step.name}.{tensor.name}" for tensor in step.program.tensors}
        writes = {step.values[n] for phase in step.program.phases for n in touched(phase, STORE)}
        reads = {step.values[n] for phase in step.program.phases for n in touched(phase, 0)}
        assert reads - own - writes <= stored, step.name
        stored |= writes


@pytest.mark.parametrize("work", [decode((700, 300)), prefill((200, 96)), of([(700, 1), (200, 200)])])
def test_linked_values_take_less_memory_than_each_kernels_own(work: Scheduled) -> None:
    steps = model_steps(load_model("tiny"), work, NPU)
    apart = plan([replace(step, values={}) for step in steps], NPU).memory
    together = plan(steps, NPU).memory
    assert together.high_water_bytes < apart.high_water_bytes
    assert together.live_bytes < apart.live_bytes


def test_parts_of_a_value_lie_in_a_shared_cache_once_and_only_where_the_range_of_them_fits() -> None:
    for capacity, kept in (("320 KiB", {"q", "out"}), ("480 KiB", {"q", "out", "k", "v"})):
        changes = {"shared_cache.partitions": 1, "shared_cache.capacity": capacity}
        machine = Machine(load_machine("h100-sxm").with_overrides(changes))
        call = plan(model_steps(load_model("llama-3.1-8b"), prefill((32,)), machine, parallel=2), machine)
        step = next(step for step in call.steps if step.kernel == "prefill-attention")
        near = [tensor for tensor in step.program.tensors if tensor.resident == "cache"]
        assert {tensor.name for tensor in near} == kept
        result = simulate(step.program, machine)
        fetched = result.metrics()["hbm_read_bytes"]
        assert fetched == (0 if len(kept) == 4 else 2 * 32 * 4 * 128 * 2)  # keys and values of 4 heads


def held(model: str | Path, work: Scheduled) -> Call:
    return plan(model_steps(load_model(model), work, H200), H200)


def scaled(*shapes: tuple[int, int]) -> int:
    """The bytes of matrices in e4m3 with an fp32 scale per 128 x 128."""
    return sum(n * k + 4 * -(-n // 128) * -(-k // 128) for n, k in shapes)


def deepseek_v3_bytes() -> int:
    """What serving keeps of the checkpoint: products with latents in 16 bits, no bias of routers, no layer of MTP."""
    attention = scaled((1536, 7168), (24576, 1536), (576, 7168), (7168, 16384)) + 2 * 32768 * 512
    norms = 2 * (7168 + 1536 + 512 + 7168)
    dense = scaled((2 * 18432, 7168), (7168, 18432))
    experts = 257 * scaled((2 * 2048, 7168), (7168, 2048)) + 2 * 256 * 7168
    return 61 * (attention + norms) + 3 * dense + 58 * experts + 2 * (2 * 129280 * 7168 + 7168)


@pytest.mark.parametrize("work", [decode((512, 512)), prefill((500, 24)), of([(512, 1), (500, 500), (80, 30)])])
def test_what_all_layers_hold_is_their_weights_and_caches(work: Scheduled) -> None:
    model = load_model("llama-3.1-8b")
    call = held("llama-3.1-8b", work)
    tokens = sum(-(-context // 16) * 16 for context in work.contexts)  # in whole pages
    cache = 32 * tokens * 2 * 8 * 128 * 2  # layers; keys and values of 8 heads of 128
    assert call.held_bytes == 2 * model.parameters + cache
    assert call.memory.high_water_bytes < call.held_bytes / 6  # one layer of 32, embedding and head


def test_caches_of_chunks_are_held_once(data_dir: Path) -> None:
    path = data_dir / "models" / "meta-llama--Llama-4-Scout-17B-16E-Instruct.json"
    model = load_model(path)
    cache = 48 * 8 * 4096 * 2 * 8 * 128 * 2
    call = held(path, decode((4096,) * 8))
    assert call.held_bytes == 2 * model.parameters + cache


@pytest.mark.parametrize("work", [prefill((4096,)), decode((1024,) * 4), of([(2048, 1), (2048, 1024)])])
def test_latents_are_held_and_activations_of_experts_are_not(work: Scheduled) -> None:
    call = held("deepseek-v3", work)
    cache = 61 * 4096 * 576 * 2
    both = (
        61 * 2 * 32768 * 512 if work.kind == "mixed" else 0
    )  # expanded and absorbed attention have copies of their own
    assert call.held_bytes == deepseek_v3_bytes() + cache + both


def test_index_keys_are_held_also_where_no_index_reads_them(data_dir: Path) -> None:
    files = (data_dir / "models" / f"deepseek-ai--DeepSeek-{name}.json" for name in ("V3", "V3.2"))
    without, keyed = (
        sum(size for value, size in held(file, prefill((96, 64))).held.items() if value.endswith((" keys", ": latent")))
        for file in files
    )
    assert keyed - without == 2 * 160 * 128 * 2  # of two kinds of layers


def test_what_passes_is_there_once_and_takes_the_bytes_that_are_left() -> None:
    call = held("deepseek-v3", prefill((4096,)))
    one_layer = sum(size for value, size in call.held.items() if value.startswith("latent_attention + experts"))
    assert one_layer < call.memory.high_water_bytes
    assert call.transient_bytes >= 2 * 8 * 4096 * 7168 * 2  # rows of eight experts per token, before and after them
    assert call.transient_bytes <= call.memory.high_water_bytes - one_layer


@pytest.mark.parametrize(("title", "knob", "layout"), [("qkv", "layout_c", "n m"), ("gate and up", "layout_a", "k m")])
def test_a_layout_that_differs_shows_as_a_conversion_of_its_own_whose_time_counts(
    title: str, knob: str, layout: str
) -> None:
    def changed(step: Step) -> Step:
        turned = step.name.endswith(f": {title}")
        return replace(step, knobs=replace(step.knobs, **{knob: layout}), made=None) if turned else step

    steps = model_steps(load_model("tiny"), decode((40, 7)), NPU)
    names = [step.name for step in steps]
    call = plan([changed(step) for step in steps], NPU)
    more = [step for step in call.steps if step.name not in names]
    layers = load_model("tiny").layers
    assert more
    assert {(step.kernel, step.count) for step in more} == {("convert-layout", len(layers))}
    result = simulate_call(call, NPU)
    lines = {line.name: line for line in result.lines}
    assert all(lines[step.name].total_fs > 0 for step in more)
    assert result.total_fs == sum(line.total_fs for line in result.lines)


def test_a_conversion_of_a_part_moves_that_part_alone() -> None:
    steps = layer(MIXERS["prompts alone"][0], prefill((64, 64)))
    turned = [
        replace(step, knobs=replace(step.knobs, layout_k="head dim token", layout_v="head token dim"), made=None)
        if step.kernel == "prefill-attention"
        else step
        for step in steps
    ]
    conversions = [step for step in plan(turned, SMALL).steps if step.kernel == "convert-layout"]
    assert [step.name for step in conversions] == [f"{side} of layer qkv to layer attention" for side in "kv"]
    assert [step.offsets for step in conversions] == [(4 * 16 * 2, 0), (6 * 16 * 2, 0)]
    for step in conversions:
        assert {tensor.layout.layout.size for tensor in step.program.tensors} == {128 * 2 * 16}


@pytest.mark.slow
def test_every_published_model_is_linked_without_conversions(data_dir: Path) -> None:
    files = sorted((data_dir / "models").glob("*.json"))
    assert len(files) == 19
    for file in files:
        call = plan(model_steps(load_model(file), of([(96, 1), (64, 64), (600, 200)]), NPU, parallel=8), NPU)
        assert "convert-layout" not in {step.kernel for step in call.steps}, file.stem
