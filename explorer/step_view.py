"""What `rowhit step` shows: a step of a model as a table of kernels, from a query to text and to JSON."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from explorer.query import BatchSpec, Scalar


def step_facts(
    machine: Any,
    model: str,
    batch: BatchSpec,
    *,
    prefill: bool,
    parallel: int,
    engine: str = "compiled",
    weights: str = "model",
    cache: str = "model",
) -> tuple[str, dict[str, Any]]:
    """Return a step's kernels on a machine as text, and its numbers with the knobs of each kernel.

    The text is a line about how weights are stored, a table, and notes.
    """
    from explorer.evaluate import batch_of, simulator
    from hwmodel.units import FS_PER_US
    from workloads.layers.formats import formats_of, unknown_format, weights_text
    from workloads.model import load_model
    from workloads.scheduled import decode
    from workloads.scheduled import prefill as whole
    from workloads.sequence import plan
    from workloads.sequence_result import simulate_call
    from workloads.step import model_steps

    run, contexts = simulator(engine), batch_of(batch).contexts
    work = whole(contexts) if prefill else decode(contexts)
    known = load_model(model)
    steps = model_steps(known, work, machine, parallel=parallel, seed=batch.seed, weights=weights, cache=cache)
    stored = weights_text(formats_of(known, weights, cache), {step.name.split(": ")[-1] for step in steps})
    notes = [*dict.fromkeys(step.note for step in steps if step.note)]
    if weights == "model" and (unknown := unknown_format(known.quantisation)):
        notes.append(unknown)
    knobs = {step.name: _knobs(step.knobs) for step in steps}
    result = simulate_call(plan(steps, machine, batch.seed), machine, run=run)
    lines = [
        {
            "step": line.name,
            "kernel": line.kernel,
            "count": line.count,
            "time_us": line.result.time_us,
            "bound_us": line.result.bound.total_fs / FS_PER_US,
            "limited_by": line.result.bound.limited_by,
            "memory_bytes": line.count * line.moved_bytes,
            "knobs": knobs[line.name],
        }
        for line in result.lines
    ]
    total = {"time_us": result.total_fs / FS_PER_US, "launch_us": result.launch_fs / FS_PER_US}
    facts = {"weights": stored, "notes": notes, "steps": lines, **total, "memory_bytes": result.moved_bytes}
    return "\n".join([f"weights: {stored}", result.text(), *(f"note: {note}" for note in notes)]), facts


def _knobs(knobs: Any) -> dict[str, Scalar]:
    return {field.name: getattr(knobs, field.name) for field in fields(knobs)}
