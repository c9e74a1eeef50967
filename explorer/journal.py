"""The search as an Optuna journal file: one trial per row, for whoever reads it with Optuna or its dashboard.

The rows are the truth and the journal follows them: on opening, a line torn by a kill is cut off, missing
trials are added, and a journal that does not agree with the rows is written anew. Trials stand in the order of the
points: rows behind a missing one wait until it is made anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from explorer.objective import OBJECTIVES
from explorer.row import Row, Status
from explorer.study import Study

if TYPE_CHECKING:
    import optuna


class Journal:
    """Appends trials to the journal file at `path`, which agrees from the start with `rows`, in order from point 0."""

    def __init__(self, path: Path, study: Study, rows: Sequence[Row]) -> None:
        self._study = study
        _repair(path)
        present = _keys(path, study.name, len(study.objectives))
        if present is None or present != [row.key for row in rows[: len(present)]]:
            path.unlink(missing_ok=True)
            present = []
        self._log = _open(path, study.name, len(study.objectives))
        self._length = len(present)
        for row in rows[len(present) :]:
            self.append(row)

    def append(self, row: Row) -> None:
        """Add the trial of the next row, unless it is there.

        A point outside the searched space is a trial without parameters.
        """
        if row.point == self._length:
            self._log.add_trial(_trial(row, self._study))
            self._length += 1


def _repair(path: Path) -> None:
    """Cut an unfinished last line off, and remove the lock of a process that is gone."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)


def _keys(path: Path, name: str, objectives: int) -> list[object] | None:
    """Return the keys of the trials in the journal, None when it is no journal any more."""
    try:
        return [trial.user_attrs.get("key") for trial in _open(path, name, objectives).get_trials(deepcopy=False)]
    except (OSError, MemoryError):
        raise
    except Exception:  # Optuna replays the lines unchecked: what a damaged one raises can be anything
        return None


def _open(path: Path, name: str, objectives: int) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path)))
    directions: list[Literal["minimize"]] = ["minimize"] * objectives
    return optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)


def _trial(row: Row, study: Study) -> optuna.trial.FrozenTrial:
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
    return create_trial(
        state=states[row.status],
        values=values if row.status is Status.SIMULATED else None,
        params=params if inside else {},
        distributions=distributions if inside else {},
        user_attrs={"key": row.key, "point": row.point, "batch": row.batch, "bound_us": row.bound_us},
    )


def _choice(row: Row, name: str, choices: Sequence[object]) -> object:
    """Return the choice of a knob that the row has, None where it has another value."""
    return next((choice for choice in choices if str(choice) == str(row.settings.get(name))), None)
