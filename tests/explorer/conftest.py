from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType
from typing import Any

import pytest
import services
from in_browser import Tab, chromium

from explorer.cli import app as cli
from explorer.study.study import Study
from explorer.workers.sources import digests, read_anew

HERE = Path(__file__).parent


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The fake simulator, importable by name in this process and in the workers it starts."""
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("fake_evaluator")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROWHIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """The URL of a PostgreSQL database of this session."""
    pytest.importorskip("psycopg", reason="no psycopg: pip install -e '.[cluster]'")
    if not (services.found("initdb") and services.found("pg_ctl")):
        pytest.skip("no PostgreSQL server: apt install postgresql")
    with services.postgres_server() as port:
        yield f"postgresql://{services.USER}:{services.SECRET}@127.0.0.1:{port}/postgres"


@pytest.fixture
def rowhit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., CompletedProcess[str]]:
    """The command line in this process: rowhit(*arguments, cwd=folder, **environment), as if it were one of its own.

    What this process keeps of files in the folder it forgets where another one of that name was read before.
    """

    def run(*arguments: str, cwd: Path, **environment: str) -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # a process of its own would keep what it sets
        monkeypatch.chdir(cwd)
        read_anew(digests(sorted(file.name for file in cwd.iterdir() if file.is_file())))
        monkeypatch.setattr(sys, "argv", ["rowhit", *arguments])
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        status = ended.value.code
        assert isinstance(status, int)
        return CompletedProcess(arguments, status, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    """A page of a headless browser."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    yield Tab(page)
    page.close()


STUDY = {
    "name": "fake-study",
    "machine": "nowhere",
    "kernel": "fake",
    "knobs": {
        "layout": ["page head", "head page", "head  page"],
        "tile": [16, 32, 64, 128],
        "stages": [2, 3, 4],
    },
    "baseline": {"layout": "page head", "tile": 16},
    "baseline_label": "PH, 16",
    "budget": {"points": 12, "batch": 4},
}


@pytest.fixture
def study() -> Study:
    """A study of 36 combinations: 24 distinct points, 2 of which do not fit."""
    return Study.model_validate(STUDY)


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The results folder of that study with its report, to be looked at only."""
    from explorer.explore import explore
    from explorer.progress import silent
    from explorer.report.folder import write_report

    folder = tmp_path_factory.mktemp("reported") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        explore(Study.model_validate(STUDY), folder, 1, importlib.import_module("fake_evaluator").EVALUATOR, silent)
        write_report(folder)
        yield folder


@pytest.fixture
def results(reported: Path, tmp_path: Path) -> Path:
    """A results folder without a report, to be changed."""
    return Path(shutil.copytree(reported, tmp_path / "out", ignore=shutil.ignore_patterns("report*", "plotly*")))
