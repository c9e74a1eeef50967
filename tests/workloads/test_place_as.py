"""Placements checked through the address map: every byte of a tensor, not the layout that should bring it there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.machine import Machine
from hwmodel.program import NONE, Tensor
from hwmodel.spec import load_machine
from layouts import named
from layouts.notation import NamedLayout
from workloads.placement import Interleaved, Partitioned, Pinned, Placement, Replicated, place, place_as

NPU = Machine(load_machine("npu-hbm3"))  # 4 stacks, dealt every 4 KiB; hashed channels
FIVE = Machine(load_machine("npu-hbm3").with_overrides({"hbm.stacks": 5}))
LOCAL = Machine(load_machine("npu-sram-local"))  # 64 cores, 1 KiB of each in turn
KV = {"page": 6, "kv": 2, "head": 8, "token": 16, "dim": 128}
GRANULE = 4096


def machine(fields: list[str], stacks: int = 4) -> Machine:
    """The sketch with another address map, without hashes."""
    spec = load_machine("npu-hbm3")
    assert spec.hbm is not None
    address_map = spec.hbm.address_map.model_copy(update={"fields": tuple(fields), "hashes": ()})
    hbm = spec.hbm.model_copy(update={"address_map": address_map, "stacks": stacks})
    return Machine(spec.model_copy(update={"hbm": hbm}))


LOW = ["offset:5", "column:2", "pseudo_channel:1", "channel:4", "stack", "bank_group:2", "column:3", "bank", "row"]
TOP = ["offset:5", "column:2", "pseudo_channel:1", "channel:4", "bank_group:2", "column:3", "bank", "row", "stack"]
PLAIN, TOPMOST = machine(LOW), machine(TOP)


def cache(text: str = "page kv token head dim", **sizes: int) -> Tensor:
    return Tensor("kv", named(text, KV | sizes), "bf16", NONE)


def vector(elements: int, name: str = "x", dtype: str = "bf16") -> Tensor:
    return Tensor(name, named("x", {"x": elements}), dtype, NONE)


def addresses(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The address of every element, one dimension per axis."""
    sizes = [tensor.layout.size(axis) for axis in tensor.layout.axes]
    grid = np.meshgrid(*map(np.arange, sizes), indexing="ij", sparse=True)
    offsets = tensor.layout.offsets(**dict(zip(tensor.layout.axes, grid, strict=True)))
    return tensor.base_bytes + np.broadcast_to(offsets, sizes) * tensor.element_bytes


def fields(tensor: Tensor, on: Machine) -> dict[str, set[int]]:
    """Where the first and the last byte of every element lie."""
    where = addresses(tensor).reshape(-1)
    location = on.address_map.decode(np.concatenate([where, where + tensor.element_bytes - 1]))
    return {name: set(getattr(location, name).tolist()) for name in ("stack", "channel", "pseudo_channel")}


