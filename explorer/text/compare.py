"""What `rowhit compare` shows of two runs: the summary, what they are, and a line per number that differs."""

from __future__ import annotations

from explorer.compare import Comparison, Difference, context, summary
from explorer.text.tables import align, is_share, number, points, signed


def comparison_text(found: Comparison) -> str:
    """Return a comparison as text, without the numbers that are equal."""
    differing = {name: entry for name, entry in found.numbers.items() if entry.a != entry.b}
    rows = [("", "A", "B", "B - A", "", "")]
    rows += [(name, *_cells(name, entry), "") for name, entry in differing.items()]
    same = len(found.numbers) - len(differing)
    head, table = f"{summary(found)}\n{context(found)}", align(rows) if differing else ""
    parts = [head, _runs(found), table, f"{same} numbers are the same in both"]
    return "\n\n".join(part for part in parts if part)


def _runs(found: Comparison) -> str:
    """Return what the runs are of, with the knobs that differ, and digests of machines that only those tell apart."""
    lines, hashes = [], found.numbers["machine_hash"]
    is_hidden = found.a.title == found.b.title and hashes.a != hashes.b
    for name, saved, other in (("A", found.a, found.b), ("B", found.b, found.a)):
        own = [f"{knob}={value}" for knob, value in saved.settings.items() if other.settings.get(knob) != value]
        if is_hidden:
            own.append(f"machine_hash={hashes.a if name == 'A' else hashes.b}")
        lines.append(f"{name}: {saved.title}" + (f"   ({', '.join(own)})" if own else ""))
    return "\n".join(lines)


def _cells(name: str, entry: Difference) -> tuple[str, str, str, str]:
    a, b = ("-" if value is None else number(name, value) for value in (entry.a, entry.b))
    if entry.absolute is None:
        return a, b, "", ""
    if is_share(name):
        return a, b, points(entry.absolute), signed(entry.relative)
    absolute = number(name, entry.absolute)
    return a, b, absolute if entry.absolute < 0 else f"+{absolute}", signed(entry.relative)
