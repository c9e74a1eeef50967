from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import services
import tasks

from explorer.explore import explore
from explorer.programs import batch_of
from explorer.progress import silent
from explorer.query import AZURE, BatchSpec, Query
from explorer.study.study import Study
from explorer.workers import Refused, WorkerDied, attempt, workers
from explorer.workers.address import check_address
from explorer.workers.sources import AnotherVersion, Sources, checked, sources


@pytest.fixture(scope="session")
def cluster() -> Iterator[services.Cluster]:
    """A Dask scheduler and three workers."""
    pytest.importorskip("distributed", reason="no Dask: pip install -e '.[cluster]'")
    with services.dask_cluster(3) as cluster:
        yield cluster


def long_study(study: Study) -> Study:
    changes = {"knobs": study.knobs | {"tile": list(range(8, 128, 4))}, "budget": {"points": 40, "batch": 6}}
    return Study.model_validate(study.model_dump() | changes)


def kept(folder: Path) -> tuple[bytes, ...]:
    details = sorted((folder / "details").iterdir())
    return tuple(path.read_bytes() for path in (folder / "points.parquet", folder / "space.parquet", *details))


@pytest.mark.postgres
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers_and_on_a_cluster(
    fake: ModuleType, study: Study, tmp_path: Path, cluster: services.Cluster, sampler: str
) -> None:
    study = Study.model_validate(long_study(study).model_dump() | {"sampler": sampler})
    for jobs in (1, 2, 4):
        explore(study, tmp_path / str(jobs), jobs, fake.EVALUATOR, silent)
    explore(study, tmp_path / "cluster", 1, fake.EVALUATOR, silent, cluster=cluster.address)
    assert len({kept(tmp_path / name) for name in ("1", "2", "4", "cluster")}) == 1


@pytest.mark.postgres
def test_refusals_and_failures_come_back_from_a_cluster_as_they_are(cluster: services.Cluster) -> None:
    query = Query("nowhere", "fake")
    with workers(1, cluster.address) as executor:
        assert executor.submit(attempt, tasks.refuse, query).result() == Refused("fake cannot run")
        with pytest.raises(RuntimeError, match="the simulator failed at fake"):
            executor.submit(attempt, tasks.fail, query).result()


@pytest.mark.postgres
def test_a_worker_of_a_cluster_that_dies_changes_nothing(
    fake: ModuleType, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="no Dask: pip install -e '.[cluster]'")
    study = long_study(study)
    explore(study, tmp_path / "undisturbed", 1, fake.EVALUATOR, silent)
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    with services.dask_cluster(3) as cluster:

        def progress(stage: str, done: int, total: int) -> None:
            if stage == "points" and done in (8, 20):
                cluster.workers[done == 20].kill()
                cluster.add_worker()

        explore(study, tmp_path / "disturbed", 1, fake.EVALUATOR, progress, cluster=cluster.address)
        assert sum(worker.poll() is not None for worker in cluster.workers) == 2
    assert kept(tmp_path / "disturbed") == kept(tmp_path / "undisturbed")


@pytest.mark.postgres
def test_that_all_workers_are_gone_is_said_once_and_the_work_goes_on_when_one_comes_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="no Dask: pip install -e '.[cluster]'")
    monkeypatch.setattr("explorer.workers.dask._LONELY", 0.5)
    monkeypatch.setattr("explorer.workers.dask._LOOK", 0.1)
    with services.dask_cluster(1) as cluster, workers(1, cluster.address) as executor:
        assert executor.submit(abs, -1).result(60) == 1
        cluster.workers[0].kill()
        cluster.workers[0].wait()
        waiting = executor.submit(abs, -2)
        said, deadline = "", time.monotonic() + 60
        while not said and time.monotonic() < deadline:
            time.sleep(0.1)
            said += capsys.readouterr().err
        time.sleep(1)
        assert said + capsys.readouterr().err == (
            f"rowhit: --cluster {cluster.address}: no worker is left; going on when one comes back\n"
        )
        cluster.add_worker()
        assert waiting.result(60) == 2


