"""A study in a PostgreSQL database, for teams: the results folder can be made from it on any computer.

An Optuna study of the folder's name, which Optuna and its dashboard read, with a trial per row in the order of the
points. User attributes of the study are the `identity` of the folder and the `space` (Parquet, in base64); those of a
trial are its `row`, and the `details` of one that was the best. The driver writes rows in groups, a second behind its
folder, in one transaction each, and holds an advisory lock meanwhile: a second driver is refused. The lock ends with
the connection, and what is not written yet is made anew, or comes from the folder, when the study is continued.

Only the driver talks to the database; workers do not. A password is in the URL, or where libpq looks for one
(`PGPASSWORD`, `~/.pgpass`), and is shown and kept nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from explorer import trials
from explorer.postgres_url import Database
from explorer.row import Row
from explorer.row_file import SYNC_SECONDS
from explorer.study import Study

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage

_IDENTITY, _SPACE, _ROW, _DETAILS = "identity", "space", "row", "details"


class SharedStudy:
    """The study called `name` in a database, as it can be read while others write it."""

    def __init__(self, database: Database, name: str) -> None:
        self.where = f"{database}: study {name}"
        self._database, self._name = database, name
        with self._failures():
            self._storage = _storage(database)
        self._study: optuna.Study | None = None
        with self._failures(), suppress(KeyError):  # there is none of that name
            self._study = _load(self._storage, name)

    def identity(self) -> dict[str, Any] | None:
        """Return the record of what the study belongs to, None where there is no study yet."""
        if self._study is None:
            return None
        with self._failures():
            found = self._study.user_attrs.get(_IDENTITY)
            if found is None and self._study.get_trials(deepcopy=False):
                raise ValueError(f"{self.where}: not one of rowhit's; choose another name with --out")
        return found if isinstance(found, dict) else None

    def space(self) -> bytes | None:
        """Return the file of the space, None where it is not known yet."""
        with self._failures():
            text = self._study.user_attrs.get(_SPACE) if self._study is not None else None
        return _decoded(text)

    def rows(self) -> Iterator[tuple[dict[str, Any], bytes | None]]:
        """Yield the record of every row in the order of the points, with the details that it has."""
        if self._study is None:
            return
        with self._failures():
            found = self._study.get_trials(deepcopy=False)
        for trial in found:
            record = trial.user_attrs.get(_ROW)
            if not isinstance(record, dict) or record.get("point") != trial.number:
                raise ValueError(f"{self.where}: trial {trial.number} has no row of point {trial.number}")
            yield record, _decoded(trial.user_attrs.get(_DETAILS))

    def close(self) -> None:
        """Leave the database."""
        self._storage.engine.dispose()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what goes wrong between here and the database into one line without a password."""
        import psycopg
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (psycopg.Error, SQLAlchemyError, StorageInternalError, RuntimeError) as error:
            raise ConnectionError(f"--storage {self._database}: {_reason(error)}") from None


