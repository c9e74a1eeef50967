"""Machines in files: the shipped ones by name, one's own by path, read, merged with what they are like, and checked.

Sources stand beside the numbers under `sources`, keyed by the path of a number or of a group of numbers; a number
without one is an error, and what is not published says `assumed`. Under `ranges`, numbers that are not certain have a
`low` and a `high` end with a `source`. A file may begin with `like: NAME`, a shipped machine, and give only what
differs; see `hwmodel.like`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hwmodel import units
from hwmodel.description import MachineSpec, nothing_at, settable, validated
from hwmodel.energy_sets import with_sets
from hwmodel.like import WORDS, leaves, with_base
from hwmodel.quantities import Resolved
from hwmodel.validation import keys_at, unknown
from hwmodel.yaml_file import read_yaml

MACHINES = Path(__file__).parent / "machines"
_KEYS = tuple(MachineSpec.model_fields)


def machine_names() -> tuple[str, ...]:
    """Return the names of the shipped machines."""
    return tuple(sorted(path.stem for path in MACHINES.glob("*.yaml")))


@lru_cache(maxsize=64)
def load_machine(name: str) -> MachineSpec:
    """Return the shipped machine `name`, or the one described in the YAML file at path `name`.

    Raises ValueError with one line: the file, the path of the value, the value, and what is allowed.
    """
    if name in machine_names():
        path, where = MACHINES / f"{name}.yaml", f"machine {name}"
    elif name.endswith((".yaml", ".yml")):
        path, where = Path(name), name
    elif "/" in name or name.startswith("."):
        raise ValueError(f"machine {units.shown(name)}: a path of a machine file ends in .yaml")
    else:
        raise ValueError(unknown("machine", name, machine_names()) + ", or a path ending in .yaml")
    tree = _read(path)
    if misspelt := next(_unknown_keys(tree), None):
        raise ValueError(f"{where}: {misspelt}")
    try:
        whole = with_sets(with_base(tree, _shipped, (name,)))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    spec = validated(whole, where)
    _check_ranges(spec, dict(leaves(whole)), where)
    return spec


def _read(path: Path) -> dict[str, Any]:
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else units.shown(tree)
        raise ValueError(f"{path}: {found}: a machine description is a mapping with the keys {', '.join(_KEYS)}")
    return tree


def _shipped(name: object) -> dict[str, Any]:
    """Return the file of a machine that another one is like."""
    if not isinstance(name, str) or name not in machine_names():
        text = name if isinstance(name, str) else units.shown(name)
        raise ValueError(f"like: {unknown('machine', text, machine_names())}")
    return _read(MACHINES / f"{name}.yaml")


def _check_ranges(spec: MachineSpec, texts: Mapping[str, object], where: str) -> None:
    """Raise ValueError for a range of what is no number, an end that the number cannot be, or one that it is not in.

    `texts`: the numbers as the file writes them.
    """
    numbers = {path: value for path, value in settable(spec) if type(value) in (int, Resolved)}
    bare = spec.model_copy(update={"ranges": {}})
    for path, entry in spec.ranges.items():
        if path not in numbers:
            raise ValueError(f"{where}: {nothing_at(spec, 'ranges', 'number', path, numbers)}")
        ends = []
        for name in ("low", "high"):
            try:
                end = bare.with_overrides({path: getattr(entry, name)})
            except ValueError as error:
                text = str(error).removeprefix(f"{where}: ")
                raise ValueError(f"{where}: ranges.{path}.{name}: {text}") from None
            ends.append(dict(settable(end))[path])
        if not ends[0] <= numbers[path] <= ends[1] or ends[0] == ends[1]:
            given = f"{entry.low} to {entry.high}, where {path} is {texts[path]}"
            raise ValueError(f"{where}: ranges.{path}: {given}: allowed: a range that the number itself lies in")


def _unknown_keys(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is said of each key that descriptions do not have; whose value is wrong is said elsewhere."""
    for path, _ in leaves({key: value for key, value in tree.items() if key not in {*WORDS, "like"}}):
        parts = path.split(".")
        for depth, key in enumerate(parts):
            known = keys_at(MachineSpec, parts[:depth])
            if key == "like" or not known:
                break
            if key not in known:
                yield unknown("key", ".".join(parts[: depth + 1]), [".".join([*parts[:depth], k]) for k in known])
                break
