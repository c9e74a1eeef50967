"""What designs are compared by: the least of one objective, of a workload or as the risk of several.

It stands between `variants`, which asks about every design, and `study.mix` and `study.objective`, by which a search
compares its points, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from explorer.evaluate import Metric
from explorer.query import Query, Scalar
from explorer.questions.fidelity import Measured
from explorer.study.mix import MEAN, Risk, numbers_of
from explorer.study.objective import COSTS, TIME, Objective


@dataclass(frozen=True)
class Goal:
    """`names` and `weights` of the workloads, and the `risk` by which their numbers become one."""

    objective: Objective = TIME
    names: tuple[str, ...] = ("",)
    weights: tuple[float, ...] = (1.0,)
    risk: Risk = MEAN

    def numbers(self, metrics: Sequence[Mapping[str, Metric]]) -> dict[str, Scalar]:
        """Return the flat numbers of a design from those on every workload."""
        found = numbers_of(dict(zip(self.names, metrics, strict=True)), self.weights, self.risk, [self.objective])
        if self.objective.metric in COSTS:  # of the machine, the same for all workloads
            cost = metrics[0][self.objective.metric]
            assert isinstance(cost, int | float)
            found |= {self.objective.metric: cost, self.objective.bound: cost}
        return found

    def value(self, numbers: Mapping[str, Scalar]) -> float | None:
        """Return the number that is compared; None where it was not simulated."""
        found = numbers.get(self.objective.metric)
        return None if found is None else float(found)

    def bound(self, numbers: Mapping[str, Scalar]) -> float:
        """Return the lower bound of that number."""
        return float(numbers[self.objective.bound])

    def cost(self, numbers: Mapping[str, Scalar]) -> float:
        """Return the number that is compared, or its bound where that is all that was asked for."""
        value = self.value(numbers)
        return self.bound(numbers) if value is None else value


TIME_ALONE = Goal()


def with_bound(
    measured: Measured, query: Query, objective: Objective, bound: Callable[[Query, str], float]
) -> Measured:
    """Return the numbers of a query with the lower bound of the objective, by `bound(query, metric)` where it lacks it.

    Costs of the machine are known with their bound. Raises ValueError where the machine does not give the objective.
    """
    if measured.metrics.get(objective.bound) is not None:
        return measured
    least = bound(query, objective.metric)
    found = {objective.bound: least} | ({objective.metric: least} if objective.metric in COSTS else {})
    return replace(measured, metrics=dict(measured.metrics) | found)
