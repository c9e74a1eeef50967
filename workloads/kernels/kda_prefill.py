"""KDA prefill: the delta rule with a decay per key channel (Kimi Delta Attention) over whole sequences, chunk by chunk.

Work items, chunks and what meets the state are those of `linear_prefill`. What differs are the products of a chunk's
tokens with each other, in which every channel fades by itself: they are made block by block of `block` tokens
(`hwmodel.vector.kda`), of a block with the tokens before it in the matrix unit, within a block in the vector unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hwmodel.assembler import Affine, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Buffer, Cause, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import operand
from workloads.kernels.base import check_knobs, knob, require_options
from workloads.kernels.linear_decode import problem_of
from workloads.kernels.linear_prefill import (
    ChunkKnobs,
    Chunks,
    Problem,
    chunk_buffers,
    chunk_key,
    tasks_of,
    tensors_of,
)
from workloads.kernels.model_sizes import linear
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import schedule

OPTIONS = ("heads",)
OPTIONAL = {"key_dim": 128, "value_dim": 128}


@dataclass(frozen=True)
class Knobs(ChunkKnobs):
    """What the search may choose."""

    block: int = knob(16, "tokens of a chunk whose products with each other the vector unit makes", least=1)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one layer over the contexts of `batch`, which is required; a model gives heads and dtype.

    Sizes: heads; key_dim and value_dim of a head (128). Raises ValueError for a model with a decay per head.
    """
    given = linear(model) if model else {}
    if model and given.get("per_channel") == 0:
        raise ValueError(f"model: kernel kda-prefill knows a decay per channel only; {model.name} has one per head")
    sizes = require_options("kda-prefill", options, OPTIONS, OPTIONAL, given)
    if batch is None:
        raise ValueError("batch: kernel kda-prefill needs one, with a context or a trace")
    known = problem_of("kda-prefill", {"sequences": 1, "per_channel": 1, "key_heads": 0} | sizes, model)
    return Problem(batch.contexts, known.heads, known.key_heads, known.key_dim, known.value_dim, known.dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, tiles by what they hold."""
    return (*chunk_key(problem, knobs), _sizes(problem, knobs)[1])


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    tasks = tasks_of(problem, knobs)
    tasks["blocks"] = -(-tasks["tokens"] // _sizes(problem, knobs)[1])
    order = schedule(knobs.schedule, tasks["tokens"] * tasks["values"], machine.spec.cores.count)
    phase = _ChannelChunks(problem, knobs, machine, tensors, tasks).finish(order)
    fit = {"chunk": knobs.chunk, "block": knobs.block, "tile_v": knobs.tile_v, "stages": knobs.stages}
    machine.require_fit(phase, fit)
    return Program("kda-prefill", tensors, (phase,))


def _sizes(problem: Problem, knobs: Knobs) -> tuple[int, int]:
    """Return the tokens of a chunk and of a block. Raises ValueError where a chunk is not of whole blocks."""
    chunk = min(knobs.chunk, max(problem.tokens))
    if knobs.block >= chunk:
        return chunk, chunk
    if knobs.chunk % knobs.block:
        raise ValueError(f"block: {knobs.block}; allowed: a divisor of chunk ({knobs.chunk})")
    return chunk, knobs.block


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    sizes = {"head": problem.heads, "token": sum(problem.tokens), "channel": problem.key_dim}
    decay = Tensor("log decay", named("head token channel", sizes), "fp32", NONE)
    return [decay if tensor.name == decay.name else tensor for tensor in tensors_of(problem, knobs)]


class _ChannelChunks(Chunks):
    """Writes the phase; a chunk's blocks are counted over all chunks, but for the first of each, which meets none."""

    causes: ClassVar[dict[Cause, tuple[str, ...]]] = {
        "memory": ("state loaded", "chunk loaded"),
        "buffer": ("state free", "chunk free", "out free"),
        "dependency": (
            *("faded", "block faded", "block products", "solved"),
            *("state read", "state faded", "result", "chunk done", "out"),
        ),
    }
    loop = 1  # behind the one over the blocks of the first chunk
    fading = "fade_state_channels"

    def _requests(self, problem: Problem, knobs: ChunkKnobs, machine: Machine) -> list[Buffer]:
        assert isinstance(knobs, Knobs)
        (chunk, tokens), keys, kind = _sizes(problem, knobs), problem.key_dim, knobs.sram_layout
        self._block, self._most = tokens, -(-chunk // tokens)
        sides: tuple[tuple[str, int, Literal["a", "b"]], ...] = (
            ("then keys", tokens, "a"),
            ("then queries", tokens, "a"),
            ("back", chunk, "b"),
        )
        return [
            *chunk_buffers(problem, knobs, machine, chunk),
            block("log decay", chunk, keys, "fp32", knobs.stages),
            block("keys by keys", chunk, chunk, "fp32"),
            block("queries by keys", chunk, chunk, "fp32"),
            *(
                operand(block(name, rows, keys, "fp32", 2), machine, kind, side=side, axis_of_k=1)
                for name, rows, side in sides
            ),
            block("keys before", tokens, chunk, "fp32", 2),
            block("queries before", tokens, chunk, "fp32", 2),
        ]

    def _blocks(self, index: Affine | int, factor: int = 1) -> Affine:
        """Return `factor` times the blocks of a chunk but one."""
        most = self._most
        return ((self._p.column("blocks") - 1 - index * most) * factor).clip((most - 1) * factor)

    @property
    def _count(self) -> Affine:
        """The blocks, of chunks before and of this one, that a queue has begun on."""
        return self._p.running(0) + self._p.running(2)

    def _multiply_tokens(self, number: Affine, index: Affine | int) -> None:
        tokens, width = self._p.column("tokens"), self._block
        with self._p.loop("matrix", self._blocks(index)) as i:
            first = (i.index + 1) * width
            rows = (tokens - index * self._chunk - first).clip(width)
            wait = self._waits(block_faded=self._count + 1)
            shape = (rows, first, self._keys)
            self._matmul(self._count, ("keys before", "then keys", "back"), shape, transpose_b=True, wait=wait)
            names = ("queries before", "then queries", "back")
            self._matmul(self._count, names, shape, "block products", transpose_b=True)

    def _prepare(self, number: Affine, index: Affine | int) -> None:
        p, n, keys, width = self._p, self._size(index), self._keys, self._block
        scale = keys**-0.5
        tokens = self._slots(number, "q", "k", "log decay")
        loaded = self._waits(chunk_loaded=number + 1, chunk_done=number - 1)
        p.vector("sum_decays", tokens[2:], (n, keys), wait=loaded)
        made = ("minus keys", "queries", "keys at end", "values")
        p.vector(
            "fade_channels",
            self._slots(number, *made, "q", "k", "v", "log decay"),
            (n, keys, self._values),
            scalar=scale,
            signal=self._signals("faded"),
        )
        with p.loop("vector", self._blocks(index)) as i:
            p.vector(
                "fade_block",
                [*self._slots(self._count, "then keys", "then queries", "back"), *tokens],
                (n, (i.index + 1) * width, width, keys),
                wait=self._waits(block_products=self._count - 1),
                signal=self._signals("block faded"),
            )
            self._pair(number, n, i.index * width)
        self._pair(number, n, self._blocks(index, width))
        p.vector(
            "solve_faded_chunk",
            self._slots(number, "inverse", "attention", "keys by keys", "queries by keys", "strength"),
            (n,),
            scalar=scale,
            signal=self._signals("solved"),
        )

    def _pair(self, number: Affine, n: Affine, first: Affine) -> None:
        """Write the rows of the block from `first` on; its products with the blocks before are those made last."""
        before = self._slots(self._count - 1, "keys before", "queries before")
        products = self._slots(number, "keys by keys", "queries by keys")
        operands = [*products, *before, *self._slots(number, "q", "k", "log decay")]
        wait = self._waits(block_products=self._count)
        self._p.vector("pair_block", operands, (n, first, self._block, self._keys), wait=wait)
