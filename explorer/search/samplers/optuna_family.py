"""Optuna's samplers behind one study in memory, whose parameters are places among the choices.

A knob of numbers is an integer, its place in the order of size, so that near values are near; a knob of texts is a
category (an integer in the order written for CMA-ES, which knows no categories). Optuna's libraries are loaded when
the first sampler is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from explorer.search.frontier import Values
from explorer.search.samplers import Proposal, Task
from explorer.study.knobs import Knob

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


def _tpe(task: Task) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=task.seed)


def _nsga2(task: Task) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=task.seed, population_size=_population(task))


def _nsga3(task: Task) -> BaseSampler:
    from optuna.samplers import NSGAIIISampler

    return NSGAIIISampler(seed=task.seed, population_size=_population(task))


def _cmaes(task: Task) -> BaseSampler:
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=task.seed, warn_independent_sampling=False)


def _gp(task: Task) -> BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=task.seed, deterministic_objective=True)


def _population(task: Task) -> int:
    """Return a generation's size; assumed: four generations at least, as far as that leaves eight points in one."""
    return max(8, min(50, task.points // 4))


OPTUNA: Mapping[str, Callable[[Task], BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "cmaes": _cmaes,
    "gp": _gp,
}


class FromOptuna:
    """One of Optuna's samplers."""

    def __init__(self, name: str, task: Task) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._grid, self._several = task.grid, task.objectives > 1
        self._orders = [_order(knob) for knob in task.grid.knobs]
        self._distributions = {
            knob.name: _distribution(knob, ordered=name == "cmaes" or isinstance(order, np.ndarray))
            for knob, order in zip(task.grid.knobs, self._orders, strict=True)
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(directions=["minimize"] * task.objectives, sampler=OPTUNA[name](task))

    def propose(self) -> Proposal | None:
        trial = self._study.ask(self._distributions)
        places = [trial.params[knob.name] for knob in self._grid.knobs]
        digits = [p if order is None else int(order[p]) for p, order in zip(places, self._orders, strict=True)]
        return Proposal(int(self._grid.index(np.array(digits))), trial)

    def adopt(self, index: int) -> Proposal:
        if index >= self._grid.size:  # the baseline, outside of what is searched
            return Proposal(index)
        digits = self._grid.digits(np.array([index]))[0]
        places = [
            int(d) if order is None else int(np.flatnonzero(order == d)[0])
            for d, order in zip(digits, self._orders, strict=True)
        ]
        names = [knob.name for knob in self._grid.knobs]
        self._study.enqueue_trial(dict(zip(names, places, strict=True)))
        proposal = self.propose()
        assert proposal is not None
        assert proposal.index == index
        return proposal

    def learn(self, proposal: Proposal, values: Values | None, bounds: Values | None) -> None:
        """Tell the values of a trial; one without counts as worse than all with one, ordered by bound."""
        from optuna.trial import TrialState

        trial: optuna.Trial | None = proposal.token
        if trial is None:
            return
        if values is not None:
            self._study.tell(trial, list(values))
        elif self._several:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            if bounds is not None:
                trial.report(bounds[0], step=0)
            self._study.tell(trial, state=TrialState.PRUNED)


def _order(knob: Knob) -> np.ndarray | None:
    """Return the places of numbers in the order of their size, None for texts."""
    if any(isinstance(choice, bool | str) for choice in knob.choices):
        return None
    return np.argsort(np.array(knob.choices, np.float64), kind="stable")


def _distribution(knob: Knob, ordered: bool) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    count = len(knob.choices)
    return IntDistribution(0, count - 1) if ordered else CategoricalDistribution(list(range(count)))


def make(name: str, task: Task) -> FromOptuna:
    """Return a sampler of this family."""
    return FromOptuna(name, task)
