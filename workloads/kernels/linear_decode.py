"""Linear decode: one token of every sequence updates and reads the recurrent states of linear attention.

A work item is `head_tile` key heads of one sequence with the value heads that share them, and `tile_v` of their value
channels: columns of a state do not depend on each other. It loads its states in fp32, takes one step of the gated delta
rule on the vector unit (`kernels_ref.linear_attention`) and stores them back. There is nothing for the matrix unit to
do, and the time does not depend on the context. A decay is one per head (Gated DeltaNet) or one per key channel (Kimi
Delta Attention).

The states of one layer lie in memory with a layout for the axes sequence, head, key, value as a knob; what a token
brings and takes away resides in the shared cache where a machine has one. Not modelled: slots of sequences that come
and go, convolutions, and making decays and strengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Phase, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import allocate
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
from workloads.kernels.model_sizes import linear
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES, schedule

Q, K, V, DECAY, STRENGTH, STATE, OUT = range(7)
OPTIONS = ("sequences", "heads")
OPTIONAL = {"key_heads": 0, "key_dim": 128, "value_dim": 128, "per_channel": 0}

Array = np.ndarray[Any, Any]
Axes: TypeAlias = dict[str, tuple[Affine | int, Affine | int]]


@dataclass(frozen=True)
class Problem:
    """One layer's step: `heads` value heads, of which heads / key_heads share a key head and its query."""

    sequences: int
    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    per_channel: bool
    dtype: str

    @property
    def group(self) -> int:
        return self.heads // self.key_heads

    @property
    def decays(self) -> int:
        """Decays of a head."""
        return self.key_dim if self.per_channel else 1


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout: str = knob(
        "sequence head key value", "where the states lie, outermost first", axes="sequence, head, key, value"
    )
    head_tile: int = knob(1, "key heads of an item, with the value heads that share them", least=1)
    tile_v: int = knob(128, "value channels of an item", least=1)
    stages: int = knob(2, "items in flight on a core", least=1)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of the sizes in `options`; a model gives heads and dtype, the batch is not used.

    Sizes: sequences, value heads; key_heads (as many), key_dim and value_dim of a head (128), per_channel: 1 for a
    decay per key channel (0). Raises ValueError where key heads do not divide heads.
    """
    sizes = require_options("linear-decode", options, OPTIONS, OPTIONAL, linear(model) if model else {})
    return problem_of("linear-decode", sizes, model)


def problem_of(kernel: str, sizes: Mapping[str, int], model: Model | None) -> Problem:
    """Return the problem of complete sizes; ValueError naming the one at fault."""
    heads, key_heads = sizes["heads"], sizes["key_heads"] or sizes["heads"]
    if heads % key_heads:
        raise ValueError(f"options: size key_heads is {key_heads}; allowed: a divisor of heads, {heads}")
    if sizes["per_channel"] > 1:
        raise ValueError(f"options: size per_channel is {sizes['per_channel']}; allowed: 0, 1")
    dtype = require_16_bit(kernel, model.dtype if model else "bf16")
    dims = sizes["key_dim"], sizes["value_dim"]
    return Problem(sizes["sequences"], heads, key_heads, *dims, sizes["per_channel"] == 1, dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, tiles by what they hold."""
    tiles = min(knobs.head_tile, problem.key_heads), min(knobs.tile_v, problem.value_dim)
    return (repr(_tensors(problem, knobs)[STATE].layout.key), *tiles, knobs.stages, knobs.schedule)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    phase = _step(problem, knobs, machine, tensors)
    machine.require_fit(phase, {"head_tile": knobs.head_tile, "tile_v": knobs.tile_v, "stages": knobs.stages})
    return Program("linear-decode", tensors, (phase,))


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    s, h, kh, dk, dv = problem.sequences, problem.heads, problem.key_heads, problem.key_dim, problem.value_dim
    keys = named("sequence head key", {"sequence": s, "head": kh, "key": dk})
    values = named("sequence head value", {"sequence": s, "head": h, "value": dv})
    decays = named("sequence head channel", {"sequence": s, "head": h, "channel": problem.decays})
    states = knob_layout(knobs, "layout", {"sequence": s, "head": h, "key": dk, "value": dv})
    return [
        Tensor("q", keys, problem.dtype, NONE, "cache"),
        Tensor("k", keys, problem.dtype, NONE, "cache"),
        Tensor("v", values, problem.dtype, NONE, "cache"),
        Tensor("log decay", decays, "fp32", NONE, "cache"),
        Tensor("strength", named("sequence head", {"sequence": s, "head": h}), "fp32", NONE, "cache"),
        Tensor("state", states, "fp32", NONE),
        Tensor("out", values, problem.dtype, NONE, "cache"),
    ]


