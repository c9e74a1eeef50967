"""What a step is asked to compute, as options say it: sequences that decode, prompts, chunks, or a step of a trace."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from explorer.query import TRACE_FILES, BatchSpec

if TYPE_CHECKING:
    from workloads.scheduled import Scheduled

SERVED_SEQUENCES = 256  # at most in a step of a trace that is served, where nothing else is said
MOST_SERVED = 1 << 16  # assumed: an engine with more is a slip
PAGE_SIZE = 16  # tokens, of the engine that serves a trace


def work_of(batch: BatchSpec | None, chunks: Sequence[str], *, prefill: bool, draft: int) -> tuple[Scheduled, str]:
    """Return the step of a batch, all of it new with `prefill` or `draft` tokens more than one, and of chunks.

    Beside it a line that says where the lengths come from. `chunks`: NEW or NEW@CONTEXT. Raises ValueError for no
    sequence at all, for drafts of a prefill, and naming a chunk that is none.
    """
    from explorer.programs import batch_of
    from workloads.scheduled import decode, of
    from workloads.scheduled import prefill as whole

    if batch is None and not chunks:
        raise ValueError("step: give --context, --trace or --chunk")
    if prefill and draft:
        raise ValueError("step: --draft is of sequences that decode; allowed: without --prefill")
    sequences, sources = [_chunk(text) for text in chunks], [f"chunks: {', '.join(chunks)}"] if chunks else []
    if batch is not None:
        drawn = batch_of(batch)
        step = whole(drawn.contexts) if prefill else decode(drawn.contexts, draft)
        sequences += zip(step.contexts, step.new, strict=True)
        sources.insert(0, drawn.source)
    return of(sequences), "; ".join(sources)


def served_work(batch: BatchSpec, budget: int, at_s: float) -> tuple[Scheduled, str]:
    """Return the first mixed step from `at_s` on of the trace of `batch`, as an engine with a token budget serves it.

    Beside it a line that says where it comes from. The engine has the sequences of `batch` at most, and pages for all
    of them. Raises ValueError for a time that is none, for more than MOST_SERVED sequences, and where there is no file
    of the trace, or no such step.
    """
    from pathlib import Path

    from workloads.replay import Engine, Replay
    from workloads.scheduled import served
    from workloads.traces import READERS

    assert batch.trace is not None
    if not (math.isfinite(at_s) and at_s >= 0):
        raise ValueError(f"--at {at_s:g}: allowed: seconds from 0")
    if batch.sequences > budget:
        raise ValueError(f"--batch {batch.sequences}: allowed with --budget {budget}: up to {budget} sequences")
    if batch.sequences > MOST_SERVED:
        raise ValueError(f"--batch {batch.sequences}: allowed with --budget: up to {MOST_SERVED} sequences")
    if batch.trace_path is None:
        file = TRACE_FILES[batch.trace]
        raise ValueError(f"--budget: no file of {batch.trace} is here; set ROWHIT_DATA to the folder that holds {file}")
    table = READERS[batch.trace](Path(batch.trace_path))
    longest = int((table.input_tokens + table.output_tokens).max())
    pages = min(batch.sequences, len(table.input_tokens)) * -(-longest // PAGE_SIZE)
    engine = Engine(PAGE_SIZE, pages, token_budget=budget, max_sequences=batch.sequences)
    for step in Replay(table, engine):
        if step.begin_ns >= at_s * 1e9 and step.is_prefill.any() and not step.is_prefill.all():
            when = f"{step.begin_ns / 1e9:.3f} s"
            return served(step), f"{table.source}, at {when}, {budget} tokens a step, {batch.sequences} sequences"
    raise ValueError(f"--at {at_s:g}: no step with prompts and answers begins so late; {table.source} is served before")


def _chunk(text: str) -> tuple[int, int]:
    """Return (KV tokens after the step, new tokens) of NEW or NEW@CONTEXT."""
    found = re.fullmatch(r"(\d{1,9})(?:@(\d{1,9}))?", text, re.ASCII)
    if found is None:
        raise ValueError(f"--chunk {text[:40]}: allowed: NEW tokens, or NEW@CONTEXT with the KV tokens after them")
    new, context = found.groups()
    return int(context or new), int(new)