def bursts(tensor: Tensor, on: Machine, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    burst = on.address_map.burst_bytes
    where = np.unique(addresses(tensor).reshape(-1) // burst) * burst
    return np.bincount(getattr(on.address_map.decode(where), name))


def check_apart(tensors: tuple[Tensor, ...]) -> None:
    taken = np.concatenate([addresses(t).reshape(-1) // t.element_bytes * t.element_bytes for t in tensors])
    assert len(np.unique(taken)) == len(taken)  # tensors of one element size


@pytest.mark.parametrize("stack", range(4))
@pytest.mark.parametrize("on", [NPU, PLAIN, TOPMOST], ids=["low, hashed channels", "low", "topmost"])
def test_every_byte_of_a_pinned_tensor_lies_in_its_stack(stack: int, on: Machine) -> None:
    tensors = [vector(3000, "first"), cache(), vector(2048 * 7, "last")]
    placed = place_as(tensors, [Interleaved(), Pinned(stack=(stack,)), Pinned(stack=(stack,))], on)
    assert [fields(t, on)["stack"] for t in placed[1:]] == [{stack}, {stack}]
    assert placed[1].layout.axes == tensors[1].layout.axes
    assert addresses(placed[1]).shape == (6, 2, 8, 16, 128)
    check_apart(placed)


def test_a_pinned_tensor_still_uses_all_channels_of_its_stack_evenly() -> None:
    (tensor,) = place_as([cache()], [Pinned(stack=(2,))], NPU)
    counts = bursts(tensor, NPU, "channel")
    assert len(counts) == 16
    assert counts.min() == counts.max()


@pytest.mark.parametrize("stacks", [(0, 1), (1, 2, 3), (1, 3), (0, 1, 2, 3)])
def test_a_tensor_may_be_pinned_to_several_stacks(stacks: tuple[int, ...]) -> None:
    (placed,) = place_as([vector(2048 * 12)], [Pinned(stack=stacks)], NPU)
    counts = bursts(placed, NPU, "stack")
    assert np.flatnonzero(counts).tolist() == list(stacks)
    assert counts[list(stacks)].tolist() == [12 // len(stacks) * GRANULE // 32] * len(stacks)


def test_a_small_tensor_begins_where_its_stacks_come_round_again() -> None:
    tensors = [vector(2048, "one granule"), vector(4096, "two granules"), vector(100, "a few bytes")]
    placed = place_as(tensors, [Pinned(stack=(1, 2))] * 3, NPU)
    assert [fields(t, NPU)["stack"] for t in placed] == [{1}, {1, 2}, {1}]
    check_apart(placed)


def test_channels_can_be_pinned_where_the_map_does_not_hash_them() -> None:
    pin = Pinned(stack=(1,), channel=(4, 5, 6, 7), pseudo_channel=(1,))
    (placed,) = place_as([cache()], [pin], PLAIN)
    assert fields(placed, PLAIN) == {"stack": {1}, "channel": {4, 5, 6, 7}, "pseudo_channel": {1}}
    with pytest.raises(ValueError, match=r"tensor kv: channel is hashed \(channel\[0\] \^= row\[1\]\), so that its"):
        place_as([cache()], [Pinned(channel=(0,))], NPU)


@pytest.mark.parametrize("on", [NPU, PLAIN, TOPMOST], ids=["low, hashed channels", "low", "topmost"])
@pytest.mark.parametrize("order", ["blocked", "cyclic"])
@pytest.mark.parametrize("text", ["page kv token head dim", "page kv head token dim", "head page kv token dim"])
def test_every_head_of_a_partitioned_cache_lies_in_one_stack_and_all_stacks_hold_as_much(
    text: str, order: Any, on: Machine
) -> None:
    tensor = cache(text)
    (placed,) = place_as([tensor], [Partitioned("head", "stack", order)], on)
    stack_of = on.address_map.decode(addresses(placed)).stack
    for head in range(8):
        assert np.unique(stack_of[:, :, head]).tolist() == [head // 2 if order == "blocked" else head % 4]
    counts = bursts(placed, on, "stack")
    assert counts.tolist() == [math.prod(KV.values()) * 2 // 32 // 4] * 4


def test_sequences_and_experts_are_partitioned_over_a_number_of_stacks_that_is_no_power_of_two() -> None:
    weights = Tensor("w", named("expert n k", {"expert": 10, "n": 64, "k": 512}), "bf16", NONE)
    (placed,) = place_as([weights], [Partitioned("expert")], FIVE)
    stack_of = FIVE.address_map.decode(addresses(placed)).stack
    assert [np.unique(stack_of[expert]).tolist() for expert in range(10)] == [[expert // 2] for expert in range(10)]


def test_an_axis_of_several_digits_is_partitioned_by_its_outermost_or_its_innermost() -> None:
    tensor = Tensor("x", named("a//8 b a%8", {"a": 64, "b": 256}), "bf16", NONE)
    blocked, cyclic = place_as([tensor, tensor], [Partitioned("a"), Partitioned("a", order="cyclic")], NPU)
    stack_of = NPU.address_map.decode(addresses(blocked)).stack
    assert [np.unique(stack_of[a]).tolist() for a in range(64)] == [[a // 16] for a in range(64)]
    stack_of = NPU.address_map.decode(addresses(cyclic)).stack
    assert [np.unique(stack_of[a]).tolist() for a in range(64)] == [[a % 4] for a in range(64)]
    check_apart((blocked, cyclic))


@pytest.mark.parametrize("on", [NPU, FIVE, TOPMOST], ids=["4 stacks", "5 stacks", "topmost"])
def test_every_stack_has_a_replica_of_its_own(on: Machine) -> None:
    (placed,) = place_as([vector(2048 * 3)], [Replicated()], on)
    stacks = on.address_map.sizes[0]
    assert placed.layout.axes == ("replica", "x")
    stack_of = on.address_map.decode(addresses(placed)).stack
    assert [np.unique(stack_of[replica]).tolist() for replica in range(stacks)] == [[s] for s in range(stacks)]


@pytest.mark.parametrize("pieces", [1, 2, 8])
def test_a_coarser_interleaving_changes_the_stack_every_so_many_bytes(pieces: int) -> None:
    granule = pieces * GRANULE
    tensors = [vector(8 * granule), vector(4 * granule, "other")]
    placed = place_as(tensors, [Interleaved(granule), Interleaved(granule)], NPU)
    for tensor in placed:
        stack_of = NPU.address_map.decode(addresses(tensor)).stack.reshape(-1, granule // 2)
        assert [np.unique(row).tolist() for row in stack_of] == [[n % 4] for n in range(len(stack_of))]
    check_apart(placed)


KINDS: list[Placement] = [
    Interleaved(),
    Interleaved(8192),
    Pinned((0,)),
    Pinned((1, 2)),
    Pinned((3,)),
    Partitioned("p"),
    Replicated(),
]


mixes = st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from(KINDS)), min_size=1, max_size=6)


@settings(max_examples=15)
@given(mixes)
def test_no_two_tensors_share_a_byte_whatever_their_placements(drawn: list[tuple[int, Placement]]) -> None:
    check_mix(drawn)


@pytest.mark.nightly
@settings(max_examples=300, derandomize=False)
@given(mixes)
def test_no_two_of_very_many_tensors_share_a_byte(drawn: list[tuple[int, Placement]]) -> None:
    check_mix(drawn)


def check_mix(drawn: list[tuple[int, Placement]]) -> None:
    """Place tensors of so many granules a part."""
    layout = [named("p x", {"p": 4, "x": 2048 * size}) for size, _ in drawn]
    tensors = [Tensor(f"t{n}", layout[n], "bf16", NONE) for n in range(len(drawn))]
    placed = place_as(tensors, [placement for _, placement in drawn], NPU)
    check_apart(placed)
    assert [t.name for t in placed] == [t.name for t in tensors]
    for tensor, (_, placement) in zip(placed, drawn, strict=True):
        if isinstance(placement, Pinned):
            assert fields(tensor, NPU)["stack"] == set(placement.stack or ())


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=5))
def test_interleaved_tensors_lie_where_place_puts_them(sizes: list[int]) -> None:
    tensors = [vector(size, f"t{n}") for n, size in enumerate(sizes)]
    assert place_as(tensors, [Interleaved()] * len(sizes), NPU) == place(tensors, NPU)


def test_small_tensors_pinned_to_a_topmost_stack_lie_one_after_another() -> None:
    tensors = [vector(1000, f"t{n}") for n in range(3)]
    placed = place_as(tensors, [Pinned(stack=(2,))] * 3, TOPMOST)
    assert [t.base_bytes for t in placed] == [32 * 2**30 + 4096 * n for n in range(3)]


def test_a_stack_that_is_full_takes_no_byte_more_and_the_message_says_how_many_are_missing() -> None:
    stack = 16 * 2**30
    half = vector(stack // 4, "half")
    placed = place_as([half, half, half], [Pinned((0,)), Pinned((0,)), Pinned((1,))], NPU)
    assert {t.size_bytes // 2**30 for t in placed} == {31}  # from the first to the last byte
    rest = vector(stack // 4 + GRANULE // 2, "rest")
    message = f"tensor rest: {rest.size_bytes} B from byte {stack // 2} on need {GRANULE} B more than the {stack} B"
    with pytest.raises(ValueError, match=message):
        place_as([half, rest], [Pinned((0,)), Pinned((0,))], NPU)
    everywhere = vector(stack + 1, "everywhere")  # half of every stack, and one element in the first
    start = f"from byte {stack // 2 + GRANULE} on need {GRANULE} B more"
    with pytest.raises(ValueError, match=f"tensor half: {stack // 2} B {start}"):
        place_as([half, everywhere], [Pinned((0,)), Interleaved()], NPU)
    with pytest.raises(ValueError, match=f"tensor half: 4 parts of {stack // 2} B {start}"):
        place_as([everywhere, half], [Interleaved(), Replicated()], NPU)


@pytest.mark.parametrize(
    ("tensor", "placement", "message"),
    [
        (
            vector(8),
            Pinned(stack=(4,)),
            r"tensor x: stack is \(4,\); allowed: values from 0 to 3, rising in equal steps",
        ),
        (vector(8), Pinned(stack=()), r"tensor x: stack is \(\); allowed"),
        (vector(8), Pinned(stack=(0, 1, 3)), r"tensor x: stack is \(0, 1, 3\); allowed"),
        (vector(8), Pinned(stack=(2, 1)), r"tensor x: stack is \(2, 1\); allowed"),
        (vector(5000), Pinned(stack=(0,)), "tensor x: composition .*nearest admissible"),
        (vector(8), Partitioned("y"), "tensor x: no axis 'y' to partition; allowed: x"),
        (vector(6), Partitioned("x"), "tensor x: axis x of 6, blocked: its digit of 6 is no multiple of the 4 parts"),
        (vector(8), Partitioned("x", "bank"), "tensor x: over is 'bank'; allowed: stack, cha"),  # type: ignore[arg-type]
        (vector(8), Interleaved(2048), "tensor x: granule_bytes is 2048; allowed: a multiple of the map's own 4096 B"),
        (vector(8), Interleaved(6144), "tensor x: granule_bytes is 6144; allowed"),
    ],
)
def test_a_placement_that_a_tensor_cannot_have_is_refused(tensor: Tensor, placement: Placement, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        place_as([tensor], [placement], NPU)
    assert "\n" not in str(refusal.value)


def test_a_padded_layout_whose_parts_do_not_close_up_is_refused() -> None:
    from layouts import Layout

    padded = Tensor("x", NamedLayout(("a", "b"), Layout((8, 16), (1, 10))), "bf16", NONE)
    with pytest.raises(ValueError, match="tensor x: the stride 10 is no multiple of 8 elements, what all parts take"):
        place_as([padded], [Partitioned("a")], NPU)


def test_one_placement_per_tensor_is_needed_and_hbm_for_any_but_the_plain_one() -> None:
    with pytest.raises(ValueError, match="placement: 1 placements for 2 tensors; allowed: one each"):
        place_as([vector(8), vector(8)], [Interleaved()], NPU)
    sram = Machine(load_machine("npu-sram"))
    assert place_as([vector(8)], [Interleaved()], sram) == place([vector(8)], sram)
    with pytest.raises(ValueError, match="tensor x: machine npu-sram: distributed_sram: its slices are hashed"):
        place_as([vector(8)], [Pinned(stack=(0,))], sram)


def core_of(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The core beside which every element lies, which must be one for its first and its last byte."""
    where = addresses(tensor)
    first, last = (LOCAL.address_map.decode(where + byte).stack for byte in (0, tensor.element_bytes - 1))
    assert np.array_equal(first, last)
    return np.asarray(first)


@pytest.mark.parametrize("order", ["blocked", "cyclic"])
def test_every_expert_lies_beside_the_core_that_owns_it(order: Any) -> None:
    weights = Tensor("w", named("expert n k", {"expert": 128, "n": 24, "k": 64}), "bf16", NONE)
    (placed,) = place_as([weights], [Partitioned("expert", "core", order)], LOCAL)
    for expert, core in enumerate(core_of(placed)):
        assert np.unique(core).tolist() == [expert // 2 if order == "blocked" else expert % 64]


def test_of_fewer_experts_than_cores_each_lies_evenly_over_cores_of_its_own() -> None:
    weights = Tensor("w", named("expert n k", {"expert": 8, "n": 64, "k": 512}), "bf16", NONE)
    (placed,) = place_as([weights], [Partitioned("expert", "core", parts=8)], LOCAL)
    for expert, core in enumerate(core_of(placed)):
        found, times = np.unique(core, return_counts=True)
        assert found.tolist() == list(range(8 * expert, 8 * expert + 8))
        assert set(times.tolist()) == {64 * 512 // 8}


@pytest.mark.parametrize("text", ["page kv token head dim", "page kv head token dim", "head page kv token dim"])
def test_heads_have_runs_of_cores_and_sequences_are_dealt_round_each_run(text: str) -> None:
    placement = Partitioned("head", "core", parts=8, within=Partitioned("page", "core", "cyclic"))
    first, second = place_as([cache(text, page=24), cache(text, page=16)], [placement] * 2, LOCAL)
    check_apart((first, second))
    for placed in (first, second):
        core = core_of(placed)
        for page in range(core.shape[0]):
            for head in range(8):
                assert np.unique(core[page, :, head]).tolist() == [8 * head + page % 8]


def test_a_tensor_is_pinned_to_cores_and_replicated_beside_each() -> None:
    tensors = [vector(2048, "pinned"), vector(512, "copied")]
    pinned, copied = place_as(tensors, [Pinned(core=(3, 5)), Replicated("core")], LOCAL)
    assert np.unique(core_of(pinned)).tolist() == [3, 5]
    assert [np.unique(core).tolist() for core in core_of(copied)] == [[core] for core in range(64)]
    check_apart((copied, pinned))


def test_a_core_that_is_full_takes_no_byte_more() -> None:
    slice_bytes = 8 * 2**20
    half = vector(slice_bytes // 4, "half")
    for tensor in place_as([half, half], [Pinned(core=(9,))] * 2, LOCAL):
        assert np.unique(core_of(tensor)).tolist() == [9]
    with pytest.raises(ValueError, match=f"tensor half: {slice_bytes // 2} B from byte {slice_bytes} on need"):
        place_as([half, half, half], [Pinned(core=(9,))] * 3, LOCAL)


@pytest.mark.parametrize(
    ("placement", "on", "message"),
    [
        (Pinned(core=(0,)), NPU, r"tensor x: core: npu-hbm3 has no memory that is a core's own \(distributed_sram.loc"),
        (Partitioned("x", "core"), NPU, "tensor x: core: npu-hbm3 has no memory that is a core's own"),
        (Replicated("core"), NPU, "tensor x: core: npu-hbm3 has no memory"),
        (Pinned(core=(64,)), LOCAL, r"tensor x: stack is \(64,\); allowed: values from 0 to 63"),
        (Pinned(core=(1,), stack=(1,)), LOCAL, r"tensor x: stack is \(1,\) beside core \(1,\); allowed: one of them"),
        (Partitioned("x", "core", parts=6), LOCAL, "tensor x: parts is 6; allowed: what divides the 64 of stack"),
        (Partitioned("x", parts=0), NPU, "tensor x: parts is 0; allowed: what divides the 4 of stack"),
    ],
)
def test_a_core_that_is_none_is_refused(placement: Placement, on: Machine, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        place_as([vector(1024)], [placement], on)
    assert "\n" not in str(refusal.value)
