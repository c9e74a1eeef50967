"""Who proposes the next point: one Optuna study behind `propose` and `learn`.

The study lives in memory and is told every answer in the order asked, so that it is a function of the study's
seed and of the answers alone. Names of samplers are resolved in one table. `exhaustive` proposes nothing, and
leaves the choice to the lower bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from explorer.query import Choice, Scalar

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler


def _tpe(seed: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed)


def _random(seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {"tpe": _tpe, "random": _random}


class Proposer:
    """Proposes choices of the knobs and learns what they came to: the value of the objective."""

    def __init__(self, knobs: Mapping[str, Sequence[Scalar]], sampler: str, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._names = tuple(knobs)
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.CategoricalDistribution(list(choices)) for name, choices in knobs.items()
        }
        self.proposes = sampler in SAMPLERS
        make = SAMPLERS.get(sampler, _random)
        self._study = optuna.create_study(direction="minimize", sampler=make(seed))

    def propose(self) -> tuple[optuna.Trial, Choice]:
        """Return a new trial and the choice it stands for."""
        trial = self._study.ask(self._distributions)
        return trial, tuple(trial.params[name] for name in self._names)

    def adopt(self, choice: Choice) -> optuna.Trial:
        """Return a trial for a choice that was made elsewhere."""
        self._study.enqueue_trial(dict(zip(self._names, choice, strict=True)))
        trial, adopted = self.propose()
        assert adopted == choice
        return trial

    def learn(self, trial: optuna.Trial, value: float | None, bound: float | None = None) -> None:
        """Tell the value of a trial; one without counts as worse than all with one, ordered by bound."""
        from optuna.trial import TrialState

        if value is not None:
            self._study.tell(trial, value)
            return
        if bound is not None:
            trial.report(bound, step=0)
        self._study.tell(trial, state=TrialState.PRUNED)
