"""From a phase of a program to the tables that the compiled engine reads."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from hwmodel.dma import Leaves
from hwmodel.engine import state as k
from hwmodel.limits import MAX_AXES, MAX_SIGNALS, MAX_WAITS
from hwmodel.operands import Operands
from hwmodel.program import NONE, Op, Phase, Program, task_lists, variable_count
from hwmodel.runs import Array
from hwmodel.vector import costed


@dataclass(frozen=True)
class Tensors:
    """The layouts of a program's tensors, all with as many axes and digits, and the contents of its index tensors."""

    bases: Array  # int64[tensor]
    extents: Array  # int64[tensor, axis, digit]
    strides: Array
    orders: Array  # int64[tensor, axis]
    indices: Array  # int32, of all tensors one after another
    first_index: tuple[int, ...]  # where those of a tensor begin

    @staticmethod
    def of(program: Program) -> Tensors:
        leaves = [Leaves.of(tensor) for tensor in program.tensors]
        digits = max(one.extents.shape[1] for one in leaves)
        shape = len(leaves), MAX_AXES, digits
        extents, strides = np.ones(shape, np.int64), np.zeros(shape, np.int64)
        orders = np.zeros(shape[:2], np.int64)
        for number, one in enumerate(leaves):
            axes, own = one.extents.shape
            extents[number, :axes, :own], strides[number, :axes, :own] = one.extents, one.strides
            orders[number] = [*one.order.tolist(), *range(axes, MAX_AXES)]
        values = [np.zeros(0, np.int32) if t.values is None else t.values.reshape(-1) for t in program.tensors]
        first = np.cumsum([0, *map(len, values)]).tolist()
        bases = np.array([tensor.base_bytes for tensor in program.tensors], np.int64)
        return Tensors(bases, extents, strides, orders, np.concatenate(values).astype(np.int32), tuple(first))


def instruction_table(phase: Phase, operands: Operands) -> tuple[Array, list[int]]:
    """Return the instructions of all queues, and where each queue's begin; the last entry is how many there are."""
    first = np.cumsum([0, *map(len, phase.queues)]).tolist()
    rows = np.full((first[-1], k.INSTRUCTION_FIELDS), NONE, np.int64)
    for stream, decoded, at in zip(phase.queues, phase.decoded, first, strict=False):
        for row, instruction, known in zip(rows[at:], stream, decoded, strict=False):
            op = int(instruction["op"])
            row[k.OP] = op
            row[k.WAIT_COUNTER : k.WAIT_COUNTER + MAX_WAITS] = instruction["wait_counter"]
            row[k.WAIT_VALUE : k.WAIT_VALUE + MAX_WAITS] = instruction["wait_value"]
            row[k.SIGNAL : k.SIGNAL + MAX_SIGNALS] = instruction["signal"]
            sizes = [number for number in instruction["size"] if number != NONE][: len(costed(known))]
            row[k.SIZE : k.SIZE + len(sizes)] = sizes
            row[k.TILE if op in (Op.LOAD, Op.STORE) else k.LOOP] = instruction["tile"]
            row[k.PARTNER] = instruction["function"]
            if op == Op.MATMUL and operands.adds(known) is not None:
                row[k.ADDS] = instruction["accumulate"]
    return rows, first


def tile_table(program: Program, phase: Phase, tensors: Tensors) -> Array:
    """Return the tiles of a phase."""
    rows = np.full((len(phase.tiles), k.TILE_FIELDS), NONE, np.int64)
    for row, tile in zip(rows, phase.tiles, strict=True):
        tensor = program.tensors[tile["tensor"]]
        row[k.TENSOR], row[k.ELEMENT_BYTES] = tile["tensor"], tensor.element_bytes
        row[k.START : k.START + MAX_AXES] = tile["start"]
        row[k.EXTENT : k.EXTENT + MAX_AXES] = tile["extent"]
        row[k.PERIOD : k.PERIOD + MAX_AXES] = 0
        for axis, name in enumerate(tensor.layout.axes):
            period = prod(extent for extent, _ in tensor.layout.leaves(name)[:-1])
            row[k.PERIOD + axis] = period if period > 1 else 0
        row[k.PAGE_AXIS], row[k.POSITION_AXIS] = tile["page_axis"], tile["position_axis"]
        row[k.INDEX_START], row[k.PAGE_SIZE], row[k.TABLE_AT] = tile["index_start"], 1, 0
        if tile["index"] != NONE:
            row[k.TABLE_AT] = tensors.first_index[tile["index"]]
            if tile["position_axis"] != tile["page_axis"]:
                row[k.PAGE_SIZE] = tensor.layout.size(tensor.layout.axes[tile["position_axis"]])
    return rows


def schedule_tables(phase: Phase, cores: int) -> dict[str, Array]:
    """Return the tables of which core runs which tasks.

    Raises ValueError if a static schedule deals them to another number of cores.
    """
    if not phase.schedule.dynamic:
        task_lists(phase.schedule, cores)
    return {
        "tasks": phase.tasks,
        "task_order": phase.schedule.order,
        "task_start": phase.schedule.start,
        "next_task": np.full(len(phase.schedule.order) if phase.schedule.dynamic else 0, NONE, np.int64),
        "core_tasks": np.full((cores, 2), NONE, np.int64),
    }


def queue_tables(phase: Phase, cores: int, first: list[int], now_fs: int) -> dict[str, Array]:
    """Return the queues of all cores before their first task."""
    queues = np.zeros((cores, k.QUEUES_PER_CORE, k.QUEUE_FIELDS), np.int64)
    queues[:, :, k.FIRST] = first[:-1]
    queues[:, :, k.LENGTH] = queues[:, :, k.POSITION] = np.diff(first)
    queues[:, :, k.TASK_AT] = NONE if phase.schedule.dynamic else 0
    queues[:, :, k.WAITS_FOR] = NONE
    queues[:, :, k.MARK_FS] = now_fs
    variables = np.zeros((cores * k.QUEUES_PER_CORE, variable_count(len(phase.columns))), np.int64)
    variables[:, 0] = 1
    causes = [k.CAUSES.index(counter.cause) for counter in phase.counters]
    return {
        "queues": queues,
        "variables": variables,
        "counters": np.zeros((cores, len(phase.counters)), np.int64),
        "counter_causes": np.array(causes, np.int64),
        "scratchpads": np.zeros((cores, k.SCRATCHPAD_FIELDS), np.int64),
    }
