"""One question to the simulator, as a value: hashable, picklable, complete.

A `Query` names everything that a simulated time depends on. The search makes one per point, `whatif` one per
variant, and `evaluate` answers them in whichever process it is called. It holds names and numbers only:
nothing is loaded here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Scalar = bool | int | float | str
Choice = tuple[Scalar, ...]  # one value for each searched knob
MACHINE_PREFIX = "machine."
NAME_PATTERN = "(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9_-]{0,31}"  # of an option that is a choice among names
AZURE, MOONCAKE = "azure-2023-conversation", "mooncake-conversation"
TRACES = {"azure": AZURE, AZURE: AZURE, "mooncake": MOONCAKE, MOONCAKE: MOONCAKE}
TRACE_FILES = {AZURE: "requests/azure-2023-conversation.csv.gz", MOONCAKE: "requests/mooncake-conversation.jsonl.gz"}


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """How many sequences, and how many KV tokens each: all `context`, or drawn from `trace` with `seed`.

    `trace_path` is the file of the trace where it is on this computer; None means the quantiles that are
    shipped, which only Azure's has.
    """

    sequences: int
    context: int | None = None
    trace: str | None = None
    seed: int = 0
    trace_path: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A machine, a kernel on a model and a batch, and the knobs that are not at their defaults."""

    machine: str
    kernel: str
    model: str | None = None
    batch: BatchSpec | None = None
    options: tuple[tuple[str, int | str], ...] = ()  # problem sizes, such as m, n, k of gemm, and choices
    knobs: tuple[tuple[str, Scalar], ...] = ()  # sorted by name
    machine_overrides: tuple[tuple[str, str], ...] = ()  # sorted by path
    seed: int = 0  # of the program: the order of shuffled pages
    routing: str | None = None  # the file of recorded choices of experts

    def with_knob(self, name: str, value: Scalar) -> Query:
        """Return this query with knob `name` set; `machine.PATH` overrides a number of the machine."""
        if name.startswith(MACHINE_PREFIX):
            overrides = dict(self.machine_overrides) | {name.removeprefix(MACHINE_PREFIX): str(value)}
            return replace(self, machine_overrides=tuple(sorted(overrides.items())))
        return replace(self, knobs=tuple(sorted((dict(self.knobs) | {name: value}).items())))

    def settings(self) -> dict[str, Scalar]:
        """Return every knob and every machine override by name, the latter as text under `machine.PATH`."""
        machine = {MACHINE_PREFIX + path: text for path, text in self.machine_overrides}
        return dict(self.knobs) | machine
