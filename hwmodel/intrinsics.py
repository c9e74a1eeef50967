"""What compiled code needs and numba has no word for: pointers to int64 values, operations on bits and on lanes.

Compiled functions take plain pointers, free of reference counts, which would cost more than what is done with the
values. Rows that are read and written in lanes are looked at a vector at a time; those of `hwmodel.dram` have a value
for every bank of a pseudo-channel, or for every command.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Row = Any  # a pointer to the first of a row's int64 values
LANES = 8  # values of a vector
_HALF = 32  # bits of half a mask
HIGHEST = 1 << 62  # beyond every tick and key


def _count_trailing_zeros(_context: Any, _value: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


def _shift_right(_context: Any, _value: Any, _places: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.lshr(arguments[0], arguments[1])

    return types.int64(types.int64, types.int64), generate


def _rotate_right(_context: Any, _value: Any, _places: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value, places = arguments
        others = builder.and_(builder.neg(places), ir.Constant(ir.IntType(64), 63))
        return builder.or_(builder.lshr(value, places), builder.shl(value, others))

    return types.int64(types.int64, types.int64), generate


def _pointer_to_array(_context: Any, array: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return _POINTER(array), generate


def _count_ones(_context: Any, _value: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), generate


def _prefetch(builder: Any, row: Any, write: int) -> None:
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    insert_function: Any = cgutils.get_or_insert_function
    function = insert_function(builder.module, kind, "llvm.prefetch.p0")
    how = [ir.Constant(number, value) for value in (write, 3, 1)]  # into all levels, data
    builder.call(function, [builder.bitcast(row, byte), *how])


def _prefetch_to_read(_context: Any, _row: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        _prefetch(builder, arguments[0], 0)
        return context.get_dummy_value()

    return types.void(_row), generate


def _prefetch_to_write(_context: Any, _row: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        _prefetch(builder, arguments[0], 1)
        return context.get_dummy_value()

    return types.void(_row), generate


_MASKED = ir.VectorType(ir.IntType(1), LANES)
_VECTOR = ir.VectorType(ir.IntType(64), LANES)


def _number(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _all_lanes(builder: Any, value: Any) -> Any:
    """Return a vector of one value."""
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))


def _at(builder: Any, row: Any, place: Any = None) -> Any:
    """Return the pointer to the vector that begins at a place of a row."""
    return builder.bitcast(builder.gep(row, [place]) if place else row, _VECTOR.as_pointer())


def _least(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def _raise(builder: Any, row: Any, new: Any) -> None:
    old, zero = builder.load(_at(builder, row), align=8), ir.Constant(_VECTOR, None)
    # max(old, new) as new - min(new - old, 0): a choice between the two would become a masked store, which is slow
    builder.store(builder.sub(new, _least(builder, builder.sub(new, old), zero)), _at(builder, row), align=8)


def _raise_row(_context: Any, _row: Any, _after: Any, _tick: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        row, after, tick = arguments
        _raise(builder, row, builder.add(_all_lanes(builder, tick), builder.load(_at(builder, after), align=8)))
        return context.get_dummy_value()

    return types.void(_POINTER, _POINTER, types.int64), generate


def _raise_lanes(_context: Any, _row: Any, _lanes: Any, _tick: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        row, lanes, tick = arguments
        chosen = builder.bitcast(builder.trunc(lanes, ir.IntType(LANES)), _MASKED)
        _raise(builder, row, builder.select(chosen, _all_lanes(builder, tick), _all_lanes(builder, _LOWEST)))
        return context.get_dummy_value()

    return types.void(_POINTER, types.int64, types.int64), generate


def _write_lane(_context: Any, _row: Any, _place: Any, _value: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        row, place, value = arguments
        block = _at(builder, row, builder.and_(place, _number(-LANES)))
        lane = builder.trunc(builder.and_(place, _number(LANES - 1)), ir.IntType(32))
        builder.store(builder.insert_element(builder.load(block, align=8), value, lane), block, align=8)
        return context.get_dummy_value()

    return types.void(_POINTER, types.int64, types.int64), generate


def _least_of_half(builder: Any, banks: Any, half: int, value: Any) -> Any:
    """Return the least values of the banks in half a mask; `value` returns those of a block of lanes.

    Blocks without banks are looked at too: to find out which have some takes longer.
    """
    bits = builder.trunc(builder.lshr(banks, _number(half * _HALF)), ir.IntType(_HALF))
    chosen, found = builder.bitcast(bits, ir.VectorType(ir.IntType(1), _HALF)), []
    for first in range(0, _HALF, LANES):
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(first, first + LANES)))
        found.append(value(_number(half * _HALF + first), builder.shuffle_vector(chosen, chosen, lanes)))
    while len(found) > 1:
        found = [_least(builder, *pair) for pair in zip(found[::2], found[1::2], strict=True)]
    return found[0]


def _least_of_banks(builder: Any, banks: Any, value: Any) -> Any:
    """Return the least value of the banks in a mask, or NEVER; few have banks in the upper half."""
    variable: Any = cgutils.alloca_once_value
    least = variable(builder, _least_of_half(builder, banks, 0, value))
    with builder.if_then(builder.icmp_unsigned(">=", banks, _number(1 << _HALF))):
        builder.store(_least(builder, builder.load(least), _least_of_half(builder, banks, 1, value)), least)
    kind = ir.FunctionType(ir.IntType(64), [_VECTOR])
    insert_function: Any = cgutils.get_or_insert_function
    reduce = insert_function(builder.module, kind, f"llvm.vector.reduce.smin.v{LANES}i64")
    return builder.call(reduce, [builder.load(least)])


def _oldest_ready(_context: Any, _ready: Any, _keys: Any, _banks: Any, _tick: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        ready, keys, banks, tick = arguments
        now, never = _all_lanes(builder, tick), _all_lanes(builder, _HIGHEST)

        def value(place: Any, chosen: Any) -> Any:
            at, key = (builder.load(_at(builder, row, place), align=8) for row in (ready, keys))
            return builder.select(builder.and_(chosen, builder.icmp_signed("<=", at, now)), key, never)

        return _least_of_banks(builder, banks, value)

    return types.int64(_POINTER, _POINTER, types.int64, types.int64), generate


def _first_ready(_context: Any, _ready: Any, _banks: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        ready, banks = arguments
        never = _all_lanes(builder, _HIGHEST)

        def value(place: Any, chosen: Any) -> Any:
            return builder.select(chosen, builder.load(_at(builder, ready, place), align=8), never)

        return _least_of_banks(builder, banks, value)

    return types.int64(_POINTER, types.int64), generate


def _advance_pointer(_context: Any, _pointer: Any, _offset: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return _POINTER(_POINTER, types.int64), generate


def _number_of_pointer(_context: Any, _pointer: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], ir.IntType(64))

    return types.int64(_POINTER), generate


def _pointer_of_number(_context: Any, _number: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())

    return _POINTER(types.int64), generate


_LOWEST, _HIGHEST = _number(-HIGHEST), _number(HIGHEST)
_make_pointer_type: Any = types.CPointer
_POINTER = _make_pointer_type(types.int64)
trailing_zeros: Any = intrinsic(_count_trailing_zeros)  # of an int64 that is not zero
shift_right: Any = intrinsic(_shift_right)  # of 64 bits without a sign, by less than 64
rotate_right: Any = intrinsic(_rotate_right)  # of 64 bits, by less than 64
pointer: Any = intrinsic(_pointer_to_array)  # to the first value of an int64 array, which must outlive it
count_ones: Any = intrinsic(_count_ones)  # of 64 bits
prefetch_to_read: Any = intrinsic(_prefetch_to_read)  # a hint: a row will soon be read
prefetch_to_write: Any = intrinsic(_prefetch_to_write)  # a hint: a row will soon be read and written
raise_row: Any = intrinsic(_raise_row)  # row[i] = max(row[i], tick + after[i]) for all command slots at once
write_lane: Any = intrinsic(_write_lane)  # row[place] = value, for rows that are soon read in lanes
raise_lanes: Any = intrinsic(_raise_lanes)  # row[i] = max(row[i], tick) for the lanes of a mask
# of the banks of a pseudo-channel in a mask: the least key whose ready tick has come, or the first ready tick; or NEVER
oldest_ready: Any = intrinsic(_oldest_ready)
first_ready: Any = intrinsic(_first_ready)
row_at: Any = intrinsic(_advance_pointer)  # the pointer a number of values further on
number_of: Any = intrinsic(_number_of_pointer)
pointer_of: Any = intrinsic(_pointer_of_number)
