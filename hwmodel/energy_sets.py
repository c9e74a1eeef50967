"""Sets of energies that machine descriptions share, of DRAM standards and process nodes; resolved as a file is read.

A description says `energy: {hbm: {like: hbm3}, chip: {like: 5nm, noc: 11 pJ/B}}`; `machines/energy/` holds the sets, by
part and name, each with `numbers` and their `sources`. What the description changes needs a source of its own. After
`with_sets` the description holds plain numbers, and nothing else in the project knows that there are sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hwmodel import units
from hwmodel.like import groups, leaves, merged, no_source
from hwmodel.yaml_file import read_yaml
from layouts.notation import nearest_first

SETS = Path(__file__).parent / "machines" / "energy"
PARTS = ("hbm", "chip")


def set_names(part: str) -> tuple[str, ...]:
    """Return the names of the sets for a part of `energy`: "hbm" or "chip"."""
    return tuple(sorted(path.stem for path in (SETS / part).glob("*.yaml")))


def with_sets(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a machine description with the sets it refers to in place of `like`, their sources beside its own.

    Raises ValueError for a set that does not exist, and for a changed number without a source. Whatever else is wrong
    with the description is left for its validation to say.
    """
    energy, sources = tree.get("energy"), tree.get("sources")
    if not isinstance(energy, dict):
        return tree
    parts, inherited = dict(energy), dict[str, str]()
    for part in PARTS:
        changes = energy.get(part)
        if isinstance(changes, dict) and "like" in changes:
            path = f"energy.{part}"
            found = _set(part, changes["like"])
            changes = {key: value for key, value in changes.items() if key != "like"}
            if isinstance(sources, dict):
                _check_sources(changes, path, sources)
            parts[part] = merged(found["numbers"], changes)
            inherited |= {f"{path}.{key}": text for key, text in found["sources"].items()}
    return {**tree, "energy": parts} | ({"sources": inherited | sources} if isinstance(sources, dict) else {})


def _set(part: str, name: object) -> dict[str, Any]:
    if not isinstance(name, str) or name not in set_names(part):
        known = nearest_first(str(name)[:80], set_names(part))
        raise ValueError(f"energy.{part}.like: unknown set {units.shown(name)}; known: {known}")
    return _read(SETS / part / f"{name}.yaml")


@cache
def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    assert isinstance(content, dict)
    return content


def forget() -> None:
    """Forget the sets that were read, as a file of them has changed."""
    _read.cache_clear()


def _check_sources(changes: Mapping[str, Any], path: str, sources: Mapping[str, Any]) -> None:
    for leaf, _ in leaves(changes, f"{path}."):
        if sources.keys().isdisjoint(groups(leaf)):
            raise ValueError(no_source(leaf))
