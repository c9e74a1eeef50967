"""What `rowhit step` shows: a step of a model as a table of kernels, from a query to text and to JSON."""

from __future__ import annotations

from typing import Any

from explorer.query import BatchSpec


def step_facts(
    machine: str, model: str, batch: BatchSpec, *, prefill: bool, parallel: int
) -> tuple[str, dict[str, Any]]:
    """Return the table of a step's kernels as text, and its numbers."""
    from explorer.evaluate import batch_of, machine_of
    from hwmodel.units import FS_PER_US
    from workloads.model import load_model
    from workloads.sequence import plan
    from workloads.sequence_result import simulate_call
    from workloads.step import model_steps

    target, contexts = machine_of(machine), batch_of(batch).contexts
    steps = model_steps(load_model(model), contexts, target, prefill=prefill, parallel=parallel, seed=batch.seed)
    result = simulate_call(plan(steps, target, batch.seed), target)
    lines = [
        {
            "step": line.name,
            "kernel": line.kernel,
            "count": line.count,
            "time_us": line.result.time_us,
            "bound_us": line.result.bound.total_fs / FS_PER_US,
            "limited_by": line.result.bound.limited_by,
            "memory_bytes": line.count * line.moved_bytes,
        }
        for line in result.lines
    ]
    total = {"time_us": result.total_fs / FS_PER_US, "launch_us": result.launch_fs / FS_PER_US}
    return result.text(), {"steps": lines, **total, "memory_bytes": result.moved_bytes}
