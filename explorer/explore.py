"""One study from beginning to end: check, own the folder, bound the space, search, summarise.

The order matters: everything that can be wrong with a study is found before the folder is touched.
"""

from __future__ import annotations

from pathlib import Path

from explorer.evaluate import Evaluator
from explorer.progress import Progress
from explorer.search import Search
from explorer.space import Candidates, bound_space, enumerate_points, probe
from explorer.store import Identity, check_belongs, known_bounds, opened
from explorer.study import Study
from explorer.summary import Summary, summarise
from explorer.workers import workers


def explore(
    study: Study,
    folder: Path,
    jobs: int,
    evaluator: Evaluator,
    progress: Progress,
    trace_path: str | None = None,
) -> Summary:
    """Search the space of `study` with `jobs` workers, keep everything in `folder`, and return the answer.

    Continues where an earlier run of the same study stopped. Raises ValueError, before anything is written,
    when the study is wrong or the folder belongs to another one.
    """
    candidates = enumerate_points(study, evaluator, trace_path)
    identity = identify(study, candidates, evaluator)
    check_belongs(folder, identity)
    known = probe(candidates, known_bounds(folder), evaluator)
    with opened(folder, identity) as store, workers(jobs) as executor:
        space = bound_space(candidates, known, evaluator, executor, progress)
        store.keep_space(space)
        Search(study, space, evaluator, store, progress).run(executor)
    return summarise(folder)


def identify(study: Study, candidates: Candidates, evaluator: Evaluator) -> Identity:
    """Return what the results of `study` belong to."""
    query = candidates.baseline.query
    others = (name for point in (candidates.baseline, *candidates.points[:1]) for name in point.query.settings())
    settings = tuple(dict.fromkeys([*study.knobs, *others]))
    return Identity(study, evaluator.inputs(query), settings, evaluator.describe(query))
