"""From names and numbers, as commands and scripts give them, to a `Query`.

The only place that reads the environment, for where traces lie.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from explorer.query import TRACE_FILES, TRACES, BatchSpec, Query

if TYPE_CHECKING:
    from explorer.study.study import Study


def query_of(
    machine: str,
    kernel: str,
    model: str | None,
    batch: int | None,
    context: int | None,
    trace: str | None,
    seed: int,
    options: dict[str, int | str],
    routing: str | None = None,
) -> Query:
    """Return the question that the options of a command ask; ValueError names the option that cannot be."""
    from explorer import programs

    if (batch, context, trace) != (None, None, None):
        programs.check_takes_batch(kernel)
    for option, value in {"batch": batch, "context": context}.items():
        if value is not None and value < 1:
            raise ValueError(f"--{option} {value}: must be at least 1")
    lengths = lengths_of(batch, context, trace, seed)
    return Query(machine, kernel, model, lengths, tuple(options.items()), seed=seed, routing=routing)


def lengths_of(sequences: int | None, context: int | None, trace: str | None, seed: int) -> BatchSpec | None:
    """Return the batch that the options ask for, or None where none of them is given."""
    from explorer.names import unknown

    if sequences is None and context is None and trace is None:
        return None
    if (context is None) == (trace is None):
        raise ValueError("give either --context (tokens of every sequence) or --trace, and not both")
    if trace is not None and trace not in TRACES:
        raise ValueError(f"--trace: {unknown('trace', trace, TRACES)}")
    name = TRACES[trace] if trace else None
    return BatchSpec(1 if sequences is None else sequences, context, name, seed, trace_path(name))


def trace_path(trace: str | None) -> str | None:
    """Return the file of a trace: under ROWHIT_DATA, or under ../shared/data, or None where there is none.

    Raises ValueError where a trace is asked for and ROWHIT_DATA names no folder.
    """
    if trace is None:
        return None
    given = os.environ.get("ROWHIT_DATA")
    if given and not Path(given).is_dir():
        raise ValueError(f"ROWHIT_DATA: {given!r} is no folder; allowed: the folder that holds {TRACE_FILES[trace]}")
    path = Path(given or Path("..") / "shared" / "data") / TRACE_FILES[trace]
    return str(path) if path.is_file() else None


def trace_paths(study: Study, *more: str | None) -> dict[str, str | None]:
    """Return the files of the traces that a study names, and of others, by name."""
    batches = [study.batch, *(workload.batch for workload in study.mix.values())]
    names = [*(batch.trace for batch in batches if batch), *more]
    return {TRACES[name]: trace_path(TRACES[name]) for name in names if name is not None}
