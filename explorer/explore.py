"""One study from beginning to end: check, own the folder, bound the space, search, summarise.

The order matters: everything that can be wrong with a study is found before the folder is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from explorer.evaluate import Evaluator
from explorer.progress import Progress
from explorer.query import MACHINE_PREFIX
from explorer.search.driver import Search
from explorer.search.samplers import check as check_sampler
from explorer.search.simulations import Outcomes
from explorer.space.bounding import bound_space, in_columns, name_points, probe
from explorer.space.space import Space, TracePaths, bare, inputs_of, span
from explorer.storage.folder import Identity, Store, check_belongs, known_bounds, opened
from explorer.study.mix import title_of
from explorer.study.study import Study
from explorer.summary import Summary, summarise
from explorer.workers import attempt, workers
from explorer.workers.sources import digests, files_of, read_anew


def explore(
    study: Study,
    folder: Path,
    jobs: int,
    evaluator: Evaluator,
    progress: Progress,
    trace_paths: TracePaths | None = None,
    cluster: str | None = None,
    storage: str | None = None,
    memo: Outcomes | None = None,
) -> Summary:
    """Search the space of `study` with `jobs` workers, keep everything in `folder`, and return the answer.

    Continues where an earlier run of the same study stopped. Raises ValueError, before anything is written,
    when the study is wrong (naming its file and the key at fault) or the folder belongs to another one.
    `trace_paths`: the files of traces, by name. `cluster`: the address of a Dask scheduler, instead of `jobs`.
    `storage`: the URL of a database for the rows. `memo`: outcomes of earlier runs.
    """
    read_anew(digests(files_of(work.base for work in bare(study.located(), trace_paths))))
    with _blaming(study):
        check_sampler(study.sampler, len(study.objectives))
        check_problem(study, evaluator, trace_paths)
        space = span(study.located(), evaluator, trace_paths)
        columns = in_columns(space, evaluator)
        identity = identify(study, space, evaluator)
    check_belongs(folder, identity)
    known = known_bounds(folder)
    with _blaming(study):
        name_points(space, evaluator, known, columns)
        probe(space, evaluator)
    queries = list(space.queries(space.start))
    with workers(jobs, cluster, queries) as executor, opened(folder, identity, storage) as store:
        parts = _prepare(space, store, evaluator, executor) if jobs > 1 else []
        bound_space(space, evaluator, known, executor, progress, columns)
        store.keep_space(space)
        for part in parts:
            part.result()
        named = len(space.keys)
        try:
            with _blaming(study):
                Search(study, space, evaluator, store, progress, memo).run(executor)
        finally:  # also what an interrupted search has found out
            if len(space.keys) > named:
                store.keep_space(space, again=True)
    return summarise(folder)


def _prepare(space: Space, store: Store, evaluator: Evaluator, executor: Executor) -> list[Future[Any]]:
    """Let the workers share what each would do for itself before its first simulation, if there is one to come."""
    if store.recall(space.keys[space.start]) is not None:
        return []
    query = space.queries(space.start)[0]
    return [executor.submit(attempt, prepare, query) for prepare in evaluator.prepare]


def check_problem(study: Study, evaluator: Evaluator, trace_paths: TracePaths | None = None) -> None:
    """Raise ValueError where kernel, machine, model, batch or options are at fault, whatever the knobs are."""
    evaluator.defaults(study.kernel)
    for work in bare(study.located(), trace_paths):
        try:
            evaluator.inputs(work.base)
            evaluator.key(work.base)
        except ValueError as error:
            raise ValueError(f"mix.{work.name}: {error}" if work.name else str(error)) from None


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


def identify(study: Study, space: Space, evaluator: Evaluator) -> Identity:
    """Return what the results of `study` belong to."""
    queries = space.queries(space.start)
    inputs = inputs_of(space.works, queries, evaluator.inputs)
    others = (name for index in (space.start, 0) for name in space.queries(index)[0].settings())
    settings = tuple(dict.fromkeys([*study.knobs, *others]))
    names = [work.name for work in space.works]
    title = title_of([evaluator.describe(query) for query in queries], names, study.over)
    return Identity(study, inputs, settings, title)
