"""What the layers of a step have in common, and how their kernels find tiles that fit the machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from hwmodel.machine import DoesNotFit, Machine
from workloads.kernels import row_parts
from workloads.kernels.base import shrinking
from workloads.layers.formats import Formats
from workloads.scheduled import Scheduled
from workloads.sequence import Step
from workloads.values import Part

RESULT, STREAM = "result", "stream"  # what a mixer computes, and the residual stream (or streams): of all layers
Values: TypeAlias = Mapping[str, str | Part]


@dataclass(frozen=True)
class Setting:
    """What the layers of a step, or of a part of it, have in common.

    `seed` draws what kernels leave to chance. `formats`: how their weights and caches are stored. `first`: the first
    token of the part among the `whole` tokens of the step; 0 for its own.
    """

    work: Scheduled
    parallel: int
    dtype: str
    machine: Machine
    seed: int = 0
    formats: Formats = field(default_factory=Formats)
    first: int = 0
    whole: int = 0

    @property
    def tokens(self) -> int:
        """The new tokens of all sequences."""
        return self.work.tokens

    def parts(self, work: Scheduled | None = None) -> Iterator[tuple[str, Setting]]:
        """Yield the settings of the parts of the step, or of `work`, and what titles say of them where there are more.

        Each is what an attention kernel takes by itself.
        """
        parts = list((work or self.work).parts())
        first = self.first
        for part in parts:
            here = replace(self, work=part, first=first, whole=self.whole or self.tokens)
            yield _of_part(part) if len(parts) > 1 else "", here
            first += part.tokens

    def part(self, value: str, width: int, *axes: str, column: int = 0, rows: int = 1) -> Part:
        """Return what a tensor is of a value with rows of `width` for all tokens of the step, or `rows` for each.

        It has those of the tokens here, from a `column` on; `axes` as in `Part`.
        """
        shape = rows * (self.whole or self.tokens), width
        return Part(value, shape, axes, rows * self.first, rows * self.tokens, column)

    def share(self, count: int, what: str, *, copied: bool = False) -> int:
        """Return a device's part of a count that the group divides; of fewer heads that may be copied, one."""
        if count % self.parallel and not (copied and self.parallel % count == 0):
            raise ValueError(f"parallel: {self.parallel} does not divide {what} ({count})")
        return max(1, count // self.parallel)


def _of_part(part: Scheduled) -> str:
    if not part.decodes:
        return " of prefill"
    return " of decode" if part.each == 1 else f" of {part.each} tokens"


def fitting(
    title: str, kernel: str, problem: Any, candidates: Iterable[Any], setting: Setting, values: Values | None = None
) -> Step:
    """Return a step with the first knobs whose program fits the machine. Raises DoesNotFit naming it if none do.

    Raises ValueError naming it for what is wrong with a candidate otherwise.
    """
    last: DoesNotFit | None = None
    for knobs in candidates:
        step = Step(title, kernel, problem, knobs, values=values or {})
        try:
            return replace(step, made=step.compile(setting.machine, setting.seed))
        except DoesNotFit as error:
            last = error
        except ValueError as error:
            raise ValueError(f"step {title}: {error}") from None
    raise DoesNotFit(f"step {title}: {last}")


def noted(step: Step, note: str) -> Step:
    """Return a step with one note more, if there is one."""
    return replace(step, note="; ".join(filter(None, (step.note, note))))


def fitted(title: str, kernel: str, problem: Any, knobs: Any, setting: Setting, values: Values | None = None) -> Step:
    return fitting(title, kernel, problem, shrinking(knobs), setting, values)


def by_rows(
    title: str, kernel: str, problem: Any, knobs: type[Any], setting: Setting, values: Values | None = None
) -> Step:
    """Return a step of a row-wise kernel, in tiles of fewer rows where more do not fit, or of parts of one."""
    return fitting(title, kernel, problem, row_parts.candidates(knobs), setting, values)


def split(s: Setting, items: int, longest: int) -> int:
    """Return how many tokens an item of split-KV takes, so that most cores have one and none two; 0 for all of them.

    `items`: those of a query.
    """
    parts = s.machine.spec.cores.count // (items * s.tokens)
    return max(256, -(-longest // parts)) if parts > 1 else 0
