"""Frozen dataclasses as JSON values and arrays, and back by their annotations: nothing is read that they do not name.

Between values of this floor and a file (`hwmodel.saving`). What is read may be hostile: every value is checked against
the type that is annotated where it stands, and an error is one line with the path, the value and what is allowed.
Annotations may be str, int, float, dict[str, X], tuple[X, ...], X | None, dataclasses of these, and arrays of int64,
which JSON gives the shape of only.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from math import prod
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

Array = np.ndarray[Any, Any]
MOST_INTEGER = 1 << 100  # assumed: femtoseconds of all units, femtojoules, are far below
MOST_TEXT, MOST_ENTRIES = 4096, 1 << 16  # assumed: characters of a name, entries of a table


def plain(value: Any, path: str, arrays: dict[str, Array]) -> Any:
    """Return a value as JSON takes it; its arrays are put into `arrays` by their paths, as one list each."""
    if isinstance(value, np.ndarray):
        arrays[path] = value.astype(np.int64).reshape(-1)
        return list(value.shape)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), f"{path}.{f.name}", arrays) for f in fields(value)}
    if isinstance(value, dict):
        return {key: plain(part, f"{path}.{key}", arrays) for key, part in value.items()}
    if isinstance(value, tuple):
        return [plain(part, f"{path}[{i}]", arrays) for i, part in enumerate(value)]
    return value


def typed(kind: Any, value: Any, path: str, arrays: Mapping[str, Array]) -> Any:
    """Return what `plain` was given, of the type `kind`. ValueError names the path of what is no such value."""
    origin = get_origin(kind)
    if origin is np.ndarray:
        return _array(value, path, arrays)
    if origin in (Union, types.UnionType):  # X | None
        inner = next(part for part in get_args(kind) if part is not type(None))
        return None if value is None else typed(inner, value, path, arrays)
    if is_dataclass(kind):
        assert isinstance(kind, type)
        hints = _hints(kind)
        table = _table(value, path)
        check_keys(table, tuple(hints), path)
        return kind(**{name: typed(hint, table[name], f"{path}.{name}", arrays) for name, hint in hints.items()})
    if origin is dict:
        inner = get_args(kind)[1]
        return {
            text(key, path): typed(inner, part, f"{path}.{key}", arrays) for key, part in _table(value, path).items()
        }
    if origin is tuple:
        inner = get_args(kind)[0]
        return tuple(typed(inner, part, f"{path}[{i}]", arrays) for i, part in enumerate(entries(value, path)))
    return _SCALARS[kind](value, path)


def array_paths(kind: Any, path: str) -> tuple[str, ...]:
    """Return the paths of the arrays of a type that are not in tables or lists."""
    if get_origin(kind) is np.ndarray:
        return (path,)
    if not is_dataclass(kind) or not isinstance(kind, type):
        return ()
    return tuple(found for name, hint in _hints(kind).items() for found in array_paths(hint, f"{path}.{name}"))


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    return {field.name: get_type_hints(kind)[field.name] for field in fields(kind)}


def parse_json(content: str, where: str) -> Any:
    """Return the value of a JSON text. ValueError for one that is none, or that says NaN or Infinity."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name}; allowed: finite numbers")

    try:
        return json.loads(content, parse_constant=refuse)
    except RecursionError:
        raise ValueError(f"{where}: nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def wrong(path: str, value: Any, allowed: str) -> ValueError:
    """Return the error for a value at a path."""
    shown = repr(value)
    return ValueError(f"{path}: {shown if len(shown) <= 60 else shown[:57] + '...'}; allowed: {allowed}")


def check_keys(table: Any, names: tuple[str, ...], path: str) -> None:
    """Raise ValueError unless a value is a table that has exactly these keys."""
    if not isinstance(table, dict):
        raise wrong(path, table, f"a table with the keys {', '.join(names)}")
    if table.keys() != set(names):
        raise wrong(path, sorted(table, key=str)[:8], f"the keys {', '.join(names)}")


def text(value: Any, path: str) -> str:
    """Return a short printable text."""
    if not isinstance(value, str) or len(value) > MOST_TEXT or not value.isprintable():
        raise wrong(path, value, f"a printable text of up to {MOST_TEXT} characters")
    return value


def integer(value: Any, path: str, least: int = -MOST_INTEGER, most: int = MOST_INTEGER) -> int:
    """Return an integer from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise wrong(path, value, f"an integer from {least} to {most}")
    return value


def real(value: Any, path: str) -> float:
    """Return a finite number, written as one with a fraction."""
    if type(value) is not float or not math.isfinite(value):
        raise wrong(path, value, "a finite number with a decimal point")
    return value


def entries(value: Any, path: str, most: int = MOST_ENTRIES) -> list[Any]:
    """Return a list of up to `most` entries."""
    if not isinstance(value, list) or len(value) > most:
        raise wrong(path, value, f"a list of up to {most} entries")
    return value


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {str: text, int: integer, float: real}


def _table(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > MOST_ENTRIES:
        raise wrong(path, value, f"a table of up to {MOST_ENTRIES} entries")
    return value


def _array(value: Any, path: str, arrays: Mapping[str, Array]) -> Array:
    shape = tuple(integer(size, path, 0, 1 << 40) for size in entries(value, path, 3))
    if path not in arrays:
        raise wrong(path, value, "the shape of an array that is there")
    found = arrays[path]
    if prod(shape) != found.size:
        raise wrong(path, value, f"a shape of {found.size} values")
    return found.reshape(shape)
