"""The types of the numbers in descriptions, with what each allows, and the class of a part that has them.

A quantity is read from a text with its unit (`hwmodel.units`) into an integer of base units: B, Hz, fs, B/s, b/s, fJ,
fJ/B, uW. Beside how it is read and written its type has the word for what it is.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from hwmodel import units
from hwmodel.dram.organisation import MAX_COUNT


class Resolved(int):
    """An integer in base units, which is read as it is."""


def _quantity(name: str, least: str, most: str) -> tuple[BeforeValidator, PlainSerializer]:
    low, high = units.parse(least, name), units.parse(most, name)

    def read(value: object) -> int:
        number = int(value) if isinstance(value, Resolved) else units.parse(value, name)
        if not low <= number <= high:
            raise ValueError(f"allowed: {least} to {most}")
        return number

    return BeforeValidator(read), PlainSerializer(int)


# The ranges are assumed: wide enough for any accelerator, narrow enough that a slip of a prefix is an error
# instead of a simulation without end.
_read_bytes, _write_bytes = _quantity("bytes", "1 B", "1024 TiB")
_read_hz, _write_hz = _quantity("frequency", "1 MHz", "100 GHz")
_read_fs, _write_fs = _quantity("time", "0 s", "1 ms")
_read_bandwidth, _write_bandwidth = _quantity("bandwidth", "1 MB/s", "1 PB/s")
_read_bit_rate, _write_bit_rate = _quantity("bit rate", "1 Mb/s", "1 Tb/s")
_read_energy, _write_energy = _quantity("energy", "0 J", "1 uJ")
_read_energy_per_byte, _write_energy_per_byte = _quantity("energy per byte", "0 J/B", "100 nJ/B")
_read_power, _write_power = _quantity("power", "0 W", "100 kW")

Bytes = Annotated[int, _read_bytes, _write_bytes, "bytes"]
Hertz = Annotated[int, _read_hz, _write_hz, "frequency"]
Femtoseconds = Annotated[int, _read_fs, _write_fs, "time"]
BytesPerSecond = Annotated[int, _read_bandwidth, _write_bandwidth, "bandwidth"]
BitsPerSecond = Annotated[int, _read_bit_rate, _write_bit_rate, "bit rate"]
Femtojoules = Annotated[int, _read_energy, _write_energy, "energy"]
FemtojoulesPerByte = Annotated[int, _read_energy_per_byte, _write_energy_per_byte, "energy per byte"]
Microwatts = Annotated[int, _read_power, _write_power, "power"]
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
Percent = Annotated[int, Field(strict=True, ge=1, le=100)]
Flag = Annotated[bool, Field(strict=True)]


class Part(BaseModel):
    """A part of a description: frozen, with no other keys than its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
