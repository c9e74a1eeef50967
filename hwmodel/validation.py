"""Why a value in a file that a person wrote is refused: in one line where it stands, the value, and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import ErrorDetails

from hwmodel import units

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
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def wrong(problem: ErrorDetails, keys: Sequence[str] = ()) -> str:
    """Return the line for a problem that pydantic has found; `keys`: those of the mapping that is expected there."""
    path = ".".join(str(part) for part in problem["loc"])
    value = "null" if problem["input"] is None else units.shown(problem["input"])
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
