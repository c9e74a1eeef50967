"""Units: text such as "64 MiB" or "1.755 GHz" becomes a plain integer here, at the file boundary, and nowhere else.

Inside the project a unit is part of a name (`_bytes`, `_hz`, `_fs`, `_fj`); values are Python integers.
Time is an integer count of femtoseconds, energy one of femtojoules. A clock converts a count of its cycles once, and
durations round up, so that no sum of durations is ever shorter than the exact one.
"""

from __future__ import annotations

import re
import reprlib
from decimal import Decimal, InvalidOperation
from typing import Any

FS_PER_SECOND = 10**15
FS_PER_US = 10**9
FJ_PER_PJ = 10**3

_DECIMAL = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}
_SUB = {"": 0, "m": 3, "u": 6, "µ": 6, "n": 9, "p": 12, "f": 15}


_BITS_PER_BYTE = 8


def _scaled(symbol: str, prefixes: dict[str, int], base: int) -> dict[str, Decimal]:
    return {prefix + symbol: Decimal(base) ** power for prefix, power in prefixes.items()}


def _divided(symbol: str, smallest: int) -> dict[str, Decimal]:
    """Return the units of `symbol` with a prefix for parts, down to 10 ** -smallest, which is the base unit."""
    return {prefix + symbol: Decimal(10) ** (smallest - power) for prefix, power in _SUB.items() if power <= smallest}


_ENERGY = _divided("J", 15)

# quantity -> accepted unit -> factor to the integer base unit: byte, hertz, femtosecond, byte/s, bit/s, femtojoule,
# femtojoule/byte, microwatt
_UNITS: dict[str, dict[str, Decimal]] = {
    "bytes": _scaled("B", _DECIMAL, 10) | _scaled("B", _BINARY, 2),
    "frequency": _scaled("Hz", _DECIMAL, 10),
    "time": _divided("s", 15),
    "bandwidth": _scaled("B/s", _DECIMAL, 10) | _scaled("B/s", _BINARY, 2),
    "bit rate": _scaled("b/s", _DECIMAL, 10),
    "energy": _ENERGY,
    "energy per byte": {f"{unit}/B": factor for unit, factor in _ENERGY.items()}
    | {f"{unit}/bit": _BITS_PER_BYTE * factor for unit, factor in _ENERGY.items()},
    "power": _divided("W", 6) | {"kW": Decimal(10) ** 9},
}
_MAY_BE_ZERO = ("time", "energy", "energy per byte", "power")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel = 2
_NUMBER = re.compile(r"\s*([+-]?[0-9][0-9_]{0,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,2})?)\s*([A-Za-zµ/]{0,8})\s*")


def shown(value: object) -> str:
    """Return `value` as an error message shows it: like repr, but short whatever it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python converts
        return "a very long number"


def parse(text: object, quantity: str) -> int:
    """Return the value of `text` in the integer base unit of `quantity`.

    `quantity`: "bytes", "frequency" (Hz), "time" (fs), "bandwidth" (bytes/s), "bit rate" (bits/s), "energy" (fJ),
    "energy per byte" (fJ/byte) or "power" (uW). A bare integer is refused: a description says its unit. Values round
    to the nearest integer, but bytes must be whole; negative values are errors, and so is zero except for a time, an
    energy or a power.
    Raises ValueError naming the text and the accepted units.
    """
    units = _UNITS[quantity]
    allowed = ", ".join(units)
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"{shown(text)} is no {quantity}: give a number and a unit, one of {allowed}")
    try:
        exact = Decimal(match[1].replace("_", "")) * units[match[2]]
        value = int(exact.to_integral_value())
    except InvalidOperation:
        raise ValueError(f"{shown(text)} is no {quantity}: the number is not usable") from None
    if quantity in _MAY_BE_ZERO and exact < 0:
        raise ValueError(f"{shown(text)} is no {quantity}: it must not be less than zero")
    if quantity not in _MAY_BE_ZERO and (exact <= 0 or value == 0):
        raise ValueError(f"{shown(text)} is no {quantity}: it must be greater than zero")
    if quantity == "bytes" and exact != value:
        raise ValueError(f"{shown(text)} is no {quantity}: it must be whole bytes")
    if value >= 2**62:
        raise ValueError(f"{shown(text)} is no {quantity}: it is too large")
    return value


def written(number: Decimal, unit: str) -> str:
    """Return a number with its unit as `parse` reads it, one that is no whole bytes as the nearest, in B."""
    exact = number * _UNITS["bytes"].get(unit, 1)
    if unit in _UNITS["bytes"] and exact % 1:
        number, unit = exact.to_integral_value(), "B"
    return f"{number.normalize():f} {unit}".rstrip()


def cycles_to_fs(cycles: int, clock_hz: int) -> int:
    """Return the duration of `cycles` of a clock of `clock_hz` in femtoseconds, rounded up."""
    return -(-cycles * FS_PER_SECOND // clock_hz)


def transfer_fs(size_bytes: int, bytes_per_second: int) -> int:
    """Return how long `size_bytes` take at `bytes_per_second`, in femtoseconds, rounded up."""
    return -(-size_bytes * FS_PER_SECOND // bytes_per_second)


def scaled(numbers: Any, multiplier: int, divisor: int) -> Any:
    """Return an int64 array's numbers times multiplier / divisor, each rounded up, exactly."""
    exact = numbers if multiplier * divisor < 2**63 else numbers.astype(object)  # products that leave 64 bits
    whole = exact // divisor
    rest = exact - whole * divisor
    return (whole * multiplier - -rest * multiplier // divisor).astype("int64")