def _tasks(problem: Problem, tile: int, tile_v: int) -> dict[str, Array]:
    """Return the columns of the work items, ordered by sequence, key head and value channel."""
    tiles = (problem.sequences, -(-problem.key_heads // tile), -(-problem.value_dim // tile_v))
    sequence, key_head, value = np.indices(tiles).reshape(3, -1)
    key_heads = np.minimum(problem.key_heads - key_head * tile, tile)
    return {
        "sequence": sequence,
        "key head": key_head * tile,
        "key heads": key_heads,
        "head": key_head * tile * problem.group,
        "heads": key_heads * problem.group,
        "value": value * tile_v,
        "values": np.minimum(problem.value_dim - value * tile_v, tile_v),
    }


def _step(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...]) -> Phase:
    tile, tile_v = min(knobs.head_tile, problem.key_heads), min(knobs.tile_v, problem.value_dim)
    tasks = _tasks(problem, tile, tile_v)
    p = PhaseAssembler("step", tensors, tuple(tasks))
    heads, dk, stages = tile * problem.group, problem.key_dim, knobs.stages
    requested = (
        block("q", tile, dk, problem.dtype, stages),
        block("k", tile, dk, problem.dtype, stages),
        block("v", heads, tile_v, problem.dtype, stages),
        block("log decay", heads, problem.decays, "fp32", stages),
        block("strength", 1, heads, "fp32", stages),
        block("state", heads * dk, tile_v, "fp32", stages),
        block("out", heads, tile_v, problem.dtype, stages),
    )
    slots = [Slot(number, p.begun) for number in p.add_buffers(allocate(requested, machine))]
    loaded, ready = p.counter("operands loaded", "memory"), p.counter("new state", "dependency")
    free = p.counter("operands and state free", "buffer")
    values: Axes = {"value": (p.column("value"), p.column("values"))}
    of_keys: Axes = {"sequence": (p.column("sequence"), 1), "head": (p.column("key head"), p.column("key heads"))}
    of_heads: Axes = {"sequence": (p.column("sequence"), 1), "head": (p.column("head"), p.column("heads"))}
    there = {
        Q: of_keys,
        K: of_keys,
        V: of_heads | values,
        DECAY: of_heads,
        STRENGTH: of_heads,
        STATE: of_heads | values,
    }
    for tensor, axes in there.items():
        wait = [(free, p.begun - stages + 1)] if tensor == Q else []
        p.load(slots[tensor], Region(tensor, axes), wait=wait, signal=[loaded] if tensor == STATE else [])
    p.vector(
        "delta_step",
        [slots[number] for number in (OUT, STATE, Q, K, V, DECAY, STRENGTH)],
        (p.column("heads"), dk, p.column("values"), problem.group, problem.decays),
        scalar=dk**-0.5,
        wait=[(loaded, p.begun + 1)],
        signal=[ready],
    )
    p.store(slots[STATE], Region(STATE, there[STATE]), wait=[(ready, p.begun + 1)])
    p.store(slots[OUT], Region(OUT, there[V]), signal=[free])
    costs = tasks["heads"] * tasks["values"]
    return p.finish(np.stack(list(tasks.values()), axis=1), schedule(knobs.schedule, costs, machine.spec.cores.count))
