"""One study from beginning to end: check, own the folder, bound the space, search, summarise.

The order matters: everything that can be wrong with a study is found before the folder is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path

from explorer.evaluate import Evaluator
from explorer.objective import OBJECTIVES
from explorer.progress import Progress
from explorer.query import MACHINE_PREFIX, Query
from explorer.search import Search
from explorer.space import Candidates, bound_space, enumerate_points, probe
from explorer.store import Identity, Store, check_belongs, known_bounds, opened
from explorer.study import Study
from explorer.summary import Summary, summarise
from explorer.workers import Refused, attempt, workers


def explore(
    study: Study,
    folder: Path,
    jobs: int,
    evaluator: Evaluator,
    progress: Progress,
    trace_path: str | None = None,
    cluster: str | None = None,
    storage: str | None = None,
) -> Summary:
    """Search the space of `study` with `jobs` workers, keep everything in `folder`, and return the answer.

    Continues where an earlier run of the same study stopped. Raises ValueError, before anything is written,
    when the study is wrong (naming its file and the key at fault) or the folder belongs to another one.
    `cluster`: the address of a Dask scheduler, instead of `jobs`. `storage`: the URL of a database for the rows.
    """
    with _blaming(study):
        check_problem(study, evaluator, trace_path)
        candidates = enumerate_points(study.located(), evaluator, trace_path)
        identity = identify(study, candidates, evaluator)
    objective = OBJECTIVES[study.objective]
    check_belongs(folder, identity)
    stored = known_bounds(folder)
    with _blaming(study):
        known = probe(candidates, stored, evaluator, objective)
    queries = [candidates.baseline.query]
    with opened(folder, identity, storage) as store, workers(jobs, cluster, queries) as executor:
        parts = _prepare(candidates, store, evaluator, executor) if jobs > 1 else []
        space = bound_space(candidates, known, evaluator, executor, progress, objective)
        store.keep_space(space)
        for part in parts:
            part.result()
        Search(study, space, evaluator, store, progress).run(executor)
    return summarise(folder)


def _prepare(
    candidates: Candidates, store: Store, evaluator: Evaluator, executor: Executor
) -> list[Future[Refused | None]]:
    """Let the workers share what each would do for itself before its first simulation, if there is one to come."""
    baseline = candidates.baseline
    if store.recall(baseline.key) is not None:
        return []
    return [executor.submit(attempt, prepare, baseline.query) for prepare in evaluator.prepare]


def check_problem(study: Study, evaluator: Evaluator, trace_path: str | None) -> None:
    """Raise ValueError where kernel, machine, model, batch or options are at fault, whatever the knobs are."""
    evaluator.defaults(study.kernel)
    there = study.located()
    batch = study.batch.spec(trace_path) if study.batch else None
    query = Query(there.machine, study.kernel, there.model, batch, tuple(study.options.items()), routing=there.routing)
    evaluator.inputs(query)
    evaluator.key(query)


@contextmanager
def _blaming(study: Study) -> Iterator[None]:
    """Make every ValueError name the file of the study, and the setting at fault where its baseline cannot run."""
    try:
        yield
    except ValueError as error:
        where = f"{study.file}: " if study.file else ""
        raise ValueError(where + _placed(study, str(error))) from None


def _placed(study: Study, message: str) -> str:
    """Return `message` with the setting that its reason names in place of the whole baseline."""
    reason = message.removeprefix("baseline: ")
    if reason == message:
        return message
    for section, values in (("baseline", study.baseline), ("fixed", study.fixed)):
        for name in values:
            if f": {name.removeprefix(MACHINE_PREFIX)}: " in f": {reason}":
                return f"{section}.{name}: {reason.removeprefix(f'{name}: ')}"
    return message


def identify(study: Study, candidates: Candidates, evaluator: Evaluator) -> Identity:
    """Return what the results of `study` belong to."""
    query = candidates.baseline.query
    others = (name for point in (candidates.baseline, *candidates.points[:1]) for name in point.query.settings())
    settings = tuple(dict.fromkeys([*study.knobs, *others]))
    return Identity(study, evaluator.inputs(query), settings, evaluator.describe(query))
