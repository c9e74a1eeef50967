"""Costs by what they depend on: tables that Python fills, one entry for each distinct instruction, compiled."""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.engine.state import (
    ADDS,
    EXTENT,
    INSTRUCTION,
    KEY,
    KEY_FIELDS,
    NONE,
    OPERATION_KEY_FIELDS,
    OPERATION_KEYS,
    OPERATION_MASK,
    PAGE_AXIS,
    PAGE_SIZE,
    PERIOD,
    POSITION_AXIS,
    SIZE,
    START,
    TILE,
    TILE_FIELDS,
    TILE_KEY_FIELDS,
    TILE_KEYS,
    TILE_MASK,
    TILES,
    instruction_at,
    queue_at,
    table,
    variables_at,
)
from hwmodel.engine.walk import value_of
from hwmodel.intrinsics import Row, row_at
from hwmodel.limits import MAX_AXES, MAX_SIZES
from hwmodel.runs import Array

GOLDEN = -7046029254386353131  # 2**64 divided by the golden ratio, odd: Knuth's multiplicative hashing


@inlined
def _place(keys: Row, mask: int, key: Row, fields: int) -> int:
    """Return where a key stands in a table of keys, or the free place where it belongs."""
    mixed = 0
    for field in range(fields):
        mixed = (mixed ^ key[field]) * GOLDEN
        mixed ^= mixed >> 29
    place = mixed & mask
    while True:
        row = row_at(keys, place * KEY_FIELDS)
        if row[KEY_FIELDS - 1] == 0:
            return place
        field = 0
        while field < fields and row[field] == key[field]:
            field += 1
        if field == fields:
            return place
        place = (place + 1) & mask


@compiled
def operation_cost(m: Row, number: int) -> int:
    """Return the row of `operation_costs` of a queue's instruction, or NONE; the key lies in the scalars then."""
    queue, variables, key = queue_at(m, number), variables_at(m, number), row_at(m, KEY)
    row = instruction_at(m, queue[INSTRUCTION])
    key[0] = queue[INSTRUCTION]
    for i in range(MAX_SIZES):
        key[1 + i] = value_of(m, row[SIZE + i], variables) if row[SIZE + i] != NONE else 0
    key[1 + MAX_SIZES] = 1 if row[ADDS] != NONE and value_of(m, row[ADDS], variables) != 0 else 0
    keys = table(m, OPERATION_KEYS)
    place = _place(keys, m[OPERATION_MASK], key, OPERATION_KEY_FIELDS)
    return int(row_at(keys, place * KEY_FIELDS)[KEY_FIELDS - 1] - 1)


@inlined
def tile_at(m: Row, number: int) -> Row:
    """Return the tile of a queue's instruction."""
    return row_at(table(m, TILES), instruction_at(m, queue_at(m, number)[INSTRUCTION])[TILE] * TILE_FIELDS)


@compiled
def tile_cost(m: Row, number: int) -> int:
    """Return the row of `tile_costs` of a queue's instruction, or NONE."""
    variables, key, tile = variables_at(m, number), row_at(m, KEY), tile_at(m, number)
    key[0] = queue_at(m, number)[INSTRUCTION]
    key[1] = NONE
    for axis in range(MAX_AXES):
        start = value_of(m, tile[START + axis], variables) if tile[START + axis] != NONE else 0
        key[2 + axis] = value_of(m, tile[EXTENT + axis], variables) if tile[EXTENT + axis] != NONE else 1
        key[2 + MAX_AXES + axis] = start % tile[PERIOD + axis] if tile[PERIOD + axis] != 0 else 0
        if tile[PAGE_AXIS] != NONE and axis == tile[POSITION_AXIS]:
            key[1] = start % tile[PAGE_SIZE]
    keys = table(m, TILE_KEYS)
    place = _place(keys, m[TILE_MASK], key, TILE_KEY_FIELDS)
    return int(row_at(keys, place * KEY_FIELDS)[KEY_FIELDS - 1] - 1)


@compiled
def insert(keys: Array, mask: int, key: Array, fields: int, cost: int) -> None:
    """Put a key into a table of keys, int64[places, KEY_FIELDS], for the row of a cost."""
    mixed = 0
    for field in range(fields):
        mixed = (mixed ^ key[field]) * GOLDEN
        mixed ^= mixed >> 29
    place = mixed & mask
    while keys[place, KEY_FIELDS - 1] != 0:
        place = (place + 1) & mask
    for field in range(fields):
        keys[place, field] = key[field]
    keys[place, KEY_FIELDS - 1] = cost + 1
