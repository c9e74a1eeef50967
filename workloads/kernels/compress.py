"""Compressed entries from projected tokens (DeepSeek V4): sums over windows, weighed by a softmax of gates per channel.

A row is an entry. It loads the values and gates of the `ratio` tokens of its window and, where windows overlap, of the
window before: an entry takes the last `dim` channels of its own tokens and the first `dim` of those before. Channels
do not depend on each other, so that rows are cut into tiles of columns. Tokens of a sequence lie in order, with
`overlap` behind those of the window before its first; where there is none, their gates are -inf.

In a decode step the tokens that wait for a full window are kept in fp32, in a prefill they come in 16 bits from the
projection before. Not modelled: writing a token to those that wait, the norm, which follows as a kernel of its own, and
rotation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hwmodel.assembler import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.kernels.attention_problem import require_flags
from workloads.kernels.base import check_knobs, knob, require_16_bit, require_options
from workloads.kernels.rowwise import RowKnobs, RowPhase, Step, Strip, Tile, bands
from workloads.model import Model
from workloads.placement import place

KV, GATES, BIAS, OUT = range(4)
OPTIONS = ("rows", "ratio")
OPTIONAL = {"dim": 512, "overlap": 0, "waiting": 0}  # DeepSeek V4

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Problem:
    """`windows`: the entries of every sequence, each of `ratio` tokens, and `dim` channels.

    `waiting`: values and gates are fp32, not `dtype`. Raises ValueError for a sequence without entries.
    """

    windows: tuple[int, ...]
    ratio: int
    dim: int
    overlap: bool
    waiting: bool
    dtype: str

    def __post_init__(self) -> None:
        if not self.windows or min(self.windows) < 1:
            raise ValueError(f"windows: {self.windows}; allowed: 1 or more for every sequence")

    @property
    def width(self) -> int:
        """The channels of a token."""
        return self.dim * (1 + self.overlap)


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose."""

    tile_columns: int = knob(64, "channels in a tile, at most", least=1)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of `rows` entries of one sequence; a model gives the dtype only.

    Options: ratio tokens to an entry, dim channels (512), overlap and waiting: 1 for windows that overlap, for fp32.
    """
    sizes = require_options("compress", options, OPTIONS, OPTIONAL)
    require_flags(overlap=sizes["overlap"], waiting=sizes["waiting"])
    dtype = require_16_bit("compress", model.dtype if model else "bf16")
    flags = bool(sizes["overlap"]), bool(sizes["waiting"])
    return Problem((sizes["rows"],), sizes["ratio"], sizes["dim"], *flags, dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: tiles wider than a row."""
    return (knobs.tile_rows, min(knobs.tile_columns, problem.dim), knobs.stages)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem), machine)
    height, width, ratio = knobs.tile_rows, min(knobs.tile_columns, problem.dim), problem.ratio
    lines, own = height * ratio, problem.width - problem.dim
    sides = [("", "window", own), *([(" before", "before", 0)] if problem.overlap else [])]

    def tokens(name: str, tensor: int, column: str, skipped: int) -> Strip:
        def region(t: Tile) -> Region:
            begin, count = t.across
            return Region(tensor, {"token": t.span(column, ratio), "channel": (begin + skipped, count)})

        return Strip(name, lines, width, region)

    def bias(name: str, skipped: int) -> Strip:
        return Strip(name, ratio, width, lambda t: Region(BIAS, {"channel": (t.across[0] + skipped, t.width)}))

    kernel = RowPhase(
        "compress",
        height,
        width,
        problem.dim,
        knobs.stages,
        tuple(
            tokens(f"{name}{side}", tensor, column, skipped)
            for side, column, skipped in sides
            for name, tensor in (("kv", KV), ("gates", GATES))
        ),
        (Strip("out", height, width, lambda t: Region(OUT, {"row": t.span(), "column": t.across})),),
        (
            Step(
                "pool_windows",
                ("out", *(f"{name}{side}" for side, _, _ in sides for name in ("kv", "gates", "bias"))),
                lambda t: (t.height, t.width, ratio, len(sides)),
            ),
        ),
        tuple(bias(f"bias{side}", skipped) for side, _, skipped in sides),
    )
    phase = kernel.assemble(tensors, _items(problem, width, machine.spec.cores.count), machine)
    machine.require_fit(phase, {"tile_rows": height, "tile_columns": width, "stages": knobs.stages})
    return Program("compress", tensors, (phase,))


def _items(problem: Problem, width: int, cores: int) -> dict[str, Array]:
    """Return bands of the entries of every sequence, with the windows of their tokens and the windows before."""
    found, entries, windows = [], 0, 0
    for count in problem.windows:
        part = bands(count, problem.dim, width, max(1, cores // len(problem.windows)))
        before = part["row"] + windows
        found.append(part | {"row": part["row"] + entries, "before": before, "window": before + problem.overlap})
        entries, windows = entries + count, windows + count + problem.overlap
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _tensors(problem: Problem) -> list[Tensor]:
    entries = sum(problem.windows)
    tokens = problem.ratio * (entries + problem.overlap * len(problem.windows))
    projected = named("token channel", {"token": tokens, "channel": problem.width})
    bias = named("place channel", {"place": problem.ratio, "channel": problem.width})
    dtype = "fp32" if problem.waiting else problem.dtype
    resident: Literal["hbm", "cache"] = "hbm" if problem.waiting else "cache"
    return [
        Tensor("kv", projected, dtype, NONE, resident),
        Tensor("gates", projected, dtype, NONE, resident),
        Tensor("bias", bias, "fp32", NONE),
        Tensor("out", named("row column", {"row": entries, "column": problem.dim}), problem.dtype, NONE, "cache"),
    ]
