"""Servers for tests, on loopback and for one session: PostgreSQL as Debian packs it, a Dask scheduler with workers."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
USER, PASSWORD = "rowhitter", "sesame/open#1@home"
SECRET = quote(PASSWORD, safe="")  # as it stands in a URL


def found(program: str) -> str | None:
    """Return the path of a program of PostgreSQL, also where Debian keeps it off the path."""
    return shutil.which(program) or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"))[::-1]), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres_server() -> Iterator[int]:
    """Give the port of a server of one session, whose user must give a password."""
    with tempfile.TemporaryDirectory() as folder:
        home, port = Path(folder), free_port()
        (home / "password").write_text(PASSWORD)
        as_user = []
        if os.getuid() == 0:  # the server refuses to run as root
            shutil.chown(home, "postgres")
            shutil.chown(home / "password", "postgres")
            as_user = ["runuser", "-u", "postgres", "--"]

        def run(program: str, *arguments: str) -> None:
            command = [*as_user, str(found(program)), "-D", str(home / "data"), *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=home)

        run("initdb", "--no-sync", "-U", USER, "--auth=scram-sha-256", f"--pwfile={home / 'password'}")
        options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-o", options, "-w", "-l", str(home / "log"), "start")
        try:
            yield port
        finally:
            run("pg_ctl", "-m", "immediate", "-w", "stop")


@dataclass
class Cluster:
    """A scheduler and its workers, each a process; `folder` is theirs."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]
    folder: Path

    def add_worker(self) -> None:
        """Start one more worker, of one thread, and no nanny that would start it again."""
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder))
        self.workers.append(_dask("dask_worker", self.address, *options))

    def stop(self) -> None:
        for process in (self.scheduler, *self.workers):
            process.kill()
            process.wait()


def _dask(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    paths = [str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", f"distributed.cli.{program}", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def dask_cluster(workers: int) -> Iterator[Cluster]:
    """Give a cluster of some workers."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        scheduler = _dask("dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        cluster = Cluster(f"tcp://127.0.0.1:{port}", scheduler, [], Path(folder))
        try:
            _wait_for(port)
            for _ in range(workers):
                cluster.add_worker()
            yield cluster
        finally:
            cluster.stop()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nobody listens at port {port}")
