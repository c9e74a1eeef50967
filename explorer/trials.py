"""A row as an Optuna trial, for whoever reads a search with Optuna or its dashboard.

The journal of a results folder and the study in a PostgreSQL database both hold one trial per row, in the order of
the points. A point outside the searched space is a trial without parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from explorer.objective import OBJECTIVES
from explorer.row import Row, Status
from explorer.study import Study

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage


def opened(storage: BaseStorage, name: str, objectives: int) -> optuna.Study:
    """Return the Optuna study of that name in a storage, made where there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions: list[Literal["minimize"]] = ["minimize"] * objectives
    return optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)


def trial(row: Row, study: Study, more: Mapping[str, Any] | None = None) -> optuna.trial.FrozenTrial:
    """Return the trial of a row, with `more` user attributes than those that name the point."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.trial import TrialState, create_trial

    params = {name: _choice(row, name, choices) for name, choices in study.choices.items()}
    inside = all(value is not None for value in params.values())
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(list(choices)) for name, choices in study.choices.items()
    }
    values = [value for name in study.objectives if (value := row.value(OBJECTIVES[name])) is not None]
    states = {
        Status.SIMULATED: TrialState.COMPLETE,
        Status.PRUNED: TrialState.PRUNED,
        Status.INVALID: TrialState.FAIL,
    }
    named = {"key": row.key, "point": row.point, "batch": row.batch, "bound_us": row.bound_us}
    return create_trial(
        state=states[row.status],
        values=values if row.status is Status.SIMULATED else None,
        params=params if inside else {},
        distributions=distributions if inside else {},
        user_attrs=named | dict(more or {}),
    )


def _choice(row: Row, name: str, choices: Sequence[object]) -> object:
    """Return the choice of a knob that the row has, None where it has another value."""
    return next((choice for choice in choices if str(choice) == str(row.settings.get(name))), None)
