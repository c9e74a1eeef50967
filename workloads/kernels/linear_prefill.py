"""Linear prefill: the gated delta rule over whole sequences, chunk by chunk, one decay per head.

A work item is one value head of one sequence and `tile_v` of its value channels; its chunks follow each other, and the
state S [key, value] stays in the scratchpad between them. With keys K, queries Q and values V of a chunk, g the decay
since the chunk began, and T the inverse of the chunk's unit triangular system times the strengths (the WY
representation, `kernels_ref.linear_attention`), the matrix unit computes

    K K^T, Q K^T;   R = V - (g K) S;   U = T R;   out = (g Q) S + P U;   S <- g_end S + (g_end / g K)^T U

where P is Q K^T, masked and faded, and the vector unit makes the faded operands, T and P. What needs no state (the
first two products, T, P and the faded operands) is done for the next chunk before this one is finished. Keys, queries
and values are 16-bit numbers, all else fp32 (TF32 on the GPUs, as flash-linear-attention multiplies by default).

Tokens of all sequences follow each other in memory; layouts of q, k and v are one knob. Decays per channel:
`kda_prefill`. Not modelled: chunks of one sequence on several cores, convolutions, and making decays and strengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from hwmodel.assembler import Affine, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Buffer, Cause, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS, operand
from workloads.kernels.base import check_knobs, knob, knob_layout, require_options
from workloads.kernels.linear_decode import problem_of
from workloads.kernels.model_sizes import linear
from workloads.kernels.writer import PhaseWriter
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES, schedule

Q, K, V, DECAY, STRENGTH, STATE, OUT = range(7)
OPTIONS = ("heads",)
OPTIONAL = {"key_heads": 0, "key_dim": 128, "value_dim": 128}

Array = np.ndarray[Any, Any]
Axes: TypeAlias = dict[str, tuple[Affine | int, Affine | int]]


@dataclass(frozen=True)
class Problem:
    """One layer's prefill: `tokens` of every sequence; heads / key_heads value heads share a key head."""

    tokens: tuple[int, ...]
    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    dtype: str

    @property
    def group(self) -> int:
        return self.heads // self.key_heads


@dataclass(frozen=True)
class ChunkKnobs:
    """What the search may choose of kernels that go by chunks."""

    layout: str = knob("token head dim", "where q, k, v and the result lie, outermost first", axes="token, head, dim")
    chunk: int = knob(64, "tokens of a chunk", least=1)
    tile_v: int = knob(128, "value channels of an item", least=1)
    stages: int = knob(2, "chunks in flight: one is prepared while the one before is finished", least=2)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where q, k, v lie in the scratchpad", choices=OPERAND_LAYOUTS)


@dataclass(frozen=True)
class Knobs(ChunkKnobs):
    """What the search may choose."""


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one layer over the contexts of `batch`, which is required; a model gives heads and dtype.

    Sizes: value heads; key_heads (as many), key_dim and value_dim of a head (128). Raises ValueError for a model with a
    decay per channel.
    """
    given = linear(model) if model else {}
    if model and given.get("per_channel"):
        raise ValueError(f"model: kernel linear-prefill knows a decay per head only; {model.name} has one per channel")
    sizes = require_options("linear-prefill", options, OPTIONS, OPTIONAL, given)
    if batch is None:
        raise ValueError("batch: kernel linear-prefill needs one, with a context or a trace")
    known = problem_of("linear-prefill", {"sequences": 1, "per_channel": 0} | sizes, model)
    return Problem(batch.contexts, known.heads, known.key_heads, known.key_dim, known.value_dim, known.dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, tiles by what they hold."""
    return chunk_key(problem, knobs)


