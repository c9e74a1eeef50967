"""Top-k over logits: the k largest of every row with their indices, what sampling draws from.

A work item is a tile of rows, or one of the parts of at most `split` columns of it. It streams tiles of columns through
`stages` buffers and keeps the k largest so far. With parts, the items store what they found and a second phase merges
it. Equal logits go by the lower index. Not modelled: temperature, top-p and the draw itself, which touch k numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Phase, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import allocate
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
from workloads.kernels.rowwise import RowKnobs, RowPhase, Step, Strip, Tile, bands
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import schedule

LOGITS, VALUES, INDICES, PART_VALUES, PART_INDICES = range(5)


@dataclass(frozen=True)
class Problem:
    """`rows` of logits over a `vocabulary`, of which the `k` largest are kept. ValueError for a k beyond it."""

    rows: int
    vocabulary: int
    k: int
    dtype: str

    def __post_init__(self) -> None:
        if self.k > self.vocabulary:
            raise ValueError(f"options: size k is {self.k}; allowed: at most the vocabulary ({self.vocabulary})")


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose."""

    tile_columns: int = knob(4096, "columns in a load, at most", least=1)
    split: int = knob(0, "most columns of a row that one core takes; 0: all", least=0)
    layout: str = knob("row column", "where the logits lie, outermost first", axes="row, column")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of `rows` and `k`, and of `vocabulary` or the model's."""
    sizes = require_options("top-k", options, ("rows", "k"), {"vocabulary": 0})
    if not sizes["vocabulary"]:
        if model is None:
            raise ValueError("options: size vocabulary is missing; kernel top-k needs it, or a model")
        sizes["vocabulary"] = model.vocabulary
    dtype = require_16_bit("top-k", model.dtype if model else "bf16")
    return Problem(sizes["rows"], sizes["vocabulary"], sizes["k"], dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, splits that split nothing."""
    layout = repr(_tensors(problem, knobs)[LOGITS].layout.key)
    return (layout, knobs.tile_rows, _width(problem, knobs), _part(problem, knobs), knobs.stages)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    sizes = {"tile_rows": knobs.tile_rows, "tile_columns": _width(problem, knobs), "stages": knobs.stages}
    phases = [_select(problem, knobs, machine, tensors)]
    machine.require_fit(phases[0], sizes)
    if _parts(problem, knobs) > 1:
        items = bands(problem.rows, 1, 1, machine.spec.cores.count)
        phases.append(_merge(problem, knobs).assemble(tensors, items, machine))
        machine.require_fit(phases[1], sizes | {"split": knobs.split})
    return Program("top-k", tensors, tuple(phases))


def _part(problem: Problem, knobs: Knobs) -> int:
    """Return the columns of a part."""
    return min(knobs.split or problem.vocabulary, problem.vocabulary)


def _parts(problem: Problem, knobs: Knobs) -> int:
    return -(-problem.vocabulary // _part(problem, knobs))


def _width(problem: Problem, knobs: Knobs) -> int:
    return min(knobs.tile_columns, _part(problem, knobs))


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    logits = knob_layout(knobs, "layout", {"row": problem.rows, "column": problem.vocabulary})
    found = named("row choice", {"row": problem.rows, "choice": problem.k})
    tensors = [
        Tensor("logits", logits, problem.dtype, NONE, "cache"),
        Tensor("values", found, problem.dtype, NONE, "cache"),
        Tensor("indices", found, "int32", NONE, "cache"),
    ]
    if (parts := _parts(problem, knobs)) > 1:
        sizes = {"row": problem.rows, "part": parts, "choice": problem.k}
        partial = named("row part choice", sizes)
        tensors += [
            Tensor("values of parts", partial, problem.dtype, NONE, "cache"),
            Tensor("indices of parts", partial, "int32", NONE, "cache"),
        ]
    return tensors


def _select(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...]) -> Phase:
    """Keep the k largest of every row, or of every part of one."""
    k, height, width = problem.k, knobs.tile_rows, _width(problem, knobs)
    split = _parts(problem, knobs) > 1
    columns = _work_items(problem, knobs, machine.spec.cores.count)
    p = PhaseAssembler("select", tensors, tuple(columns))
    requested = (
        block("logits", height, width, problem.dtype, knobs.stages),
        block("values", height, k, problem.dtype, 2),
        block("indices", height, k, "int32", 2),
    )
    logits, values, indices = p.add_buffers(allocate(requested, machine))
    loaded, free = p.counter("tile loaded", "memory"), p.counter("tile free", "buffer")
    ready, out_free = p.counter("out", "dependency"), p.counter("out free", "buffer")
    rows, begin, end = (p.column(name) for name in ("rows", "begin", "end"))

    def here(index: Any) -> tuple[Any, Any]:
        return begin + index * width, (end - begin - index * width).clip(width)

    with p.loop("load", p.column("tiles")) as i:
        region = Region(LOGITS, {"row": (p.column("row"), rows), "column": here(i.index)})
        p.load(Slot(logits, i.running), region, wait=[(free, i.running - knobs.stages + 1)], signal=[loaded])

    def keep(number: Any, index: Any, signal: list[int]) -> None:
        p.vector(
            "top_k",
            (Slot(values, p.begun), Slot(indices, p.begun), Slot(logits, number)),
            (rows, here(index)[1], k, here(index)[0], index),
            wait=[(loaded, number + 1), (out_free, p.begun - 1)],
            signal=signal,
        )

    last = p.column("tiles") - 1
    number = p.begun + p.running(0)
    with p.loop("vector", last) as i:
        keep(number, i.index, [free])
    keep(number, last, [free, ready])
    there: dict[str, tuple[Any, Any]] = {"row": (p.column("row"), rows)}
    if split:
        there["part"] = (p.column("part"), 1)
    wait = [(ready, p.begun + 1)]
    p.store(Slot(values, p.begun), Region(PART_VALUES if split else VALUES, there), wait=wait)
    p.store(Slot(indices, p.begun), Region(PART_INDICES if split else INDICES, there), wait=wait, signal=[out_free])
    table = np.stack(list(columns.values()), axis=1)
    return p.finish(table, schedule("static", columns["tiles"], machine.spec.cores.count))


def _work_items(problem: Problem, knobs: Knobs, cores: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the columns of the work items, by tile of rows and part: tiles are as low as gives every core one."""
    part, parts = _part(problem, knobs), _parts(problem, knobs)
    count = max(-(-problem.rows // knobs.tile_rows), min(problem.rows, cores // parts))
    edges = np.arange(count + 1) * problem.rows // count
    row, number = np.indices((count, parts)).reshape(2, -1)
    begin = number * part
    end = np.minimum(begin + part, problem.vocabulary)
    return {
        "row": edges[row],
        "rows": edges[row + 1] - edges[row],
        "part": number,
        "begin": begin,
        "end": end,
        "tiles": -(-(end - begin) // _width(problem, knobs)),
    }


def _merge(problem: Problem, knobs: Knobs) -> RowPhase:
    """Merge what the parts of every row found; a part of fewer columns than k has numbers that lose to all others."""
    parts, k, height = _parts(problem, knobs), problem.k, knobs.tile_rows

    def strip(name: str, tensor: int, per_row: int) -> Strip:
        return Strip(name, height * per_row, k, lambda t: Region(tensor, {"row": t.span()}))

    def sizes(tile: Tile) -> tuple[Any, ...]:
        return parts, tile.height, k

    return RowPhase(
        "merge",
        height,
        1,
        1,
        knobs.stages,
        (strip("values of parts", PART_VALUES, parts), strip("indices of parts", PART_INDICES, parts)),
        (strip("values", VALUES, 1), strip("indices", INDICES, 1)),
        (Step("merge_top_k", ("values", "indices", "values of parts", "indices of parts"), sizes),),
    )
