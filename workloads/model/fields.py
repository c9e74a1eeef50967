"""The fields of a configuration file, read with checks: each once, by name, with what is allowed.

Every refusal is one line: file, field, value, what is allowed. A field that is null counts as absent. What was never
read and is not known to leave sizes unchanged is told by `unknown`.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from layouts.notation import nearest_first
from workloads.model.no_effect import NO_EFFECT

MAX_SIZE = 1 << 24  # assumed: far above any published size, keeps a mistyped one from overflowing further down
MAX_NAMED = 16  # assumed: with more unknown fields a file is not what it says
MAX_LAYERS = 1 << 10  # assumed: far above any published depth
SHARED = ("tie_word_embeddings", "dtype", "torch_dtype", "quantization_config")  # beside or inside `text_config`


class Fields:
    """The fields of one object of a file; `prefix` stands before their names in errors."""

    def __init__(self, raw: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.where = where
        self._raw = raw
        self._names = {key: prefix + key for key in raw}
        self._prefix = prefix
        self._read: set[str] = set()

    def inherit(self, outer: Fields) -> None:
        """Take the fields that a wrapper may say in place of the text model's part."""
        taken = {key: outer._raw[key] for key in SHARED if key in outer._raw and self._raw.get(key) is None}
        outer._read.update(SHARED)
        self._raw = {**self._raw, **taken}
        self._names |= {key: outer.name(key) for key in taken}

    def name(self, key: str) -> str:
        """Return a field's name as the file's reader knows it."""
        return self._names.get(key, self._prefix + key)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the fields, in the order of the file."""
        return tuple(self._raw)

    def has(self, key: str) -> bool:
        """Return whether the field is there and not null."""
        self._read.add(key)
        return self._raw.get(key) is not None

    def present(self, key: str) -> bool:
        """Return whether the field is there, null or not."""
        self._read.add(key)
        return key in self._raw

    def filled(self, key: str) -> bool:
        """Return whether the field is there and neither null nor an empty list."""
        return self.has(key) and self._raw[key] != []

    def required(self, key: str) -> Any:
        """Return the value of a field. Raises ValueError where it is missing."""
        self._read.add(key)
        if key not in self._raw:
            raise ValueError(f"{self.where}: {self.name(key)} is missing")
        return self._raw[key]

    def refuse(self, key: str, value: object, allowed: str, remark: str = "") -> ValueError:
        """Return the error about a value."""
        return ValueError(refusal(self.where, self.name(key), value, allowed, remark))

    def size(self, key: str, default: int | None = None, *, least: int = 1, most: int = MAX_SIZE) -> int:
        """Return an integer of `least` to `most`; `default` where it is absent, which without one is an error."""
        if default is not None and not self.has(key):
            return default
        value = self.required(key)
        check_size(value, self.where, self.name(key), most, least)
        return int(value)

    def size_or_none(self, key: str) -> int | None:
        """Return a size, None where it is absent."""
        return self.size(key) if self.has(key) else None

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.required(key) if self.has(key) else default
        if not isinstance(value, bool):
            raise self.refuse(key, value, "true or false")
        return value

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        """Return one of the `allowed` names."""
        value = self.required(key) if default is None or self.has(key) else default
        if not isinstance(value, str) or value not in allowed:
            raise self.refuse(key, value, nearest_first(str(value), allowed))
        return value

    def only(self, key: str, allowed: object, default: object = None) -> None:
        """Raise ValueError where the value is not the one whose sizes are known; `default`: where it is absent."""
        value = self._raw[key] if self.has(key) else default
        if value is not None and (value != allowed or type(value) is not type(allowed)):
            silent = "" if self.has(key) else " (the default where the file has none)"
            raise self.refuse(key, value, json.dumps(allowed), silent)

    def per_layer(self, key: str, layers: int, allowed: Sequence[object], spare: int = 0) -> list[Any]:
        """Return a list with an entry per layer; up to `spare` more are cut."""
        value = self.required(key)
        if not isinstance(value, list) or not layers <= len(value) <= layers + spare:
            length = f"{layers} entries" if not spare else f"{layers} to {layers + spare} entries"
            raise self.refuse(key, value, f"a list of {length}, one per layer")
        for at, entry in enumerate(value):
            if not any(type(entry) is type(known) and entry == known for known in allowed):
                raise self.refuse(f"{key}[{at}]", entry, ", ".join(map(str, allowed)))
        return value[:layers]

    def positions(self, key: str, layers: int) -> frozenset[int]:
        """Return the layers a list names, none where it is absent."""
        value = self._raw[key] if self.has(key) else []
        known = isinstance(value, list) and all(type(entry) is int and 0 <= entry < layers for entry in value)
        if not known:
            raise self.refuse(key, value, f"a list of layers from 0 to {layers - 1}")
        return frozenset(value)

    def section(self, key: str) -> Fields:
        """Return the fields of an object within."""
        value = self.required(key)
        if not isinstance(value, dict):
            raise self.refuse(key, value, "an object of fields")
        return Fields(value, self.where, f"{self.name(key)}.")

    def unknown(self) -> tuple[str, ...]:
        """Return a line about each field that was not read and is not known to leave sizes unchanged."""
        names = sorted(key for key in self._raw if key not in self._read and key not in NO_EFFECT)
        if len(names) > MAX_NAMED:
            return (
                f"{len(names)} fields are not known and were passed over: {', '.join(map(shown_name, names[:4]))}, ...",
            )
        return tuple(f"{shown_name(self.name(key))} is not known and was passed over" for key in names)


def check_part(part: Any, *may_be_zero: str) -> None:
    """Raise ValueError unless every size of a part of a layer is an integer of 1 (or 0) to MAX_SIZE, or None."""
    for entry in dataclasses.fields(part):
        value = getattr(part, entry.name)
        if value is not None and str(entry.type).startswith("int"):
            check_size(value, type(part).__name__, entry.name, MAX_SIZE, 0 if entry.name in may_be_zero else 1)


def check_size(value: object, where: str, field: str, most: int, least: int = 1) -> None:
    """Raise ValueError unless `value` is an integer of `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(refusal(where, field, value, f"an integer from {least} to {most}"))


def refusal(where: str, field: str, value: object, allowed: str, remark: str = "") -> str:
    """Return the line about a value that is not allowed."""
    return f"{where}: {field} is {shown(value)}{remark}; allowed: {allowed}"


def shown(value: object) -> str:
    """Return a value as text of bounded length."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def shown_name(name: str) -> str:
    """Return a field's name on one line, of bounded length and without control characters."""
    clean = "".join(c if c.isprintable() else "?" for c in name)
    return clean if len(clean) <= 80 else clean[:77] + "..."
