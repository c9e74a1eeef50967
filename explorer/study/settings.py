"""`--set path=value`: a change of one query, written as text.

A path is a knob or a size of the kernel, `batch` (sequences), `context` (tokens), or a number of the machine
(`hbm.stacks`, also `machine.hbm.stacks`). Values take the type of what they replace; machine values stay text with
their unit, and the machine checks them. Lists cannot be set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from explorer.names import unknown
from explorer.query import MACHINE_PREFIX, BatchSpec, Query, Scalar

Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Settable:
    """What of a kernel can be set: `knobs` with their defaults, `sizes` with the least of each; a name for a choice."""

    knobs: Mapping[str, Scalar]
    sizes: Mapping[str, int | str]


def parse(text: str, option: str = "--set") -> Settings:
    """Return the (path, value) pairs of `a=1,b=2`; ValueError names the option and what is not `path=value`."""
    pairs: list[tuple[str, str]] = []
    for part in text.split(","):
        path, equals, value = (piece.strip() for piece in part.partition("="))
        if not (path and equals and value):
            raise ValueError(f"{option} {text!r}: {part!r} is not of the form path=value")
        if "." in path and value.startswith("["):
            raise ValueError(f"{option} {path}: a list, and lists cannot be set: write a file")
        if path.removeprefix(MACHINE_PREFIX) in (there.removeprefix(MACHINE_PREFIX) for there, _ in pairs):
            raise ValueError(f"{option} {text!r}: {path} stands there twice")
        pairs.append((path, value))
    return tuple(pairs)


def apply(query: Query, settings: Settings, settable: Settable, option: str = "--set") -> Query:
    """Return `query` with the settings made; values take the types of what its kernel lets be set."""
    for path, value in settings:
        query = _apply(query, path, value, settable, option)
    return query


def typed(settings: Settings, defaults: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return settings that `apply` takes by path, as the values they mean: knobs in their type, numbers as numbers."""
    return {path: convert(text, defaults[path], path) if path in defaults else _number(text) for path, text in settings}


def machine_numbers(settings: Settings) -> Settings:
    """Return settings of numbers of the machine by their path in it; ValueError for one that is anything else."""
    for path, value in settings:
        if "." not in path:
            raise ValueError(f"--set {path}={value}: not a number of the machine; allowed: paths such as hbm.stacks")
    return tuple(sorted((path.removeprefix(MACHINE_PREFIX), value) for path, value in settings))


def _number(text: str) -> Scalar:
    """Return a text as the number it is, or as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _apply(query: Query, path: str, value: str, settable: Settable, option: str) -> Query:
    defaults, sizes = settable.knobs, settable.sizes
    where = f"{option} {path}={value}"
    if path in defaults:
        converted = convert(value, defaults[path], where)
        check(converted, defaults[path], where)
        return query.with_knob(path, converted)
    if path in ("batch", "context"):
        return replace(query, batch=_resize(query.batch, path, _count(value, 1, where), where))
    if path in sizes:
        least = sizes[path]
        changed = value if isinstance(least, str) else _count(value, least, where)
        return replace(query, options=tuple((dict(query.options) | {path: changed}).items()))
    if "." in path:
        return query.with_knob(MACHINE_PREFIX + path.removeprefix(MACHINE_PREFIX), value)
    known = [*defaults, *sizes, *(["batch", "context"] if query.batch else [])]
    raise ValueError(f"{where}: {unknown('path', path, known)}, or a machine path such as hbm.stacks")


def _resize(batch: BatchSpec | None, path: str, count: int, where: str) -> BatchSpec:
    if batch is None:
        raise ValueError(f"{where}: there is no batch to change")
    if path == "batch":
        return replace(batch, sequences=count)
    if batch.trace is not None:
        raise ValueError(f"{where}: the contexts are drawn from a trace; give --context instead of --trace")
    return replace(batch, context=count)


def convert(text: str, default: Scalar, where: str) -> Scalar:
    """Return `text` as a value of the type of `default`; ValueError begins with `where`."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{where}: {text!r} is neither true nor false")
        return text.lower() == "true"
    try:
        return type(default)(text)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"{where}: {text!r} is not {kind}") from None


def check(value: Scalar, default: Scalar, where: str) -> None:
    """Raise ValueError unless a knob may have `value`: the type of `default`, and 0 only where that is 0."""
    if type(value) is not type(default):
        raise ValueError(f"{where}: must be of type {type(default).__name__}, as {default!r}")
    if not isinstance(value, bool | str) and value < (least := min(int(default), 1)):
        raise ValueError(f"{where}: must be at least {least}")


def _count(text: str, least: int, where: str) -> int:
    value = convert(text, 0, where)
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{where}: {text!r} must be at least {least}")
    return value
