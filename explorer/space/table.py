"""A space as a table: what `space.parquet` of a results folder holds.

One row per distinct point, the baseline outside of the combinations first, with its settings, bounds and key ("" where
it has not been computed), and one per combination that cannot run, with the reason. Texts are stored once. How many
combinations there are, those that are the same as another one included, stands beside the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from explorer.query import MACHINE_PREFIX, Scalar
from explorer.space.grid import Index
from explorer.space.space import NEVER, Space

COMBINATIONS = "combinations"


def space_table(space: Space) -> Any:
    """Return the space as an Arrow table: key, settings, bounds, reason."""
    import pyarrow as pa

    size = space.grid.size
    alive = space.alive
    shown = np.flatnonzero(alive | (space.reason > 0))
    shown = np.concatenate([shown[shown >= size], shown[shown < size]])
    bounds = np.where(alive[shown, None], space.bounds[shown], np.nan)
    columns: dict[str, Any] = {"key": _keys(space, shown), **_settings(space, shown)}
    for column, objective in enumerate(space.measured):
        columns[objective.bound] = pa.array(bounds[:, column], mask=np.isnan(bounds[:, column]))
    columns["reason"] = _texts(space.reason[shown], space.reasons)
    return pa.table(columns)


def space_parquet(space: Space) -> bytes:
    """Return the table as the content of a Parquet file, whose readers find plain texts."""
    import io

    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    table = space_table(space)
    with pq.ParquetWriter(buffer, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({COMBINATIONS: str(space.count)})
    return buffer.getvalue()


def combinations(table: Any) -> int | None:
    """Return how many combinations a space has whose table it is; None where that is not known."""
    text = (table.schema.metadata or {}).get(COMBINATIONS.encode(), b"")
    return int(text) if text.isdigit() else None


def _texts(places: Any, texts: Sequence[str | None]) -> Any:
    """Return texts by their places; None is null."""
    import pyarrow as pa

    absent = np.array([text is None for text in texts])[places]
    return pa.DictionaryArray.from_arrays(
        pa.array(places, pa.int32(), mask=absent), pa.array([text or "" for text in texts], pa.string())
    )


def _keys(space: Space, shown: Index) -> Any:
    """Return the keys of points, those that have one."""
    places = np.zeros(space.count, np.int32)
    texts = [""]
    for index, key in space.keys.items():
        if space.first[index] in (index, NEVER):
            places[index] = len(texts)
            texts.append(key)
    return _texts(places[shown], texts)


def _settings(space: Space, shown: Index) -> dict[str, Any]:
    """Return what was set, a column per setting; of the baseline alone what it sets beyond the knobs."""
    import pyarrow as pa

    inside = shown[shown < space.grid.size]
    outside = len(shown) - len(inside)
    base = space.works[0].base.settings()
    start = space.queries(space.start)[0].settings() if outside else {}
    columns: dict[str, Any] = {}
    levels = space.grid.levels(inside)
    for place, knob in enumerate(space.grid.knobs):
        values = [_shown(knob.name, value) for value in space.grid.values_of(place)]
        columns[knob.name] = _column([start.get(knob.name)] * outside, levels[:, place], values)
    for name in dict.fromkeys((*base, *start)):
        if name not in columns:
            columns[name] = _column([start.get(name)] * outside, np.zeros(len(inside), np.int64), [base.get(name)])
    return {name: pa.array(column) if isinstance(column, list) else column for name, column in columns.items()}


def _shown(name: str, value: Scalar) -> Scalar:
    return str(value) if name.startswith(MACHINE_PREFIX) else value


def _column(before: list[Scalar | None], levels: Index, values: Sequence[Scalar | None]) -> Any:
    """Return values taken by level behind others: texts as a dictionary, numbers as they are, absent ones as null."""
    import pyarrow as pa

    table = list(dict.fromkeys([*values, *before]))
    places = np.array([table.index(value) for value in values], np.int64)[levels]
    places = np.concatenate([np.array([table.index(value) for value in before], np.int64), places])
    found = pa.array(table)
    if pa.types.is_string(found.type):
        return _texts(places, [None if value is None else str(value) for value in table])
    return found.take(pa.array(places))
