"""What if: one query beside variants of it, every number with its difference.

Variants are independent of each other, so they may be simulated in any executor; the answer lists them as
asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

from explorer import settings
from explorer.evaluate import Evaluator
from explorer.query import Query, Scalar
from explorer.row import all_numbers, nested, per_unit, with_nulls


def what_if(
    query: Query, changes: Sequence[settings.Settings], evaluator: Evaluator, executor: Executor
) -> dict[str, Any]:
    """Return `baseline` (metrics) and `variants`: what was `set`, the metrics, and their `difference`; nested alike.

    A difference is relative: 0.1 is 10 % more than the baseline; a number whose baseline is 0 has none. Stalls are
    fs summed over all units; their differences are of the average unit, as a variant may have more units.
    Raises ValueError naming the setting that the simulator does not take.
    """
    defaults = evaluator.defaults(query.kernel)
    queries = [query, *(settings.apply(query, change, defaults) for change in changes)]
    for change, variant in zip(((), *changes), queries, strict=True):
        _check(change, variant, evaluator)
    outcomes = executor.map(evaluator.simulate, queries)
    metrics = [all_numbers(outcome.metrics) for outcome in outcomes]
    variants = [
        {
            "set": settings.typed(change, defaults),
            **with_nulls(nested(numbers)),
            "difference": nested(_differences(metrics[0], numbers)),
        }
        for change, numbers in zip(changes, metrics[1:], strict=True)
    ]
    return {"baseline": with_nulls(nested(metrics[0])), "variants": variants}


def _check(change: settings.Settings, query: Query, evaluator: Evaluator) -> None:
    try:
        evaluator.bound_us(query)
    except ValueError as error:
        if not change:
            raise
        text = ",".join(f"{path}={value}" for path, value in change)
        raise ValueError(f"--set {text}: {error}") from None


def _differences(baseline: dict[str, Scalar], variant: dict[str, Scalar]) -> dict[str, float]:
    differences = {}
    starts = per_unit(baseline)
    for name, value in per_unit(variant).items():
        start = starts.get(name)
        if isinstance(value, int | float) and isinstance(start, int | float) and start != 0:
            differences[name] = value / start - 1
    return differences
