"""KV append: keys and values of new tokens are written into the paged cache, rotated and quantised on the way or not.

A work item is a piece of a sequence: the heads of its new tokens lie in one tensor (token, head, dim) of queries, keys
and values, as the product with the stacked weights leaves them, and go to the slots that the page table gives. With
`rope` the keys are turned first, and the queries too, which then are a tensor of their own; with an fp8 cache what is
stored is divided by the scale of all keys, or of all values, of the layer. What is both turned and quantised is rounded
once. The scales are the tensor of `decode_attention` and `prefill_attention`, so that what is stored here is what these
read: one number each per layer is what vLLM (`reshape_and_cache_flash`) and SGLang (`set_kv_buffer`) keep.

The cache has the axes and the layout knob of `decode_attention`. Not modelled: scales that are computed from the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from layouts.notation import NamedLayout, named
from workloads import paging
from workloads.batch import Batch
from workloads.kernels.attention_parts import first_pages, scales_tensor, table_tensor
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
from workloads.kernels.rope import TABLES, angle_tensors, angles
from workloads.kernels.rowwise import Items, RowKnobs, RowPhase, Step, Strip, Tile
from workloads.model import Model
from workloads.numbering import within_owners
from workloads.page_orders import DRAWN_ORDERS
from workloads.placement import place

ROPES = ("none", "neox", "interleaved")
CACHES = ("model", "fp8_e4m3")
E4M3_LARGEST = 448.0  # OCP 8-bit floating point specification, table 1
PARTS = ("k", "v")
NEW, KV, TABLE = range(3)


@dataclass(frozen=True)
class Problem:
    """One layer: `contexts` are the KV tokens of every sequence with the `new` ones, which are the last.

    `new`: one number for all sequences, or one for each. Raises ValueError for a sequence shorter than what is new.
    """

    heads_q: int
    heads_kv: int
    head_dim: int
    dtype: str
    contexts: tuple[int, ...]
    new: int | tuple[int, ...] = 1

    def __post_init__(self) -> None:
        for context, new in zip(self.contexts, self.lengths, strict=True):
            if context < new:
                raise ValueError(f"batch: a context of {context} tokens is shorter than the {new} new ones")

    @property
    def lengths(self) -> tuple[int, ...]:
        """The new tokens of every sequence."""
        return (self.new,) * len(self.contexts) if isinstance(self.new, int) else self.new

    @property
    def tokens(self) -> int:
        """All new tokens."""
        return sum(self.lengths)

    @property
    def positions(self) -> tuple[int, ...]:
        """The position of every new token in its sequence."""
        ends = zip(self.contexts, self.lengths, strict=True)
        return tuple(position for context, new in ends for position in range(context - new, context))


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose; `rope` and `cache_dtype` are the model's and the engine's."""

    layout: str = knob(
        "page kv token head dim",
        "where the KV cache of a layer lies, outermost first; kv: K or V, token: in its page",
        axes="page, kv, head, token, dim",
    )
    page_size: int = knob(16, "tokens in a page", least=1)
    page_order: str = knob("shuffled", "how an allocator has dealt the pages", choices=DRAWN_ORDERS)
    layout_new: str = knob("token head dim", "where the new heads lie, outermost first", axes="token, head, dim")
    rope: str = knob("none", "pairs that are turned in keys and queries on the way", choices=ROPES)
    table_dtype: str = knob("fp32", "type of cosines and sines: fp32, or the model's", choices=TABLES)
    cache_dtype: str = knob("model", "type of the cache: the model's, or quantised", choices=CACHES)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of `model` over `batch`, both required, with `new` tokens per sequence, by default one."""
    sizes = require_options("kv-append", options, (), {"new": 1})
    if model is None:
        raise ValueError("model: kernel kv-append needs one")
    if batch is None:
        raise ValueError("batch: kernel kv-append needs one, with a context or a trace")
    dtype = require_16_bit("kv-append", model.dtype)
    attention = model.softmax_attention("model: kernel kv-append")
    return Problem(attention.heads_q, attention.heads_kv, attention.head_dim_qk, dtype, batch.contexts, sizes["new"])


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function."""
    check_knobs(knobs)
    pages = paging.pool_pages(knobs.page_order, problem.contexts, knobs.page_size)
    layouts = _cache_layout(problem, knobs, pages), _new_layout(problem, knobs)
    table = "" if knobs.rope == "none" else _table_dtype(problem, knobs)
    paged = (knobs.page_size, knobs.page_order)
    return (
        *(repr(layout.key) for layout in layouts),
        *paged,
        knobs.rope,
        table,
        knobs.cache_dtype,
        *_tiles(problem, knobs),
    )


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the page order.
    """
    check_knobs(knobs)
    if knobs.rope != "none" and problem.head_dim % 2:
        raise ValueError(f"model: head_dim is {problem.head_dim}; kernel kv-append needs an even one for rope")
    tensors = place(_tensors(problem, knobs, seed), machine)
    items = _items(problem, knobs, machine.spec.cores.count)
    phase = _Append(problem, knobs, tensors).kernel().assemble(tensors, items, machine)
    machine.require_fit(phase, {"tile_rows": knobs.tile_rows, "stages": knobs.stages})
    return Program("kv-append", tensors, (phase,))


def _items(problem: Problem, knobs: Knobs, cores: int) -> Items:
    """Return the columns of the items: pieces of sequences, whole tiles of them, small enough for all cores."""
    height, _ = _tiles(problem, knobs)
    piece = max(1, problem.tokens // (cores * height)) * height
    new = np.array(problem.lengths, np.int64)
    sequence, number = within_owners(-(-new // piece))
    skipped = number * piece
    return {
        "row": (np.cumsum(new) - new)[sequence] + skipped,
        "rows": np.minimum(new[sequence] - skipped, piece),
        "column": np.zeros_like(sequence),
        "position": (np.array(problem.contexts) - new)[sequence] + skipped,
        "first_page": first_pages(problem.contexts, knobs.page_size)[sequence],
    }


def _tiles(problem: Problem, knobs: Knobs) -> tuple[int, int]:
    return min(knobs.tile_rows, max(problem.lengths)), knobs.stages


def _table_dtype(problem: Problem, knobs: Knobs) -> str:
    return problem.dtype if knobs.table_dtype == "model" else "fp32"


def _cache_layout(problem: Problem, knobs: Knobs, pages: int) -> NamedLayout:
    sizes = {"page": pages, "kv": 2, "head": problem.heads_kv, "token": knobs.page_size, "dim": problem.head_dim}
    return knob_layout(knobs, "layout", sizes)


def _new_layout(problem: Problem, knobs: Knobs) -> NamedLayout:
    # heads first, so that a block holds the tokens of one head together, as the regions of the cache do
    heads = problem.heads_q + 2 * problem.heads_kv
    return knob_layout(knobs, "layout_new", {"head": heads, "token": problem.tokens, "dim": problem.head_dim})


def _tensors(problem: Problem, knobs: Knobs, seed: int) -> list[Tensor]:
    quantised = knobs.cache_dtype != "model"
    pages = paging.pool_pages(knobs.page_order, problem.contexts, knobs.page_size)
    cache = _cache_layout(problem, knobs, pages)
    tensors = [
        Tensor("new", _new_layout(problem, knobs), problem.dtype, NONE, "cache"),
        Tensor("kv", cache, knobs.cache_dtype if quantised else problem.dtype, NONE),
        table_tensor(knobs, problem.contexts, seed),
    ]
    if knobs.rope != "none":
        tensors += angle_tensors(problem.positions, problem.head_dim, _table_dtype(problem, knobs))
        queries = {"head": problem.heads_q, "token": problem.tokens, "dim": problem.head_dim}
        tensors.append(Tensor("q", named("token head dim", queries), problem.dtype, NONE, "cache"))
    if quantised:
        tensors.append(scales_tensor())
    return tensors


class _Append:
    """The strips and operations of the kernel; tensors go by their names."""

    def __init__(self, problem: Problem, knobs: Knobs, tensors: tuple[Tensor, ...]) -> None:
        self._problem, self._knobs = problem, knobs
        self._number = {tensor.name: i for i, tensor in enumerate(tensors)}
        self._height, self._stages = _tiles(problem, knobs)
        self._turns, self._quantises = knobs.rope != "none", knobs.cache_dtype != "model"

    def kernel(self) -> RowPhase:
        inputs, outputs, steps, kept = self._strips()
        dim, scales = self._problem.head_dim, tuple(map(self._scale, range(2))) if self._quantises else ()
        return RowPhase("append", self._height, dim, dim, self._stages, inputs, outputs, steps, scales, kept)

    def _strips(self) -> tuple[Any, ...]:
        heads_q, heads = self._problem.heads_q, self._problem.heads_kv
        inputs = [self._new("k", heads_q, heads), self._new("v", heads_q + heads, heads)]
        outputs, steps, kept = [], [], []
        if self._turns:
            dim = self._problem.head_dim
            queries = self._new("q", 0, heads_q)
            inputs += [queries, angles(self._height, dim, self._number["angles"], self._number["positions"])]
            to = "k turned" if self._quantises else "k out"
            steps += [self._turn(to, "k", heads), self._turn("q out", "q", heads_q)]
            if self._quantises:
                kept.append(Strip(to, heads * self._height, dim, dtype="fp32"))
            outputs.append(self._strip("q out", heads_q, lambda t: Region(self._number["q"], {"token": t.span()})))
        for part, name in enumerate(PARTS):
            source = "k turned" if self._turns and self._quantises and name == "k" else name
            if self._quantises:
                steps.append(self._quantise(f"{name} out", source, f"{name} scale"))
            own = self._quantises or (self._turns and name == "k")
            outputs.append(self._cached(part, "" if own else name))
        return tuple(inputs), tuple(outputs), tuple(steps), tuple(kept)

    def _strip(self, name: str, heads: int, region: Any, block: str = "") -> Strip:
        return Strip(name, heads * self._height, self._problem.head_dim, region, block)

    def _new(self, name: str, first: int, heads: int) -> Strip:
        number = self._number["new"]
        return self._strip(name, heads, lambda t: Region(number, {"head": (first, heads), "token": t.span()}))

    def _cached(self, part: int, block: str) -> Strip:
        kv, table = self._number["kv"], self._number["page table"]

        def region(tile: Tile) -> Region:
            axes = {"kv": (part, 1), "token": tile.span("position")}
            return Region(kv, axes, table, tile.at("first_page")[0], "page", "token")

        return self._strip(f"{PARTS[part]} out", self._problem.heads_kv, region, block)

    def _scale(self, part: int) -> Strip:
        number = self._number["scales"]
        return Strip(f"{PARTS[part]} scale", 1, 1, lambda t: Region(number, {"operand": (1 + part, 1)}))

    def _turn(self, to: str, source: str, heads: int) -> Step:
        dim = self._problem.head_dim
        return Step(f"rope_{self._knobs.rope}", (to, source, "angles"), lambda t: (heads, t.height, dim))

    def _quantise(self, to: str, source: str, scale: str) -> Step:
        heads, dim = self._problem.heads_kv, self._problem.head_dim
        return Step("quantise", (to, source, scale), lambda t: (heads, t.height, dim), E4M3_LARGEST)