def chunk_key(problem: Problem, knobs: ChunkKnobs) -> tuple[Any, ...]:
    """Return the canonical key of what the kernels that go by chunks have in common."""
    layouts = [repr(tensor.layout.key) for tensor in tensors_of(problem, knobs) if tensor.name in ("q", "v")]
    tiles = min(knobs.chunk, max(problem.tokens)), min(knobs.tile_v, problem.value_dim)
    return (*layouts, *tiles, knobs.stages, knobs.sram_layout, knobs.schedule)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(tensors_of(problem, knobs), machine)
    tasks = tasks_of(problem, knobs)
    order = schedule(knobs.schedule, tasks["tokens"] * tasks["values"], machine.spec.cores.count)
    phase = Chunks(problem, knobs, machine, tensors, tasks).finish(order)
    machine.require_fit(phase, {"chunk": knobs.chunk, "tile_v": knobs.tile_v, "stages": knobs.stages})
    return Program("linear-prefill", tensors, (phase,))


def tensors_of(problem: Problem, knobs: ChunkKnobs) -> list[Tensor]:
    """Return the tensors, decays one per head and token."""
    total, heads = sum(problem.tokens), problem.heads
    keys = knob_layout(knobs, "layout", {"token": total, "head": problem.key_heads, "dim": problem.key_dim})
    values = knob_layout(knobs, "layout", {"token": total, "head": heads, "dim": problem.value_dim})
    gates = named("head token", {"head": heads, "token": total})
    sizes = {"sequence": len(problem.tokens), "head": heads, "key": problem.key_dim, "value": problem.value_dim}
    return [
        Tensor("q", keys, problem.dtype, NONE),
        Tensor("k", keys, problem.dtype, NONE),
        Tensor("v", values, problem.dtype, NONE),
        Tensor("log decay", gates, "fp32", NONE),
        Tensor("strength", gates, "fp32", NONE),
        Tensor("state", named("sequence head key value", sizes), "fp32", NONE),
        Tensor("out", values, problem.dtype, NONE),
    ]


