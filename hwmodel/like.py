"""Descriptions that are like another one: a file that begins with `like: NAME` gives only what differs.

`NAME` is a shipped machine, which may be like another one in turn. Mappings merge key by key, lists and values replace,
and `null` removes a part or a number that is optional. A description always has its own `name` and `description`. What
it gives needs sources of its own: of a number, or of a group that it lies in, also where the other machine's is of a
smaller group. All else keeps its number, its source and its range. After `with_base` the description is whole, and
nothing else in the project knows that it was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hwmodel.validation import listed

WORDS = {"name", "description", "sources", "ranges"}  # of a machine; all else describes the hardware


def with_base(
    tree: dict[str, Any], read: Callable[[object], dict[str, Any]], begun: tuple[object, ...] = ()
) -> dict[str, Any]:
    """Return a machine description with what it leaves to another one; `read` gives the file of a name.

    `begun`: the names whose files are being read. Raises ValueError for a name that is none or that comes back to
    itself, for `null` in place of nothing, and for a number without a source of its own. Whatever else is wrong is left
    for the validation of the description to say.
    """
    if "like" not in tree:
        return tree
    name = tree["like"]
    if name in begun:
        raise ValueError(f"like: {name} is like itself: {' -> '.join(map(str, [*begun, name]))}")
    base = with_base(read(name), read, (*begun, name))
    numbers = {key: value for key, value in tree.items() if key not in WORDS | {"like"}}
    words = {key: value for key, value in tree.items() if key in WORDS}
    inherited = {key: value for key, value in base.items() if key not in WORDS}
    _check_removals(inherited, numbers, str(name))
    own = words.get("sources", {})
    if not isinstance(own, dict):
        return merged(inherited, numbers) | words
    there = dict(leaves(inherited))
    given = {path: value for path, value in leaves(numbers) if path not in there or there[path] != value}
    kept = {path: text for path, text in base["sources"].items() if given.keys().isdisjoint(groups(path))}
    sources = kept | own | _own_sources(given, own, kept, str(name))
    return merged(inherited, numbers) | words | {"sources": sources} | _ranges(base, words, given)


def _ranges(base: Mapping[str, Any], words: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ranges of a description: its own, and the other machine's for numbers that it keeps."""
    own = words.get("ranges", {})
    if not isinstance(own, dict):
        return {"ranges": own}
    kept = {path: entry for path, entry in base.get("ranges", {}).items() if given.keys().isdisjoint(groups(path))}
    return {"ranges": kept | own} if kept or own else {}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree with changes: mappings merge key by key, `None` removes, all else replaces."""
    found = dict(base)
    for key, value in changes.items():
        there = base.get(key)
        if value is None:
            found.pop(key, None)
        elif isinstance(there, dict) and isinstance(value, dict):
            found[key] = merged(there, value)
        else:
            found[key] = value
    return found


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is no mapping by its dotted path, in order."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def groups(path: str) -> list[str]:
    """Return the dotted paths of the groups in which a number lies, from the outside inwards, and its own."""
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def no_source(path: str, *others: str) -> str:
    """Return what is said of numbers without a source."""
    nor = f", nor have {listed(others)}" if others else ""
    return f"sources: {path} has no source{nor}; name one, or write `assumed` and why"


def _check_removals(base: Mapping[str, Any], changes: Mapping[str, Any], name: str, prefix: str = "") -> None:
    for key, value in changes.items():
        if value is None and base.get(key) is None:
            raise ValueError(f"{prefix}{key}: null removes nothing: {name} has none")
        if isinstance(value, Mapping):
            there = base.get(key)
            _check_removals(there if isinstance(there, Mapping) else {}, value, name, f"{prefix}{key}.")


def _own_sources(
    given: Mapping[str, Any], own: Mapping[str, Any], kept: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Return, by their paths, the sources of given numbers that lie in a smaller group with the other machine's source.

    Raises ValueError for a number without a source of its own.
    """
    found = {}
    for path, value in given.items():
        if value is None or path.endswith(".like"):  # a set of energies brings its sources
            continue
        sourced = [group for group in groups(path) if group in own]
        if not sourced:
            raise ValueError(f"{no_source(path)}; that of {name} is another number's")
        if any(group in kept and len(group) > len(sourced[-1]) for group in groups(path)):
            found[path] = own[sourced[-1]]
    return found