class SharedLog(SharedStudy):
    """The study while this process alone writes it."""

    def __init__(self, database: Database, name: str, study: Study) -> None:
        self._searched = study
        self._waiting: list[tuple[Row, bytes | None]] = []
        self._flushed = time.monotonic()
        super().__init__(database, name)
        try:
            self._lock = self._locked()
            with self._failures():
                self._study = trials.opened(self._storage, name, len(study.objectives))
                self._length = len(self._study.get_trials(deepcopy=False))
        except BaseException:
            super().close()
            raise

    def keep_identity(self, record: Mapping[str, Any]) -> None:
        """Say what the study belongs to."""
        self._keep(_IDENTITY, dict(record))

    def keep_space(self, data: bytes, again: bool) -> None:
        """Keep the file of the space, unless it is there; `again`: instead of that one."""
        if again or self.space() is None:
            self._keep(_SPACE, base64.b64encode(data).decode())

    def append(self, row: Row, details: bytes | None) -> None:
        """Add the trial of the next row, unless it is there."""
        if row.point == self._length + len(self._waiting):
            self._waiting.append((row, details))
        if time.monotonic() > self._flushed + SYNC_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        assert self._study is not None
        with self._failures():
            self._lock.execute("SELECT 1")  # without this connection, another driver may have the lock
            if self._waiting:
                found = [trials.trial(row, self._searched, _attributes(row, details)) for row, details in self._waiting]
                _insert(self._storage, self._study._study_id, self._length, found)
        self._length += len(self._waiting)
        self._waiting.clear()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what waits and let another driver in."""
        try:
            self.flush()
        finally:
            self._lock.close()
            super().close()

    def _keep(self, key: str, value: object) -> None:
        assert self._study is not None
        with self._failures():
            self._study.set_user_attr(key, value)

    def _locked(self) -> Any:
        """Return a connection that holds the lock; ValueError where another process has it."""
        number = int.from_bytes(hashlib.sha256(f"rowhit/{self._name}".encode()).digest()[:8], signed=True)
        with self._failures():
            connection = self._database.connect()
            taken = connection.execute("SELECT pg_try_advisory_lock(%s)", (number,)).fetchone()
        if taken != (True,):
            connection.close()
            raise ValueError(f"{self.where}: another run is writing there now")
        return connection


def _storage(database: Database) -> RDBStorage:
    from optuna.storages import RDBStorage

    with database.connect() as connection:  # two at once must not make the tables
        connection.execute("SELECT pg_advisory_lock(hashtext('rowhit tables'))")
        return RDBStorage(database.sqlalchemy_url(), engine_kwargs={"pool_size": 1, "pool_pre_ping": True})


def _load(storage: RDBStorage, name: str) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(storage=storage, study_name=name)


def _attributes(row: Row, details: bytes | None) -> dict[str, Any]:
    more: dict[str, Any] = {_ROW: row.record()}
    return more if details is None else more | {_DETAILS: base64.b64encode(details).decode()}


def _decoded(text: object) -> bytes | None:
    return base64.b64decode(text, validate=True) if isinstance(text, str) else None


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or (error if error.__cause__ is None else error.__cause__)
    text = " ".join(str(getattr(cause, "orig", None) or cause).split())
    return text or type(error).__name__


def _insert(storage: RDBStorage, study_id: int, number: int, found: list[optuna.trial.FrozenTrial]) -> None:
    """Add finished trials, numbered from `number` on, in one transaction.

    `Study.add_trials` asks and answers some 35 times per trial; these are the same lines of the same tables.
    """
    from optuna.distributions import distribution_to_json
    from optuna.storages._rdb import models
    from sqlalchemy import insert

    def add(model: Any, lines: list[dict[str, Any]]) -> None:
        if lines:
            connection.execute(insert(model.__table__), lines)

    with storage.engine.begin() as connection:
        heads = [
            {
                "number": number + place,
                "study_id": study_id,
                "state": trial.state,
                "datetime_start": trial.datetime_start,
                "datetime_complete": trial.datetime_complete,
            }
            for place, trial in enumerate(found)
        ]
        table = models.TrialModel.__table__
        statement = insert(table).returning(table.c.trial_id, sort_by_parameter_order=True)
        named = list(zip(connection.execute(statement, heads).scalars().all(), found, strict=True))
        values, params, attributes = [], [], []
        for trial_id, trial in named:
            for objective, value in enumerate(trial.values or ()):
                stored, kind = models.TrialValueModel.value_to_stored_repr(value)
                values.append({"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind})
            for name, chosen in trial.params.items():
                spread = trial.distributions[name]
                internal = {"param_name": name, "param_value": spread.to_internal_repr(chosen)}
                params.append({"trial_id": trial_id, **internal, "distribution_json": distribution_to_json(spread)})
            for key, content in trial.user_attrs.items():
                attributes.append({"trial_id": trial_id, "key": key, "value_json": json.dumps(content)})
        add(models.TrialValueModel, values)
        add(models.TrialParamModel, params)
        add(models.TrialUserAttributeModel, attributes)
