"""Why a value in a file that a person wrote is refused: in one line where it stands, the value, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
LIKE = 0.8  # assumed: the likeness of a name that was probably meant
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the line for the first problem that pydantic has found in a tree for `model`."""
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")  # before what it misspelt
    parts = [str(part) for part in problem["loc"]]
    path = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        parents = parts[:-1]
        return unknown("key", path, [".".join([*parents, key]) for key in keys_at(model, parents)])
    if problem["type"] == "missing":
        return f"{path}: missing"
    return wrong(problem, keys_at(model, parts) if problem["type"] == "model_type" else ())


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
            return []
        is_named = get_origin(annotation) is dict
    return [field.alias or name for name, field in part.model_fields.items()]


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
