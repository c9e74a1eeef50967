from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from explorer import long_run
from explorer.cli.app import app

SMALL = ("--machine", "npu-hbm3", "--kernel", "gemm", "--m", "128", "--n", "128", "--k", "128", "--json")


@pytest.mark.parametrize("command", ["run", "explain"])
def test_a_long_run_is_announced_on_stderr_alone(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short = CliRunner().invoke(app, [command, *SMALL])
    assert (short.exit_code, "every burst" in short.stderr) == (0, False)
    monkeypatch.setattr(long_run, "BYTES_PER_S", 1.0)
    long = CliRunner().invoke(app, [command, *SMALL])
    assert long.exit_code == 0
    assert long.stderr.count("every burst is simulated") == 1
    assert long.stderr.startswith("rowhit: ")
    assert long.stdout == short.stdout
    assert json.loads(long.stdout)
