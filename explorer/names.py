"""One way to say that a name is unknown: the name, those that may be meant, then the allowed ones, the nearest first.

Every error about a knob, kernel, key or path of a study goes through here, so that they read alike.
"""

from __future__ import annotations

from collections.abc import Iterable

from layouts.notation import likeness, nearest_first

LIKE = 0.6  # assumed: the likeness of a name that may be meant
MEANT = 3  # names that are asked about
MOST = 12  # names that are listed; the others are counted


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """Return one line about the unknown `name`; `what` says of which kind it is ("knob", "kernel")."""
    names = list(allowed)
    near = nearest(name, names, MEANT)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return f"unknown {what} {name!r}: {hint}allowed: {nearest_first(name, names, MOST) or 'none'}"


def nearest(name: str, allowed: Iterable[str], most: int) -> list[str]:
    """Return the allowed names that may be meant by an unknown one, the most likely first."""
    near = [(-likeness(name, other), other) for other in allowed]
    return [other for unlike, other in sorted(near)[:most] if -unlike >= LIKE]
