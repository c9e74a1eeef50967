"""Why a value in a file that a person wrote is refused: in one line where it stands, the value, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hwmodel import units
from layouts.notation import likeness, nearest_first

_KINDS = {
    "int": "an integer",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
}
_SIMPLE: dict[Any, str] = {int: "integer", bool: "true or false", str: "text"}
MOST_NAMED = 7  # beside the first; assumed: as many as a line has room for
LIKE = 0.8  # assumed: the likeness of a name that was probably meant
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the line for the first problem that pydantic has found in a tree for `model`, or for all missing keys."""
    problems = error.errors()
    problem = min(problems, key=lambda found: found["type"] != "extra_forbidden")  # before what it misspelt
    parts = [str(part) for part in problem["loc"]]
    path = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        parents = parts[:-1]
        return unknown("key", path, [".".join([*parents, key]) for key in keys_at(model, parents)])
    if problem["type"] == "missing":
        gaps = [found["loc"] for found in problems if found["type"] == "missing"]
        return missing([key for gap in gaps for key in _needed(model, [str(part) for part in gap])])
    return wrong(problem, keys_at(model, parts) if problem["type"] == "model_type" else ())


def missing(keys: Sequence[tuple[str, str]]) -> str:
    """Return the line for keys that are not there, with what kind they are, empty where no word says it."""
    (first, kind), *others = keys
    line = f"{first}: missing{_kind(kind)}"
    if not others:
        return line
    return f"{line}; so {'are' if others[1:] else 'is'} {listed([f'{key}{_kind(kind)}' for key, kind in others])}"


def _kind(kind: str) -> str:
    return f" ({kind})" if kind else ""


def listed(names: Sequence[str]) -> str:
    """Return names in a row of bounded length."""
    more = [f"and {len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])


def _needed(model: type[BaseModel], path: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the paths of the values that a file has to give where it has nothing at a path, and what kind they are."""
    parent = _part_at(model, path[:-1])
    assert parent is not None
    field = next(field for name, field in parent.model_fields.items() if path[-1] == (field.alias or name))
    part = _part_at(model, path)
    if part is None:
        word = next((mark for mark in field.metadata if isinstance(mark, str)), None)  # of a quantity
        yield ".".join(path), word or _SIMPLE.get(field.annotation, "")
        return
    for name, inner in part.model_fields.items():
        if inner.is_required():
            yield from _needed(model, [*path, inner.alias or name])


def unknown(kind: str, value: str, allowed: Iterable[str], ask: bool = False) -> str:
    """Return the line for a name that is none of the allowed ones, of which the nearest are shown.

    `ask`: whether the one that it is most like is meant.
    """
    names = list(allowed)
    near = max(names, key=lambda name: (likeness(value, name), name), default="") if ask else ""
    meant = f"did you mean {near}? " if near and likeness(value, near) >= LIKE else ""
    return f"unknown {kind} {units.shown(value)}; {meant}known: {nearest_first(value, names, 12)}"


def keys_at(model: type[BaseModel], path: Iterable[str] = ()) -> list[str]:
    """Return the keys, as a file spells them, of the part of `model` at a path, none where a number stands."""
    part = _part_at(model, path)
    return [] if part is None else [field.alias or name for name, field in part.model_fields.items()]


def _part_at(model: type[BaseModel], path: Iterable[str]) -> type[BaseModel] | None:
    """Return the part of `model` at a path, as a file spells it, None where a number stands."""
    part: Any = model
    is_named = False
    for key in path:
        if is_named:  # by whoever writes the file
            is_named = False
            continue
        annotation = next(f.annotation for name, f in part.model_fields.items() if key == (f.alias or name))
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        part = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if part is None:
            return None
        is_named = get_origin(annotation) is dict
    found: type[BaseModel] = part
    return found


def written(value: object) -> str:
    """Return a value as an error message shows it, null as a file spells it."""
    return "null" if value is None else units.shown(value)


def wrong(problem: ErrorDetails, keys: Sequence[str] = ()) -> str:
    """Return the line for a problem that pydantic has found; `keys`: those of the mapping that is expected there."""
    path = ".".join(str(part) for part in problem["loc"])
    value = written(problem["input"])
    if problem["type"] != "value_error":
        return f"{path}: {value}; allowed: {_allowed(problem, keys)}"
    reason = problem["msg"].removeprefix("Value error, ")
    if reason.startswith(f"{value} "):  # it shows the value itself
        return f"{path}: {reason}"
    return f"{path}: {value}{'; ' if reason.startswith(('allowed: ', 'known: ')) else ': '}{reason}"


def _allowed(problem: ErrorDetails, keys: Sequence[str]) -> str:
    limits = problem.get("ctx", {})
    for name, words in _LIMITS.items():
        if name in limits:
            return f"{words} {limits[name]}"
    if problem["type"] == "too_short":
        return f"a list of at least {limits['min_length']}"
    if problem["type"] == "literal_error":
        return str(limits["expected"]).replace("'", "")
    if problem["type"] == "string_too_short":
        return "a text that is not empty"
    if problem["type"] == "string_pattern_mismatch":
        return f"a text of the form {limits['pattern']}"
    kind = _KINDS.get(problem["type"].split("_")[0])
    if kind is None:
        return problem["msg"]
    return f"a mapping with the keys {', '.join(keys)}" if keys else kind