def tasks_of(problem: Problem, knobs: ChunkKnobs) -> dict[str, Array]:
    """Return the columns of the work items, ordered by sequence, head and value channel."""
    tile_v = min(knobs.tile_v, problem.value_dim)
    tokens = np.array(problem.tokens, np.int64)
    sizes = (len(tokens), problem.heads, -(-problem.value_dim // tile_v))
    sequence, head, value = np.indices(sizes).reshape(3, -1)
    return {
        "sequence": sequence,
        "head": head,
        "key head": head // problem.group,
        "value": value * tile_v,
        "values": np.minimum(problem.value_dim - value * tile_v, tile_v),
        "first": (np.cumsum(tokens) - tokens)[sequence],
        "tokens": tokens[sequence],
        "chunks": -(-tokens[sequence] // min(knobs.chunk, max(problem.tokens))),
    }


class Chunks(PhaseWriter):
    """Writes the phase, one method per queue; buffers and counters go by their names."""

    causes: ClassVar[dict[Cause, tuple[str, ...]]] = {
        "memory": ("state loaded", "chunk loaded"),
        "buffer": ("state free", "chunk free", "products free", "out free"),
        "dependency": ("products", "faded", "solved", "state read", "state faded", "result", "chunk done", "out"),
    }
    loop = 0  # the number of the loop over chunks in the queues of the matrix and the vector unit
    fading = "fade_state"

    def __init__(
        self,
        problem: Problem,
        knobs: ChunkKnobs,
        machine: Machine,
        tensors: tuple[Tensor, ...],
        tasks: dict[str, Array],
    ) -> None:
        self._chunk, self._stages, self._keys = min(knobs.chunk, max(problem.tokens)), knobs.stages, problem.key_dim
        requested = self._requests(problem, knobs, machine)
        super().__init__("chunks", tensors, tasks, requested, self.causes, machine)
        self._chunks, self._values = self._p.column("chunks"), self._p.column("values")

    def _requests(self, problem: Problem, knobs: ChunkKnobs, machine: Machine) -> list[Buffer]:
        """Return the requests: operands of the chunks in flight, what is made of two of them, states of two items."""
        chunk = self._chunk
        return [
            *chunk_buffers(problem, knobs, machine, chunk),
            block("log decay", 1, chunk, "fp32", knobs.stages),
            block("keys by keys", chunk, chunk, "fp32", 2),
            block("queries by keys", chunk, chunk, "fp32", 2),
        ]

    def _slots(self, number: Affine, *buffers: str) -> list[Slot]:
        """Return blocks of buffers: the state changes with the item, the others with the chunk `number`."""
        return [Slot(self._buffers[name], self._p.begun if name == "state" else number) for name in buffers]

    def _size(self, index: Affine | int) -> Affine:
        return (self._p.column("tokens") - index * self._chunk).clip(self._chunk)

    def _there(self, **axes: tuple[Affine | int, Affine | int]) -> Axes:
        """Return `axes` of a region, by default those of the value head."""
        return {"head": (self._p.column("head"), 1), **axes}

    def _state(self) -> Region:
        sequence, value = (self._p.column("sequence"), 1), (self._p.column("value"), self._values)
        return Region(STATE, self._there(sequence=sequence, value=value))

    def load(self) -> None:
        """The state once per item, then what every chunk needs; the last of it signals for all."""
        p = self._p
        (state,) = self._slots(p.begun, "state")
        p.load(state, self._state(), wait=self._waits(state_free=p.begun - 1), signal=self._signals("state loaded"))
        with p.loop("load", self._chunks) as i:
            tokens = (p.column("first") + i.index * self._chunk, self._size(i.index))
            key_head, value = (p.column("key head"), 1), (p.column("value"), self._values)
            regions = {
                "q": Region(Q, self._there(token=tokens, head=key_head)),
                "k": Region(K, self._there(token=tokens, head=key_head)),
                "v": Region(V, self._there(token=tokens, dim=value)),
                "log decay": Region(DECAY, self._there(token=tokens)),
                "strength": Region(STRENGTH, self._there(token=tokens)),
            }
            for name, region in regions.items():
                (to,) = self._slots(i.running, name)
                wait = self._waits(chunk_free=i.running - self._stages + 1) if name == "q" else []
                p.load(to, region, wait=wait, signal=self._signals("chunk loaded") if name == "strength" else [])

    def matrix(self) -> None:
        """Products of chunk 0; then products of chunk i + 1 before the rest of chunk i; then the last rest."""
        p = self._p
        before = p.begun + p.running(self.loop)
        self._multiply_tokens(before, 0)
        with p.loop("matrix", self._chunks - 1) as i:
            self._multiply_tokens(before + 1, i.index + 1)
            self._multiply_state(before, i.index)
        self._multiply_state(before, self._chunks - 1)

    def _multiply_tokens(self, number: Affine, index: Affine | int) -> None:
        n = self._size(index)
        wait = self._waits(chunk_loaded=number + 1, products_free=number - 1)
        shape = (n, n, self._keys)
        self._matmul(number, ("keys by keys", "k", "k"), shape, transpose_b=True, wait=wait)
        self._matmul(number, ("queries by keys", "q", "k"), shape, "products", transpose_b=True)

    def _multiply_state(self, number: Affine, index: Affine | int) -> None:
        n, width, keys = self._size(index), self._values, self._keys
        ready = self._waits(state_loaded=self._p.begun + 1, faded=number + 1)
        self._matmul(number, ("values", "minus keys", "state"), (n, width, keys), accumulate=1, wait=ready)
        free = self._waits(out=number)  # the result of the chunk before has left its block
        self._matmul(number, ("result", "queries", "state"), (n, width, keys), "state read", wait=free)
        solved = self._waits(solved=number + 1)
        self._matmul(number, ("updates", "inverse", "values"), (n, width, n), wait=solved)
        self._matmul(number, ("result", "attention", "updates"), (n, width, n), "result", accumulate=1)
        at_end = ("state", "keys at end", "updates")
        faded = self._waits(state_faded=number + 1)
        self._matmul(number, at_end, (keys, width, n), "chunk done", accumulate=1, wait=faded)

    def _matmul(
        self,
        number: Affine,
        names: tuple[str, str, str],
        mnk: tuple[Affine | int, Affine | int, Affine | int],
        *signals: str,
        accumulate: int = 0,
        transpose_b: bool = False,
        wait: Sequence[tuple[int, Affine | int]] = (),
    ) -> None:
        to, a, b = self._slots(number, *names)
        signal = self._signals(*signals)
        self._p.matmul(to, a, b, mnk, accumulate=accumulate, transpose_b=transpose_b, wait=wait, signal=signal)

    def vector(self) -> None:
        """A chunk ahead, what needs no state; then the fading of the state, and the result of the chunk."""
        p = self._p
        before = p.begun + p.running(self.loop)
        self._prepare(before, 0)
        with p.loop("vector", self._chunks - 1) as i:
            self._prepare(before + 1, i.index + 1)
            self._finish_chunk(before, i.index)
        self._finish_chunk(before, self._chunks - 1)

    def _prepare(self, number: Affine, index: Affine | int) -> None:
        p, n, scale = self._p, self._size(index), self._keys**-0.5
        made = ("minus keys", "queries", "keys at end", "values")
        p.vector(
            "fade_chunk",
            self._slots(number, *made, "q", "k", "v", "log decay"),
            (n, self._keys, self._values),
            scalar=scale,
            wait=self._waits(chunk_loaded=number + 1, chunk_done=number - 1),
            signal=self._signals("faded"),
        )
        p.vector(
            "solve_chunk",
            self._slots(number, "inverse", "attention", "keys by keys", "queries by keys", "log decay", "strength"),
            (n,),
            scalar=scale,
            wait=self._waits(products=number + 1),
            signal=self._signals("solved", "products free"),
        )

    def _finish_chunk(self, number: Affine, index: Affine | int) -> None:
        p, n = self._p, self._size(index)
        p.vector(
            self.fading,
            self._slots(number, "state", "log decay"),
            (n, self._keys, self._values),
            wait=self._waits(state_read=number + 1),
            signal=self._signals("state faded", "chunk free"),
        )
        p.vector(
            "convert",
            self._slots(number, "out", "result"),
            (n, self._values),
            wait=self._waits(result=number + 1, out_free=number - 1),
            signal=self._signals("out"),
        )

    def store(self) -> None:
        """The result of every chunk, and the state at the end."""
        p = self._p
        with p.loop("store", self._chunks) as i:
            tokens = (p.column("first") + i.index * self._chunk, self._size(i.index))
            there = self._there(token=tokens, dim=(p.column("value"), self._values))
            (out,) = self._slots(i.running, "out")
            wait = self._waits(out=i.running + 1)
            p.store(out, Region(OUT, there), wait=wait, signal=self._signals("out free"))
        (state,) = self._slots(p.begun, "state")
        wait = self._waits(chunk_done=p.running(0))
        p.store(state, self._state(), wait=wait, signal=self._signals("state free"))


def chunk_buffers(problem: Problem, knobs: ChunkKnobs, machine: Machine, chunk: int) -> list[Buffer]:
    """Return the requests but those of decays and of the products of tokens with tokens."""
    keys, values, dtype = problem.key_dim, min(knobs.tile_v, problem.value_dim), problem.dtype
    q, k = (block(name, chunk, keys, dtype, knobs.stages) for name in ("q", "k"))
    kind = knobs.sram_layout
    return [
        operand(q, machine, kind, side="a", axis_of_k=1),
        operand(k, machine, kind, side="b", axis_of_k=1),
        block("v", chunk, values, dtype, knobs.stages),
        block("strength", 1, chunk, "fp32", knobs.stages),
        operand(block("minus keys", chunk, keys, "fp32", 2), machine, kind, side="a", axis_of_k=1),
        operand(block("queries", chunk, keys, "fp32", 2), machine, kind, side="a", axis_of_k=1),
        operand(block("keys at end", keys, chunk, "fp32", 2), machine, kind, side="a", axis_of_k=1),
        operand(block("inverse", chunk, chunk, "fp32", 2), machine, kind, side="a", axis_of_k=1),
        operand(block("attention", chunk, chunk, "fp32", 2), machine, kind, side="a", axis_of_k=1),
        block("values", chunk, values, "fp32", 2),
        block("updates", chunk, values, "fp32"),
        block("result", chunk, values, "fp32"),
        block("out", chunk, values, dtype, 2),
        block("state", keys, values, "fp32", 2),
    ]