@pytest.mark.postgres
def test_work_that_every_worker_dies_of_is_named_and_a_scheduler_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="no Dask: pip install -e '.[cluster]'")
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")
    with services.dask_cluster(3) as cluster, workers(1, cluster.address) as executor:
        with pytest.raises(WorkerDied, match=r"^die\(99, .*, 7\): every worker that was given it died") as died:
            executor.submit(tasks.die, 99, tmp_path / "calls", 7).result(60)
        waiting = executor.submit(time.sleep, 60)
        threading.Timer(0.5, cluster.scheduler.kill).start()
        with pytest.raises(ConnectionError, match=r"^--cluster tcp://127.0.0.1:\d+: the scheduler is gone") as gone:
            waiting.result(60)
    assert "\n" not in f"{died.value}{gone.value}"


@pytest.mark.postgres
def test_a_scheduler_that_is_not_there_or_has_no_worker_is_one_line(
    fake: ModuleType, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="no Dask: pip install -e '.[cluster]'")
    monkeypatch.setattr("explorer.workers.dask._SECONDS", 2)
    address = f"tcp://127.0.0.1:{services.free_port()}"
    with pytest.raises(ConnectionError, match=f"^--cluster {address}: no scheduler answers: "):
        explore(study, tmp_path / "out", 1, fake.EVALUATOR, silent, cluster=address)
    assert not (tmp_path / "out").exists()
    with (
        services.dask_cluster(0) as empty,
        pytest.raises(ConnectionError, match="the scheduler has no worker, and none came within 2 s"),
        workers(1, empty.address),
    ):
        pass


@pytest.mark.postgres
def test_a_worker_with_another_simulator_or_another_file_says_so(
    cluster: services.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tmp_path / "machine.yaml"
    machine.write_text("name: mine")
    with workers(1, cluster.address, [Query(str(machine), "fake")]) as executor:
        assert executor.submit(abs, -1).result() == 1
        machine.write_text("name: another")
        with pytest.raises(AnotherVersion, match=r"the worker on .* has another .*machine.yaml than the driver"):
            executor.submit(abs, -1).result()
    monkeypatch.setattr("explorer.workers.sources.source_digest", lambda floors: "another")
    with (
        workers(1, cluster.address) as executor,
        pytest.raises(AnotherVersion, match="another version of the simulator than the driver"),
    ):
        executor.submit(abs, -1).result()


def test_sources_are_the_simulator_and_the_files_that_queries_name(tmp_path: Path) -> None:
    machine, routing = tmp_path / "machine.yaml", tmp_path / "routing.csv"
    machine.write_text("name: mine")
    routing.write_text("expert_0\n1\n")
    here = sources([Query(str(machine), "moe", routing=str(routing)), Query("npu-hbm3", "gemm")])
    assert [path for path, _ in here.files] == [str(machine), str(routing)]
    assert checked(here, max, (1, 2), {}) == 2
    os.unlink(routing)
    with pytest.raises(AnotherVersion, match=r"another .*routing.csv than the driver; make them equal$"):
        checked(here, max, (1, 2), {})
    with pytest.raises(AnotherVersion, match="another version of the simulator"):
        checked(Sources("another", ()), max, (1, 2), {})


def test_a_worker_reads_a_file_again_that_has_changed_between_two_searches(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    query = Query("npu-hbm3", "decode-attention", batch=BatchSpec(2, None, AZURE, 0, str(trace)))
    found = []
    for tokens in (100, 200):
        rows = "".join(f"2023-11-16 18:15:4{second}.0000000,{tokens},5\n" for second in range(4))
        trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
        os.utime(trace, ns=(tokens, tokens))
        found.append(checked(sources([query]), batch_of, (query.batch,), {}).contexts)
    assert max(found[0]) < 200 <= min(found[1])


def test_a_host_that_is_not_found_is_refused_before_anything_is_done() -> None:
    with pytest.raises(ValueError, match=r"^--cluster tcp://nowhere\.invalid:1: unknown host"):
        check_address("tcp://nowhere.invalid:1")
    check_address("tcp://127.0.0.1:1")
    check_address("tls://[::1]:65535")


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:1", "http://host:1", "tcp://host", "tcp://a@b:1", "tcp://h:1/x", "tcp://h:0", "tcp://h:99999"],
)
def test_an_address_that_is_none_is_refused_with_those_allowed(address: str) -> None:
    said = r"^--cluster .*: no address of a scheduler; allowed: tcp://host:port"
    with pytest.raises(ValueError, match=said), workers(1, address):
        pass
