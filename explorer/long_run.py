"""What is said before a run that takes long: how much it moves, and what answers sooner.

Nothing is simulated, and of a program's work items a sample is counted.
"""

from __future__ import annotations

from typing import Any

LONG_S = 30  # assumed: of a run, from which on it is worth a line
BYTES_PER_S = 200e6  # assumed: what the engine moves on one ordinary core; 180 to 400 MB/s were seen
INSTEAD = "`rowhit whatif ... --fidelity windows` (the same kernel and sizes, and a --set) tells the time in seconds"


def warning(program: Any, runs: int = 1) -> str:
    """Return in a line what `runs` runs of a program move, where they take longer than `LONG_S`; else nothing."""
    from workloads.traffic import program_bytes

    size = program_bytes(program)
    seconds = size * runs / BYTES_PER_S
    if seconds <= LONG_S:
        return ""
    moved = f"{size / 1e9:,.1f} GB"
    many = f"{runs} runs load and store {moved} each" if runs > 1 else f"the run loads and stores {moved}"
    long = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} minutes"
    return f"{many}, every burst is simulated: {long} at {BYTES_PER_S / 1e6:.0f} MB/s of one core; {INSTEAD}"
