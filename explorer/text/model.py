"""What `rowhit models` shows: the layers of a model by kind, and what follows from them.

Facts first, as one JSON object shows them; the text is made of the same facts.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from explorer.text.tables import WIDTH, align

TOTALS = ("parameters", "active_parameters", "kv_bytes_per_token", "window_bytes", "state_bytes")
_MEANINGS = {
    "parameters": "weights, of layers, embedding and output head",
    "active_parameters": "those one token uses, embedding and output head included",
    "lookup_parameters": "those of them that are only looked up: an embedding that is not the output head",
    "mtp_parameters": "of multi-token prediction, in no other number",
    "kv_bytes_per_token": "bytes that each further token adds to the cache; full windows add none",
    "window_bytes": "bytes of all full windows of a sequence",
    "state_bytes": "bytes of recurrent state of a sequence",
}


def list_models() -> dict[str, dict[str, Any]]:
    """Return the facts of every shipped model by name."""
    from workloads.model import model_names

    return {name: describe_model(name) for name in model_names()}


def describe_model(name: str, kv_dtype: str | None = None) -> dict[str, Any]:
    """Return the facts of one model, shipped or in a `config.json`; `kv_dtype`: of its cache, by default its own."""
    from workloads.model import load_model

    model = load_model(name)
    if kv_dtype is not None:
        model = replace(model, kv_dtype=kv_dtype)
    plain = ("name", "hidden", "vocabulary", "tied_embeddings", "dtype")
    return {
        **{fact: getattr(model, fact) for fact in plain},
        "kv_dtype": model.kv_dtype or model.dtype,
        "quantisation": asdict(model.quantisation) if model.quantisation else None,
        "layers": [_group(group, model.kv_dtype_bytes) for group in model.groups],
        **{total: getattr(model, total) for total in _MEANINGS},
        "notes": list(model.notes),
        "warnings": list(model.warnings),
    }


def warnings(name: str) -> tuple[str, ...]:
    """Return the warnings about a model, each a line that begins with the name or the path it was asked by."""
    from workloads.model import load_model

    return tuple(f"{name}: {warning}" for warning in load_model(name).warnings)


def _group(group: Any, kv_dtype_bytes: int) -> dict[str, Any]:
    layer = group.layer
    return {
        "kind": layer.kind,
        "count": group.count,
        "positions": list(group.positions),
        "parameters": layer.parameters,
        "active_parameters": layer.active_parameters,
        "kv_bytes_per_token": kv_dtype_bytes * layer.attention.kv_elements_per_token,
        "window_bytes": kv_dtype_bytes * layer.attention.window_kv_elements,
        "state_bytes": layer.attention.state_bytes,
        "attention": asdict(layer.attention),
        "feed_forward": asdict(layer.feed_forward),
    }


def list_text(listed: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a line per model: its number of layers and its totals."""
    rows: list[Sequence[str]] = [("", "layers", *TOTALS, "")]
    for name, facts in listed.items():
        count = sum(group["count"] for group in facts["layers"])
        rows.append((name, str(count), *(f"{facts[total]:,}" for total in TOTALS), ""))
    return align(rows)


def model_text(facts: Mapping[str, Any]) -> str:
    """Return a model in words: a heading, the layers by kind with numbers per layer, their parts, the totals."""
    groups = facts["layers"]
    rows: list[Sequence[str]] = [("layers", "kind", *TOTALS, "")]
    rows += [(f"{g['count']} x", g["kind"], *(f"{g[total]:,}" for total in TOTALS), "") for g in groups]
    totals = [(name, f"{facts[name]:,}", meaning) for name, meaning in _MEANINGS.items()]
    lines = [_heading(facts), "", align(rows, left=2), ""]
    for group in groups:
        lines += _wrapped(f"{group['kind']}: layers {positions_text(group['positions'])}", "")
        lines += _wrapped(f"attention: {_part_text(group['attention'])}", "  ")
        lines += _wrapped(f"feed forward: {_part_text(group['feed_forward'])}", "  ")
    return "\n".join([*lines, "", align(totals), *(f"note: {note}" for note in facts["notes"])])


def _heading(facts: Mapping[str, Any]) -> str:
    count = sum(group["count"] for group in facts["layers"])
    parts = [f"{count} layers", f"hidden {facts['hidden']}", f"vocabulary {facts['vocabulary']:,}", facts["dtype"]]
    if stored := facts["quantisation"]:
        block = " x ".join(map(str, stored["block"])) or "a matrix"
        parts.append(f"quantised weights {stored['dtype']}, scale {stored['scale']} per {block}")
        parts += [f"routed experts {stored['experts_dtype']}"] if stored["experts_dtype"] else []
    return "; ".join([f"{facts['name']}: {', '.join(parts[:4])}", *parts[4:], f"cache {facts['kv_dtype']}"])


def _part_text(part: Mapping[str, Any]) -> str:
    """Return the fields of a part in the words of the JSON, without those that say no."""
    words = []
    for name, value in part.items():
        if name == "hidden" or value in (None, False, 0, "none"):
            continue
        if isinstance(value, Mapping):
            words.append(f"{name} ({_part_text(value)})")
        else:
            words.append(name if value is True else f"{name} {value}")
    return ", ".join(words)


def positions_text(positions: Sequence[int]) -> str:
    """Return layers as runs: 0-2, 4-6, and 1-35 by 2 for at least three at one distance."""
    runs, at = [], 0
    while at < len(positions):
        length = _run(positions, at)
        step = positions[at + 1] - positions[at] if length > 1 else 1
        if length >= 3 or (length == 2 and step == 1):
            by = f" by {step}" if step > 1 else ""
            runs.append(f"{positions[at]}-{positions[at + length - 1]}{by}")
        else:
            length = 1
            runs.append(str(positions[at]))
        at += length
    return ", ".join(runs)


def _run(positions: Sequence[int], at: int) -> int:
    """Return how many positions from `at` on have one distance."""
    end = at + 1
    while end < len(positions) and positions[end] - positions[end - 1] == positions[at + 1] - positions[at]:
        end += 1
    return end - at


def _wrapped(line: str, indent: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, initial_indent=indent, subsequent_indent=indent + "    ")
