"""How many bytes a program moves between cores and memory, counted by a sample of its work items.

What a simulation takes grows with these bytes, as every burst of them is simulated: `windows` and whoever announces a
long run ask. Rereads count each time, and so does what a cache answers, but for `touched_bytes`.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from hwmodel.expansion import executions, regions, tile_bytes
from hwmodel.footprint import Footprint
from hwmodel.program import QUEUES, Op, Phase, Program, Schedule

Array: TypeAlias = np.ndarray[Any, Any]
QUEUES_OF_MEMORY = ("load", "store")
SAMPLE = 256  # assumed: items of which bytes are counted, so that ragged ones give the sum within some percent


def program_bytes(program: Program) -> float:
    """Return the bytes that all phases load and store, about: exact where items are of one size."""
    return sum(float(phase_bytes(program, phase).sum()) for phase in program.phases)


def phase_bytes(program: Program, phase: Phase) -> Array:
    """Return the bytes that a phase loads and stores, float[2, tensors], counting rereads.

    They are counted by a sample of items: first tiles may differ from others.
    """
    tiles = tiles_of(phase)
    if len(tiles) == 0:
        return np.zeros((len(QUEUES_OF_MEMORY), len(program.tensors)))
    sample = np.sort(np.random.default_rng(0).choice(len(tiles), min(SAMPLE, len(tiles)), replace=False))
    several = max(1, int((tiles[sample] > 1).sum()))
    one, two = (_moved_by(program, phase, sample, kept) for kept in (1, 2))
    tile = (two - one) / several
    return np.maximum(0.0, one / len(sample) - tile) * len(tiles) + tile * float(tiles.sum())


def queue_bytes(program: Program, phase: Phase, queue: int) -> Array:
    """Return the bytes that a queue moves of every tensor, int[tensors]: all of them counted."""
    moved = np.zeros(len(program.tensors), np.int64)
    for instruction, _, variables in executions(phase, queue):
        if instruction.op in (Op.LOAD, Op.STORE):
            tensor = phase.tiles[instruction.tile]["tensor"]
            moved[tensor] += tile_bytes(program, phase, instruction, variables).sum()
    return moved


def tiles_of(phase: Phase) -> Array:
    """Return the tiles of every item; one where a phase has no such column."""
    if "tiles" not in phase.columns:
        return np.ones(len(phase.tasks), np.int64)
    return np.maximum(phase.tasks[:, phase.columns.index("tiles")], 0)


def shortened(phase: Phase, tasks: Array, tiles: int) -> Array:
    """Return tasks with at most so many tiles: of attention those in full view are left out first, then masked ones."""
    if "tiles" not in phase.columns:
        return tasks
    tasks = tasks.copy()
    column = phase.columns.index("tiles")
    left_out = np.maximum(tasks[:, column] - tiles, 0)
    if "full" in phase.columns:
        full, edge = phase.columns.index("full"), phase.columns.index("edge")
        of_full = np.minimum(left_out, tasks[:, full])
        diagonal = tasks[:, column] - tasks[:, edge] - tasks[:, full]
        tasks[:, full] -= of_full
        tasks[:, edge] -= np.maximum(left_out - of_full - diagonal, 0)
    tasks[:, column] -= left_out
    return tasks


def touched_bytes(program: Program, phase: Phase, items: Array, tiles: int, without: Set[int]) -> int:
    """Return how many bytes the first tiles of some items load, at least, without what they load again.

    `without`: tensors that do not count.
    """
    part, queue = _part(phase, items, tiles), QUEUES.index("load")
    footprint = Footprint(program, part)
    for instruction, variables in regions(part, queue):
        if instruction.op is Op.LOAD:
            footprint.add(instruction.tile, variables)
    return sum(size for _, size in footprint.distinct_bytes(without))


def _moved_by(program: Program, phase: Phase, items: Array, tiles: int) -> Array:
    """Return the bytes that some items load and store, int[2, tensors], if they have at most so many tiles."""
    part = _part(phase, items, tiles)
    return np.array([queue_bytes(program, part, QUEUES.index(name)) for name in QUEUES_OF_MEMORY])


def _part(phase: Phase, items: Array, tiles: int) -> Phase:
    """Return a phase of some items, with at most so many tiles."""
    tasks = shortened(phase, phase.tasks[items], tiles)
    return replace(phase, tasks=tasks, schedule=Schedule(np.arange(len(tasks), dtype=np.int64), np.zeros(0, np.int64)))
