"""What `rowhit step` shows: a step of a model as a table of kernels, as text and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from explorer.names import unknown
from explorer.progress import Progress, silent
from explorer.query import Scalar
from explorer.study.objective import octets
from explorer.study.settings import check, convert
from explorer.workers.threads import side_by_side

if TYPE_CHECKING:
    from hwmodel.program import Program
    from hwmodel.result import Result
    from workloads.scheduled import Scheduled
    from workloads.sequence import Step
    from workloads.sequence_result import Apply, CallResult


def step_facts(
    machine: Any,
    model: str,
    work: Scheduled,
    *,
    parallel: int,
    seed: int,
    engine: str = "compiled",
    weights: str = "model",
    cache: str = "model",
    knobs: Sequence[str] = (),
    every_run: bool = False,
    progress: Progress = silent,
) -> tuple[str, dict[str, Any]]:
    """Return a step's kernels on a machine as text, and its numbers with the knobs of each kernel.

    The text is a line about how weights are stored, a table, what all layers hold, and notes. `knobs`: STEP.KNOB=VALUE,
    for every step of that title. `every_run`: of equal layers simulate all. Raises ValueError naming the one that
    cannot be.
    """
    from explorer.evaluate import simulator
    from hwmodel.engine import supports
    from hwmodel.units import FS_PER_US
    from workloads.layers.formats import format_notes, formats_of, weights_text
    from workloads.layers.left_out import left_out_notes
    from workloads.model import load_model
    from workloads.sequence import plan
    from workloads.sequence_result import simulate_call
    from workloads.step import model_steps

    run, known = simulator(engine), load_model(model)
    steps = model_steps(known, work, machine, parallel=parallel, seed=seed, weights=weights, cache=cache)
    stored = weights_text(formats_of(known, weights, cache), {step.name.split(": ")[-1] for step in steps})
    notes = [*dict.fromkeys(step.note for step in steps if step.note)]
    if weights == "model":
        notes += format_notes(known)
    notes += left_out_notes(known, work, parallel)
    for text in knobs:
        steps = _with_knob(steps, text)
    call = plan(steps, machine, seed)
    threads = None if engine == "compiled" and supports(machine) else 1  # SimPy would only take turns
    result = simulate_call(call, machine, run=run, apply=_beside(threads, progress), every_run=every_run)
    kind = {"kind": work.kind, "new_tokens": work.tokens, "contexts": work.contexts, "new": work.new}
    total = {"time_us": result.total_fs / FS_PER_US, "launch_us": result.launch_fs / FS_PER_US}
    memory = call.held_bytes, call.transient_bytes, machine.memory_capacity_bytes
    held = dict(zip(("held_bytes", "transient_bytes", "capacity_bytes"), memory, strict=True))
    facts = {
        **kind,
        "weights": stored,
        "notes": notes,
        "steps": _line_facts(result, steps),
        **total,
        "memory_bytes": result.moved_bytes,
        **held,
    }
    said = (f"note: {note}" for note in notes)
    return "\n".join([f"weights: {stored}", result.text(), _held(**held), *said]), facts


def _beside(threads: int | None, progress: Progress) -> Apply:
    """Return what runs kernels beside each other, the longest first, and tells `progress` how many have ended."""

    def apply(run: Callable[[Program], Result], programs: Sequence[Program]) -> list[Result]:
        told = partial(progress, "kernels", total=len(programs))
        return side_by_side(run, programs, _tensor_bytes, threads, told)

    return apply


def _tensor_bytes(program: Program) -> int:
    return sum(tensor.size_bytes for tensor in program.tensors)


def _line_facts(result: CallResult, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the lines of a simulated step as JSON-able values of one run each, and the knobs that steps were given."""
    from hwmodel.units import FS_PER_US

    chosen = {step.name: _knobs(step.knobs) for step in steps}
    return [
        {
            "step": line.name,
            "kernel": line.kernel,
            "count": line.count,
            "time_us": line.result.time_us,
            "bound_us": line.result.bound.total_fs / FS_PER_US,
            "limited_by": line.result.bound.limited_by,
            "memory_bytes": line.moved_bytes,
            "knobs": chosen.get(line.name, {}),  # a conversion has none of its own
        }
        for line in result.lines
    ]


def _held(held_bytes: int, transient_bytes: int, capacity_bytes: int) -> str:
    """Return in words what the layers hold together, each its own weights and caches, and what they share in turn."""
    more = "" if held_bytes + transient_bytes <= capacity_bytes else ": more than there is"
    both = f"{octets(held_bytes)}, activations and tables {octets(transient_bytes)}"
    return f"weights and caches of all layers: {both}, of {octets(capacity_bytes)}{more}"


def title_of(work: Scheduled) -> str:
    """Return what kind of step it is and what it computes, in words."""
    sequences = f"{len(work.new)} sequences" if len(work.new) > 1 else "1 sequence"
    kind = work.kind if work.kind == "prefill" else f"{work.kind} step"
    return f"{kind} · {work.tokens} new of {sum(work.contexts)} KV tokens in {sequences}"


def _with_knob(steps: list[Step], text: str) -> list[Step]:
    """Return the steps with a knob of all those of one title changed."""
    where = f"--knob {text[:80]}"
    path, equals, value = text.partition("=")
    title, dot, name = path.strip().rpartition(".")
    if not (equals and dot):
        raise ValueError(f"{where}: allowed: STEP.KNOB=VALUE")
    titles = {step.name: step.name.split(": ")[-1] for step in steps}
    if title not in titles.values():
        raise ValueError(f"{where}: {unknown('step', title, list(dict.fromkeys(titles.values())))}")

    def changed(step: Step) -> Step:
        defaults = _knobs(type(step.knobs)())
        if name not in defaults:
            raise ValueError(f"{where}: {unknown(f'knob of {step.kernel}', name, list(defaults))}")
        new = convert(value.strip(), defaults[name], where)
        check(new, defaults[name], where)
        return replace(step, knobs=replace(step.knobs, **{name: new}))

    return [changed(step) if titles[step.name] == title else step for step in steps]


def _knobs(knobs: Any) -> dict[str, Scalar]:
    return {field.name: getattr(knobs, field.name) for field in fields(knobs)}
