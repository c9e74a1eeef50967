"""One way to say that a name is unknown: the name, the nearest allowed ones first, then all of them.

Every error about a knob, kernel, key or path of a study goes through here, so that they read alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """Return one line about the unknown `name`; `what` says of which kind it is ("knob", "kernel")."""
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return f"unknown {what} {name!r}: {hint}allowed: {', '.join(names) or 'none'}"
