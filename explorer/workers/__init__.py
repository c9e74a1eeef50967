"""Where evaluations run: in this process, in processes beside it, or on a Dask cluster.

The search hands functions and values to an executor and takes answers back in the order asked, so that neither the
number of workers nor where they are can change a result. Workers may die at any time: work that is lost is given to
another, a few times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from explorer.query import Query
from explorer.workers.answer import Refused, WorkerDied, attempt
from explorer.workers.serial import SerialExecutor

__all__ = ["Refused", "SerialExecutor", "WorkerDied", "attempt", "workers"]


@contextmanager
def workers(jobs: int, cluster: str | None = None, queries: Iterable[Query] = ()) -> Iterator[Executor]:
    """Give an executor of `jobs` processes, or of the workers of the Dask cluster whose scheduler is at `cluster`.

    `queries`: what will be asked there; the files that they name must be the same on the cluster.
    What has not begun is dropped when the block is left; on an error, what is running, too.
    Raises ValueError for a wrong address, and ConnectionError in one line where nobody answers.
    """
    if cluster is not None:
        from explorer.workers.dask import DaskExecutor

        executor: Executor = DaskExecutor(cluster, queries)
    elif jobs == 1:
        executor = SerialExecutor()
    else:
        from explorer.workers.local import LocalExecutor

        executor = LocalExecutor(jobs)
    try:
        yield executor
    except BaseException:  # an interruption among them
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown(cancel_futures=True)
