"""Command traces as text: reads what other simulators write into the arrays that the checker judges.

Takes lines of comma-separated values under a heading, as Ramulator 2.1 and DRAMsim3 traces are written: clock,
command, channel, pseudo-channel or rank, stack ID, bank group, bank, row; other columns are passed over. A rank counts
as a pseudo-channel. Commands for all banks may have -1 where they have no place; a channel of -1, as DRAMsim3 writes it
for a refresh and the precharges before it, is the only channel, 0. Ticks are the clock as written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from hwmodel.dram.organisation import Organisation
from hwmodel.dram.rules import COMMANDS
from hwmodel.units import shown
from layouts.notation import nearest_first

Array = np.ndarray[Any, Any]
CHUNK = 1 << 16
LIMIT = 1 << 48  # assumed: in ticks, a day
# the heading's word, in lower case -> the field it gives; `_NEEDED` must be there
_HEADINGS = {
    "clock": "tick",
    "command": "command",
    "channel": "channel",
    "pseudochannel": "pseudo_channel",
    "rank": "pseudo_channel",
    "sid": "stack_id",
    "bankgroup": "bank_group",
    "bank": "bank",
    "row": "row",
}
_NEEDED = ("tick", "command", "channel", "bank_group", "bank", "row")
_NAMES = {name.lower(): number for number, name in enumerate(COMMANDS)} | {
    name: COMMANDS.index(command)
    for name, command in {
        "prepb": "PRE",
        "activate": "ACT",
        "precharge": "PRE",
        "read": "RD",
        "write": "WR",
        "refresh": "REFab",
        "refresh_bank": "REFpb",
    }.items()
}
_IN_BANK = ("stack_id", "bank_group", "bank", "row")
_WHOLE = (COMMANDS.index("PREab"), COMMANDS.index("REFab"))


def read_commands(lines: Iterable[str], organisation: Organisation, chunk: int = CHUNK) -> Iterator[Array]:
    """Yield the commands of a trace, in parts of `chunk`, as int64[n, 7] rows that `Checker.feed` takes.

    Raises ValueError naming the line for a heading without a needed column or with one that stands twice, an unknown
    command, no integer, or a place outside the organisation; rows and channels are the checker's business.
    """
    rows = iter(lines)
    places, limits = _places(next(rows, "")), _limits(organisation)
    part: list[tuple[int, ...]] = []
    for number, line in enumerate(rows, start=2):
        if line.strip():
            part.append(_row(line.split(","), places, limits, number))
        if len(part) == chunk:
            yield np.array(part, np.int64)
            part = []
    if part:
        yield np.array(part, np.int64)


def _places(heading: str) -> dict[str, int]:
    """Return the column of every field."""
    words = [word.strip().lower() for word in heading.split(",")]
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        field = _HEADINGS.get(word)
        if field in places:
            raise ValueError(f"line 1: {shown(heading.strip())}: {field} stands twice, the second time as {word!r}")
        if field is not None:
            places[field] = place
    for name in _NEEDED:
        if name not in places:
            raise ValueError(f"line 1: {shown(heading.strip())}: no column for {name}; known: {', '.join(_HEADINGS)}")
    return places


def _limits(o: Organisation) -> dict[str, tuple[int, int]]:
    """Return the least value of every field, and the first beyond the largest."""
    sizes = {"pseudo_channel": o.pseudo_channels, "stack_id": o.stack_ids, "bank_group": o.bank_groups}
    inside = {name: (0, size) for name, size in (sizes | {"bank": o.banks_per_group}).items()}
    return {"tick": (0, LIMIT), "channel": (-1, LIMIT), "row": (-1, LIMIT)} | inside


def _row(texts: list[str], places: dict[str, int], limits: dict[str, tuple[int, int]], number: int) -> tuple[int, ...]:
    if len(texts) <= max(places.values()):
        raise ValueError(f"line {number}: {len(texts)} columns, fewer than in the heading")
    name = texts[places["command"]].strip()
    code = _NAMES.get(name.lower())
    if code is None:
        raise ValueError(f"line {number}: unknown command {shown(name)}; known: {nearest_first(name, _NAMES, 12)}")
    value: dict[str, int] = {}
    for field, place in places.items():
        if field != "command":
            try:
                value[field] = int(texts[place])
            except ValueError:
                raise ValueError(f"line {number}: {field} {shown(texts[place].strip())} is no integer") from None
            least, size = limits[field]
            if not least <= value[field] < size and not (code in _WHOLE and field in _IN_BANK):
                raise ValueError(f"line {number}: {field} {shown(value[field])}; allowed: {least} .. {size - 1}")
    where = value["tick"], 0 if value["channel"] == -1 else value["channel"], value.get("pseudo_channel", 0)
    if code in _WHOLE:
        return *where, -1, -1, -1, code
    bank = value.get("stack_id", 0) * limits["bank"][1] + value["bank"]
    return *where, value["bank_group"], bank, value["row"], code
