"""A program as JSON values and arrays, and back: what of it is names and small numbers, and what is tables.

Between `hwmodel.program` and a file (`hwmodel.saving`). Layouts of tensors are their shapes and strides, those of
buffers their text; instructions and tiles are tables of int32, a row per record. Contents of index tensors that are
`Deferred` are made and stored: the file stands for itself, whoever made them.
What is read is checked value by value against types; whether the numbers make a program, `hwmodel.program_check` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwmodel.program import (
    DTYPES,
    INSTRUCTION,
    QUEUES,
    TILE,
    Buffer,
    Counter,
    Phase,
    Program,
    Schedule,
    Tensor,
    variable_count,
)
from hwmodel.program_check import MAX_ADDRESS, MAX_BLOCK, MAX_PHASES, MAX_STREAM, MAX_TABLE, MAX_TENSORS
from hwmodel.typed_json import check_keys, entries, integer, text, wrong
from layouts import Layout, NamedLayout, parse
from layouts.shape import INT64_MAX

Array = np.ndarray[Any, Any]
_RECORDS = dict.fromkeys(QUEUES, INSTRUCTION) | {"tiles": TILE}
_TABLES = ("tasks", "order", "start", "expressions")  # int64


def plain_program(program: Program, arrays: dict[str, Array]) -> dict[str, Any]:
    """Return a program as JSON takes it; its tables are put into `arrays`, as one list each."""
    tensors = [_plain_tensor(tensor, f"tensor {i}", arrays) for i, tensor in enumerate(program.tensors)]
    phases = [_plain_phase(phase, f"phase {i}", arrays) for i, phase in enumerate(program.phases)]
    earlier = program.earlier_stores
    return {"name": program.name, "tensors": tensors, "phases": phases, "earlier_stores": earlier}


def tables_of(value: Any) -> dict[str, tuple[str, int]]:
    """Return the type and the most values of every table of a program that was read as JSON, by name."""
    check_keys(value, ("name", "tensors", "phases", "earlier_stores"), "program")
    found = {}
    for i, tensor in enumerate(entries(value["tensors"], "program.tensors", MAX_TENSORS)):
        if isinstance(tensor, dict) and tensor.get("has_contents"):
            found[f"tensor {i}"] = "int32", MAX_TABLE
    for i, _ in enumerate(entries(value["phases"], "program.phases", MAX_PHASES)):
        found |= {f"phase {i} {name}": ("int64", MAX_TABLE) for name in _TABLES}
        found |= {f"phase {i} {name}": ("int32", MAX_STREAM * kind.itemsize // 4) for name, kind in _RECORDS.items()}
    return found


def program_of(value: Any, arrays: Mapping[str, Array]) -> Program:
    """Return the program that `plain_program` was given. ValueError names the path of what is no part of one."""
    tensors = [_tensor(part, i, arrays) for i, part in enumerate(value["tensors"])]
    phases = [_phase(part, i, arrays) for i, part in enumerate(value["phases"])]
    name, earlier = text(value["name"], "program.name"), _share(value["earlier_stores"], "program.earlier_stores")
    return Program(name, tuple(tensors), tuple(phases), earlier)


def _share(value: Any, path: str) -> float | None:
    if value is not None and (type(value) is not float or not 0 <= value <= 1):
        raise wrong(path, value, "a share from 0.0 to 1.0, or null")
    return value


def _plain_tensor(tensor: Tensor, name: str, arrays: dict[str, Array]) -> dict[str, Any]:
    values = tensor.values
    if values is not None:
        if values.ndim != 1:
            raise ValueError(f"tensor {tensor.name}: contents of {values.ndim} axes; files hold one list")
        arrays[name] = values.astype(np.int32)
    return {
        "name": tensor.name,
        "axes": list(tensor.layout.axes),
        "shape": tensor.layout.layout.shape,  # tuples in tuples, which are lists in lists
        "stride": tensor.layout.layout.stride,
        "dtype": tensor.dtype,
        "base_bytes": int(tensor.base_bytes),
        "resident": tensor.resident,
        "has_contents": values is not None,
    }


def _tensor(value: Any, number: int, arrays: Mapping[str, Array]) -> Tensor:
    path = f"program.tensors[{number}]"
    keys = ("name", "axes", "shape", "stride", "dtype", "base_bytes", "resident", "has_contents")
    check_keys(value, keys, path)
    axes = tuple(text(axis, f"{path}.axes") for axis in entries(value["axes"], f"{path}.axes"))
    name, dtype = text(value["name"], f"{path}.name"), _dtype(value, path)
    base_bytes = integer(value["base_bytes"], f"{path}.base_bytes", 0, MAX_ADDRESS)
    shape, stride = (_nested(value[part], f"{path}.{part}") for part in ("shape", "stride"))
    resident, has_contents = value["resident"], value["has_contents"]
    if resident not in ("hbm", "sram", "cache"):
        raise wrong(f"{path}.resident", resident, "hbm, sram, cache")
    if not isinstance(has_contents, bool):
        raise wrong(f"{path}.has_contents", has_contents, "true or false")
    contents = None
    if has_contents:
        contents = arrays[f"tensor {number}"]
        contents.flags.writeable = False
    try:
        layout = NamedLayout(axes, Layout(shape, stride))
        return Tensor(name, layout, dtype, base_bytes, resident, contents)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _nested(value: Any, path: str, depth: int = 0) -> Any:
    """Return integers in tuples in tuples, out of lists in lists."""
    if isinstance(value, list) and depth < 8:
        return tuple(_nested(part, path, depth + 1) for part in entries(value, path, 64))
    return integer(value, path, 0, INT64_MAX)


def _dtype(value: Any, path: str) -> str:
    if not isinstance(value["dtype"], str) or value["dtype"] not in DTYPES:
        raise wrong(f"{path}.dtype", value["dtype"], ", ".join(DTYPES))
    return str(value["dtype"])


def _plain_phase(phase: Phase, name: str, arrays: dict[str, Array]) -> dict[str, Any]:
    tables = phase.tasks, phase.schedule.order, phase.schedule.start, phase.expressions
    arrays |= {f"{name} {table}": array.reshape(-1) for table, array in zip(_TABLES, tables, strict=True)}
    records = dict(zip(QUEUES, phase.queues, strict=True)) | {"tiles": phase.tiles}
    arrays |= {f"{name} {table}": np.ascontiguousarray(array).view(np.int32) for table, array in records.items()}
    return {
        "name": phase.name,
        "columns": list(phase.columns),
        "tasks": len(phase.tasks),
        "functions": list(phase.functions),
        "buffers": [_plain_buffer(buffer) for buffer in phase.buffers],
        "counters": [[counter.name, counter.cause] for counter in phase.counters],
    }


def _plain_buffer(buffer: Buffer) -> dict[str, Any]:
    numbers = {name: int(getattr(buffer, name)) for name in _BUFFER_NUMBERS}
    layout = None if buffer.layout is None else str(buffer.layout)
    return {"name": buffer.name, "dtype": buffer.dtype, "layout": layout} | numbers


_BUFFER_NUMBERS = {"rows": 1, "columns": 1, "slots": 1, "address": 0, "pitch_bytes": 0}  # and the least of each


def _phase(value: Any, number: int, arrays: Mapping[str, Array]) -> Phase:
    path, name = f"program.phases[{number}]", f"phase {number}"
    check_keys(value, ("name", "columns", "tasks", "functions", "buffers", "counters"), path)
    columns = tuple(text(column, f"{path}.columns") for column in entries(value["columns"], f"{path}.columns", 64))
    count = integer(value["tasks"], f"{path}.tasks", 0, MAX_TABLE)
    functions = entries(value["functions"], f"{path}.functions", 256)
    buffers = entries(value["buffers"], f"{path}.buffers", 64)
    counters = entries(value["counters"], f"{path}.counters", 256)
    return Phase(
        text(value["name"], f"{path}.name"),
        columns,
        _rows(arrays, f"{name} tasks", len(columns), count),
        Schedule(arrays[f"{name} order"].copy(), arrays[f"{name} start"].copy()),
        tuple(_records(arrays, f"{name} {queue}") for queue in QUEUES),
        _rows(arrays, f"{name} expressions", 2 + variable_count(len(columns))),
        _records(arrays, f"{name} tiles"),
        tuple(text(function, f"{path}.functions") for function in functions),
        tuple(_buffer(part, f"{path}.buffers[{i}]") for i, part in enumerate(buffers)),
        tuple(_counter(part, f"{path}.counters[{i}]") for i, part in enumerate(counters)),
    )


def _rows(arrays: Mapping[str, Array], name: str, width: int, count: int | None = None) -> Array:
    """Return a table of rows of `width` values, so many if they are counted."""
    values = arrays[name]
    rows = len(values) // max(1, width) if count is None else count
    if len(values) != rows * width:
        raise ValueError(f"{name}: {len(values)} values; allowed: {width} in each of {rows} rows")
    return values.reshape(rows, width).copy()  # one that can be written, as all programs have


def _records(arrays: Mapping[str, Array], name: str) -> Array:
    kind = _RECORDS[name.split()[-1]]
    return np.ascontiguousarray(_rows(arrays, name, kind.itemsize // 4)).view(kind).reshape(-1)


def _buffer(value: Any, path: str) -> Buffer:
    check_keys(value, ("name", "dtype", "layout", *_BUFFER_NUMBERS), path)
    numbers = {key: integer(value[key], f"{path}.{key}", least, 1 << 40) for key, least in _BUFFER_NUMBERS.items()}
    if numbers["rows"] * numbers["columns"] > MAX_BLOCK:
        raise wrong(f"{path}.rows", numbers["rows"], f"up to {MAX_BLOCK} elements in a block")
    name, dtype, layout = text(value["name"], f"{path}.name"), _dtype(value, path), value["layout"]
    if layout is not None and not isinstance(layout, str):
        raise wrong(f"{path}.layout", layout, "the text of a layout, or null")
    try:
        return Buffer(name, dtype=dtype, layout=None if layout is None else parse(layout), **numbers)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _counter(value: Any, path: str) -> Counter:
    name, cause = entries(value, path, 2) if isinstance(value, list) and len(value) == 2 else (None, None)
    if cause not in ("memory", "buffer", "dependency"):
        raise wrong(path, value, "a name and one of memory, buffer, dependency")
    return Counter(text(name, path), cause)
